//! The fields of an event or a span, and how they are written.

use std::error::Error;
use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};

use super::Format;

/// Longer values are cut: a log is for reading, and a caller's text must not fill the disk.
const LONGEST: usize = 4 << 10;

/// Keys that a line always has; a field of such a name gets an underscore.
const OURS: [&str; 4] = ["time", "level", "target", "message"];

/// Named values in order of arrival; a name that comes again replaces its value.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    values: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Puts `other`'s values in, over ours of the same name.
    pub(super) fn add(&mut self, other: &Fields) {
        for (name, value) in &other.values {
            self.set(name, value.clone());
        }
    }

    fn set(&mut self, name: &'static str, value: Value) {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name, value)),
        }
    }

    fn text(&mut self, field: &Field, text: String) {
        let text = cut(text);
        match field.name() {
            "message" => self.message = text,
            name => self.set(name, Value::String(text)),
        }
    }

    /// The line, with its newline, for an event that happened at `time`.
    pub(super) fn line(
        &self,
        format: Format,
        time: &str,
        level: tracing::Level,
        target: &str,
    ) -> String {
        let mut line = String::with_capacity(256);
        let written = match format {
            Format::Json => self.json(&mut line, time, level, target),
            Format::Text => self.words(&mut line, time, level, target),
        };
        written.expect("a string takes every write");
        line.push('\n');
        line
    }

    fn json(
        &self,
        line: &mut String,
        time: &str,
        level: tracing::Level,
        target: &str,
    ) -> fmt::Result {
        let quoted = |text: &str| Value::from(text).to_string();
        let level = level.as_str().to_lowercase();
        let (target, message) = (quoted(target), quoted(&self.message));
        write!(
            line,
            r#"{{"time":"{time}","level":"{level}","target":{target},"message":{message}"#
        )?;
        for (name, value) in &self.values {
            let mark = if OURS.contains(name) { "_" } else { "" };
            write!(line, r#","{name}{mark}":{value}"#)?;
        }
        line.write_char('}')
    }

    fn words(
        &self,
        line: &mut String,
        time: &str,
        level: tracing::Level,
        target: &str,
    ) -> fmt::Result {
        write!(
            line,
            "{time} {level:>5} {target}: {}",
            Visible(&self.message)
        )?;
        for (name, value) in &self.values {
            match value {
                Value::String(text) if is_plain(text) => write!(line, " {name}={text}")?,
                Value::String(text) => {
                    write!(line, " {name}=\"{}\"", Visible(&text.replace('"', "\\\"")))?
                }
                other => write!(line, " {name}={other}")?,
            }
        }
        Ok(())
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !"\"='\\".contains(c))
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let whole = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(whole.unwrap_or_default());
        text.push_str("...");
    }
    text
}

/// A text with its control characters escaped.
struct Visible<'t>(&'t str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if c.is_control() {
                write!(f, "{}", c.escape_default())
            } else {
                f.write_char(c)
            }
        })
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        self.text(field, text);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }
}
