use proptest::prelude::*;

use super::*;
use crate::Sequence;
use crate::bundle::TrustBundle;
use crate::chain::CertChain;
use crate::profile::{self, ProfileError, Validity};
use crate::testing::{Authority, HOUR, example, now};

const ID: &str = "spiffe://example.org/ns/default/sa/web";

#[test]
fn a_peer_is_known_by_its_leaf_and_by_every_authority_up_to_the_root() {
    let root = Authority::root(&example());
    let upper = root.below(&example(), 1);
    let lower = upper.below(&example(), 0);
    let chain = lower.valid(ID);
    let peer = verify(&chain, &root.bundle(&example()), now()).expect("verified");
    assert_eq!(peer.id.as_str(), ID);
    assert_eq!(&peer.serial, chain.leaf().serial());
    assert_eq!(peer.not_after, now() + HOUR);
    let key_id = |authority: &Authority| authority.issuer.key_id();
    assert_eq!(
        peer.issuers,
        [key_id(&lower), key_id(&upper), key_id(&root)]
    );
}

#[test]
fn a_cross_certificate_lets_believers_in_the_old_root_believe_the_new_one_and_is_no_more() {
    let [old, new, foreign] = [(); 3].map(|()| Authority::root(&example()));
    let issuing = new.below(&example(), 0);
    let unsigned = profile::cross(&old.issuer, &new.issuer, now(), now() + 2 * HOUR)
        .expect("a cross-certificate");
    let signature = old.key.sign(unsigned.to_be_signed()).expect("a signature");
    let cross = unsigned.complete(&signature).expect("a cross-certificate");
    let mut certificates = issuing.valid(ID).certificates().to_vec();
    certificates.push(cross.clone());
    let chain = CertChain::new(certificates).expect("a chain");

    let key_id = |authority: &Authority| authority.issuer.key_id();
    let believed = |bundle: &TrustBundle| verify(&chain, bundle, now()).map(|peer| peer.issuers);
    assert_eq!(
        believed(&old.bundle(&example())),
        Ok(vec![key_id(&issuing), key_id(&new), key_id(&old)])
    );
    let short = vec![key_id(&issuing), key_id(&new)];
    assert_eq!(believed(&new.bundle(&example())), Ok(short.clone()));
    let both = vec![old.certificate().clone(), new.certificate().clone()];
    let both = TrustBundle::new(example(), Sequence::default(), both).expect("a bundle");
    assert_eq!(believed(&both), Ok(short));
    assert!(believed(&foreign.bundle(&example())).is_err());

    // It stands for the new root under the old one, and for nothing else.
    assert_eq!(cross.subject(), new.certificate().subject());
    assert_eq!(cross.subject_key_id(), Some(key_id(&new)));
    assert_eq!(cross.authority_key_id(), Some(key_id(&old)));
    assert_eq!(cross.not_after(), now() + 2 * HOUR);
    let lives = old
        .certificate()
        .not_after()
        .min(new.certificate().not_after());
    let unsigned = profile::cross(&old.issuer, &new.issuer, now(), lives + HOUR);
    let unsigned = unsigned.expect("a cross-certificate");
    let signature = old.key.sign(unsigned.to_be_signed()).expect("a signature");
    let longest = unsigned.complete(&signature).map(|it| it.not_after());
    assert_eq!(longest, Ok(lives), "no longer than both live");

    // Its chain names the root before the authority that stands for it.
    let named: Vec<_> = chain.authorities().collect();
    assert_eq!(named, [key_id(&issuing), key_id(&new), key_id(&old)]);
    let of_leaves = old.below(&example(), 0);
    let refused = profile::cross(&of_leaves.issuer, &new.issuer, now(), now() + HOUR);
    assert!(matches!(refused, Err(ProfileError::PathLength)));
}

