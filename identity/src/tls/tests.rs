use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::*;
use crate::profile::{self, Issuer, Leaf, Validity};
use crate::{
    CertChain, Certificate, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, TrustBundle, TrustDomain,
};

const HOUR: Duration = Duration::from_secs(3600);

struct Authority {
    trust_domain: TrustDomain,
    key: PrivateKey,
    root: Certificate,
}

impl Authority {
    fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).expect("a trust domain");
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let validity = Validity::authority(now(), 24 * HOUR);
        let root = profile::root(key.public_key(), &trust_domain, validity).expect("a root");
        let signature = key.sign(root.to_be_signed()).expect("a signature");
        let root = root.complete(&signature).expect("a root");
        Self {
            trust_domain,
            key,
            root,
        }
    }

    fn bundle(&self) -> TrustBundle {
        let roots = vec![self.root.clone()];
        TrustBundle::new(self.trust_domain.clone(), Sequence::default(), roots).expect("a bundle")
    }

    fn svid(&self, path: &str, validity: Validity) -> Svid {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let issuer = Issuer::new(&self.root).expect("an issuer");
        let leaf = Leaf {
            public_key: key.public_key(),
            id: &self.id(path),
            dns_names: &[],
            validity,
            revocable: false,
        };
        let unsigned = profile::leaf(&issuer, &leaf).expect("a leaf");
        let signature = self.key.sign(unsigned.to_be_signed()).expect("a signature");
        let chain = CertChain::new(vec![unsigned.complete(&signature).expect("a leaf")]);
        Svid::new(chain.expect("a chain"), Arc::new(key)).expect("an SVID")
    }

    fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).expect("an id")
    }

    fn valid(&self, path: &str) -> Svid {
        self.svid(path, Validity::authority(now(), HOUR))
    }

    fn server(&self) -> Server {
        Server::new(&self.valid("/server"), &self.bundle()).expect("a server")
    }
}

#[expect(clippy::disallowed_methods, reason = "rustls judges by the real clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

type Pipe = tokio::io::DuplexStream;
type Both = (
    Result<ServerStream<Pipe>, TlsError>,
    Result<ClientStream<Pipe>, TlsError>,
);

async fn meet(server: &Server, client: &Client) -> Both {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(server.accept(near), client.connect(far))
}

#[tokio::test]
async fn both_sides_know_who_the_other_is_and_who_vouched_for_it() {
    let authority = Authority::new("example.org");
    let svid = authority.valid("/client");
    let client = Client::new(&[authority.bundle()], Some(&svid), authority.id("/server"));
    let (server, client) = meet(&authority.server(), &client.expect("a client")).await;
    let (mut server, mut client) = (server.expect("accepted"), client.expect("connected"));

    let peer = server.peer().expect("a client certificate");
    assert_eq!(peer.id, authority.id("/client"));
    assert_eq!(peer.serial, *svid.serial());
    let root = authority.root.subject_key_id().expect("a key id");
    assert_eq!(
        (&peer.issuers, &client.peer().issuers),
        (&vec![root], &vec![root])
    );
    client.write_all(b"hello").await.expect("written");
    client.flush().await.expect("flushed");
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_accepted_as_nobody() {
    let authority = Authority::new("example.org");
    let client = Client::new(&[authority.bundle()], None, authority.id("/server"));
    let (server, client) = meet(&authority.server(), &client.expect("a client")).await;
    assert!(server.expect("accepted").peer().is_none());
    assert!(client.is_ok());
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let authority = Authority::new("example.org");
    let client = Client::new(&[authority.bundle()], None, authority.id("/other"));
    let (_, client) = meet(&authority.server(), &client.expect("a client")).await;
    assert!(
        matches!(client, Err(TlsError::WrongPeer { .. })),
        "{client:?}"
    );
}

#[tokio::test]
async fn foreign_roots_are_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new("example.org"), Authority::new("example.org"));
    let client = Client::new(&[theirs.bundle()], None, ours.id("/server")).expect("a client");
    let (_, refused) = meet(&ours.server(), &client).await;
    assert!(matches!(
        refused,
        Err(TlsError::PeerRefused(VerifyError::UnknownIssuer { .. }))
    ));

    let foreign = theirs.valid("/client");
    let client = Client::new(&[ours.bundle()], Some(&foreign), ours.id("/server"));
    let (refused, _) = meet(&ours.server(), &client.expect("a client")).await;
    assert!(matches!(
        refused,
        Err(TlsError::PeerRefused(VerifyError::UnknownIssuer { .. }))
    ));
}

