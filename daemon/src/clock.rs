//! The one clock of a process. Nothing else in Arx reads wall time: it is passed as `now`, or asked of a [`Clock`], so
//! that tests can choose it and a jump of the machine's clock is noticed in one place.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// Wall time that moves by more than this against monotonic time, between two observations, has jumped. Slewing by NTP
/// (at most 500 ppm) and an inserted leap second stay below it as long as someone observes every hour.
pub const TOLERANCE: Duration = Duration::from_secs(5);

/// How often [`Clock::watch`] looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Wall and monotonic time, together with the memory of how they stood to each other. Clones are the same clock.
#[derive(Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    seen: Mutex<Reading>,
    jumps: watch::Sender<Jumps>,
}

enum Source {
    System,
    /// Stands still until it is moved.
    Manual(Mutex<Reading>),
    /// Wall time at the start, and tokio's time at that moment.
    Tokio(SystemTime, tokio::time::Instant),
}

#[derive(Clone, Copy)]
struct Reading {
    wall: SystemTime,
    monotonic: Instant,
}

/// The jumps that a clock has made so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jumps {
    /// How many were observed.
    pub count: u64,
    /// The latest of them.
    pub last: Option<Jump>,
}

/// Wall time moved against monotonic time: somebody set the clock, or the machine slept (Linux stops the monotonic clock
/// in a suspended machine).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// What wall time would have been without the jump.
    pub expected: SystemTime,
    /// What it was.
    pub found: SystemTime,
}

impl Jump {
    /// True if wall time went ahead, false if it went back.
    pub fn is_forward(&self) -> bool {
        self.found > self.expected
    }

    /// The length of the jump, in either direction.
    pub fn length(&self) -> Duration {
        distance(self.expected, self.found)
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.is_forward() { "forward" } else { "back" };
        let span = crate::config::Span::from_secs(self.length().as_secs());
        write!(
            f,
            "wall clock jumped {direction} by {span} to {}",
            rfc3339(self.found)
        )
    }
}

impl Clock {
    /// The machine's clock. One per process, made in `main` and handed on as clones.
    pub fn system() -> Self {
        Self::from(Source::System)
    }

    /// For tests: a clock that stands still at `now` until it is [set](Self::set) or [advanced](Self::advance).
    pub fn manual(now: SystemTime) -> Self {
        Self::from(Source::Manual(Mutex::new(Reading {
            wall: now,
            monotonic: Instant::now(),
        })))
    }

    /// For tests and simulations: a clock that starts at `now` and goes with tokio's time, also when that is paused.
    pub fn following_tokio(now: SystemTime) -> Self {
        Self::from(Source::Tokio(now, tokio::time::Instant::now()))
    }

    fn from(source: Source) -> Self {
        let seen = Mutex::new(source.read());
        Self {
            inner: Arc::new(Inner {
                source,
                seen,
                jumps: watch::Sender::default(),
            }),
        }
    }

    /// Wall time: for what is written down or compared with certificates. It can go backwards.
    pub fn now(&self) -> SystemTime {
        self.inner.source.read().wall
    }

    /// Monotonic time: for how long something took.
    pub fn monotonic(&self) -> Instant {
        self.inner.source.read().monotonic
    }

    /// For tests: sets wall time alone, as an operator does; more than [`TOLERANCE`] away this is a jump.
    ///
    /// # Panics
    /// If the clock was not made by [`Clock::manual`].
    pub fn set(&self, now: SystemTime) {
        self.move_hands(|reading| reading.wall = now);
    }

    /// For tests: lets time pass.
    ///
    /// # Panics
    /// If the clock was not made by [`Clock::manual`].
    pub fn advance(&self, by: Duration) {
        self.move_hands(|reading| {
            reading.wall += by;
            reading.monotonic += by;
        });
    }

    #[track_caller]
    fn move_hands(&self, change: impl FnOnce(&mut Reading)) {
        match &self.inner.source {
            Source::Manual(reading) => change(&mut locked(reading)),
            _ => panic!("only a manual clock can be moved"),
        }
    }

