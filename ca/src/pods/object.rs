//! The few things that are read of a pod, out of the JSON that an API server sends.

use std::borrow::Cow;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use arx_daemon::clock::from_rfc3339;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod<'a> {
    #[serde(borrow)]
    pub(super) metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    status: Status,
    /// What is wrong, as HTTP has it, where this is no pod but an error (`meta/v1.Status`).
    pub(super) code: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub(super) uid: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) namespace: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) resource_version: Cow<'a, str>,
    /// When it is to be gone; in the future while its grace period lasts.
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    labels: Option<Labels<'a>>,
}

/// Names and values, in the order in which they came.
#[derive(Debug, Default)]
struct Labels<'a>(Vec<(Word<'a>, Word<'a>)>);

#[derive(Debug, Deserialize)]
struct Word<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    service_account_name: Cow<'a, str>,
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
}

/// A pod's `status`, of which its phase is read; an error has a text there.
#[derive(Debug, Default)]
struct Status {
    has_ended: bool,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    pub(super) kind: Kind,
    #[serde(borrow)]
    pub(super) object: Pod<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Kind {
    Added,
    Modified,
    Deleted,
    /// Nothing happened up to here.
    Bookmark,
    Error,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<'a> {
    #[serde(borrow)]
    pub(super) metadata: Page<'a>,
    /// Absent from an empty list in some versions.
    #[serde(borrow, default)]
    pub(super) items: Vec<Pod<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<'a> {
    #[serde(borrow)]
    pub(super) resource_version: Cow<'a, str>,
    /// Where the next page begins; empty at the end.
    #[serde(borrow, default, rename = "continue")]
    pub(super) next: Cow<'a, str>,
}

impl Pod<'_> {
    /// Its service account: `default` if it says none, as before admission.
    pub(super) fn account(&self) -> &str {
        match &*self.spec.service_account_name {
            "" => "default",
            name => name,
        }
    }

    pub(super) fn node(&self) -> Option<&str> {
        self.spec
            .node_name
            .as_deref()
            .filter(|node| !node.is_empty())
    }

    /// The value of one of its labels.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        let Labels(all) = self.metadata.labels.as_ref()?;
        let mut named = all.iter().filter(|(it, _)| it.0 == name);
        named.next().map(|(_, value)| &*value.0)
    }

    /// When it is to be gone, if it is being deleted; a date that can't be read has passed.
    pub(super) fn deleted(&self) -> Option<SystemTime> {
        let text = self.metadata.deletion_timestamp.as_deref()?;
        Some(from_rfc3339(text).unwrap_or(UNIX_EPOCH))
    }

    /// Whether none of its containers will run again (phase `Succeeded` or `Failed`).
    pub(super) fn has_ended(&self) -> bool {
        self.status.has_ended
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Labels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels<'de>, A::Error> {
                let mut all = Vec::new();
                while let Some(label) = map.next_entry()? {
                    all.push(label);
                }
                Ok(Labels(all))
            }
        }
        deserializer.deserialize_map(Look)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Field {
    Phase,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Phase {
    Succeeded,
    Failed,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Status;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pod's status")
            }

            fn visit_str<E>(self, _: &str) -> Result<Status, E> {
                Ok(Status::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Status, A::Error> {
                let mut status = Status::default();
                while let Some(field) = map.next_key::<Field>()? {
                    match field {
                        Field::Phase => {
                            let phase = map.next_value::<Phase>()?;
                            status.has_ended = matches!(phase, Phase::Succeeded | Phase::Failed);
                        }
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(status)
            }
        }
        deserializer.deserialize_any(Look)
    }
}
