//! Subscribers in the words of `arx.node.v1`.

use super::{Content, Holder, Member, State, Subscribers};
use crate::wire::{position, unix_ms};
use arx_proto::node::v1::{
    Grade, Nack, Presence, Process, Subscriber, SubscriberState, TrustPosition, subscriber,
};
use bytes::Bytes;
use std::sync::Arc;

impl Subscribers {
    /// Everyone, for the first report of a Follow. Afterwards nothing counts as changed.
    pub fn take_all(&mut self) -> Vec<SubscriberState> {
        self.changed.clear();
        self.ended.clear();
        let holders = self.holders.iter().filter(|(holder, _)| holder.is_known());
        let each = |(holder, state): (&Holder, &State)| {
            let members = state.members.iter();
            members
                .map(|(name, member)| member.report(holder, name, state))
                .collect::<Vec<_>>()
        };
        holders.flat_map(each).collect()
    }

    /// Whatever changed since the last call, those that ended included.
    pub fn take_changes(&mut self) -> Vec<SubscriberState> {
        let mut states = Vec::with_capacity(self.changed.len() + self.ended.len());
        for ended in std::mem::take(&mut self.ended) {
            let mut report = ended
                .member
                .report(&ended.holder, &ended.resource, &State::default());
            report.set_presence(Presence::Ended);
            states.push(report);
        }
        for (holder, resource) in std::mem::take(&mut self.changed) {
            if let Some(state) = self.holders.get(&holder)
                && let Some(member) = state.members.get(&resource)
            {
                states.push(member.report(&holder, &resource, state));
            }
        }
        states
    }

    /// Whether there is anything to report.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.ended.is_empty()
    }
}

impl Member {
    fn report(&self, holder: &Holder, resource: &str, state: &State) -> SubscriberState {
        let newest = self.unconfirmed.last();
        let refusal = self.unconfirmed.iter().rev().find_map(|content| {
            let is_it = |r: &&super::Refused| r.sha256 == *content.sha256();
            state.refused.iter().find(is_it)
        });
        let presence = if self.streams.is_empty() {
            Presence::Away
        } else {
            Presence::Connected
        };
        let leaf = self.in_use().find_map(|c| c.leaf());
        SubscriberState {
            subscriber: Some(Subscriber {
                holder: holder.report(),
                resource_name: resource.to_owned(),
                streams: u32::try_from(self.streams.len()).unwrap_or(u32::MAX),
                grade: Grade::Acked.into(),
            }),
            spiffe_id: leaf.map(|l| l.spiffe_id.to_string()).unwrap_or_default(),
            acked_trust: self.confirmed.as_ref().and_then(trust),
            acked_serial: self.confirmed.as_ref().map(serial).unwrap_or_default(),
            nack: refusal.map(|refused| Nack {
                version: refused.version.clone(),
                content_sha256: Bytes::copy_from_slice(&refused.sha256),
                detail: refused.detail.clone(),
                at_unix_ms: unix_ms(refused.at),
            }),
            sent_trust: newest.and_then(trust),
            sent_serial: newest.map(serial).unwrap_or_default(),
            changed_unix_ms: unix_ms(self.changed),
            presence: presence.into(),
        }
    }
}

impl Holder {
    fn report(&self) -> Option<subscriber::Holder> {
        match self {
            Self::Process(process) => Some(subscriber::Holder::Process(Process {
                pid: process.pid,
                start_time: process.start_time,
                boot_id: process.boot_id.to_string(),
            })),
            Self::Pod(uid) => Some(subscriber::Holder::PodUid(uid.clone())),
            Self::Stream(_) => None,
        }
    }
}

fn trust(content: &Arc<Content>) -> Option<TrustPosition> {
    match &**content {
        Content::Trust { sequence, sha256 } => Some(position(*sequence, sha256)),
        Content::Leaf(_) => None,
    }
}

fn serial(content: &Arc<Content>) -> Bytes {
    let leaf = content.leaf();
    leaf.map(|l| Bytes::copy_from_slice(l.serial.as_bytes()))
        .unwrap_or_default()
}
