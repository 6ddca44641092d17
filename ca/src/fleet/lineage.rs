//! The line of certificates that began with a node's join, and goes on with each renewal.
//!
//! Only one line of a node counts: a stolen token that joins cuts the real agent off,
//! which is noticed at once, instead of living beside it unseen.

use std::cmp::Ordering;
use std::time::SystemTime;

use arx_daemon::clock::unix_ms;
use arx_identity::{KeyId, Serial, crypto};

use crate::refusal::{Fault, Refusal};

/// Which line a certificate is of. It stands in the serial, so that every replica can tell, also
/// one that has seen neither the join nor the renewals. A later line is greater.
///
/// Its octets: when it began (ms since 1970, 6, big-endian), and 5 random ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line([u8; Serial::SAID]);

impl Line {
    /// None for a serial that tells of none.
    #[must_use]
    pub fn of(serial: &Serial) -> Option<Self> {
        serial.said().copied().map(Self)
    }

    /// One that begins now, and is later than `earlier` whatever the clock says.
    fn begun(now: SystemTime, earlier: Option<Self>) -> Self {
        let now = u64::try_from(unix_ms(now)).unwrap_or_default();
        let ms = earlier.map_or(now, |earlier| now.max(earlier.began_ms() + 1));
        let mut line = [0; Serial::SAID];
        let (began, random) = line.split_at_mut(6);
        began.copy_from_slice(&ms.to_be_bytes()[2..]);
        random.copy_from_slice(&crypto::random::<5>());
        Self(line)
    }

    fn began_ms(self) -> u64 {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(ms)
    }

    /// The serial number of a new certificate of it.
    #[must_use]
    pub fn serial(self) -> Serial {
        Serial::telling(&self.0)
    }
}

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

/// A connected agent was cut off by a later join: an operator has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded;

/// What is known here of a node's line.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// By which it began, if that was here.
    join: Option<Join>,
    /// The latest that was seen. None: every valid certificate of the node counts.
    line: Option<Line>,
    /// The one that was issued here last, or that a Follow has shown since.
    newest: Option<(Serial, SystemTime)>,
}

/// What a certificate's line is by what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Known,
    /// It has begun later, here or elsewhere, and is what is known now.
    Later,
    CutOff,
}

impl Lineage {
    pub(super) fn admit(&mut self, serial: &Serial) -> Verdict {
        let shown = Line::of(serial);
        match shown.cmp(&self.line) {
            Ordering::Equal => Verdict::Known,
            Ordering::Less => Verdict::CutOff,
            Ordering::Greater => {
                let first = self.line.is_none();
                self.line = shown;
                self.join = None;
                if first {
                    Verdict::Known
                } else {
                    Verdict::Later
                }
            }
        }
    }

    /// The certificate that the node has, or is about to use: the one that was issued here last,
    /// unless it has shown a later one, of another replica.
    pub(super) fn newest(&self) -> Option<&Serial> {
        self.newest.as_ref().map(|(serial, _)| serial)
    }

    /// The node follows with `serial`.
    pub(super) fn shown(&mut self, serial: &Serial, not_after: SystemTime) {
        let last = self.newest.as_ref();
        if last.is_some_and(|(_, last)| *last < not_after) {
            self.newest = Some((serial.clone(), not_after));
        }
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

    /// That of a certificate for `join`: the same again for the same join, else a new one.
    pub(super) fn line_for(&self, join: &Join, now: SystemTime) -> Line {
        let same = self.line.filter(|_| self.join.as_ref() == Some(join));
        same.unwrap_or_else(|| Line::begun(now, self.line))
    }

    /// `join` was answered with `serial`. Answers whether an earlier line was cut off.
    pub(super) fn joined(&mut self, join: Join, serial: Serial, not_after: SystemTime) -> bool {
        let earlier = self.newest.is_some() || self.line.is_some();
        let verdict = self.admit(&serial);
        if verdict == Verdict::CutOff {
            // By a join that has come in between.
            return false;
        }
        let is_same = verdict == Verdict::Known && self.join.as_ref() == Some(&join);
        self.join = Some(join);
        self.newest = Some((serial, not_after));
        earlier && !is_same
    }

    /// `serial` was issued here by a renewal, or before a restart.
    pub(super) fn issued(&mut self, serial: Serial, not_after: SystemTime) {
        if self.admit(&serial) != Verdict::CutOff {
            self.newest = Some((serial, not_after));
        }
    }
}
