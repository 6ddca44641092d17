use super::*;
use proptest::prelude::*;

fn all_that_can_be_made() -> Vec<KeyAlgorithm> {
    let mut all = vec![
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Ed25519,
    ];
    if cfg!(feature = "aws-lc-rs") {
        all.push(KeyAlgorithm::Rsa(2048));
    }
    all
}

#[test]
fn a_key_survives_der_and_pem() {
    for algorithm in all_that_can_be_made() {
        let key = PrivateKey::generate(algorithm).expect("a key");
        assert_eq!(key.public_key().algorithm(), algorithm);
        let by_der = PrivateKey::from_pkcs8_der(key.pkcs8_der()).expect("its own DER");
        let by_pem = PrivateKey::from_pem(&key.pkcs8_pem()).expect("its own PEM");
        assert_eq!(by_der.public_key(), key.public_key());
        assert_eq!(by_pem.public_key(), key.public_key());
    }
}

#[test]
fn signatures_verify_under_the_public_half_only() {
    for algorithm in all_that_can_be_made() {
        let key = PrivateKey::generate(algorithm).expect("a key");
        let other = PrivateKey::generate(algorithm).expect("a key");
        let signature = key.sign(b"message").expect("a signature");
        let identifier = algorithm.signature_identifier();
        let identifier = Reader::new(&identifier)
            .read(der::SEQUENCE)
            .expect("a sequence");
        assert!(
            key.public_key().verify(identifier, b"message", &signature),
            "{algorithm}"
        );
        assert!(!key.public_key().verify(identifier, b"massage", &signature));
        assert!(
            !other
                .public_key()
                .verify(identifier, b"message", &signature)
        );
    }
}

#[test]
fn a_private_key_never_shows_itself() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let shown = format!("{key:?}");
    assert_eq!(
        shown,
        format!("PrivateKey(ecdsa-p256, {})", key.public_key().key_id())
    );
}

#[test]
fn a_key_in_another_form_says_how_to_convert_it() {
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n";
    assert_eq!(
        PrivateKey::from_pem(sec1).expect_err("SEC1"),
        KeyError::NotPkcs8
    );
    assert_eq!(
        PrivateKey::from_pem("hello").expect_err("no PEM"),
        KeyError::NoPrivateKey
    );
}

#[test]
fn public_keys_that_are_not_supported_are_refused() {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let spki = key.public_key().spki_der();
    assert_eq!(
        PublicKey::from_spki_der(&[spki, &[0]].concat()),
        Err(KeyError::NotDer)
    );
    let p521 = der::sequence(&[
        &der::sequence(&[
            &der::tlv(der::OID, &[OID_EC]),
            &der::tlv(der::OID, &[&[0x2b, 0x81, 0x04, 0x00, 0x23]]),
        ]),
        &der::bit_string(&[4; 133]),
    ]);
    assert_eq!(PublicKey::from_spki_der(&p521), Err(KeyError::Unsupported));
    let rsa = |modulus: &[u8], exponent: &[u8]| {
        let numbers = der::sequence(&[
            &der::unsigned_integer(modulus),
            &der::unsigned_integer(exponent),
        ]);
        PublicKey::from_spki_der(&KeyAlgorithm::Rsa(0).spki(&numbers))
    };
    assert_eq!(rsa(&[0xff; 128], &[1, 0, 1]), Err(KeyError::RsaSize(1024)));
    assert_eq!(rsa(&[0xff; 1024], &[1, 0, 1]), Err(KeyError::RsaSize(8192)));
    assert_eq!(rsa(&[0xff; 256], &[3]), Err(KeyError::RsaExponent));
    assert_eq!(
        rsa(&[0xff; 256], &[1, 0, 1]).map(|key| key.algorithm()),
        Ok(KeyAlgorithm::Rsa(2048))
    );
}

#[test]
fn algorithms_are_written_as_they_are_read() {
    for name in [
        "ecdsa-p256",
        "ecdsa-p384",
        "ed25519",
        "rsa-2048",
        "rsa-3072",
        "rsa-4096",
    ] {
        assert_eq!(name.parse::<KeyAlgorithm>().expect(name).to_string(), name);
    }
    for name in ["rsa-1024", "P256", "rsa-", "", "rsa-99999999"] {
        assert!(name.parse::<KeyAlgorithm>().is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_as_keys_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = PublicKey::from_spki_der(&bytes);
        let _ = PrivateKey::from_pkcs8_der(&bytes);
        let _ = PrivateKey::from_pem(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_changed_public_key_is_refused_or_is_another_key(at in 0usize..91, flip in 1u8..) {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let mut spki = key.public_key().spki_der().to_vec();
        spki[at] ^= flip;
        if let Ok(other) = PublicKey::from_spki_der(&spki) {
            prop_assert_ne!(&other, key.public_key());
        }
    }
}
