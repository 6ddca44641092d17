//! A rotation as it goes on, in plain lines: what a watch tells a log or a pipe.

use std::collections::HashSet;

use arx_proto::admin::v1 as wire;

use super::{show, unconfirmed};
use crate::output::{Style, instant};

/// Nearly everybody is unconfirmed for a moment: only who still is after so long is told.
const PATIENCE_MS: u64 = 5000;

/// Entries that are told in one go.
const TOLD: usize = 10;

/// Tells what is new since it was asked last.
#[derive(Debug, Default)]
pub(super) struct Teller {
    last: Option<Box<wire::Rotation>>,
    /// Whom it has named in this phase.
    named: HashSet<unconfirmed::Key>,
    /// It has told in this phase what may be done.
    chosen: bool,
}

impl Teller {
    /// The lines that say what is new; ask also when only time has passed.
    pub(super) fn tell(&mut self, rotation: &wire::Rotation, style: Style) -> String {
        let mut lines = Vec::new();
        let last = self.last.take();
        if last.is_none() {
            lines.extend(show::head(rotation, style));
        }
        let phase = |rotation: &wire::Rotation| {
            let (name, back) = (rotation.phase.clone(), rotation.aborting);
            (name, back, rotation.held)
        };
        let entered = last
            .as_deref()
            .is_none_or(|last| phase(last) != phase(rotation));
        if entered {
            self.named.clear();
            self.chosen = false;
        }
        let mut news = self.news(rotation, style, entered, last.as_deref());
        let stamp = instant(style.now_ms);
        let back = if rotation.aborting && !show::has_ended(rotation) {
            ", back"
        } else {
            ""
        };
        for line in &mut news {
            *line = format!("{stamp} {}{back}: {line}", rotation.phase);
        }
        self.last = Some(Box::new(rotation.clone()));
        lines.extend(news);
        show::join(&lines)
    }

    fn news(
        &mut self,
        rotation: &wire::Rotation,
        style: Style,
        entered: bool,
        last: Option<&wire::Rotation>,
    ) -> Vec<String> {
        let mut news = Vec::new();
        let same = last.is_some_and(|last| last.message == rotation.message);
        if !rotation.message.is_empty() && (entered || !same) {
            news.push(rotation.message.clone());
        } else if entered {
            let what = match rotation {
                ended if show::has_ended(ended) => "the rotation has ended",
                held if held.held => "held",
                _ => "entered",
            };
            news.push(what.to_owned());
        }
        let counted = show::counted(rotation);
        if counted != last.and_then(show::counted) {
            news.extend(counted);
        }
        for forced in rotation
            .forced
            .iter()
            .skip(last.map_or(0, |last| last.forced.len()))
        {
            news.push(format!(
                "forced past {} who had not confirmed in {}: {}",
                forced.left_behind, forced.phase, forced.reason
            ));
        }
        let named = self.name(rotation, style, &mut news);
        if !self.chosen && (named || rotation.held) {
            let choices = show::choices(rotation, style).into_iter();
            let before = news.len();
            news.extend(choices.filter(|line| !line.is_empty()));
            self.chosen = news.len() > before;
        }
        news
    }

    /// Names whoever is waited for and was not named yet; says whether there was anybody.
    fn name(&mut self, rotation: &wire::Rotation, style: Style, news: &mut Vec<String>) -> bool {
        let long = style.now_ms.abs_diff(rotation.phase_started_unix_ms) >= PATIENCE_MS;
        let mut left = TOLD;
        let mut more = 0;
        for one in &rotation.unconfirmed {
            // Whoever refuses will not come round by itself.
            let due = long || one.reason == "refused";
            if !due || !self.named.insert(unconfirmed::key(one)) {
                continue;
            }
            if left == 0 {
                more += 1;
                continue;
            }
            left -= 1;
            let entry = unconfirmed::entry(one, style, usize::MAX);
            let entry: Vec<_> = entry.iter().map(|line| line.trim()).collect();
            news.push(format!("waits for {}", entry.join("; ")));
        }
        if more > 0 {
            news.push(format!(
                "waits for {more} more; `arx rotate status` lists them"
            ));
        }
        left < TOLD
    }
}