    /// Compares wall and monotonic time with the observation before, by whichever clone it was made. Each jump is
    /// returned once, also told to the [subscribers](Self::jumps), and logged. Where [`Clock::watch`] runs there is no
    /// need to call this.
    pub fn observe(&self) -> Option<Jump> {
        let jump = {
            let mut seen = locked(&self.inner.seen);
            // Read under the lock: two observers must not be taken for one that went backwards.
            let reading = self.inner.source.read();
            let expected = seen.wall + reading.monotonic.saturating_duration_since(seen.monotonic);
            *seen = reading;
            let jump = Jump {
                expected,
                found: reading.wall,
            };
            (jump.length() > TOLERANCE).then_some(jump)?
        };
        tracing::warn!(
            code = "ARX-CLOCK-JUMP",
            forward = jump.is_forward(),
            seconds = jump.length().as_secs(),
            "{jump}; check the time synchronisation of this machine unless it slept or was set on purpose"
        );
        self.inner.jumps.send_modify(|jumps| {
            *jumps = Jumps {
                count: jumps.count + 1,
                last: Some(jump),
            }
        });
        Some(jump)
    }

    /// All jumps from here on: wakes whoever sleeps until a wall time and must now think again.
    pub fn jumps(&self) -> watch::Receiver<Jumps> {
        self.inner.jumps.subscribe()
    }

    /// Observes once a second, for ever. One task of each process runs this.
    pub async fn watch(&self) {
        let mut tick = tokio::time::interval(WATCH_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.observe();
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.inner.source {
            Source::System => "system",
            Source::Manual(_) => "manual",
            Source::Tokio(..) => "following tokio",
        };
        f.debug_tuple("Clock").field(&source).finish()
    }
}

impl Source {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place where the wall clock is read"
    )]
    fn read(&self) -> Reading {
        match self {
            Source::System => Reading {
                wall: SystemTime::now(),
                monotonic: Instant::now(),
            },
            Source::Manual(reading) => *locked(reading),
            Source::Tokio(start, origin) => {
                let now = tokio::time::Instant::now();
                Reading {
                    wall: *start + now.saturating_duration_since(*origin),
                    monotonic: now.into_std(),
                }
            }
        }
    }
}

/// Unix time in milliseconds, as the wire protocols have it; negative before 1970, and the nearest that can be said
/// where a number does not reach so far.
#[must_use]
pub fn unix_ms(time: SystemTime) -> i64 {
    let clamp = |distance: Duration| i64::try_from(distance.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

/// `time` in UTC as RFC 3339 has it, to the millisecond: `2026-01-02T03:04:05.678Z`. For people and logs.
pub fn rfc3339(time: SystemTime) -> String {
    let since_epoch = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_millis()).ok(),
        Err(before) => i128::try_from(before.duration().as_millis())
            .ok()
            .map(|before| -before),
    };
    let formatted = since_epoch(time)
        .and_then(|millis| {
            OffsetDateTime::from_unix_timestamp_nanos(millis.checked_mul(1_000_000)?).ok()
        })
        .and_then(|time| time.format(&Rfc3339).ok());
    match formatted {
        // RFC 3339 leaves the fraction out where it is zero; columns should stay columns.
        Some(text) if text.len() == "2026-01-02T03:04:05Z".len() => format!("{}.000Z", &text[..19]),
        Some(text) => match text.strip_suffix('Z') {
            Some(digits) => format!("{digits:0<23}Z"),
            None => text,
        },
        None => "a time that has no date".to_owned(),
    }
}

