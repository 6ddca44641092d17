//! What a planned rotation tells of the cross-certificate that its old root gives the new one.

use std::time::SystemTime;

use arx_daemon::clock::rfc3339;
use arx_identity::KeyId;
use serde_json::json;

use super::driver::Wrong;
use crate::authority::Crossing;
use crate::ca::Ca;
use crate::state::{Kind, Root, Rotation};

impl Ca {
    /// Whether the old root is to cross-certify the new one: never where it must not be trusted.
    pub(super) fn crosses(&self, rotation: &Rotation) -> bool {
        rotation.kind == Kind::Planned && self.rules.get().rotation.cross_certificate
    }

    /// Why a rotation from `active` would have no cross-certificate, in words; nothing if it
    /// would.
    pub(crate) fn without_cross(&self, active: &Root) -> Option<String> {
        if self.rules.get().rotation.cross_certificate {
            self.authority.cannot_cross(active)
        } else {
            Some("rotation.cross_certificate is false".to_owned())
        }
    }

    /// Says who is still to go: a root that has cross-certified one whose key is stolen.
    pub(super) async fn tell_vouched(
        &self,
        rotation: &Rotation,
        root: KeyId,
        now: SystemTime,
    ) -> Result<(), Wrong> {
        let stored = self.state.authorities().await?.map(|stored| stored.value);
        let stored = stored.unwrap_or_default();
        let cross = stored.root(root).and_then(|root| root.cross.as_ref());
        let Some(cross) = cross.filter(|cross| cross.not_after() > now) else {
            return Ok(());
        };
        if let Some(by) = cross.authority_key_id()
            && stored.root(by).is_some()
        {
            tracing::error!(
                rotation = %rotation.id,
                code = "ARX-DISTRUST-CROSS-CERTIFIED",
                until = rfc3339(cross.not_after()),
                "the root {by}, which signs now, has cross-certified the distrusted one, so its key is believed by whoever trusts that: distrust {by} as well"
            );
        }
        Ok(())
    }

    /// Puts into the ledger, beside the steps, what the old root has signed, or why it has not.
    pub(super) async fn record_crossing(&self, rotation: &Rotation, crossing: &Crossing) {
        let detail = match crossing {
            Crossing::Made(cross) => json!({
                "serial": cross.serial().to_string(),
                "subject": cross.subject(),
                "issuer": cross.issuer(),
                "not_after": rfc3339(cross.not_after()),
            }),
            Crossing::Earlier => return,
            Crossing::Impossible(reason) => {
                tracing::warn!(
                    rotation = %rotation.id,
                    code = "ARX-ROTATION-NO-CROSS",
                    "the old root does not cross-certify the new one, and the rotation goes on without: {reason}"
                );
                json!({ "none": reason })
            }
        };
        self.record_step(rotation, "cross-certificate", detail)
            .await;
    }
}
