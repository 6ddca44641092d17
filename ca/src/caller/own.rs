//! Whether a certificate comes from one of this authority's own replicas, and from none of the
//! authorities below, which could name itself anybody.

use arx_identity::{Certificate, KeyId};

use crate::state::{Authorities, Intermediate, State, StateError};

/// Whether a replica's own intermediate has signed what has these issuers, by what is stored.
///
/// # Errors
/// [`StateError`] if that cannot be read.
pub(crate) async fn is_our_own(state: &State, issuers: &[KeyId]) -> Result<bool, StateError> {
    let stored = state.authorities().await?;
    let stored = stored.map(|stored| stored.value).unwrap_or_default();
    let registered = state.intermediates().await?;
    Ok(is_by(issuers, &registered, &stored))
}

/// Whether a replica's own intermediate has signed it, which stands directly below what signs for
/// one of the roots here; above that there may be other roots of ours, that vouch for it.
///
/// Key identifiers are what a certificate says of itself, and below an authority below anything
/// can be said. So each of them has to be known, from the root down: what our own keys have signed
/// says the truth.
fn is_by(issuers: &[KeyId], registered: &[Intermediate], stored: &Authorities) -> bool {
    let Some((intermediate, above)) = issuers.split_first() else {
        return false;
    };
    let known = registered
        .iter()
        .find(|known| known.certificate.subject_key_id() == Some(*intermediate));
    let Some(root) = known.and_then(|known| stored.root(known.root)) else {
        return false;
    };
    let ids = root.above.iter().chain([&root.certificate]);
    let Some(ids) = ids
        .map(Certificate::subject_key_id)
        .collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    above
        .strip_prefix(&ids[..])
        .is_some_and(|others| others.iter().all(|other| stored.root(*other).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{House, Outcome};

    #[tokio::test]
    async fn no_identifier_that_somebody_below_has_copied_makes_a_chain_our_own() -> Outcome {
        let house = House::new().await?;
        let stored = house.ca.state.authorities().await?.ok_or("a root")?.value;
        let registered = house.ca.state.intermediates().await?;
        let issuing = house.ca.authority.issuing().ok_or("it issues")?;
        let (own, root) = (issuing.intermediate(), issuing.root());
        let other = KeyId::from_slice(&[1; 20]).ok_or("20 bytes")?;
        let is_ours = |issuers: &[KeyId]| is_by(issuers, &registered, &stored);
        assert!(is_ours(&[own, root]));
        assert!(is_ours(&[own, root, root]), "a root of ours above another");
        for chain in [
            &[][..],
            &[own],
            &[root],
            &[other, root],
            &[own, other],
            &[own, other, root],
            &[own, root, other],
            &[own, root, other, root],
        ] {
            assert!(!is_ours(chain), "{chain:?}");
        }
        Ok(())
    }
}
