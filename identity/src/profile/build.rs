//! Building certificates by the profile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::check::{Kind, Severity, violations};
use super::{
    NO_REV_AVAIL_SECONDS, OID_AUTHORITY_KEY_ID, OID_BASIC_CONSTRAINTS, OID_CLIENT_AUTH,
    OID_COMMON_NAME, OID_EXT_KEY_USAGE, OID_KEY_USAGE, OID_NO_REV_AVAIL, OID_ORGANIZATION,
    OID_SERIAL_NUMBER, OID_SERVER_AUTH, OID_SUBJECT_ALT_NAME, OID_SUBJECT_KEY_ID,
};
use crate::certificate::{Certificate, CertificateError, KeyId, Serial};
use crate::der;
use crate::id::{SpiffeId, TrustDomain};
use crate::key::{KeyAlgorithm, KeyError, PrivateKey, PublicKey};

/// The first and the last instant at which a certificate is valid. Whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First instant.
    pub not_before: SystemTime,
    /// Last instant.
    pub not_after: SystemTime,
}

impl Validity {
    /// A leaf's validity: `lifetime` from `now` on, backdated by the rule of
    /// [`backdate`], and never past `issuer`'s own end.
    #[must_use]
    pub fn leaf(issuer: &Issuer, now: SystemTime, lifetime: Duration) -> Self {
        Self {
            not_before: now - backdate(lifetime),
            not_after: (now + lifetime).min(issuer.not_after),
        }
    }

    /// A certificate authority's validity: `lifetime` from `now` on, backdated by an
    /// hour, so that clocks that run behind accept it at once.
    #[must_use]
    pub fn authority(now: SystemTime, lifetime: Duration) -> Self {
        Self {
            not_before: now - Duration::from_secs(3600),
            not_after: now + lifetime,
        }
    }

    fn whole_seconds(self) -> Self {
        let whole = |at: SystemTime| {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            UNIX_EPOCH + Duration::from_secs(since.as_secs())
        };
        Self {
            not_before: whole(self.not_before),
            not_after: whole(self.not_after),
        }
    }
}

/// How far before "now" a leaf's validity starts: two minutes, or a tenth of the
/// lifetime if that is less. (A fixed backdate makes clients that renew at half of the
/// lifetime refetch short-lived leaves without a pause.)
#[must_use]
pub fn backdate(lifetime: Duration) -> Duration {
    Duration::from_secs(120).min(lifetime / 10)
}

/// Why a certificate was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The issuer is not a certificate authority, or lacks what an issuer needs.
    #[error("the issuer {subject} cannot issue: {reason}")]
    BadIssuer {
        /// The issuer's subject.
        subject: String,
        /// What it lacks.
        reason: String,
    },
    /// A validity that is empty, or longer than the issuer's.
    #[error("the validity is empty or outlives the issuer's")]
    Validity,
    /// A leaf needs a SPIFFE id with a path.
    #[error("{0} is a trust domain's own id; a leaf needs one with a path")]
    NoPath(SpiffeId),
    /// A DNS name that is not one.
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    /// Longer than the issuer's path length constraint allows.
    #[error("the issuer's path length constraint allows no authority below it")]
    PathLength,
    /// The bytes that were signed do not parse.
    #[error("the signed certificate does not parse: {0}")]
    Unparsable(#[from] CertificateError),
    /// The bytes that were signed do not keep the profile. This is a defect of the
    /// authority, never the requester's fault.
    #[error("the signed certificate breaks the profile: {0}")]
    Violation(String),
    /// The signature is not by the issuer's key.
    #[error("the signature on the certificate is not by the issuer's key")]
    Signature,
}

/// A certificate authority's certificate, ready to issue under.
#[derive(Clone, Debug)]
pub struct Issuer {
    certificate: Certificate,
    key_id: KeyId,
    not_after: SystemTime,
    path_len: Option<u32>,
    signature_algorithm: Vec<u8>,
    /// The authorityKeyIdentifier extension of everything issued here.
    authority_key_id: Vec<u8>,
    /// The extensions that are the same in every leaf.
    leaves: LeafExtensions,
}

/// What every leaf says, encoded once.
#[derive(Clone, Debug)]
struct LeafExtensions {
    /// basicConstraints, keyUsage and extKeyUsage of a key that is not RSA.
    usual: Vec<u8>,
    /// The same of an RSA key.
    rsa: Vec<u8>,
    no_rev_avail: Vec<u8>,
}

