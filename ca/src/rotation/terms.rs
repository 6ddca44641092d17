//! How fast a rotation may go, and how slowly it must not.

use std::time::{Duration, SystemTime};

use super::step::RotationError;
use crate::state::Terms;

/// This long before the root that leaves ends, a rotation that is stuck goes on, beside the
/// lifetime of the longest leaf and the window; less where there is less time in all.
const LAST_DAY: Duration = Duration::from_secs(24 * 3600);

/// The gates of a rotation that goes as it should.
const GATES: u32 = 4;

/// How a rotation goes where nobody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Over which renewals are spread; by default half of the usual lifetime.
    pub window: Option<Duration>,
    /// How long each gate stays shut after its last confirmation.
    pub dwell: Duration,
    /// Whether the old root cross-certifies the new one.
    pub cross_certificate: bool,
}

/// What of the time that is left to a root at the beginning of its rotation is kept for one that is
/// stuck.
pub(super) fn last_call(left: Duration) -> Duration {
    LAST_DAY.min(left / 4)
}

/// The longest window with which the gates can wait for whoever has to confirm.
#[must_use]
pub fn longest_window(
    dwell: Duration,
    longest_leaf: Duration,
    ends: SystemTime,
    now: SystemTime,
) -> Duration {
    let left = ends.duration_since(now).unwrap_or_default();
    let kept = last_call(left) + longest_leaf + dwell.saturating_mul(GATES);
    left.saturating_sub(kept).min(longest_leaf)
}

/// Whether a rotation can go by `terms` away from a root that ends at `ends`. With a window of
/// zero, it always can: as fast as possible is then the best that is left.
///
/// # Errors
/// [`RotationError`] with what fits.
pub fn check(
    terms: &Terms,
    longest_leaf: Duration,
    ends: SystemTime,
    now: SystemTime,
) -> Result<(), RotationError> {
    if ends <= now {
        return Err(RotationError::Ended(ends));
    }
    if terms.window > longest_leaf {
        return Err(RotationError::Window {
            window: terms.window,
            longest_leaf,
        });
    }
    let most = longest_window(terms.dwell, longest_leaf, ends, now);
    if terms.window > most {
        return Err(RotationError::EndsSoon {
            ends,
            window: terms.window,
            most,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
    }

    fn by(window: Duration) -> Terms {
        Terms {
            window,
            dwell: Duration::from_secs(15),
            patience: None,
        }
    }

    fn code(terms: &Terms, leaf: Duration, ends: SystemTime) -> Option<&'static str> {
        check(terms, leaf, ends, now())
            .err()
            .map(|error| error.code())
    }

    #[test]
    fn a_window_longer_than_any_certificate_lives_is_refused() {
        let ends = now() + 100 * DAY;
        assert_eq!(code(&by(DAY), DAY, ends), None);
        assert_eq!(code(&by(2 * DAY), DAY, ends), Some("ARX-ROTATION-WINDOW"));
    }

    #[test]
    fn a_window_that_the_roots_end_leaves_no_time_for_is_refused_with_the_longest_that_fits() {
        let ends = now() + 8 * HOUR;
        let most = longest_window(Duration::from_secs(15), HOUR, ends, now());
        assert_eq!(
            most, HOUR,
            "six hours are left, and no certificate lives longer than one"
        );
        let ends = now() + 2 * HOUR;
        let most = longest_window(Duration::from_secs(15), HOUR, ends, now());
        assert_eq!(most, Duration::from_secs(29 * 60));
        assert_eq!(code(&by(most), HOUR, ends), None);
        let longer = most + Duration::from_secs(1);
        assert_eq!(
            code(&by(longer), HOUR, ends),
            Some("ARX-ROTATION-ROOT-ENDS")
        );
        let refusal = check(&by(longer), HOUR, ends, now()).expect_err("it is refused");
        assert!(refusal.to_string().contains("--window 29m"), "{refusal}");
    }

    #[test]
    fn as_fast_as_possible_is_never_too_slow_unless_the_root_has_ended() {
        let ends = now() + Duration::from_secs(1);
        assert_eq!(code(&by(Duration::ZERO), DAY, ends), None);
        assert_eq!(
            code(&by(Duration::ZERO), DAY, now()),
            Some("ARX-ROTATION-ROOT-ENDED")
        );
    }
}
