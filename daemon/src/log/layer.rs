//! From events to lines.

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Format;
use super::record::Fields;
use crate::Clock;
use crate::clock::rfc3339;

/// Writes each event as a line, with the fields of the spans that it happened in.
pub(super) struct Lines<W> {
    format: Format,
    clock: Clock,
    write: W,
}

impl<W: Fn(&[u8]) + 'static> Lines<W> {
    pub(super) fn new(format: Format, clock: Clock, write: W) -> Self {
        Self {
            format,
            clock,
            write,
        }
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: Fn(&[u8]) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add(outer);
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let line = fields.line(
            self.format,
            &rfc3339(self.clock.now()),
            *metadata.level(),
            metadata.target(),
        );
        (self.write)(line.as_bytes());
    }
}