impl LeafExtensions {
    fn new() -> Self {
        // digitalSignature, and keyEncipherment for RSA only (RFC 8813, 3).
        let usage = |bits: &[u8]| {
            let purposes = der::sequence(&[
                &der::tlv(der::OID, &[OID_SERVER_AUTH]),
                &der::tlv(der::OID, &[OID_CLIENT_AUTH]),
            ]);
            [
                extension(OID_BASIC_CONSTRAINTS, true, &der::sequence(&[])),
                extension(OID_KEY_USAGE, true, &der::tlv(der::BIT_STRING, &[bits])),
                extension(OID_EXT_KEY_USAGE, false, &purposes),
            ]
            .concat()
        };
        Self {
            usual: usage(&[7, 0b1000_0000]),
            rsa: usage(&[5, 0b1010_0000]),
            no_rev_avail: extension(OID_NO_REV_AVAIL, false, &[5, 0]),
        }
    }
}

impl Issuer {
    /// The issuer with this certificate.
    ///
    /// # Errors
    /// If the certificate breaks the profile of an authority in a way that verifiers
    /// refuse.
    pub fn new(certificate: &Certificate) -> Result<Self, ProfileError> {
        let kind = if certificate.subject_der() == certificate.issuer_der() {
            Kind::Root
        } else {
            Kind::Intermediate
        };
        let bad = |reason: String| ProfileError::BadIssuer {
            subject: certificate.subject().to_owned(),
            reason,
        };
        if let Some(violation) = violations(certificate, kind)
            .into_iter()
            .find(|violation| violation.severity == Severity::Error)
        {
            return Err(bad(violation.to_string()));
        }
        let key_id = certificate
            .subject_key_id()
            .ok_or_else(|| bad("no subject key identifier".into()))?;
        Ok(Self {
            key_id,
            not_after: certificate.not_after(),
            path_len: certificate.extensions().path_len,
            signature_algorithm: certificate.public_key().algorithm().signature_identifier(),
            authority_key_id: authority_key_id(&key_id),
            leaves: LeafExtensions::new(),
            certificate: certificate.clone(),
        })
    }

    /// The issuer's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The issuer's subject key identifier.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// When nothing can be issued here any more.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// What a leaf shall say.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// Whose key.
    pub public_key: &'a PublicKey,
    /// Whose identity.
    pub id: &'a SpiffeId,
    /// DNS SANs, for serving certificates or where policy allows them.
    pub dns_names: &'a [String],
    /// From when to when.
    pub validity: Validity,
    /// Whether a CRL is published for the issuer.
    pub revocable: bool,
}

/// A certificate that lacks its signature.
#[derive(Clone, Debug)]
pub struct Unsigned {
    tbs: Vec<u8>,
    signature_algorithm: Vec<u8>,
    expected: Expected,
}

/// What the finished certificate must say, to be compared after encoding.
#[derive(Clone, Debug)]
struct Expected {
    kind: Kind,
    serial: Serial,
    public_key: PublicKey,
    validity: Validity,
    id: SpiffeId,
    dns_names: Vec<String>,
    /// Subject and key of the issuer; none for a root, which signs itself.
    issuer: Option<Certificate>,
    revocable: bool,
}

/// A leaf under `issuer`, with a new random serial.
///
/// # Errors
/// If what it shall say cannot be said: see [`ProfileError`].
pub fn leaf(issuer: &Issuer, leaf: &Leaf<'_>) -> Result<Unsigned, ProfileError> {
    numbered_leaf(issuer, leaf, Serial::random())
}

