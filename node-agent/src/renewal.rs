//! When a certificate is renewed: a pure function of what is known about it and of the
//! time. It never reads a clock and holds no state.
//!
//! A wait is computed once per event (issued, failed, hinted, clock jumped, started) and
//! then measured on the monotonic clock, so that whoever is overdue at such an event is
//! spread out instead of coming all at once.

use arx_identity::{KeyId, Svid};
use arx_proto::node::v1::RenewalHint;
use std::time::{Duration, SystemTime};

/// Share of the lifetime by which renewals spread around its half.
const SPREAD: f64 = 0.1;
/// Bounds of the first step of the backoff after a failure.
const FIRST_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// What the backoff never grows beyond.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// The same while nothing valid is being served: somebody waits.
const LONGEST_BACKOFF_EXPIRED: Duration = Duration::from_secs(15);
/// No retry comes sooner than this, whatever the jitter says.
const SHORTEST_RETRY: Duration = Duration::from_millis(50);
/// A certificate that lives shorter was cut to the end of its issuer, and so would be the
/// next: half of what remains, and half of that, would be a storm that wins nothing.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(4);
/// Over how long certificates spread that are overdue or expired when they are looked at.
const OVERDUE_SPREAD: Duration = Duration::from_secs(120);
const EXPIRED_SPREAD: Duration = Duration::from_secs(2);

/// What decides about the next renewal of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Start of the certificate in use.
    pub not_before: SystemTime,
    /// End of the certificate in use.
    pub not_after: SystemTime,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// What the authority asked for with the last failure; zero if nothing.
    pub retry_after: Duration,
    /// The authority wants it earlier than usual.
    pub hint: Option<Hint>,
    /// Anything that differs between certificates, so that they don't renew together.
    pub seed: u64,
}

/// The authority asks for a renewal by a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// When the hint came: the window starts here.
    pub received: SystemTime,
    /// When the window ends.
    pub renew_by: SystemTime,
}

/// Whether the authority's wish concerns this certificate, which stands under `root`. What has
/// cross-certified that root is none of its issuers.
#[must_use]
pub fn is_meant(wish: &RenewalHint, svid: &Svid, root: KeyId) -> bool {
    let serial = svid.serial().as_bytes();
    let mut below = svid.chain().authorities().take_while(|id| *id != root);
    let by_issuer = wish.issuer_key_id.is_empty()
        || KeyId::from_slice(&wish.issuer_key_id)
            .is_some_and(|id| id == root || below.any(|issuer| issuer == id));
    by_issuer && (wish.serials.is_empty() || wish.serials.iter().any(|s| s == serial))
}

/// How long to wait from `now` on before the next attempt to renew.
///
/// Without failures that is half of the lifetime, spread over +-10 % of the lifetime, or
/// within the hint's window if that is sooner. After failures it is a full-jitter backoff
/// that always leaves another attempt before the certificate ends; an expired certificate
/// is retried for ever. The result is never longer than 0.6 of the lifetime while nothing
/// failed, also when the clock was set back by years.
#[must_use]
pub fn wait(facts: &Facts, now: SystemTime) -> Duration {
    let lifetime = since(facts.not_after, facts.not_before);
    let remaining = since(facts.not_after, now);
    let usual = if facts.failures == 0 {
        on_time(facts, now, lifetime, remaining)
    } else {
        let longest = if remaining.is_zero() {
            LONGEST_BACKOFF_EXPIRED
        } else {
            LONGEST_BACKOFF.min(remaining / 2)
        };
        let first = (lifetime / 100).clamp(FIRST_BACKOFF.0, FIRST_BACKOFF.1);
        backoff(facts.failures, first, longest, facts.seed)
    };
    // An authority that asks for patience gets it, spread; nobody was promised a renewal
    // in the meantime, and the old certificate is served until its end.
    usual.max(spread_over(facts.retry_after, facts.seed))
}

/// The wait before another attempt at a first certificate, for which somebody waits.
#[must_use]
pub fn first_attempt_again(failures: u32, retry_after: Duration, seed: u64) -> Duration {
    backoff(failures, FIRST_BACKOFF.0, LONGEST_BACKOFF_EXPIRED, seed)
        .max(spread_over(retry_after, seed))
}

/// Full jitter: anything between nothing and a bound that doubles with each failure from
/// `first` up to `longest`.
#[must_use]
pub fn backoff(failures: u32, first: Duration, longest: Duration, seed: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(32);
    let bound = first.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
    let bound = bound.min(longest);
    bound
        .mul_f64(fraction(seed, u64::from(failures)))
        .max(SHORTEST_RETRY)
}

fn on_time(facts: &Facts, now: SystemTime, lifetime: Duration, remaining: Duration) -> Duration {
    if lifetime < SHORTEST_LIFETIME && !remaining.is_zero() {
        return remaining;
    }
    let share = 0.5 + SPREAD * (2.0 * fraction(facts.seed, 0) - 1.0);
    let mut at = facts.not_before + lifetime.mul_f64(share);
    if let Some(hint) = facts.hint {
        let window = since(hint.renew_by, hint.received);
        let hinted = hint.received + window.mul_f64(fraction(facts.seed, u64::MAX));
        at = at.min(hinted);
    }
    let wait = since(at, now).min(lifetime.mul_f64(0.5 + SPREAD));
    if !wait.is_zero() {
        return wait;
    }
    if let Some(hint) = facts.hint
        && remaining > Duration::ZERO
    {
        // The authority has spread them as it can bear them; what is left of its window
        // is all the time there is.
        return since(hint.renew_by, now)
            .min(OVERDUE_SPREAD)
            .mul_f64(fraction(facts.seed, 1));
    }
    // Overdue when looked at, by a long sleep, a clock that jumped or a late start: so is
    // everybody else on this machine.
    let window = if remaining.is_zero() {
        EXPIRED_SPREAD
    } else {
        OVERDUE_SPREAD
            .min(lifetime.mul_f64(SPREAD))
            .min(remaining / 4)
    };
    window.mul_f64(fraction(facts.seed, 1))
}

/// `base` to one and a half of it.
fn spread_over(base: Duration, seed: u64) -> Duration {
    base.mul_f64(1.0 + 0.5 * fraction(seed, 2))
}

fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or(Duration::ZERO)
}

/// A number in [0, 1) that looks random and depends on both arguments only (splitmix64).
fn fraction(seed: u64, draw: u64) -> f64 {
    let mut z = seed ^ draw.wrapping_mul(0xd134_2543_de82_ef95);
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // 53 bits are what an f64 holds exactly.
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
