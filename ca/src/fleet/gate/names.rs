//! Whom an entry is about, and how what others say is shown.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use arx_proto::node::v1 as wire;

use super::Unconfirmed;
use crate::fleet::holdings::{Holdings, Leaf};
use crate::fleet::subscribers::Known;
use crate::ledger::Holder;

/// Identities that are named.
const NAMED: usize = 20;
/// Characters that are shown of a name.
pub(in crate::fleet) const LONGEST_NAME: usize = 512;
/// Characters that are shown of a consumer's own words.
pub(in crate::fleet) const LONGEST_DETAIL: usize = 1024;

/// Identities and the end of the last certificate.
#[derive(Debug, Default)]
pub(super) struct Names {
    identities: BTreeSet<Arc<str>>,
    /// Where not all are known by name.
    counted: u32,
    ends: Option<SystemTime>,
}

impl Names {
    pub(super) fn of(holder: &Holder) -> Self {
        Self {
            identities: holder.identities.iter().cloned().collect(),
            counted: holder.count,
            ends: Some(holder.ends),
        }
    }

    pub(super) fn of_leaves<'a>(leaves: impl IntoIterator<Item = &'a Leaf>) -> Self {
        let mut names = Self::default();
        for leaf in leaves {
            names.add(leaf);
        }
        names
    }

    /// Of the certificates of a process.
    pub(super) fn of_process(known: &[&Known], holdings: &Holdings) -> Self {
        let mut names = Self::default();
        for known in known {
            if !known.state.spiffe_id.is_empty() {
                names
                    .identities
                    .insert(known.state.spiffe_id.as_str().into());
            }
            for leaf in known.serials().filter_map(|serial| holdings.get(serial)) {
                names.add(leaf);
            }
        }
        names
    }

    fn add(&mut self, leaf: &Leaf) {
        if !leaf.identity.is_empty() {
            self.identities.insert(Arc::clone(&leaf.identity));
        }
        self.ends = self.ends.max(leaf.ends);
    }

    pub(super) fn count(&self) -> u32 {
        let named = u32::try_from(self.identities.len()).unwrap_or(u32::MAX);
        named.max(self.counted)
    }

    pub(super) fn ends(&self) -> Option<SystemTime> {
        self.ends
    }

    pub(super) fn first(&self) -> Vec<String> {
        let first = self.identities.iter().take(NAMED);
        first.map(|id| shown(id, LONGEST_NAME)).collect()
    }
}

impl Unconfirmed {
    /// About one consumer instead of the whole node.
    pub(super) fn consumer(self, known: &Known) -> Self {
        let subscriber = known.state.subscriber.as_ref();
        let resource = subscriber.map(|subscriber| shown(&subscriber.resource_name, LONGEST_NAME));
        Self {
            process: subscriber.and_then(process),
            resource,
            since: Some(known.first_seen),
            ..self
        }
    }
}

/// `pid 1234`, or the UID of a pod.
pub(in crate::fleet) fn process(subscriber: &wire::Subscriber) -> Option<String> {
    use wire::subscriber::Holder;
    let process = match subscriber.holder.as_ref()? {
        Holder::Process(process) => format!("pid {}", process.pid),
        Holder::PodUid(uid) => shown(uid, LONGEST_NAME),
    };
    Some(process)
}

/// At most `longest` characters of what somebody else has said, none of which moves a
/// terminal's cursor or turns the order of what is read.
pub(in crate::fleet) fn shown(text: &str, longest: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(longest));
    let mut left = longest;
    for character in text.chars() {
        let Some(rest) = left.checked_sub(1) else {
            shown.push('…');
            break;
        };
        left = rest;
        if is_plain(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    shown
}

fn is_plain(character: char) -> bool {
    let steers = matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    !character.is_control() && !steers
}
