use std::sync::Mutex;

use arx_identity::{KeyAlgorithm, PrivateKey};
use futures_util::FutureExt as _;
use futures_util::future::{pending, ready};

use super::*;

/// A key outside of this process that does as it is told.
#[derive(Debug)]
pub(crate) struct Remote {
    key: PrivateKey,
    mood: Mutex<Mood>,
}

/// How a key outside of this process behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Away,
    Hanging,
    /// Signs something else.
    Lying,
}

impl Remote {
    pub(crate) fn new(key: PrivateKey) -> Self {
        Self {
            key,
            mood: Mutex::new(Mood::Well),
        }
    }

    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().expect("no test panics while holding it") = mood;
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().expect("no test panics while holding it")
    }

    fn away(&self) -> SignerError {
        SignerError::Unreachable {
            custody: self.custody().to_owned(),
            reason: "it is away".to_owned(),
        }
    }
}

impl Signer for Remote {
    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn custody(&self) -> &str {
        "elsewhere"
    }

    fn try_sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        match self.mood() {
            Mood::Well => ready(Ok(self.key.sign(message).expect("it signs"))).boxed(),
            Mood::Away => ready(Err(self.away())).boxed(),
            Mood::Hanging => pending().boxed(),
            Mood::Lying => ready(Ok(self.key.sign(b"something else").expect("it signs"))).boxed(),
        }
    }

    fn try_reach(&self) -> BoxFuture<'_, Result<(), SignerError>> {
        match self.mood() {
            Mood::Well | Mood::Lying => ready(Ok(())).boxed(),
            Mood::Away => ready(Err(self.away())).boxed(),
            Mood::Hanging => pending().boxed(),
        }
    }
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made")
}

#[tokio::test]
async fn what_a_key_signs_verifies_under_its_public_half() {
    let remote: &dyn Signer = &Remote::new(key());
    let signature = remote.sign(b"message").await.expect("it signs");
    assert!(remote.public_key().verifies(b"message", &signature));
    remote.reach().await.expect("it is there");
}

#[tokio::test]
async fn a_signature_that_does_not_verify_is_answered_to_nobody() {
    let remote = Remote::new(key());
    remote.is(Mood::Lying);
    let refused = (&remote as &dyn Signer).sign(b"message").await;
    assert_eq!(
        refused.expect_err("it lies").code(),
        "ARX-SIGNER-WRONG-SIGNATURE"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_hangs_is_waited_for_only_until_the_deadline() {
    let remote = Remote::new(key());
    remote.is(Mood::Hanging);
    let remote: &dyn Signer = &remote;
    let signed = remote.sign(b"message").await;
    assert_eq!(signed.expect_err("it hangs").code(), "ARX-SIGNER-DEADLINE");
    let reached = remote.reach().await;
    assert_eq!(reached.expect_err("it hangs").code(), "ARX-SIGNER-DEADLINE");
}
