use arx_identity::TrustDomain;
use proptest::prelude::*;

use super::*;
use crate::store::Segment;

fn sealed() -> Seal {
    Seal::with(SealingKey::from_bytes(&[7; 32]))
}

fn key(trust_domain: &str, name: &str) -> Key {
    let td = TrustDomain::parse(trust_domain).expect("a trust domain");
    Key::new(&td, &Segment::fixed("keys")).named(Segment::parse(name).expect("a part of a key"))
}

fn here() -> Key {
    key("example.org", "root")
}

fn refusal(seal: &Seal, key: &Key, stored: &[u8]) -> SealError {
    seal.open(key, stored).expect_err("it must not open")
}

#[test]
fn what_was_sealed_opens_in_its_place_and_shows_nothing() {
    let stored = sealed().seal(&here(), 3, b"the root's key");
    assert!(
        !stored
            .windows(4)
            .any(|window| b"root".contains(&window[0]) && window == b"root")
    );
    let opened = sealed().open(&here(), &stored).expect("it is in its place");
    assert_eq!(
        (opened.generation, &opened.value[..]),
        (3, &b"the root's key"[..])
    );
    assert_eq!(stored.len(), OVERHEAD + b"the root's key".len());
}

#[test]
fn a_value_of_another_trust_domain_or_name_does_not_open() {
    let stored = sealed().seal(&here(), 1, b"value");
    for elsewhere in [key("example.com", "root"), key("example.org", "roots")] {
        let refused = refusal(&sealed(), &elsewhere, &stored);
        assert_eq!(
            refused,
            SealError::Changed {
                key: elsewhere.to_string()
            }
        );
    }
}

#[test]
fn an_older_value_pasted_back_fails() {
    let (older, newer) = (
        sealed().seal(&here(), 1, b"old"),
        sealed().seal(&here(), 2, b"new"),
    );
    assert_eq!(
        &*sealed()
            .open_generation(&here(), 2, &newer)
            .expect("it is newest"),
        b"new"
    );
    let refused = sealed()
        .open_generation(&here(), 2, &older)
        .expect_err("it is older");
    assert_eq!(
        refused,
        SealError::Generation {
            key: here().to_string(),
            found: 1,
            expected: 2
        }
    );
    // Nor does it help to write the newer generation into its header.
    let mut forged = older;
    forged[..HEADER].copy_from_slice(&newer[..HEADER]);
    let refused = sealed()
        .open_generation(&here(), 2, &forged)
        .expect_err("it is older");
    assert_eq!(refused.code(), "ARX-SEAL-BROKEN");
}

#[test]
fn the_wrong_sealing_key_is_named_together_with_the_right_one() {
    let stored = sealed().seal(&here(), 1, b"value");
    let other = Seal::with(SealingKey::from_bytes(&[8; 32]));
    let refused = refusal(&other, &here(), &stored);
    let (with, ours) = (sealed().id().expect("a key"), other.id().expect("a key"));
    assert_eq!(
        refused,
        SealError::OtherKey {
            key: here().to_string(),
            with,
            ours
        }
    );
    let message = refused.to_string();
    assert!(message.contains(&with.to_string()) && message.contains(&ours.to_string()));
}

#[test]
fn plain_and_sealed_values_are_not_taken_for_each_other() {
    let plain = Seal::plain().seal(&here(), 1, b"value");
    assert_eq!(
        refusal(&sealed(), &here(), &plain).code(),
        "ARX-SEAL-MISSING"
    );
    let stored = sealed().seal(&here(), 1, b"value");
    assert_eq!(
        refusal(&Seal::plain(), &here(), &stored).code(),
        "ARX-SEAL-KEY"
    );
}

#[test]
fn no_two_stored_values_are_the_same() {
    for seal in [sealed(), Seal::plain()] {
        assert_ne!(
            seal.seal(&here(), 1, b"value"),
            seal.seal(&here(), 1, b"value")
        );
    }
}

#[test]
fn a_value_of_a_newer_form_is_called_so() {
    let mut stored = sealed().seal(&here(), 1, b"value");
    stored[3] = 2;
    let refused = refusal(&sealed(), &here(), &stored);
    assert!(refused.to_string().contains("newer version"), "{refused}");
}

proptest! {
    #[test]
    fn a_sealed_value_with_any_bit_changed_does_not_open(
        value in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut stored = sealed().seal(&here(), 9, &value);
        let at = at.index(stored.len());
        stored[at] ^= 1_u8 << bit;
        prop_assert!(sealed().open(&here(), &stored).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_panic(stored in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Seal::plain().open(&here(), &stored);
        prop_assert!(sealed().open(&here(), &stored).is_err());
    }

    #[test]
    fn every_value_opens_again(
        value in prop::collection::vec(any::<u8>(), 0..1000),
        generation in any::<u64>(),
    ) {
        for seal in [sealed(), Seal::plain()] {
            let stored = seal.seal(&here(), generation, &value);
            let opened = seal.open_generation(&here(), generation, &stored);
            prop_assert_eq!(opened.as_deref(), Ok(&value));
        }
    }
}