/// A leaf under `issuer` with this serial, which no other certificate of `issuer` may have
/// (RFC 5280, 4.1.2.2).
///
/// # Errors
/// As [`leaf`].
pub fn numbered_leaf(
    issuer: &Issuer,
    leaf: &Leaf<'_>,
    serial: Serial,
) -> Result<Unsigned, ProfileError> {
    if leaf.id.path().is_empty() {
        return Err(ProfileError::NoPath(leaf.id.clone()));
    }
    if let Some(name) = leaf.dns_names.iter().find(|name| !is_dns_name(name)) {
        return Err(ProfileError::DnsName(name.clone()));
    }
    let expected = Expected {
        kind: Kind::Leaf,
        serial,
        public_key: leaf.public_key.clone(),
        validity: checked(leaf.validity, Some(issuer.not_after))?,
        id: leaf.id.clone(),
        dns_names: leaf.dns_names.to_vec(),
        issuer: Some(issuer.certificate.clone()),
        revocable: leaf.revocable,
    };
    let usage = match leaf.public_key.algorithm() {
        KeyAlgorithm::Rsa(_) => &issuer.leaves.rsa,
        _ => &issuer.leaves.usual,
    };
    let no_rev_avail: &[u8] = if has_no_revocation(expected.validity, leaf.revocable) {
        &issuer.leaves.no_rev_avail
    } else {
        &[]
    };
    let extensions = [
        usage,
        &subject_key_id(&leaf.public_key.key_id())[..],
        &issuer.authority_key_id,
        &subject_alt_name(true, leaf.id, leaf.dns_names),
        no_rev_avail,
    ];
    Ok(unsigned(
        expected,
        &issuer.signature_algorithm,
        &der::sequence(&[]),
        &extensions,
    ))
}

/// An issuing authority under `issuer`. Its subject holds the trust domain, `name`, and
/// its serial; `path_len` is how many authorities may stand below it.
///
/// # Errors
/// If what it shall say cannot be said: see [`ProfileError`].
pub fn intermediate(
    issuer: &Issuer,
    key: &PublicKey,
    trust_domain: &TrustDomain,
    name: &str,
    validity: Validity,
    path_len: u8,
) -> Result<Unsigned, ProfileError> {
    if issuer
        .path_len
        .is_some_and(|allowed| u32::from(path_len) >= allowed)
    {
        return Err(ProfileError::PathLength);
    }
    let validity = checked(validity, Some(issuer.not_after))?;
    let expected = authority(
        Kind::Intermediate,
        key,
        trust_domain,
        validity,
        Some(issuer.certificate.clone()),
    );
    let subject = subject(trust_domain, name, &expected.serial);
    let extensions = [
        &basic_constraints(Some(path_len))[..],
        &authority_key_usage(),
        &subject_key_id(&key.key_id()),
        &issuer.authority_key_id,
        &subject_alt_name(false, &expected.id, &[]),
    ];
    Ok(unsigned(
        expected,
        &issuer.signature_algorithm,
        &subject,
        &extensions,
    ))
}

/// A self-signed root for `trust_domain`, with a subject of its own.
///
/// # Errors
/// If the validity is empty.
pub fn root(
    key: &PublicKey,
    trust_domain: &TrustDomain,
    validity: Validity,
) -> Result<Unsigned, ProfileError> {
    let expected = authority(
        Kind::Root,
        key,
        trust_domain,
        checked(validity, None)?,
        None,
    );
    let subject = subject(trust_domain, "root", &expected.serial);
    let extensions = [
        &basic_constraints(None)[..],
        &authority_key_usage(),
        &subject_key_id(&key.key_id()),
        &authority_key_id(&key.key_id()),
        &subject_alt_name(false, &expected.id, &[]),
    ];
    Ok(unsigned(
        expected,
        &key.algorithm().signature_identifier(),
        &subject,
        &extensions,
    ))
}

/// A cross-certificate: subject and key of the authority `other`, signed by `issuer`. Whoever
/// trusts only `issuer` then believes what `other` has issued (RFC 5280, 3.2), until `ends` or
/// for as long as both live.
///
/// # Errors
/// If the issuer allows no authority below it, or `other` has no key identifier.
pub fn cross(
    issuer: &Issuer,
    other: &Issuer,
    now: SystemTime,
    ends: SystemTime,
) -> Result<Unsigned, ProfileError> {
    // Below `other` stands at least one more authority.
    let path_len = match issuer.path_len {
        None => None,
        Some(0 | 1) => return Err(ProfileError::PathLength),
        Some(allowed) => Some(u8::try_from(allowed - 1).unwrap_or(u8::MAX)),
    };
    let certificate = &other.certificate;
    let bad = |reason: &str| ProfileError::BadIssuer {
        subject: certificate.subject().to_owned(),
        reason: reason.to_owned(),
    };
    let id = certificate
        .spiffe_id()
        .ok_or_else(|| bad("no SPIFFE id of a trust domain"))?;
    let whole = Validity::authority(now, Duration::ZERO);
    let validity = Validity {
        not_before: whole
            .not_before
            .max(certificate.not_before())
            .max(issuer.certificate.not_before()),
        not_after: ends.min(certificate.not_after()).min(issuer.not_after),
    };
    let expected = authority(
        Kind::Intermediate,
        certificate.public_key(),
        id.trust_domain(),
        checked(validity, Some(issuer.not_after))?,
        Some(issuer.certificate.clone()),
    );
    let extensions = [
        &basic_constraints(path_len)[..],
        &authority_key_usage(),
        &subject_key_id(&other.key_id),
        &issuer.authority_key_id,
        &subject_alt_name(false, &expected.id, &[]),
    ];
    Ok(unsigned(
        expected,
        &issuer.signature_algorithm,
        certificate.subject_der(),
        &extensions,
    ))
}

