//! What is inside a response.

use arx_proto::envoy::config::core::v3::DataSource;
use arx_proto::envoy::config::core::v3::data_source::Specifier;
use arx_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use arx_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
};
use arx_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use prost::Message;

use crate::client::TYPE_URL;

/// The secrets of a response that is as the contract says.
pub(crate) fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    assert_eq!(response.type_url, TYPE_URL);
    assert!(!response.version_info.is_empty() && !response.nonce.is_empty());
    let resources = response.resources.iter();
    let secrets = resources.map(|any| {
        assert_eq!(any.type_url, TYPE_URL);
        Secret::decode(&any.value[..]).expect("a secret")
    });
    secrets.collect()
}

pub(crate) fn delta_secrets(response: &DeltaDiscoveryResponse) -> Vec<Secret> {
    assert_eq!(response.type_url, TYPE_URL);
    assert!(!response.nonce.is_empty() && response.removed_resources.is_empty());
    let resources = response.resources.iter();
    let secrets = resources.map(|resource| {
        assert!(!resource.version.is_empty());
        let any = resource.resource.as_ref().expect("never without");
        assert_eq!(any.type_url, TYPE_URL);
        let secret = Secret::decode(&any.value[..]).expect("a secret");
        assert_eq!(secret.name, resource.name);
        secret
    });
    secrets.collect()
}

pub(crate) fn names(secrets: &[Secret]) -> Vec<&str> {
    secrets.iter().map(|secret| secret.name.as_str()).collect()
}

/// The only secret of a response, which is a certificate: chain and key.
pub(crate) fn certificate(response: &DiscoveryResponse) -> (String, String) {
    let mut secrets = secrets(response);
    assert_eq!(secrets.len(), 1);
    match secrets.remove(0).r#type {
        Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain,
            private_key,
        })) => (inline(certificate_chain), inline(private_key)),
        other => panic!("not a certificate: {:?}", other.is_some()),
    }
}

pub(crate) fn validation(secret: &Secret) -> &CertificateValidationContext {
    match &secret.r#type {
        Some(Type::ValidationContext(context)) => context,
        _ => panic!("`{}` is no validation context", secret.name),
    }
}

/// The only secret of a response, which is roots.
pub(crate) fn roots(response: &DiscoveryResponse) -> String {
    let secrets = secrets(response);
    assert_eq!(secrets.len(), 1);
    inline(validation(&secrets[0]).trusted_ca.clone())
}

/// The SPIFFE validator's trust domains and their roots.
pub(crate) fn domains(context: &CertificateValidationContext) -> Vec<(String, String)> {
    let validator = context
        .custom_validator_config
        .as_ref()
        .expect("a validator");
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let any = validator.typed_config.as_ref().expect("its configuration");
    assert_eq!(
        any.type_url,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
    );
    let config = SpiffeCertValidatorConfig::decode(&any.value[..]).expect("its configuration");
    config
        .trust_domains
        .into_iter()
        .map(|domain| (domain.name, inline(domain.trust_bundle)))
        .collect()
}

fn inline(source: Option<DataSource>) -> String {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.to_vec()).expect("PEM"),
        other => panic!("not inline bytes: {:?}", other.is_some()),
    }
}
