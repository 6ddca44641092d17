//! Good chains, and chains with one defect each.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use arx_identity::{KeyAlgorithm, PrivateKey};

use crate::der::*;

const ID: &str = "spiffe://example.org/ns/default/sa/web";

/// One chain, what it is held against, and whether `arx_identity` is to accept it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) good: bool,
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) root: Vec<u8>,
    /// Whose bundle `root` is.
    pub(crate) bundle_of: &'static str,
}

struct Corpus {
    root: Authority,
    issuing: Authority,
    key: PrivateKey,
    cases: Vec<Case>,
}

/// The whole corpus; `directory` is for the scratch files of `openssl`.
pub(crate) fn all(directory: &Path) -> Vec<Case> {
    let root = Authority::root("root");
    let issuing = root.below("issuing", |spec| {
        spec.with(BASIC, true, sequence(&[TRUE, &tlv(2, &[0])]))
    });
    let mut corpus = Corpus {
        root,
        issuing,
        key: p256(),
        cases: Vec::new(),
    };
    corpus.good_leaves();
    corpus.validity_and_usage();
    corpus.names();
    corpus.encoding(directory);
    corpus.authorities();
    corpus.cases
}

impl Corpus {
    fn add(&mut self, name: &'static str, good: bool, chain: Vec<Vec<u8>>) {
        self.cases.push(Case {
            name,
            good,
            chain,
            root: self.root.der.clone(),
            bundle_of: "example.org",
        });
    }

    fn spec(&self) -> Spec {
        Spec::leaf(&self.issuing, &self.key, ID)
    }

    /// A leaf of the issuing authority that differs from a good one by `change`.
    fn leaf(&mut self, name: &'static str, good: bool, change: impl FnOnce(Spec) -> Spec) {
        let leaf = change(self.spec()).sign(&self.issuing.key);
        self.add(name, good, vec![leaf, self.issuing.der.clone()]);
    }

    /// The same, without the leaf's being refused.
    fn good(&mut self, name: &'static str, change: impl FnOnce(Spec) -> Spec) {
        self.leaf(name, true, change);
    }

    fn bad(&mut self, name: &'static str, change: impl FnOnce(Spec) -> Spec) {
        self.leaf(name, false, change);
    }

