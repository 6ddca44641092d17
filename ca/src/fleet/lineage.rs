//! The line of certificates that began with a node's join, and goes on with each renewal.
//!
//! Only one line of a node counts: a stolen token that joins cuts the real agent off,
//! which is noticed at once, instead of living beside it unseen.

use std::time::SystemTime;

use arx_identity::{KeyId, Serial};

use crate::refusal::{Fault, Refusal};

/// Serials of one line that are remembered: with renewal at half of the lifetime two are
/// valid at a time.
const MOST: usize = 16;

/// What a join came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Hash of the token's `jti`, or of the token where it has none.
    pub token_id: [u8; 32],
    /// When the token was issued.
    pub issued_at: SystemTime,
    /// The key that the certificate is asked for.
    pub key_id: KeyId,
}

/// A connected agent was cut off by a join with a newer token: an operator has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded;

#[derive(Debug, Default)]
pub(super) struct Lineage {
    join: Option<Join>,
    /// Empty: nothing is known, and every valid certificate of the node counts.
    serials: Vec<(Serial, SystemTime)>,
}

impl Lineage {
    pub(super) fn admits(&self, serial: &Serial) -> bool {
        self.serials.is_empty() || self.serials.iter().any(|(known, _)| known == serial)
    }

    /// The certificate that was issued last.
    pub(super) fn newest(&self) -> Option<&Serial> {
        self.serials.last().map(|(serial, _)| serial)
    }

    pub(super) fn may_join(&self, join: &Join, connected: bool) -> Result<(), Refusal> {
        let Some(last) = &self.join else {
            return Ok(());
        };
        if !connected || last == join {
            return Ok(());
        }
        if last.token_id == join.token_id {
            return Err(Refusal::new(
                "ARX-JOIN-TOKEN-REPLAYED",
                Fault::Forbidden,
                "this token has joined with another key, and that agent is connected: one agent per node and token",
            ));
        }
        if join.issued_at < last.issued_at {
            return Err(Refusal::new(
                "ARX-JOIN-TOKEN-OLDER",
                Fault::Forbidden,
                "the node has joined with a newer token than this, and that agent is connected: use the newest token",
            ));
        }
        Ok(())
    }

    /// Answers whether an earlier line was cut off.
    pub(super) fn joined(&mut self, join: Join, serial: Serial, not_after: SystemTime) -> bool {
        if self.join.as_ref() == Some(&join) {
            self.push(serial, not_after);
            return false;
        }
        let earlier = !self.serials.is_empty();
        self.join = Some(join);
        self.serials = vec![(serial, not_after)];
        earlier
    }

    /// `serial` replaces the certificate `before`, which stays good until its end.
    pub(super) fn renewed(
        &mut self,
        before: (Serial, SystemTime),
        serial: Serial,
        not_after: SystemTime,
    ) {
        if self.serials.is_empty() {
            self.push(before.0, before.1);
        }
        self.push(serial, not_after);
    }

    fn push(&mut self, serial: Serial, not_after: SystemTime) {
        if self.serials.len() >= MOST {
            self.serials.remove(0);
        }
        self.serials.push((serial, not_after));
    }

    pub(super) fn restore(&mut self, serial: Serial, not_after: SystemTime, first: bool) {
        if first {
            self.serials.clear();
        }
        self.push(serial, not_after);
    }
}
