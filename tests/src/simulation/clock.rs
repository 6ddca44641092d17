//! The time of a world, in milliseconds since it began, and how everybody reads it.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arx_node_agent::subscribers::Now;

/// When every world begins.
const BEGIN: Duration = Duration::from_secs(1_800_000_000);

/// Milliseconds since the world began.
pub type Millis = u64;

/// The time of day, by a clock that is right.
#[must_use]
pub fn wall(now: Millis) -> SystemTime {
    UNIX_EPOCH + BEGIN + Duration::from_millis(now)
}

/// Both clocks of a machine whose clock is ahead by so much.
#[must_use]
pub fn clocks(now: Millis, ahead_ms: i64) -> Now {
    let wall = wall(now);
    let ahead = Duration::from_millis(ahead_ms.unsigned_abs());
    Now {
        wall: if ahead_ms < 0 {
            wall - ahead
        } else {
            wall + ahead
        },
        monotonic: begin() + Duration::from_millis(now),
    }
}

/// The world's time at an instant; in the past it is now.
#[must_use]
pub fn millis(at: Instant) -> Millis {
    let since = at.saturating_duration_since(begin());
    u64::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

fn begin() -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now)
}
