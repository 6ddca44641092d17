//! The time that a rotation may draw conclusions from.
//!
//! That a certificate has ended counts for a gate, and so must not be believed because a clock
//! says so that is wrong. Wall time is believed while the agents' clocks bear it out. Without an
//! agent, time goes on only as fast as this process has seen it go, from what is stored on.

use std::time::{Duration, Instant, SystemTime};

/// How far our clock may be from the middle one of the agents'.
const TOLERANCE_MS: u64 = 60_000;

/// What was believed last, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BelievedTime(Option<(SystemTime, Instant)>);

/// Our clock is not what the agents' clocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// How far the middle one of theirs is ahead of ours.
    pub(super) offset_ms: i64,
    /// How many agents were asked.
    pub(super) agents: usize,
}

impl BelievedTime {
    /// The time to believe in, and whether our clock is to be doubted: `wall` is what it says,
    /// `monotonic` goes with no clock, `offsets_ms` says how far the clock of each connected
    /// agent is ahead of ours. `stored` is the latest time that is known from what is stored: before a restart, or by
    /// another process.
    pub(super) fn at(
        &mut self,
        stored: SystemTime,
        wall: SystemTime,
        monotonic: Instant,
        offsets_ms: &mut [i64],
    ) -> (SystemTime, Option<Doubt>) {
        let went_on = match self.0 {
            Some((time, at)) => stored.max(time + monotonic.saturating_duration_since(at)),
            None => stored,
        };
        let doubt = median(offsets_ms).map(|offset_ms| Doubt {
            offset_ms,
            agents: offsets_ms.len(),
        });
        let (time, doubt) = match doubt {
            Some(doubt) if doubt.offset_ms.unsigned_abs() <= TOLERANCE_MS => (wall, None),
            doubt => (went_on.min(wall), doubt),
        };
        self.0 = Some((time, monotonic));
        (time, doubt)
    }
}

/// How far wall time has moved against monotonic time, in milliseconds.
pub(super) fn moved_ms(from: (SystemTime, Instant), to: (SystemTime, Instant)) -> i64 {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let wall = match to.0.duration_since(from.0) {
        Ok(ahead) => millis(ahead),
        Err(back) => -millis(back.duration()),
    };
    wall.saturating_sub(millis(to.1.saturating_duration_since(from.1)))
}

fn median(values: &mut [i64]) -> Option<i64> {
    let middle = values.len().checked_sub(1)? / 2;
    Some(*values.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn wall(after: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + after
    }

    #[test]
    fn a_clock_is_believed_while_the_middle_one_of_the_agents_bears_it_out() {
        let start = Instant::now();
        let mut time = BelievedTime::default();
        let stored = wall(Duration::ZERO);
        // One agent is far off, and that is its own trouble.
        let (now, doubt) = time.at(stored, wall(HOUR), start, &mut [-400, 7_200_000, 300]);
        assert_eq!((now, doubt), (wall(HOUR), None));
        // Our clock jumps ahead by a day: time goes on as it did, and that is said.
        let ahead = wall(25 * HOUR + MINUTE);
        let day = -86_400_000;
        let (now, doubt) = time.at(stored, ahead, start + MINUTE, &mut [day, day - 200, day]);
        assert_eq!(now, wall(HOUR + MINUTE));
        let expected = Doubt {
            offset_ms: day,
            agents: 3,
        };
        assert_eq!(doubt, Some(expected));
        // It is set right.
        let right = wall(HOUR + 2 * MINUTE);
        let (now, doubt) = time.at(stored, right, start + 2 * MINUTE, &mut [0, 0, 0]);
        assert_eq!((now, doubt), (right, None));
    }

    #[test]
    fn without_agents_time_goes_on_from_what_is_stored_and_never_past_the_clock() {
        let start = Instant::now();
        let mut time = BelievedTime::default();
        let stored = wall(Duration::ZERO);
        assert_eq!(time.at(stored, wall(HOUR), start, &mut []), (stored, None));
        let (now, _) = time.at(stored, wall(2 * HOUR), start + MINUTE, &mut []);
        assert_eq!(now, wall(MINUTE));
        // A rotation that begins later than the one that was looked at before.
        let later = wall(90 * 24 * HOUR);
        let (now, _) = time.at(later, later + HOUR, start + 2 * MINUTE, &mut []);
        assert_eq!(now, later);
        let back = stored - HOUR;
        let (now, _) = time.at(stored, back, start + 2 * MINUTE, &mut []);
        assert_eq!(now, back, "a clock that went back lets nothing end");
    }

    #[test]
    fn a_clock_that_is_set_has_moved_and_one_that_goes_has_not() {
        let start = (wall(Duration::ZERO), Instant::now());
        assert_eq!(moved_ms(start, (wall(HOUR), start.1 + HOUR)), 0);
        assert_eq!(moved_ms(start, (wall(HOUR), start.1 + MINUTE)), 59 * 60_000);
        assert_eq!(moved_ms(start, (start.0 - MINUTE, start.1)), -60_000);
    }
}