#[tokio::test]
async fn expired_certificates_are_refused() {
    let authority = Authority::new("example.org");
    let past = Validity {
        not_before: now() - 2 * HOUR / 3,
        not_after: now() - HOUR / 3,
    };
    let expired = authority.svid("/client", past);
    let client = Client::new(
        &[authority.bundle()],
        Some(&expired),
        authority.id("/server"),
    );
    let (refused, _) = meet(&authority.server(), &client.expect("a client")).await;
    assert!(
        matches!(refused, Err(TlsError::PeerRefused(VerifyError::Expired(_)))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn after_a_swap_the_old_root_is_refused_and_a_reconnect_gains_nothing() {
    let (old, new) = (Authority::new("example.org"), Authority::new("example.org"));
    let server = old.server();
    let svid = old.valid("/client");
    let both = [old.bundle(), new.bundle()];
    let client = Client::new(&both, Some(&svid), old.id("/server")).expect("a client");
    let (accepted, _client) = meet(&server, &client).await;
    let mut open = accepted.expect("the old root is in force");

    server
        .replace(&new.valid("/server"), &new.bundle())
        .expect("a swap");
    let (refused, _) = meet(&server, &client).await;
    assert!(matches!(
        refused,
        Err(TlsError::PeerRefused(VerifyError::UnknownIssuer { .. }))
    ));
    // What was open stays open, and knows that it stands on the old root.
    let root = old.root.subject_key_id().expect("a key id");
    assert_eq!(open.peer().expect("a peer").issuers, [root]);
    open.write_all(b"still here").await.expect("written");
}

/// A bare rustls client with a session cache, as a peer that tries to resume would be.
#[tokio::test]
async fn no_session_survives_for_resumption_in_either_version() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let authority = Authority::new("example.org");
        let server = authority.server();
        let verifier = verifier::PeerVerifier::new(Arc::new([authority.bundle()]));
        let config = rustls::ClientConfig::builder_with_provider(crypto::tls_provider())
            .with_protocol_versions(&[version])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let config = Arc::new(config);
        for _ in 0..2 {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let name = rustls_pki_types::ServerName::try_from("server").expect("a name");
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            let client = async {
                let mut stream = connector.connect(name, far).await.expect("connected");
                let mut byte = [0];
                stream.read_exact(&mut byte).await.expect("a byte");
                stream.get_ref().1.handshake_kind()
            };
            let serve = async {
                let mut stream = server.accept(near).await.expect("accepted");
                stream.write_all(b"x").await.expect("written");
                stream.flush().await.expect("flushed");
                stream
            };
            let (_stream, kind) = tokio::join!(serve, client);
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{version:?}");
        }
    }
}

#[tokio::test]
async fn plain_text_is_refused() {
    let authority = Authority::new("example.org");
    let server = authority.server();
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let talk = async {
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .expect("written");
    };
    let (refused, ()) = tokio::join!(server.accept(near), talk);
    assert!(matches!(refused, Err(TlsError::Handshake(_))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_in_the_handshake_is_given_up() {
    let authority = Authority::new("example.org");
    let (near, _far) = tokio::io::duplex(64 * 1024);
    let refused = authority.server().accept(near).await;
    assert!(matches!(refused, Err(TlsError::Deadline)));
}

/// Counts the writes of the connection above.
struct Counted {
    inner: Pipe,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn what_is_written_goes_out_when_it_is_flushed_or_there_is_no_more_room() {
    const FRAME: [u8; 10_000] = [7; 10_000];
    let authority = Authority::new("example.org");
    let client = Client::new(&[authority.bundle()], None, authority.id("/server"));
    let (client, server) = (client.expect("a client"), authority.server());
    let (near, far) = tokio::io::duplex(256 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        inner: near,
        writes: Arc::clone(&writes),
    };
    let (server, client) = tokio::join!(server.accept(counted), client.connect(far));
    let (mut server, mut client) = (server.expect("accepted"), client.expect("connected"));

    let before = writes.load(Ordering::Relaxed);
    for _ in 0..5 {
        server.write_all(&FRAME).await.expect("written");
    }
    assert_eq!(writes.load(Ordering::Relaxed), before);
    server.flush().await.expect("flushed");
    assert_eq!(writes.load(Ordering::Relaxed), before + 1);

    let send = async {
        for _ in 0..100 {
            server.write_all(&FRAME).await.expect("written");
        }
        server.shutdown().await.expect("shut down");
    };
    let mut all = Vec::new();
    let (read, ()) = tokio::join!(client.read_to_end(&mut all), send);
    assert_eq!(read.expect("read"), 105 * FRAME.len());
}
