//! Replicas whose word is missing in an answer.

use std::collections::BTreeMap;

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

/// Why each has not answered, by its name: the first that was said of it.
#[derive(Default)]
pub(crate) struct Unanswered(BTreeMap<String, String>);

impl Unanswered {
    pub(crate) fn note(&mut self, unanswered: Vec<wire::Unanswered>) {
        for missing in unanswered {
            self.0.entry(missing.replica).or_insert(missing.reason);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn json(&self) -> Value {
        let each = self.0.iter().map(|(replica, reason)| {
            let replica = (!replica.is_empty()).then_some(replica);
            json!({"replica": replica, "reason": reason})
        });
        each.collect()
    }

    /// Who is missing among so many replicas: "2 of 3 replicas answered; ca-3: ...". Nothing if
    /// nobody is.
    pub(crate) fn gaps(&self, replicas: u32) -> String {
        if self.is_empty() {
            return String::new();
        }
        let named = self.0.keys().filter(|name| !name.is_empty());
        let answered = u64::from(replicas).saturating_sub(named.count() as u64);
        let reasons = self.0.iter().map(|(replica, reason)| match &**replica {
            "" => format!("which others there are is not known: {reason}"),
            replica => format!("{replica}: {reason}"),
        });
        format!(
            "{answered} of {replicas} replica{} answered; {}\n",
            if replicas == 1 { "" } else { "s" },
            reasons.collect::<Vec<_>>().join("; ")
        )
    }
}

impl From<Vec<wire::Unanswered>> for Unanswered {
    fn from(unanswered: Vec<wire::Unanswered>) -> Self {
        let mut this = Self::default();
        this.note(unanswered);
        this
    }
}