#[test]
fn the_validity_holds_from_its_first_second_to_its_last() {
    let root = Authority::root(&example());
    let bundle = root.bundle(&example());
    let validity = Validity {
        not_before: now() - HOUR / 4,
        not_after: now() + HOUR / 4,
    };
    let chain = root.chain(ID, validity);
    let second = std::time::Duration::from_secs(1);
    assert!(verify(&chain, &bundle, validity.not_before).is_ok());
    assert!(verify(&chain, &bundle, validity.not_after).is_ok());
    assert!(matches!(
        verify(&chain, &bundle, validity.not_before - second),
        Err(VerifyError::NotYetValid(_))
    ));
    assert!(matches!(
        verify(&chain, &bundle, validity.not_after + second),
        Err(VerifyError::Expired(_))
    ));
    let before_time = SystemTime::UNIX_EPOCH - HOUR;
    assert!(verify(&chain, &bundle, before_time).is_err());
}

#[test]
fn only_the_bundle_of_the_leafs_own_trust_domain_counts() {
    let other = TrustDomain::parse("other.example").expect("a trust domain");
    // The same root in the bundles of two domains: what it signs is of one of them.
    let root = Authority::root(&example());
    let chain = root.valid("spiffe://other.example/web");
    assert!(matches!(
        verify(&chain, &root.bundle(&example()), now()),
        Err(VerifyError::ForeignTrustDomain { .. })
    ));
    let longer = root.valid("spiffe://example.org.other.example/web");
    assert!(matches!(
        verify(&longer, &root.bundle(&example()), now()),
        Err(VerifyError::ForeignTrustDomain { .. })
    ));
    let foreign = Authority::root(&other);
    assert!(matches!(
        verify(&foreign.valid(ID), &root.bundle(&example()), now()),
        Err(VerifyError::UnknownIssuer { .. })
    ));
}

#[test]
fn what_was_presented_is_believed_if_any_bundle_vouches_for_it() {
    let (old, new) = (Authority::root(&example()), Authority::root(&example()));
    let chain = new.valid(ID);
    let presented = || chain.certificates().iter().map(Certificate::der);
    let both = [old.bundle(&example()), new.bundle(&example())];
    assert!(verify_presented(presented(), &both, now()).is_ok());
    assert!(matches!(
        verify_presented(presented(), &both[..1], now()),
        Err(VerifyError::UnknownIssuer { .. })
    ));
    assert!(matches!(
        verify_presented(presented(), &[], now()),
        Err(VerifyError::NoBundle(_))
    ));
    let authority = [new.certificate().der()];
    assert!(matches!(
        verify_presented(authority, &both, now()),
        Err(VerifyError::Chain(ChainError::LeafIsCa))
    ));
    let endless = std::iter::repeat(chain.leaf().der());
    assert!(matches!(
        verify_presented(endless, &both, now()),
        Err(VerifyError::Chain(ChainError::TooLong(9)))
    ));
}

#[test]
fn certificates_out_of_order_are_no_chain() {
    let root = Authority::root(&example());
    let lower = root.below(&example(), 1).below(&example(), 0);
    let good = lower.valid(ID);
    let [leaf, first, second] = good.certificates() else {
        panic!("three certificates");
    };
    let chain = |list: &[&Certificate]| CertChain::new(list.iter().copied().cloned().collect());
    assert!(chain(&[leaf, first, second]).is_ok());
    assert_eq!(chain(&[leaf, second, first]), Err(ChainError::Broken(1)));
    assert_eq!(chain(&[leaf, second]), Err(ChainError::Broken(1)));
    assert_eq!(chain(&[first, leaf]), Err(ChainError::LeafIsCa));
    assert_eq!(chain(&[leaf, leaf]), Err(ChainError::Broken(1)));
    assert_eq!(chain(&[]), Err(ChainError::Empty));
    let whole = [leaf, first, second, root.certificate()];
    assert_eq!(chain(&whole), Err(ChainError::HoldsRoot));
}

proptest! {
    #[test]
    fn a_presented_chain_with_any_byte_changed_is_refused(
        which in 0usize..2,
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let root = Authority::root(&example());
        let chain = root.below(&example(), 0).valid(ID);
        let mut presented: Vec<Vec<u8>> = chain
            .certificates()
            .iter()
            .map(|certificate| certificate.der().to_vec())
            .collect();
        let at = at.index(presented[which].len());
        presented[which][at] ^= flip;
        let presented = presented.iter().map(Vec::as_slice);
        let refused = verify_presented(presented, &[root.bundle(&example())], now());
        prop_assert!(refused.is_err());
    }
}