/// The time that an RFC 3339 text says, to the second; `None` for what is none, or before 1970.
#[must_use]
pub fn from_rfc3339(text: &str) -> Option<SystemTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let seconds = u64::try_from(time.unix_timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn distance(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}

/// A poisoned lock is taken all the same: a reading is replaced whole, so no panic can leave half of one.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn noon() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
    }

    #[test]
    fn a_text_of_rfc_3339_is_a_time_and_others_are_not() {
        let text = "2026-05-28T20:26:40Z";
        assert_eq!(from_rfc3339(text), Some(noon()));
        assert_eq!(from_rfc3339("2026-05-28T22:26:40.5+02:00"), Some(noon()));
        for wrong in ["", "today", "2026-05-28", "1969-12-31T23:59:59Z"] {
            assert_eq!(from_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_jump_is_reported_once_in_either_direction() {
        let clock = Clock::manual(noon());
        assert_eq!(clock.observe(), None);
        clock.advance(HOUR);
        assert_eq!(clock.observe(), None, "time passed, nothing jumped");

        clock.set(noon() + 3 * HOUR);
        let jump = clock.observe().expect("two hours ahead");
        assert!(jump.is_forward());
        assert_eq!(jump.length(), 2 * HOUR);
        assert_eq!(clock.observe(), None, "reported already");

        clock.set(noon());
        let jump = clock.clone().observe().expect("three hours back");
        assert!(!jump.is_forward());
        assert_eq!(jump.length(), 3 * HOUR);
        assert_eq!(clock.observe(), None, "a clone is the same clock");
        assert_eq!(
            *clock.jumps().borrow(),
            Jumps {
                count: 2,
                last: Some(jump)
            }
        );
    }

    #[test]
    fn a_small_step_and_slow_slewing_are_no_jumps() {
        let clock = Clock::manual(noon());
        for _ in 0..100 {
            clock.advance(HOUR);
            clock.set(clock.now() + Duration::from_secs(5));
            assert_eq!(clock.observe(), None);
        }
    }

    #[test]
    fn a_jump_says_where_to_and_how_far() {
        let clock = Clock::manual(noon());
        clock.set(noon() + HOUR);
        let jump = clock.observe().expect("an hour ahead");
        assert_eq!(
            jump.to_string(),
            "wall clock jumped forward by 1h to 2026-05-28T21:26:40.000Z"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn watching_tells_subscribers_of_a_jump_within_a_second() {
        let clock = Clock::manual(noon());
        let mut jumps = clock.jumps();
        clock.set(noon() - HOUR);
        let started = tokio::time::Instant::now();
        tokio::select! {
            () = clock.watch() => unreachable!("watching never ends"),
            changed = jumps.changed() => changed.expect("the clock is alive"),
        }
        assert!(started.elapsed() <= Duration::from_secs(1));
        assert_eq!(jumps.borrow().count, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_follows_tokio_goes_with_paused_time() {
        let clock = Clock::following_tokio(noon());
        tokio::time::sleep(HOUR).await;
        assert_eq!(clock.now(), noon() + HOUR);
        assert_eq!(clock.observe(), None);
    }

    #[test]
    fn the_system_clock_goes_forward_and_does_not_jump_by_itself() {
        let clock = Clock::system();
        let before = clock.monotonic();
        assert!(clock.now() > noon() - 24 * 365 * HOUR);
        assert!(clock.monotonic() >= before);
        assert_eq!(clock.observe(), None);
    }

    #[test]
    fn times_are_shown_to_the_millisecond_in_utc() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_780_000_000_100, "2026-05-28T20:26:40.100Z"),
            (1_780_000_000_007, "2026-05-28T20:26:40.007Z"),
        ] {
            assert_eq!(
                rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
                text
            );
        }
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH - Duration::from_millis(500)),
            "1969-12-31T23:59:59.500Z"
        );
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)),
            "a time that has no date"
        );
    }

    proptest! {
        #[test]
        fn every_displacement_beyond_the_tolerance_is_seen(passed in 0u64..1 << 30, moved in -(1i64 << 30)..1 << 30) {
            let clock = Clock::manual(noon());
            clock.advance(Duration::from_millis(passed));
            let step = Duration::from_millis(moved.unsigned_abs());
            clock.set(if moved < 0 { clock.now() - step } else { clock.now() + step });
            match clock.observe() {
                Some(jump) => {
                    prop_assert!(step > TOLERANCE);
                    prop_assert_eq!(jump.length(), step);
                    prop_assert_eq!(jump.is_forward(), moved > 0);
                }
                None => prop_assert!(step <= TOLERANCE),
            }
        }

        #[test]
        fn any_time_has_a_text_of_one_shape(millis in 0u64..253_402_300_800_000) {
            let text = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
            prop_assert_eq!(text.len(), 24);
            prop_assert!(text.ends_with('Z') && &text[19..20] == ".");
        }
    }
}
