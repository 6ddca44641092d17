//! Small drawings: how far a life has gone, and how much was issued when. Attributes place
//! everything, since a strict content security policy lets no element have a style of its own.

use super::html::{Html, put};
use super::words::{distance, stamp};

/// Units of a bar's width.
const WIDTH: i64 = 1000;

/// A certificate's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) begins_ms: i64,
    pub(super) ends_ms: i64,
    /// 0 = it is not renewed by itself.
    pub(super) renews_ms: i64,
}

impl Life {
    /// Where a moment is, in units of the bar.
    fn place(self, moment_ms: i64) -> i64 {
        let whole = i128::from(self.ends_ms) - i128::from(self.begins_ms);
        let gone = i128::from(moment_ms) - i128::from(self.begins_ms);
        let place = gone * i128::from(WIDTH) / whole.max(1);
        i64::try_from(place.clamp(0, i128::from(WIDTH))).unwrap_or(WIDTH)
    }
}

impl Html {
    pub(super) fn life(&mut self, life: Life, now_ms: i64) {
        let now = life.place(now_ms);
        put!(self, "<svg class=\"life\" role=\"img\" viewBox=\"0 0 1000 14\" preserveAspectRatio=\"none\" aria-label=\"from "
            {stamp(life.begins_ms)} " to " {stamp(life.ends_ms)} ", " {now / 10} " % gone");
        if life.renews_ms != 0 {
            put!(self, ", to be renewed " {distance(life.renews_ms, now_ms)});
        }
        put!(self, "\"><rect class=\"left\" x=\"0\" y=\"4\" width=\"1000\" height=\"6\"/><rect class=\"gone\" x=\"0\" y=\"4\" width=\"" {now} "\" height=\"6\"/>");
        if life.renews_ms != 0 {
            let renews = life.place(life.renews_ms);
            put!(self, "<line class=\"renews\" x1=\"" {renews} "\" x2=\"" {renews} "\" y1=\"1\" y2=\"13\"/>");
        }
        put!(self, "<line class=\"now\" x1=\"" {now} "\" x2=\"" {now} "\" y1=\"0\" y2=\"14\"/></svg>");
    }

    /// A column for each count, the newest at the right; `room` is for how many there is.
    pub(super) fn columns(&mut self, counts: &[u64], room: usize, label: &str) {
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        put!(self, "<svg class=\"columns\" role=\"img\" viewBox=\"0 0 " {room * 4} " 24\" preserveAspectRatio=\"none\" aria-label=\"" {label} "\">");
        let first = room.saturating_sub(counts.len());
        for (place, count) in counts.iter().enumerate() {
            let height = u128::from(*count) * 24 / u128::from(most);
            let height = if *count > 0 { height.max(1) } else { 0 };
            put!(self, "<rect x=\"" {(first + place) * 4} "\" y=\"" {24 - height} "\" width=\"3\" height=\"" {height} "\"/>");
        }
        self.raw("</svg>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_on_the_bar_whatever_the_times_are() {
        let life = |begins_ms, ends_ms| Life {
            begins_ms,
            ends_ms,
            renews_ms: 0,
        };
        assert_eq!(life(0, 1000).place(250), 250);
        assert_eq!(life(0, 1000).place(-5), 0);
        assert_eq!(life(0, 1000).place(5000), 1000);
        assert_eq!(life(7, 7).place(7), 0);
        assert_eq!(life(i64::MIN, i64::MAX).place(i64::MAX), 1000);
        assert_eq!(life(9, 3).place(100), 1000);
    }

    #[test]
    fn a_life_says_in_words_what_it_draws() {
        let mut html = Html::default();
        let hour = 3_600_000;
        let life = Life {
            begins_ms: 0,
            ends_ms: 4 * hour,
            renews_ms: 2 * hour,
        };
        html.life(life, hour);
        let drawn = html.finish();
        assert!(drawn.contains("25 % gone, to be renewed in 1h"), "{drawn}");
    }
}