    fn good_leaves(&mut self) {
        self.good("good", |leaf| leaf);
        let direct = Spec::leaf(&self.root, &self.key, ID).sign(&self.root.key);
        self.add("good, directly under the root", true, vec![direct]);
        for (name, algorithm) in [
            ("good, P-384 key", KeyAlgorithm::EcdsaP384),
            ("good, Ed25519 key", KeyAlgorithm::Ed25519),
        ] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let spec = Spec::leaf(&self.issuing, &key, ID);
            self.good(name, |_| spec);
        }
        self.good("good, RSA-2048 key", |leaf| {
            leaf.change(|leaf| leaf.spki = rsa_spki(2048)).with(
                KEY_USAGE,
                true,
                vec![3, 2, 5, 0xa0],
            )
        });
        self.good("good, a DNS name beside the URI", |leaf| {
            let names = sequence(&[&uri(ID), &tlv(0x82, b"web.default.svc")]);
            leaf.with(SAN, true, names)
        });
        self.good("good, noRevAvail", |leaf| {
            leaf.with(NO_REV_AVAIL, false, vec![5, 0])
        });
        self.good("good, an unknown extension that is not critical", |leaf| {
            leaf.with(0x7e, false, vec![5, 0])
        });
        self.good("good, with a subject", |leaf| {
            leaf.change(|leaf| leaf.subject = common_name("web"))
        });
    }

    fn validity_and_usage(&mut self) {
        self.bad("expired", |leaf| {
            leaf.change(|leaf| leaf.not_after = NOW - 1)
        });
        self.bad("not yet valid", |leaf| {
            leaf.change(|leaf| leaf.not_before = NOW + 1)
        });
        self.good("valid for the last second", |leaf| {
            leaf.change(|leaf| leaf.not_after = NOW)
        });
        self.bad("cA TRUE", |leaf| leaf.with(BASIC, true, sequence(&[TRUE])));
        self.bad("cA TRUE with keyCertSign", |leaf| {
            leaf.with(BASIC, true, sequence(&[TRUE]))
                .with(KEY_USAGE, true, vec![3, 2, 2, 0x84])
        });
        self.bad("no basicConstraints", |leaf| leaf.without(BASIC));
        self.bad("cA FALSE encoded", |leaf| {
            leaf.with(BASIC, true, sequence(&[&[1, 1, 0]]))
        });
        self.bad("keyCertSign", |leaf| {
            leaf.with(KEY_USAGE, true, vec![3, 2, 2, 0x84])
        });
        self.bad("cRLSign", |leaf| {
            leaf.with(KEY_USAGE, true, vec![3, 2, 1, 0x82])
        });
        self.bad("no keyUsage", |leaf| leaf.without(KEY_USAGE));
        self.bad("keyUsage not critical", |leaf| {
            leaf.with(KEY_USAGE, false, vec![3, 2, 7, 0x80])
        });
        self.bad("no digitalSignature", |leaf| {
            leaf.with(KEY_USAGE, true, vec![3, 2, 3, 0x08])
        });
        self.bad("no extKeyUsage", |leaf| leaf.without(EKU));
        self.bad("clientAuth only", |leaf| {
            leaf.with(EKU, false, purposes(&[CLIENT_AUTH]))
        });
        self.bad("serverAuth only", |leaf| {
            leaf.with(EKU, false, purposes(&[SERVER_AUTH]))
        });
        self.bad("codeSigning only", |leaf| {
            leaf.with(EKU, false, purposes(&[CODE_SIGNING]))
        });
    }

    fn names(&mut self) {
        let names = |names: &[&[u8]]| sequence(names);
        self.bad("two URIs", |leaf| {
            leaf.with(
                SAN,
                true,
                names(&[&uri(ID), &uri("spiffe://example.org/b")]),
            )
        });
        self.bad("no URI", |leaf| {
            leaf.with(SAN, true, names(&[&tlv(0x82, b"web.default.svc")]))
        });
        self.bad("no subjectAltName", |leaf| {
            leaf.without(SAN)
                .change(|leaf| leaf.subject = common_name("web"))
        });
        self.bad("subjectAltName not critical, empty subject", |leaf| {
            leaf.with(SAN, false, names(&[&uri(ID)]))
        });
        for (name, id) in [
            ("another scheme", "https://example.org/web"),
            ("the trust domain's own id", "spiffe://example.org"),
            ("upper case in the trust domain", "spiffe://Example.org/web"),
            ("a dot segment in the path", "spiffe://example.org/a/../b"),
        ] {
            self.bad(name, |leaf| leaf.with(SAN, true, names(&[&uri(id)])));
        }
        self.bad("an id of another trust domain", |leaf| {
            leaf.with(SAN, true, names(&[&uri("spiffe://other.example/web")]))
        });
        self.good("the bundle of the leaf's own domain", |leaf| leaf);
        self.bad("the bundle of another domain", |leaf| leaf);
        if let Some(case) = self.cases.last_mut() {
            case.bundle_of = "other.example";
        }
    }

    fn encoding(&mut self, directory: &Path) {
        self.bad("no subjectKeyIdentifier", |leaf| leaf.without(SKI));
        self.bad("no authorityKeyIdentifier", |leaf| leaf.without(AKI));
        let other = aki(&p256()).value;
        self.bad("another authority's key identifier", |leaf| {
            leaf.with(AKI, false, other)
        });
        self.bad("an unknown critical extension", |leaf| {
            leaf.with(0x7e, true, vec![5, 0])
        });
        self.bad("an extension twice", |leaf| {
            leaf.change(|leaf| leaf.extensions.push(leaf.extensions[1].clone()))
        });
        self.bad("version 1", |leaf| {
            leaf.change(|leaf| {
                leaf.version.clear();
                leaf.extensions.clear();
            })
        });
        self.bad("version 2 with extensions", |leaf| {
            leaf.change(|leaf| leaf.version = tlv(0xa0, &tlv(2, &[1])))
        });
        self.bad("negative serial number", |leaf| {
            leaf.change(|leaf| leaf.serial = vec![0xff; 16])
        });
        self.bad("serial number of 21 octets", |leaf| {
            leaf.change(|leaf| leaf.serial = vec![0x7f; 21])
        });
        self.bad("RSA-1024 key", |leaf| {
            leaf.change(|leaf| leaf.spki = rsa_spki(1024)).with(
                KEY_USAGE,
                true,
                vec![3, 2, 5, 0xa0],
            )
        });
        self.bad("signature algorithms that differ", |leaf| {
            leaf.change(|leaf| leaf.algorithms = [ECDSA_SHA256, ECDSA_SHA384])
        });
        self.bad("signed with one hash and named with another", |leaf| {
            leaf.change(|leaf| leaf.algorithms = [ECDSA_SHA384; 2])
        });
        let sha1 = self.spec().change(|leaf| leaf.algorithms = [ECDSA_SHA1; 2]);
        let signature = sign_sha1(directory, &self.issuing.key, &sha1.to_be_signed());
        let sha1 = sha1.with_signature(&signature);
        self.add("SHA-1", false, vec![sha1, self.issuing.der.clone()]);
        let mut changed = self.spec().sign(&self.issuing.key);
        if let Some(last) = changed.last_mut() {
            *last ^= 1;
        }
        self.add(
            "a changed signature",
            false,
            vec![changed, self.issuing.der.clone()],
        );
        let mut longer = self.spec().sign(&self.issuing.key);
        longer.push(0);
        self.add(
            "a byte after the leaf",
            false,
            vec![longer, self.issuing.der.clone()],
        );
    }

    fn authorities(&mut self) {
        let foreign = Authority::root("root");
        let leaf = Spec::leaf(&foreign, &self.key, ID).sign(&foreign.key);
        self.add("a foreign root of the same name", false, vec![leaf]);
        let leaf = self.spec().sign(&self.issuing.key);
        self.add("the intermediate left out", false, vec![leaf]);

        let below = self.issuing.below("below", |spec| spec);
        let leaf = Spec::leaf(&below, &self.key, ID).sign(&below.key);
        let chain = vec![leaf, below.der, self.issuing.der.clone()];
        self.add("path length", false, chain);

        self.under("a leaf as an authority", false, |spec| {
            spec.with(BASIC, true, sequence(&[]))
        });
        self.under("an authority without basicConstraints", false, |spec| {
            spec.without(BASIC)
        });
        self.under("an authority without keyCertSign", false, |spec| {
            spec.with(KEY_USAGE, true, vec![3, 2, 1, 0x02])
        });
        self.under("an authority without keyUsage", false, |spec| {
            spec.without(KEY_USAGE)
        });
        self.under("an expired authority", false, |spec| {
            spec.change(|spec| spec.not_after = NOW - 1)
        });
        self.under("an authority for clients only", false, |spec| {
            spec.with(EKU, false, purposes(&[CLIENT_AUTH]))
        });
        self.under(
            "an authority with an unknown critical extension",
            false,
            |spec| spec.with(0x7e, true, vec![5, 0]),
        );
        let only_other = sequence(&[&tlv(0xa0, &sequence(&[&tlv(0x86, b"other.example")]))]);
        self.under("an authority for another domain's URIs", false, |spec| {
            spec.with(NAME_CONSTRAINTS, true, only_other)
        });
        let only_ours = sequence(&[&tlv(0xa0, &sequence(&[&tlv(0x86, b"example.org")]))]);
        self.under("an authority for our domain's URIs", false, |spec| {
            spec.with(NAME_CONSTRAINTS, true, only_ours)
        });
    }

    /// A good leaf under an authority that differs from a good one by `change`.
    fn under(&mut self, name: &'static str, good: bool, change: impl FnOnce(Spec) -> Spec) {
        let authority = self.root.below("authority", change);
        let leaf = Spec::leaf(&authority, &self.key, ID).sign(&authority.key);
        self.add(name, good, vec![leaf, authority.der]);
    }
}

/// No provider of ours signs with SHA-1, so `openssl` does it.
fn sign_sha1(directory: &Path, key: &PrivateKey, message: &[u8]) -> Vec<u8> {
    let path = directory.join("sha1.key");
    std::fs::write(&path, key.pkcs8_pem().as_bytes()).expect("written");
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha1", "-sign"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program openssl is needed");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(message).expect("written");
    drop(stdin);
    child.wait_with_output().expect("signed").stdout
}
