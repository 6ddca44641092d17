use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::profile::{self, Issuer, Leaf, Validity};
use crate::{Certificate, KeyAlgorithm, SpiffeId, TrustDomain};

/// An authority that gives certificates for host names.
struct Authority {
    key: PrivateKey,
    certificate: Certificate,
}

fn now() -> SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "rustls holds certificates against the wall clock"
    )]
    let now = SystemTime::now();
    UNIX_EPOCH + Duration::from_secs(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn key() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key")
}

fn domain() -> TrustDomain {
    TrustDomain::parse("signers").expect("a trust domain")
}

impl Authority {
    fn new() -> Self {
        let key = key();
        let validity = Validity::authority(now(), Duration::from_secs(3600));
        let root = profile::root(key.public_key(), &domain(), validity).expect("a root");
        let signature = key.sign(root.to_be_signed()).expect("a signature");
        let certificate = root.complete(&signature).expect("a root");
        Self { key, certificate }
    }

    /// One side, with a certificate for `host`, that believes those of `believed`.
    fn side(&self, host: &str, believed: &Self) -> Mutual {
        let key = key();
        let issuer = Issuer::new(&self.certificate).expect("an issuer");
        let leaf = Leaf {
            public_key: key.public_key(),
            id: &SpiffeId::new(&domain(), "/signer").expect("an id"),
            dns_names: &[host.to_owned()],
            validity: Validity::leaf(&issuer, now(), Duration::from_secs(600)),
            revocable: false,
        };
        let leaf = profile::leaf(&issuer, &leaf).expect("a leaf");
        let signature = self.key.sign(leaf.to_be_signed()).expect("a signature");
        let chain = leaf.complete(&signature).expect("a leaf").pem();
        Mutual::new(&chain, &key, &believed.certificate.pem()).expect("it can be used")
    }
}

/// What comes of a connection to `name`: whether each side has read what the other wrote.
async fn meet(client: &Mutual, server: &Mutual, name: &str) -> (bool, bool) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let ask = async {
        let mut stream = client.connect(name, near).await.ok()?;
        stream.write_all(b"ask").await.ok()?;
        stream.flush().await.ok()?;
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.ok()?;
        (&answer == b"answer").then_some(())
    };
    let answer = async {
        let mut stream = server.accept(far).await.ok()?;
        let mut asked = [0; 3];
        stream.read_exact(&mut asked).await.ok()?;
        stream.write_all(b"answer").await.ok()?;
        stream.flush().await.ok()?;
        (&asked == b"ask").then_some(())
    };
    let (asked, answered) = tokio::join!(ask, answer);
    (asked.is_some(), answered.is_some())
}

#[tokio::test]
async fn both_sides_show_a_certificate_that_the_other_believes() {
    let authority = Authority::new();
    let client = authority.side("arx-ca", &authority);
    let server = authority.side("signer.example.org", &authority);
    let met = meet(&client, &server, "signer.example.org").await;
    assert_eq!(met, (true, true));
}

#[tokio::test]
async fn a_server_of_another_name_is_not_believed() {
    let authority = Authority::new();
    let client = authority.side("arx-ca", &authority);
    let server = authority.side("other.example.org", &authority);
    let met = meet(&client, &server, "signer.example.org").await;
    assert_eq!(met, (false, false));
}

#[tokio::test]
async fn nobody_is_believed_whose_certificate_is_of_another_authority() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let name = "signer.example.org";
    let stranger = theirs.side("arx-ca", &ours);
    assert_eq!(
        meet(&stranger, &ours.side(name, &ours), name).await,
        (false, false)
    );
    let client = ours.side("arx-ca", &ours);
    assert_eq!(
        meet(&client, &theirs.side(name, &ours), name).await,
        (false, false)
    );
}

#[test]
fn what_is_no_certificate_or_not_the_keys_is_refused() {
    let authority = Authority::new();
    let pem = authority.certificate.pem();
    assert!(Mutual::new("", &authority.key, &pem).is_err());
    assert!(Mutual::new(&pem, &authority.key, "").is_err());
    assert!(Mutual::new(&pem, &key(), &pem).is_err());
}
