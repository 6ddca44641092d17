//! Readiness: named conditions, each well or failing with a reason. A process is ready when none is failing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// The reason code of a condition about which nothing has been said yet.
pub const STARTING: &str = "ARX-STARTING";

/// All conditions of a process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<watch::Sender<Conditions>>,
}

/// By name; `None` is well.
type Conditions = BTreeMap<&'static str, Option<Reason>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reason {
    code: &'static str,
    message: String,
    /// It is well, and something is to be known.
    warning: bool,
}

impl Reason {
    fn fails(reason: &Option<Self>) -> bool {
        reason.as_ref().is_some_and(|reason| !reason.warning)
    }
}

/// A condition that fails, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failing {
    /// The condition.
    pub name: &'static str,
    /// Stable reason code, `ARX-...`.
    pub code: &'static str,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// How a condition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The condition.
    pub name: &'static str,
    /// Whether it does not fail.
    pub ok: bool,
    /// What fails, or is to be known.
    pub why: Option<Failing>,
}

/// The handle of one condition, for whoever knows how it stands. Clones are the same condition.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// No conditions: ready. Ask for the [conditions](Self::condition) before the port is opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// The condition of this name. A new one is failing with [`STARTING`] until something is said of it.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.conditions.send_modify(|conditions| {
            let starting = || {
                Some(Reason {
                    code: STARTING,
                    message: "starting".to_owned(),
                    warning: false,
                })
            };
            conditions.entry(name).or_insert_with(starting);
        });
        Condition {
            name,
            readiness: self.clone(),
        }
    }

    /// True if no condition is failing.
    pub fn is_ready(&self) -> bool {
        !self.conditions.borrow().values().any(Reason::fails)
    }

    /// Returns when no condition is failing.
    pub async fn ready(&self) {
        // The sender is in `self`, so that the channel cannot close while we wait.
        let well = |conditions: &Conditions| !conditions.values().any(Reason::fails);
        let _ = self.conditions.subscribe().wait_for(well).await;
    }

    /// What is failing, by name.
    pub fn failing(&self) -> Vec<Failing> {
        self.all()
            .into_iter()
            .filter(|said| !said.ok)
            .filter_map(|said| said.why)
            .collect()
    }

    /// Every condition by name.
    pub fn all(&self) -> Vec<Said> {
        let conditions = self.conditions.borrow();
        let entries = conditions.iter().map(|(name, reason)| Said {
            name,
            ok: !Reason::fails(reason),
            why: reason.as_ref().map(|reason| Failing {
                name,
                code: reason.code,
                message: reason.message.clone(),
            }),
        });
        entries.collect()
    }
}

impl Condition {
    /// It is well. Said again it costs little and is not logged again.
    pub fn set_ok(&self) {
        self.set(None);
    }

    /// It fails, by `code` (`ARX-...`, stable) and `message` (what is wrong, what to do). A change of code is logged, a
    /// change of message alone is not.
    pub fn set_failing(&self, code: &'static str, message: impl Into<String>) {
        self.set(Some(Reason {
            code,
            message: message.into(),
            warning: false,
        }));
    }

    /// It is well, but something is to be known, by `code` and `message`: the process stays ready. Logged as
    /// [`Condition::set_failing`].
    pub fn set_warning(&self, code: &'static str, message: impl Into<String>) {
        self.set(Some(Reason {
            code,
            message: message.into(),
            warning: true,
        }));
    }

    fn set(&self, reason: Option<Reason>) {
        let condition = self.name;
        let mut before = None;
        let changed = self.readiness.conditions.send_if_modified(|conditions| {
            before = conditions.insert(condition, reason.clone()).flatten();
            before != reason
        });
        // Logged when nobody waits for the conditions any more: writing a line can take its time.
        match reason {
            _ if !changed => {}
            None => tracing::info!(condition, "condition is well"),
            Some(Reason { code, warning, .. })
                if before
                    .is_some_and(|before| before.code == code && before.warning == warning) => {}
            Some(Reason {
                code,
                message,
                warning: false,
            }) => tracing::warn!(condition, code, "condition fails: {message}"),
            Some(Reason { code, message, .. }) => {
                tracing::warn!(condition, code, "condition is well, but: {message}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_no_condition_fails() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready(), "nothing is asked of it");
        let (store, root) = (readiness.condition("store"), readiness.condition("root"));
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness
                .failing()
                .iter()
                .map(|failing| failing.code)
                .collect::<Vec<_>>(),
            [STARTING, STARTING]
        );
        store.set_ok();
        root.set_failing("ARX-STORE-UNAVAILABLE", "the signer does not answer");
        let failing = Failing {
            name: "root",
            code: "ARX-STORE-UNAVAILABLE",
            message: "the signer does not answer".to_owned(),
        };
        assert_eq!(readiness.failing(), [failing]);
        root.set_ok();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_warning_leaves_a_process_ready() {
        let readiness = Readiness::new();
        let key = readiness.condition("key");
        key.set_warning("ARX-SIGNER-UNREACHABLE", "it goes on until noon");
        assert!(readiness.is_ready());
        assert_eq!(readiness.failing(), []);
        let said = &readiness.all()[0];
        assert!(said.ok && said.why.is_some());
        key.set_failing("ARX-SIGNER-UNREACHABLE", "it is noon");
        assert!(!readiness.is_ready());
    }

    #[test]
    fn handles_of_one_name_are_one_condition() {
        let readiness = Readiness::new();
        readiness.condition("store").set_ok();
        assert!(readiness.is_ready());
        readiness
            .clone()
            .condition("store")
            .set_failing("ARX-STORE-FULL", "no space; free some");
        assert!(!readiness.is_ready());
    }

    #[tokio::test]
    async fn readiness_can_be_awaited() {
        let readiness = Readiness::new();
        let condition = readiness.condition("store");
        tokio::join!(readiness.ready(), async { condition.set_ok() });
    }
}
