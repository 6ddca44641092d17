//! A rotation as it goes on, drawn over itself on a terminal.

use std::fmt::Write as _;

use arx_proto::admin::v1 as wire;

use super::show::{self, Room};
use crate::output::Style;

/// A screen is never taken for smaller than this.
const LEAST: Room = Room {
    lines: 10,
    width: 40,
};

/// What a terminal that does not tell its size is taken for.
const USUAL: Room = Room {
    lines: 24,
    width: 80,
};

/// The part of the terminal that was drawn on.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: usize,
}

impl Screen {
    /// What to write in order to show it in the place of what was shown before. `note` is
    /// one more line.
    pub(super) fn draw(
        &mut self,
        rotation: &wire::Rotation,
        note: &str,
        style: Style,
        room: Room,
    ) -> String {
        let mut lines = show::head(rotation, style);
        lines.push(String::new());
        lines.extend(show::bars(rotation, style));
        let mut last = show::choices(rotation, style);
        if !note.is_empty() {
            last.push(note.to_owned());
        }
        // The cursor stands on a line of its own below.
        let room = Room {
            lines: room.lines.max(LEAST.lines) - 1,
            width: room.width.max(LEAST.width),
        };
        let left = Room {
            lines: room.lines.saturating_sub(lines.len() + last.len()),
            ..room
        };
        lines.extend(show::waited_for(rotation, style, left));
        lines.extend(last);
        lines.truncate(room.lines);

        let mut text = String::new();
        if self.drawn > 0 {
            let _infallible = write!(text, "\u{1b}[{}A", self.drawn);
        }
        // Up to where it began, all below it cleared; lines that are too long are cut off
        // by the terminal while they are written, since one that wraps would be two.
        text.push_str("\r\u{1b}[J\u{1b}[?7l");
        text.push_str(&show::join(&lines));
        text.push_str("\u{1b}[?7h");
        self.drawn = lines.len();
        text
    }
}

/// The size of the terminal that standard output is.
pub(super) fn room() -> Room {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    match size {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Room {
            lines: size.ws_row.into(),
            width: size.ws_col.into(),
        },
        _ => USUAL,
    }
}
