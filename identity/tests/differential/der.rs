//! Certificates written by hand, so that each can have any defect.

use std::time::{Duration, SystemTime};

use arx_identity::{PrivateKey, Serial};

/// When every certificate of the corpus is judged.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const HOUR: u64 = 3600;

pub(crate) const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
pub(crate) const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
pub(crate) const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];

pub(crate) const SKI: u8 = 0x0e;
pub(crate) const KEY_USAGE: u8 = 0x0f;
pub(crate) const SAN: u8 = 0x11;
pub(crate) const BASIC: u8 = 0x13;
pub(crate) const NAME_CONSTRAINTS: u8 = 0x1e;
pub(crate) const AKI: u8 = 0x23;
pub(crate) const EKU: u8 = 0x25;
pub(crate) const NO_REV_AVAIL: u8 = 0x38;

pub(crate) const TRUE: &[u8] = &[1, 1, 0xff];
pub(crate) const SERVER_AUTH: u8 = 1;
pub(crate) const CLIENT_AUTH: u8 = 2;
pub(crate) const CODE_SIGNING: u8 = 3;

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        medium @ 0x80..=0xff => out.extend([0x81, medium as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// An extension of RFC 5280, known by the last arc of its name.
#[derive(Clone)]
pub(crate) struct Extension {
    pub(crate) id: u8,
    pub(crate) critical: bool,
    pub(crate) value: Vec<u8>,
}

impl Extension {
    pub(crate) fn new(id: u8, critical: bool, value: Vec<u8>) -> Self {
        Self {
            id,
            critical,
            value,
        }
    }

    fn der(&self) -> Vec<u8> {
        let critical = if self.critical { TRUE } else { &[] };
        let oid = tlv(6, &[0x55, 0x1d, self.id]);
        sequence(&[&oid, critical, &tlv(4, &self.value)])
    }
}

pub(crate) fn uri(uri: &str) -> Vec<u8> {
    tlv(0x86, uri.as_bytes())
}

pub(crate) fn purposes(purposes: &[u8]) -> Vec<u8> {
    let list: Vec<u8> = purposes
        .iter()
        .flat_map(|purpose| tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, *purpose]))
        .collect();
    sequence(&[&list])
}

pub(crate) fn common_name(name: &str) -> Vec<u8> {
    let pair = sequence(&[&tlv(6, &[0x55, 4, 3]), &tlv(0x0c, name.as_bytes())]);
    sequence(&[&tlv(0x31, &pair)])
}

/// An RSA key of this many bits that nobody holds.
pub(crate) fn rsa_spki(bits: usize) -> Vec<u8> {
    let modulus = [vec![0, 0xc5], vec![0x5b; bits / 8 - 1]].concat();
    let numbers = sequence(&[&tlv(2, &modulus), &tlv(2, &[1, 0, 1])]);
    let oid = tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]);
    let algorithm = sequence(&[&oid, &[5, 0]]);
    sequence(&[&algorithm, &tlv(3, &[&[0], numbers.as_slice()].concat())])
}

/// Everything that a certificate says.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) version: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    /// In the TBSCertificate, and outside.
    pub(crate) algorithms: [&'static [u8]; 2],
}

impl Spec {
    fn new(issuer: &[u8], subject: Vec<u8>, key: &PrivateKey) -> Self {
        Self {
            version: tlv(0xa0, &tlv(2, &[2])),
            serial: Serial::random().as_bytes().to_vec(),
            issuer: issuer.to_vec(),
            subject,
            not_before: NOW - HOUR,
            not_after: NOW + HOUR,
            spki: key.public_key().spki_der().to_vec(),
            extensions: Vec::new(),
            algorithms: [ECDSA_SHA256; 2],
        }
    }

    /// As the profile has a leaf.
    pub(crate) fn leaf(issuer: &Authority, key: &PrivateKey, id: &str) -> Self {
        let mut spec = Self::new(&issuer.subject, sequence(&[]), key);
        spec.extensions = vec![
            Extension::new(BASIC, true, sequence(&[])),
            Extension::new(KEY_USAGE, true, vec![3, 2, 7, 0x80]),
            Extension::new(EKU, false, purposes(&[SERVER_AUTH, CLIENT_AUTH])),
            ski(key),
            aki(&issuer.key),
            Extension::new(SAN, true, sequence(&[&uri(id)])),
        ];
        spec
    }