/// A request (PKCS #10, DER) for an authority's certificate over `key`, for a CA elsewhere: it
/// asks for everything that [`intermediate`] would say. That CA may heed none of it.
///
/// # Errors
/// As [`PrivateKey::sign`].
pub fn authority_request(
    key: &PrivateKey,
    trust_domain: &TrustDomain,
    name: &str,
    path_len: u8,
) -> Result<Vec<u8>, KeyError> {
    let id = SpiffeId::new(trust_domain, "").expect("a trust domain is a SPIFFE id");
    let extensions = [
        basic_constraints(Some(path_len)),
        authority_key_usage(),
        subject_key_id(&key.public_key().key_id()),
        subject_alt_name(false, &id, &[]),
    ];
    let subject = subject(trust_domain, name, &Serial::random());
    key.request(&subject, &extensions.concat())
}

impl Unsigned {
    /// The bytes to sign: the TBSCertificate.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        &self.tbs
    }

    /// The serial number that the certificate will have.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.expected.serial
    }

    /// The certificate with `signature`, after it was parsed again and found to say
    /// what was asked for, within the profile. For authorities the signature itself is
    /// verified too; for leaves that is left to callers whose key is out of process,
    /// because it would double the cost of every issuance.
    ///
    /// # Errors
    /// Every difference: such a certificate must not leave.
    pub fn complete(self, signature: &[u8]) -> Result<Certificate, ProfileError> {
        let der = der::sequence(&[
            &self.tbs,
            &self.signature_algorithm,
            &der::bit_string(signature),
        ]);
        let certificate = Certificate::from_der(&der)?;
        self.expected.compare(&certificate)?;
        Ok(certificate)
    }
}

impl Expected {
    fn compare(&self, certificate: &Certificate) -> Result<(), ProfileError> {
        let differs = |what: &str| {
            Err(ProfileError::Violation(format!(
                "the {what} is not what was asked for"
            )))
        };
        if let Some(violation) = violations(certificate, self.kind).first() {
            return Err(ProfileError::Violation(violation.to_string()));
        }
        if certificate.serial() != &self.serial {
            return differs("serial number");
        }
        if certificate.public_key() != &self.public_key {
            return differs("public key");
        }
        if (certificate.not_before(), certificate.not_after())
            != (self.validity.not_before, self.validity.not_after)
        {
            return differs("validity");
        }
        if certificate.spiffe_id() != Some(&self.id) {
            return differs("SPIFFE id");
        }
        if certificate.dns_names() != self.dns_names {
            return differs("list of DNS names");
        }
        let issuer = self.issuer.as_ref().unwrap_or(certificate);
        if certificate.issuer_der() != issuer.subject_der() {
            return differs("issuer");
        }
        if certificate.authority_key_id() != issuer.subject_key_id() {
            return differs("authority key identifier");
        }
        if self.kind == Kind::Leaf {
            let wanted = has_no_revocation(self.validity, self.revocable);
            if certificate.extensions().no_rev_avail.is_some() != wanted {
                return differs("noRevAvail extension");
            }
        } else if !certificate.is_signed_by_key(issuer.public_key()) {
            return Err(ProfileError::Signature);
        }
        Ok(())
    }
}

fn authority(
    kind: Kind,
    key: &PublicKey,
    trust_domain: &TrustDomain,
    validity: Validity,
    issuer: Option<Certificate>,
) -> Expected {
    Expected {
        kind,
        serial: Serial::random(),
        public_key: key.clone(),
        validity,
        id: SpiffeId::new(trust_domain, "").expect("a trust domain is a SPIFFE id"),
        dns_names: Vec::new(),
        issuer,
        revocable: false,
    }
}

