//! Who gets nothing new, by the word of an operator.
//!
//! All in one document: whoever has read it knows all of them, and the generation of what a
//! replica has read tells whether it knows the newest.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::wire;
use crate::store::Segment;

/// Everybody who is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denials {
    /// By whom they are about, as text. What nobody is called matches nobody.
    pub all: BTreeMap<String, Denial>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// When it was denied.
    #[serde(with = "wire::millis", rename = "since_ms")]
    pub since: SystemTime,
    /// When it is allowed again; not before somebody says so, if none.
    #[serde(
        with = "wire::optional_millis",
        rename = "until_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<SystemTime>,
    /// Why, in the operator's words.
    pub reason: String,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Denial {
    /// Whether it holds at `now`.
    #[must_use]
    pub fn holds(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Denials {
    /// The denial of `subject` that holds at `now`.
    #[must_use]
    pub fn of(&self, subject: &str, now: SystemTime) -> Option<&Denial> {
        self.all.get(subject).filter(|denial| denial.holds(now))
    }

    /// Those that hold at `now`, by whom they are about.
    pub fn holding(&self, now: SystemTime) -> impl Iterator<Item = (&str, &Denial)> {
        let all = self.all.iter().filter(move |(_, denial)| denial.holds(now));
        all.map(|(subject, denial)| (subject.as_str(), denial))
    }

    /// Forgets those that are over at `now`.
    pub fn forget_over(&mut self, now: SystemTime) {
        self.all.retain(|_, denial| denial.holds(now));
    }
}

impl Document for Denials {
    const KIND: Segment = Segment::fixed("denials");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_a_newer_version_added_is_kept() {
        let text = r#"{"all":{"node/c1/n1":{"since_ms":1000,"until_ms":5000,"reason":"stolen","ticket":"T1"},
            "sa/shop/web":{"since_ms":2000,"reason":"odd"}},"newer":true}"#;
        let denials = Denials::decode(text.as_bytes()).expect("a document");
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(denials.all["node/c1/n1"].until, Some(at(5000)));
        assert_eq!(denials.all["sa/shop/web"].until, None);
        let again = Denials::decode(&denials.encode()).expect("a document");
        assert_eq!(again, denials);
        assert_eq!(again.all["node/c1/n1"].extra["ticket"], "T1");
        assert_eq!(again.extra["newer"], true);
    }

    #[test]
    fn a_denial_ends_at_its_time_and_is_forgotten_then() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let denial = |until| Denial {
            since: at(0),
            until,
            reason: "a test".to_owned(),
            extra: Map::new(),
        };
        let mut denials = Denials::default();
        denials.all.insert("a".to_owned(), denial(Some(at(10))));
        denials.all.insert("b".to_owned(), denial(None));
        assert!(denials.of("a", at(9)).is_some());
        assert!(denials.of("a", at(10)).is_none());
        assert!(denials.of("b", at(10_000)).is_some());
        assert_eq!(denials.holding(at(10)).count(), 1);
        denials.forget_over(at(10));
        assert_eq!(denials.all.keys().collect::<Vec<_>>(), ["b"]);
    }
}