    /// As the profile has an authority.
    pub(crate) fn authority(
        issuer: &[u8],
        issuer_key: &PrivateKey,
        name: &str,
        key: &PrivateKey,
    ) -> Self {
        let mut spec = Self::new(issuer, common_name(name), key);
        spec.not_after = NOW + 24 * HOUR;
        spec.extensions = vec![
            Extension::new(BASIC, true, sequence(&[TRUE])),
            Extension::new(KEY_USAGE, true, vec![3, 2, 1, 0x06]),
            ski(key),
            aki(issuer_key),
        ];
        spec
    }

    pub(crate) fn without(mut self, id: u8) -> Self {
        self.extensions.retain(|extension| extension.id != id);
        self
    }

    pub(crate) fn with(mut self, id: u8, critical: bool, value: Vec<u8>) -> Self {
        let new = Extension::new(id, critical, value);
        match self.extensions.iter_mut().find(|known| known.id == id) {
            Some(known) => *known = new,
            None => self.extensions.push(new),
        }
        self
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The TBSCertificate.
    pub(crate) fn to_be_signed(&self) -> Vec<u8> {
        let time = |unix: u64| {
            let at = time::OffsetDateTime::from(SystemTime::UNIX_EPOCH + Duration::from_secs(unix));
            let (date, clock) = (at.date(), at.time());
            let text = format!(
                "{:02}{:02}{:02}{:02}{:02}{:02}Z",
                date.year() % 100,
                u8::from(date.month()),
                date.day(),
                clock.hour(),
                clock.minute(),
                clock.second()
            );
            tlv(0x17, text.as_bytes())
        };
        let extensions: Vec<u8> = self.extensions.iter().flat_map(Extension::der).collect();
        let extensions = match extensions.as_slice() {
            [] => Vec::new(),
            list => tlv(0xa3, &sequence(&[list])),
        };
        sequence(&[
            &self.version,
            &tlv(2, &self.serial),
            &sequence(&[&tlv(6, self.algorithms[0])]),
            &self.issuer,
            &sequence(&[&time(self.not_before), &time(self.not_after)]),
            &self.subject,
            &self.spki,
            &extensions,
        ])
    }

    pub(crate) fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        sequence(&[
            &self.to_be_signed(),
            &sequence(&[&tlv(6, self.algorithms[1])]),
            &tlv(3, &[&[0], signature].concat()),
        ])
    }

    pub(crate) fn sign(&self, key: &PrivateKey) -> Vec<u8> {
        let signature = key.sign(&self.to_be_signed()).expect("a signature");
        self.with_signature(&signature)
    }
}

fn ski(key: &PrivateKey) -> Extension {
    let id = key.public_key().key_id();
    Extension::new(SKI, false, tlv(4, id.as_bytes()))
}

pub(crate) fn aki(key: &PrivateKey) -> Extension {
    let id = key.public_key().key_id();
    Extension::new(AKI, false, sequence(&[&tlv(0x80, id.as_bytes())]))
}

/// An authority with its key.
pub(crate) struct Authority {
    pub(crate) subject: Vec<u8>,
    pub(crate) key: PrivateKey,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let key = p256();
        let subject = common_name(name);
        let der = Spec::authority(&subject, &key, name, &key).sign(&key);
        Self { subject, key, der }
    }

    /// Below `self`, after `change` was made to what the profile has.
    pub(crate) fn below(&self, name: &str, change: impl FnOnce(Spec) -> Spec) -> Self {
        let key = p256();
        let spec = change(Spec::authority(&self.subject, &self.key, name, &key));
        let der = spec.sign(&self.key);
        Self {
            subject: common_name(name),
            key,
            der,
        }
    }
}

pub(crate) fn p256() -> PrivateKey {
    PrivateKey::generate(arx_identity::KeyAlgorithm::EcdsaP256).expect("a key")
}
