//! The rustls verifiers: both sides hold a peer's chain against trust bundles.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bundle::TrustBundle;
use crate::crypto;
use crate::verify::{VerifiedPeer, VerifyError, verify_presented};

/// Verifies the peer of one connection and remembers the outcome.
#[derive(Clone)]
pub(super) struct PeerVerifier {
    bundles: Arc<[TrustBundle]>,
    outcome: Arc<OnceLock<Result<VerifiedPeer, VerifyError>>>,
}

impl PeerVerifier {
    pub(super) fn new(bundles: Arc<[TrustBundle]>) -> Self {
        Self {
            bundles,
            outcome: Arc::default(),
        }
    }

    /// Who the peer is; nothing if it presented no certificate.
    pub(super) fn outcome(&self) -> Option<&Result<VerifiedPeer, VerifyError>> {
        self.outcome.get()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let presented = std::iter::once(leaf).chain(rest).map(AsRef::as_ref);
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let outcome = self
            .outcome
            .get_or_init(|| verify_presented(presented, &self.bundles, now));
        match outcome {
            Ok(_) => Ok(()),
            Err(error) => Err(rustls::Error::InvalidCertificate(alert(error))),
        }
    }
}

/// What the peer is told.
fn alert(error: &VerifyError) -> CertificateError {
    match error {
        VerifyError::Chain(_) => CertificateError::BadEncoding,
        VerifyError::Expired(_) => CertificateError::Expired,
        VerifyError::NotYetValid(_) => CertificateError::NotValidYet,
        VerifyError::UnknownIssuer { .. }
        | VerifyError::ForeignTrustDomain { .. }
        | VerifyError::NoBundle(_) => CertificateError::UnknownIssuer,
        VerifyError::NotSvid { .. } | VerifyError::Path { .. } => {
            CertificateError::ApplicationVerificationFailure
        }
    }
}

/// The checks of the handshake's own signatures are rustls's on both sides.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &crypto::tls_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &crypto::tls_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            crypto::tls_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, rest, now)
            .map(|()| ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, rest, now)
            .map(|()| ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerVerifier").field(&self.bundles).finish()
    }
}
