//! Spans of time as people write them: `90s`, `1h30m`, `500ms`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds in each unit, largest first: the order in which they must be written.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A span of time in whole milliseconds, at most [`Span::MAX`]. In TOML a string of whole numbers, each with its unit
/// (`d`, `h`, `m`, `s`, `ms`), larger units first: `"1h30m"`. A bare number is refused, as nobody can see its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// 36,500 days. Added to any date of this era it stays far inside what `SystemTime` and X.509 can say.
    pub const MAX: Span = Span(36_500 * 86_400_000);

    /// A span of whole seconds; more than [`Span::MAX`] becomes that.
    pub const fn from_secs(seconds: u64) -> Self {
        Self::from_millis(seconds.saturating_mul(1_000))
    }

    /// A span of whole milliseconds; more than [`Span::MAX`] becomes that.
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// The span as std's type.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// True for `0s`.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.get()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, millis) in UNITS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

/// Why a text is not a [`Span`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASpan {
    /// Nothing, a number without a unit, a sign, a fraction, a blank.
    #[error(
        "not a duration; write whole numbers with units, such as \"90s\", \"1h30m\" or \"500ms\""
    )]
    Malformed,
    /// A unit that is not one of d, h, m, s, ms.
    #[error("unknown unit \"{0}\" in a duration; use d, h, m, s or ms")]
    Unit(String),
    /// `30m1h` or `1h1h`.
    #[error(
        "units of a duration in the wrong order; write each once, the larger first, such as \"1d12h\""
    )]
    Order,
    /// More than [`Span::MAX`].
    #[error("longer than {} days", Span::MAX.0 / 86_400_000)]
    TooLong,
}

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let mut rest = text;
        let mut total: u64 = 0;
        let mut units = UNITS.iter();
        while !rest.is_empty() || total == 0 && units.len() == UNITS.len() {
            let (number, after) =
                split_at_end_of(rest, |c| c.is_ascii_digit()).ok_or(NotASpan::Malformed)?;
            let (unit, after) =
                split_at_end_of(after, |c| c.is_alphabetic()).ok_or(NotASpan::Malformed)?;
            if !UNITS.iter().any(|(known, _)| *known == unit) {
                return Err(NotASpan::Unit(unit.chars().take(16).collect()));
            }
            let (_, millis) = units
                .find(|(known, _)| *known == unit)
                .ok_or(NotASpan::Order)?;
            let part = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(*millis));
            total = part
                .and_then(|part| total.checked_add(part))
                .ok_or(NotASpan::TooLong)?;
            rest = after;
        }
        if total > Self::MAX.0 {
            Err(NotASpan::TooLong)
        } else {
            Ok(Self(total))
        }
    }
}

/// The longest head of `text` whose characters are all `of` the kind, and the rest; `None` if the head is empty.
pub(super) fn split_at_end_of(text: &str, of: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes, such as \"90s\", \"1h30m\" or \"500ms\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("7d", 604_800_000),
            ("0s", 0),
            ("1d1ms", 86_400_001),
            ("36500d", Span::MAX.0),
        ] {
            assert_eq!(text.parse(), Ok(Span(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_what_can_be_misread() {
        for text in [
            "", "90", "s", "-1s", "1.5h", "1 h", "1h ", " 1h", "1h30", "+1s", "0", "٣s",
        ] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan::Malformed), "{text:?}");
        }
        for text in ["30m1h", "1h1h", "1ms1s"] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan::Order), "{text:?}");
        }
        assert_eq!(
            "3 parsecs".replace(' ', "").parse::<Span>(),
            Err(NotASpan::Unit("parsecs".to_owned()))
        );
        assert_eq!("1H".parse::<Span>(), Err(NotASpan::Unit("H".to_owned())));
        for text in [
            "36501d",
            "36500d1ms",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan::TooLong), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(millis in 0..=Span::MAX.0) {
            let span = Span::from_millis(millis);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn any_text_is_read_or_refused_within_bounds(text in "\\PC{0,24}|([0-9]{1,21}(d|h|m|s|ms|x)?){0,5}") {
            if let Ok(span) = text.parse::<Span>() {
                prop_assert!(span <= Span::MAX);
                prop_assert_eq!(span.to_string().parse(), Ok(span));
            }
        }
    }
}