fn checked(validity: Validity, issuer_ends: Option<SystemTime>) -> Result<Validity, ProfileError> {
    let validity = validity.whole_seconds();
    let outlives = issuer_ends.is_some_and(|end| validity.not_after > end);
    if outlives || validity.not_before >= validity.not_after {
        return Err(ProfileError::Validity);
    }
    Ok(validity)
}

fn has_no_revocation(validity: Validity, revocable: bool) -> bool {
    let lifetime = validity
        .not_after
        .duration_since(validity.not_before)
        .unwrap_or_default();
    !revocable && lifetime.as_secs() <= NO_REV_AVAIL_SECONDS
}

fn unsigned(
    expected: Expected,
    signature_algorithm: &[u8],
    subject: &[u8],
    extensions: &[&[u8]],
) -> Unsigned {
    let issuer = expected
        .issuer
        .as_ref()
        .map_or(subject, Certificate::subject_der);
    let tbs = der::sequence(&[
        &der::tlv(0xa0, &[&der::unsigned_integer(&[2])]),
        &der::unsigned_integer(expected.serial.as_bytes()),
        signature_algorithm,
        issuer,
        &der::sequence(&[
            &der::time(expected.validity.not_before),
            &der::time(expected.validity.not_after),
        ]),
        subject,
        expected.public_key.spki_der(),
        &der::tlv(0xa3, &[&der::sequence(extensions)]),
    ]);
    Unsigned {
        tbs,
        signature_algorithm: signature_algorithm.to_vec(),
        expected,
    }
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::BOOLEAN_TRUE } else { &[] };
    der::sequence(&[
        &der::tlv(der::OID, &[oid]),
        critical,
        &der::tlv(der::OCTET_STRING, &[value]),
    ])
}

fn basic_constraints(path_len: Option<u8>) -> Vec<u8> {
    let path_len = path_len
        .map(|length| der::unsigned_integer(&[length]))
        .unwrap_or_default();
    extension(
        OID_BASIC_CONSTRAINTS,
        true,
        &der::sequence(&[der::BOOLEAN_TRUE, &path_len]),
    )
}

/// keyCertSign and cRLSign.
fn authority_key_usage() -> Vec<u8> {
    extension(
        OID_KEY_USAGE,
        true,
        &der::tlv(der::BIT_STRING, &[&[1, 0b0000_0110]]),
    )
}

fn subject_key_id(id: &KeyId) -> Vec<u8> {
    extension(
        OID_SUBJECT_KEY_ID,
        false,
        &der::tlv(der::OCTET_STRING, &[id.as_bytes()]),
    )
}

fn authority_key_id(id: &KeyId) -> Vec<u8> {
    extension(
        OID_AUTHORITY_KEY_ID,
        false,
        &der::sequence(&[&der::tlv(0x80, &[id.as_bytes()])]),
    )
}

fn subject_alt_name(critical: bool, id: &SpiffeId, dns_names: &[String]) -> Vec<u8> {
    let mut names = der::tlv(0x86, &[id.as_str().as_bytes()]);
    for name in dns_names {
        names.extend(der::tlv(0x82, &[name.as_bytes()]));
    }
    extension(OID_SUBJECT_ALT_NAME, critical, &der::sequence(&[&names]))
}

/// `O=<trust domain>, CN=<name>, serialNumber=<serial>`. The serial makes every
/// authority's subject distinct: Go's verifier gives up after about 100 candidates of
/// one subject. Names longer than the 64 characters that X.520 allows are cut.
fn subject(trust_domain: &TrustDomain, name: &str, serial: &Serial) -> Vec<u8> {
    let attribute = |oid: &[u8], tag: u8, value: &str| {
        let end = value
            .char_indices()
            .map(|(at, c)| at + c.len_utf8())
            .take(64)
            .last()
            .unwrap_or(0);
        let value = der::tlv(tag, &[&value.as_bytes()[..end]]);
        der::tlv(
            der::SET,
            &[&der::sequence(&[&der::tlv(der::OID, &[oid]), &value])],
        )
    };
    der::sequence(&[
        &attribute(OID_ORGANIZATION, der::UTF8_STRING, trust_domain.as_str()),
        &attribute(OID_COMMON_NAME, der::UTF8_STRING, name),
        &attribute(
            OID_SERIAL_NUMBER,
            der::PRINTABLE_STRING,
            &serial.to_string(),
        ),
    ])
}

/// A host name (RFC 1123, 2.1), optionally with a leading wildcard label.
fn is_dns_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && host.split('.').all(label)
}
