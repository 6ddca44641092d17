//! The old root certifies the new one: a belt beside the braces of a planned rotation. Whoever
//! has missed the bundle with both roots, although the gates say otherwise, then still believes
//! what is issued under the new one.
//!
//! It must not outlive its use by much: whoever steals the new root's key is believed by it for
//! as long as the old root is trusted.

use std::time::{Duration, SystemTime};

use arx_identity::Certificate;
use arx_identity::profile::{self, Issuer};

use super::operator::{Material, try_crossed};
use super::parent::complete;
use super::{Authority, root};
use crate::state::Root;

/// Whether the active root has cross-certified the one that comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// It has.
    Made(Certificate),
    /// Whoever has prepared that root knows.
    Earlier,
    /// It cannot, and why.
    Impossible(String),
}

impl Authority {
    /// How long a cross-certificate lives: as long as an intermediate, so that the gates have as
    /// much time to open, and for the window and the last leaf besides.
    fn cross_ttl(&self) -> Duration {
        let leaves = self.longest_leaf().saturating_mul(2);
        self.options.intermediate_ttl.saturating_add(leaves)
    }

    /// Why `active` cannot cross-certify the root that follows it, if that is known beforehand.
    #[must_use]
    pub fn cannot_cross(&self, active: &Root) -> Option<String> {
        if !active.above.is_empty() {
            return Some(
                "the key of the root that leaves is not here, but that of an authority below it"
                    .to_owned(),
            );
        }
        let key = root::key_of(active, &self.sources());
        key.err().map(|error| error.to_string())
    }

    /// `next`, certified by `active`. It has been tried whether what is issued under `next` is
    /// believed by either alone.
    pub(super) async fn cross(
        &self,
        active: &Root,
        next: &Root,
        now: SystemTime,
    ) -> Result<Certificate, String> {
        if let Some(reason) = self.cannot_cross(active) {
            return Err(reason);
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let sources = self.sources();
        let key = root::key_of(active, &sources).map_err(|error| text(&error))?;
        let by = Issuer::new(&active.certificate).map_err(|error| text(&error))?;
        let other = Issuer::new(&next.certificate).map_err(|error| text(&error))?;
        let unsigned = profile::cross(&by, &other, now, now + self.cross_ttl());
        let unsigned = unsigned.map_err(|error| text(&error))?;
        let cross = complete(&*key, unsigned).await;
        let cross = cross.map_err(|error| text(&error))?;
        let material = Material {
            key: root::key_of(next, &sources).map_err(|error| text(&error))?,
            place: next.key.clone(),
            above: next.above.clone(),
            root: next.certificate.clone(),
        };
        let both = Some((&cross, &active.certificate));
        let tried = try_crossed(&material, both, self.trust_domain(), now).await;
        tried.map_err(|error| text(&error))?;
        Ok(cross)
    }
}
