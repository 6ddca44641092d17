//! Which authority an operator means: by subject, the first digits of its key identifier, or of
//! an intermediate's serial number.

use arx_identity::{Certificate, KeyId};

use crate::ca::Ca;
use crate::hex::Hex;
use crate::refusal::{Fault, Refusal};
use crate::state::{Intermediate, RootState};

/// Fewer digits could be anybody.
const FEWEST: usize = 4;

/// An authority of this trust domain.
#[derive(Clone, Debug)]
pub enum Named {
    /// A root.
    Root(KeyId, Certificate),
    /// An intermediate that has not ended.
    Intermediate(Box<Intermediate>),
}

impl Ca {
    /// The one authority that is called so.
    ///
    /// # Errors
    /// [`Refusal`] if there is none, more than one, or it is distrusted already.
    pub async fn authority_named(&self, name: &str) -> Result<Named, Refusal> {
        let name = name.trim();
        let digits = name.replace(':', "").to_ascii_lowercase();
        let is_hex = digits.len() >= FEWEST && digits.bytes().all(|it| it.is_ascii_hexdigit());
        let begins = |bytes: &[u8]| is_hex && Hex(bytes).to_string().starts_with(&digits);
        let is_key = |id: Option<KeyId>| id.is_some_and(|id| begins(id.as_bytes()));

        let stored = self.state.authorities().await?;
        let roots = stored.map(|stored| stored.value.roots).unwrap_or_default();
        let mut found = Vec::new();
        let mut distrusted = None;
        for root in &roots {
            if root.certificate.subject() != name && !is_key(root.key_id()) {
                continue;
            }
            match (root.key_id(), &root.state) {
                (_, RootState::Distrusted) => distrusted = Some(root.certificate.subject()),
                (Some(id), _) => found.push(Named::Root(id, root.certificate.clone())),
                (None, _) => {}
            }
        }
        let now = self.clock.now();
        for intermediate in self.state.intermediates().await? {
            let certificate = &intermediate.certificate;
            if certificate.not_after() > now
                && (is_key(certificate.subject_key_id()) || begins(certificate.serial().as_bytes()))
            {
                found.push(Named::Intermediate(Box::new(intermediate)));
            }
        }
        match (found.pop(), found.len(), distrusted) {
            (Some(one), 0, _) => Ok(one),
            (Some(_), others, _) => Err(unknown(format!(
                "{} authorities are called {name:?}: give more digits of the key identifier",
                others + 1
            ))),
            (None, _, Some(subject)) => Err(Refusal::new(
                "ARX-DISTRUST-DONE",
                Fault::Request,
                format!("{subject} is distrusted already: nobody trusts it any more"),
            )),
            (None, _, None) => Err(unknown(format!(
                "no authority is called {name:?}: `arx status` lists them; give a subject, or {FEWEST} or more of the first digits of a key identifier or an intermediate's serial number"
            ))),
        }
    }
}

fn unknown(message: String) -> Refusal {
    Refusal::new("ARX-DISTRUST-UNKNOWN", Fault::Request, message)
}
