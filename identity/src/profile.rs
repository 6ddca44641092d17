//! The certificate profile: the only place that knows extensions, their criticality,
//! and key usages (RFC 5280; RFC 8813 for EC key usage; RFC 9608; SPIFFE X509-SVID).
//!
//! A certificate is made in two steps, so that the signing key may be anywhere:
//! [`leaf`], [`intermediate`] or [`root`] give an [`Unsigned`], whose
//! [`Unsigned::complete`] takes the signature, parses what was signed, and refuses to
//! release a certificate that does not keep the profile.

mod build;
mod check;

pub use build::{
    Issuer, Leaf, ProfileError, Unsigned, Validity, authority_request, backdate, cross,
    intermediate, leaf, numbered_leaf, root,
};
pub use check::{Kind, Severity, Violation, violations};

const OID_SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const OID_AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
const OID_EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const OID_NO_REV_AVAIL: &[u8] = &[0x55, 0x1d, 0x38];
const OID_SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const OID_CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const OID_COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const OID_SERIAL_NUMBER: &[u8] = &[0x55, 0x04, 0x05];
const OID_ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// Longest lifetime, in seconds, of a leaf that says that no revocation information
/// will ever exist for it.
const NO_REV_AVAIL_SECONDS: u64 = 7 * 24 * 3600;

#[cfg(test)]
mod tests;
