//! The operator's own authority: read, and held against everything that would break the mesh
//! later. Every defect is named, and all of them at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_daemon::config::secret_file;
use arx_identity::crypto::Sha256;
use arx_identity::profile::{
    self, Issuer, Kind, Leaf, ProfileError, Severity, Unsigned, Validity, violations,
};
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, TrustBundle, TrustDomain,
    verify,
};

use zeroize::Zeroizing;

use super::options::{OperatorFiles, Options};
use super::problem::{Problem, human};
use crate::signer::{InMemory, Key, Signer, SignerError, Sources};
use crate::state::{KeyPlace, Pkcs8};

const CERTIFICATE: &str = "authority.certificate_file";
const KEY: &str = "authority.key_file";

/// Longer files are refused: several times the longest chain.
pub(super) const LIMIT: u64 = 256 * 1024;

/// An authority of the operator's, in order.
#[derive(Clone, Debug)]
pub(super) struct Material {
    pub(super) key: Arc<dyn Signer>,
    /// Where that is.
    pub(super) place: KeyPlace,
    /// From the one whose key this is up to below the root; empty if it is the root's.
    pub(super) above: Vec<Certificate>,
    pub(super) root: Certificate,
}

/// What was found in the files, or in a chain that came otherwise.
#[derive(Debug)]
pub(super) struct Found {
    /// What problems with the chain are told of.
    pub(super) setting: &'static str,
    /// Only if there is no problem.
    pub(super) material: Option<Material>,
    pub(super) problems: Vec<Problem>,
    /// Reasons not to begin with this authority, but not to stop an authority that runs on it.
    pub(super) short: Option<Problem>,
    /// Why its key could not be tried, if it could not be reached.
    pub(super) away: Option<SignerError>,
    /// What the operator should know.
    pub(super) notes: Vec<String>,
    /// SHA-256 of what lies there.
    pub(super) content: Option<[u8; 32]>,
    /// The key of the set that was in use before, if that is named too.
    pub(super) previous: Option<Arc<dyn Signer>>,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            setting: CERTIFICATE,
            material: None,
            problems: Vec::new(),
            short: None,
            away: None,
            notes: Vec::new(),
            content: None,
            previous: None,
        }
    }
}

/// What lies in the files, or why it can't be read; not judged yet.
pub(super) struct Content {
    certificates: Result<Vec<u8>, String>,
    /// Only if a file is named.
    key: Option<Result<Zeroizing<Vec<u8>>, String>>,
}

impl Content {
    /// Blocks on the file system.
    pub(super) fn read(files: &OperatorFiles) -> Self {
        let read = std::fs::metadata(&files.certificate).and_then(|metadata| {
            if metadata.len() > LIMIT {
                return Err(std::io::Error::other("it is longer than 256 KiB"));
            }
            std::fs::read(&files.certificate)
        });
        Self {
            certificates: read.map_err(|error| error.to_string()),
            key: files
                .key
                .as_ref()
                .map(|path| secret_file(path).map_err(|error| error.to_string())),
        }
    }

    /// Tells whether it is the same as another time.
    pub(super) fn sha256(&self) -> [u8; 32] {
        let part = |read: Result<&[u8], &String>, hash: &mut Sha256| {
            let (mark, bytes) = match read {
                Ok(bytes) => (0, bytes),
                Err(error) => (1, error.as_bytes()),
            };
            hash.update(&[mark]);
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        let mut hash = Sha256::new();
        part(self.certificates.as_deref(), &mut hash);
        if let Some(key) = &self.key {
            part(key.as_ref().map(|key| key.as_slice()), &mut hash);
        }
        hash.finish()
    }
}

/// Reads and checks the operator's files, and those that were in use before if they are named.
/// Blocks on the file system. What is found is still to be [tried](Found::tried).
pub(super) fn load(
    files: &OperatorFiles,
    options: &Options,
    sources: &Sources,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Found {
    let mut found = judge(
        Content::read(files),
        files,
        options,
        sources,
        trust_domain,
        now,
    );
    if let Some(previous) = &files.previous {
        let before = judge(
            Content::read(previous),
            previous,
            options,
            sources,
            trust_domain,
            now,
        );
        found.previous = before.material.map(|material| material.key);
        found
            .notes
            .extend(before.problems.into_iter().map(|problem| {
                format!(
                    "the set of authority.previous_certificate_file is of no use: {}",
                    problem.message
                )
            }));
    }
    found
}

/// Checks what lies in `files`.
pub(super) fn judge(
    content: Content,
    files: &OperatorFiles,
    options: &Options,
    sources: &Sources,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Found {
    let mut found = Found {
        content: Some(content.sha256()),
        ..Found::default()
    };
    let certificates = parse_certificates(content.certificates, &files.certificate, &mut found);
    let key = files.key.as_ref().zip(content.key);
    let key = key.map(|(path, read)| (path, parse_key(read, path, &mut found)));
    let Some(certificates) = certificates else {
        return found;
    };
    let key = match key {
        Some((path, Some(key))) => {
            if key.public_key() != certificates[0].public_key() {
                found.certificate(
                    "ARX-AUTHORITY-KEY-MISMATCH",
                    format!(
                        "{} is not for the key in {}: put the certificate of that key first",
                        name(0, &certificates),
                        path.display()
                    ),
                );
            }
            let signer = InMemory::new(key.into(), KeyPlace::Files.as_str());
            Some(Key {
                place: KeyPlace::Files,
                signer: Arc::new(signer),
            })
        }
        // Told already.
        Some((_, None)) => None,
        None => match sources.of_operator(&certificates[0]) {
            Ok(key) => Some(key),
            Err(error) => {
                found
                    .problems
                    .push(Problem::new(KEY, error.code(), error.to_string()));
                None
            }
        },
    };
    let place = files.certificate.display().to_string();
    found.examine(&certificates, &place, key, options, trust_domain, now);
    found
}

/// Checks a chain that a CA outside has made for `key`, which is in the state. Problems are those
/// of `setting`. What is found is still to be [tried](Found::tried).
pub(super) fn examine(
    certificates: &[Certificate],
    key: PrivateKey,
    setting: &'static str,
    options: &Options,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Found {
    let mut found = Found {
        setting,
        ..Found::default()
    };
    if key.public_key() != certificates[0].public_key() {
        found.certificate(
            "ARX-AUTHORITY-KEY-MISMATCH",
            format!(
                "{} is not for the key in the request that waits (`arx authority csr`): put the \
                 certificate of that key first",
                name(0, certificates)
            ),
        );
    }
    let place = KeyPlace::Stored(Pkcs8::of(&key));
    let signer = Arc::new(InMemory::new(key.into(), place.as_str()));
    let key = Some(Key { place, signer });
    found.examine(certificates, "the chain", key, options, trust_domain, now);
    found
}

fn name(at: usize, certificates: &[Certificate]) -> String {
    format!("certificate {} ({})", at + 1, certificates[at].subject())
}

fn parse_certificates(
    read: Result<Vec<u8>, String>,
    path: &Path,
    found: &mut Found,
) -> Option<Vec<Certificate>> {
    let unusable = |what: String| {
        Problem::new(
            CERTIFICATE,
            "ARX-AUTHORITY-CERTIFICATE-FILE",
            format!(
                "{} {what}: it takes a root in PEM, or an intermediate followed by its chain up \
                 to the root",
                path.display()
            ),
        )
    };
    let parsed = read
        .map_err(|error| format!("cannot be read ({error})"))
        .and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| "is not PEM".to_owned())?;
            Certificate::list_from_pem(&text).map_err(|error| format!("is not accepted ({error})"))
        });
    parsed
        .map_err(|what| found.problems.push(unusable(what)))
        .ok()
}

fn parse_key(
    read: Result<Zeroizing<Vec<u8>>, String>,
    path: &Path,
    found: &mut Found,
) -> Option<PrivateKey> {
    let mut refuse = |message: String| {
        found
            .problems
            .push(Problem::new(KEY, "ARX-AUTHORITY-KEY-FILE", message));
        None
    };
    let content = match read {
        Ok(content) => content,
        Err(error) => return refuse(error),
    };
    let Ok(text) = std::str::from_utf8(&content) else {
        return refuse(format!(
            "{} is not PEM: it takes a private key in PKCS #8",
            path.display()
        ));
    };
    match PrivateKey::from_pem(text) {
        Ok(key) => Some(key),
        Err(error) => refuse(format!(
            "{} is not accepted ({error}): it takes a private key in PKCS #8, PEM \
             (openssl pkcs8 -topk8 -nocrypt)",
            path.display()
        )),
    }
}

impl Found {
    /// The same, after its key has signed for trial.
    pub(super) async fn tried(mut self, trust_domain: &TrustDomain, now: SystemTime) -> Self {
        let Some(material) = &self.material else {
            return self;
        };
        match try_out(material, trust_domain, now).await {
            Ok(()) => {}
            Err(TrialError::Signer(error)) if error.passes() => self.away = Some(error),
            Err(reason) => {
                self.material = None;
                self.certificate(
                    "ARX-AUTHORITY-TRIAL",
                    format!("a certificate issued under it for trial does not verify: {reason}"),
                );
            }
        }
        self
    }

    fn certificate(&mut self, code: &'static str, message: String) {
        self.problems
            .push(Problem::new(self.setting, code, message));
    }

    /// Everything about a chain but whether its key has signed. `place` is what it lies in.
    fn examine(
        &mut self,
        certificates: &[Certificate],
        place: &str,
        key: Option<Key>,
        options: &Options,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) {
        let Some(root) = certificates.iter().position(|one| one.is_signed_by(one)) else {
            self.certificate(
                "ARX-AUTHORITY-CHAIN",
                format!(
                    "no certificate in {place} is self-signed: append the chain up to and \
                     including the root"
                ),
            );
            self.each(certificates, certificates.len(), trust_domain, now);
            return;
        };
        self.chain(certificates, root);
        self.each(&certificates[..=root], root, trust_domain, now);
        self.path_length(certificates);
        self.lifetime(&certificates[..=root], options, now);
        if let (Some(key), true) = (key, self.problems.is_empty()) {
            self.material = Some(Material {
                place: key.place,
                key: key.signer,
                above: certificates[..root].to_vec(),
                root: certificates[root].clone(),
            });
        }
    }

    /// Whether each signs the one before it, and nothing comes after the root.
    fn chain(&mut self, certificates: &[Certificate], root: usize) {
        for (at, pair) in certificates[..=root].windows(2).enumerate() {
            if !pair[0].is_signed_by(&pair[1]) {
                self.certificate(
                    "ARX-AUTHORITY-CHAIN",
                    format!(
                        "{} is not signed by the one after it ({}): order them so that each \
                         signs the one before it",
                        name(at, certificates),
                        pair[1].subject()
                    ),
                );
            }
        }
        if root + 1 < certificates.len() {
            self.certificate(
                "ARX-AUTHORITY-CHAIN",
                format!(
                    "{} stands after the root {}: leave out what is not between the first \
                     certificate and its root",
                    name(root + 1, certificates),
                    certificates[root].subject()
                ),
            );
        }
    }

    /// What each certificate must be by itself. `root` is where the root stands.
    fn each(
        &mut self,
        certificates: &[Certificate],
        root: usize,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) {
        for (at, certificate) in certificates.iter().enumerate() {
            let name = name(at, certificates);
            let kind = if at == root {
                Kind::Root
            } else {
                Kind::Intermediate
            };
            for violation in violations(certificate, kind) {
                match violation.severity {
                    Severity::Error => self.certificate(
                        "ARX-AUTHORITY-PROFILE",
                        format!("{name} cannot be used, its {violation}: issue it anew"),
                    ),
                    Severity::Warning => self.notes.push(format!("{name}: {violation}")),
                }
            }
            if certificate.not_after() < now {
                self.certificate(
                    "ARX-AUTHORITY-EXPIRED",
                    format!(
                        "{name} has expired at {}: renew it",
                        rfc3339(certificate.not_after())
                    ),
                );
            }
            if certificate.not_before() > now {
                self.certificate(
                    "ARX-AUTHORITY-NOT-YET-VALID",
                    format!(
                        "{name} is valid from {} on only: check this machine's clock, or wait",
                        rfc3339(certificate.not_before())
                    ),
                );
            }
            if let Some(id) = certificate.spiffe_id()
                && id.trust_domain() != trust_domain
            {
                self.certificate(
                    "ARX-AUTHORITY-TRUST-DOMAIN",
                    format!(
                        "{name} is of the trust domain {}, and this authority is of \
                         {trust_domain}: take the certificate that belongs here",
                        id.trust_domain()
                    ),
                );
            }
        }
    }

    /// Whether an intermediate may stand below the first.
    fn path_length(&mut self, certificates: &[Certificate]) {
        let too_short = Issuer::new(&certificates[0]).is_ok_and(|issuer| {
            matches!(
                trial_intermediate(&issuer, issuer.not_after()),
                Err(ProfileError::PathLength)
            )
        });
        if too_short {
            self.certificate(
                "ARX-AUTHORITY-PATH-LENGTH",
                format!(
                    "{} allows no authority below it (path length 0), and each replica issues \
                     by one of its own: issue it anew with a path length of at least 1",
                    name(0, certificates)
                ),
            );
        }
    }

    fn lifetime(&mut self, certificates: &[Certificate], options: &Options, now: SystemTime) {
        let Some((at, first)) = certificates
            .iter()
            .enumerate()
            .min_by_key(|(_, one)| one.not_after())
        else {
            return;
        };
        let Ok(left) = first.not_after().duration_since(now) else {
            // Expired, which is told already.
            return;
        };
        let name = name(at, certificates);
        let ends = rfc3339(first.not_after());
        if left <= options.longest() {
            self.short = Some(Problem::new(
                self.setting,
                "ARX-AUTHORITY-LIFETIME",
                format!(
                    "{name} ends at {ends}, before a leaf of {} that is issued now: renew it, or \
                     shorten the lifetimes in [policy]",
                    human(options.longest())
                ),
            ));
        } else if left < options.intermediate_ttl {
            self.notes.push(format!(
                "{name} ends at {ends}, so intermediates get less than their {}: renew it in time",
                human(options.intermediate_ttl)
            ));
        }
    }
}

/// An intermediate under `issuer`, to see what the profile says.
fn trial_intermediate(
    issuer: &Issuer,
    ends: SystemTime,
) -> Result<(Unsigned, PrivateKey), ProfileError> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)
        .map_err(|error| ProfileError::Violation(error.to_string()))?;
    let trial = TrustDomain::parse("trial").expect("a trust domain");
    let validity = Validity {
        not_before: ends - Duration::from_secs(2),
        not_after: ends,
    };
    let unsigned = profile::intermediate(issuer, key.public_key(), &trial, "trial", validity, 0)?;
    Ok((unsigned, key))
}

/// Why a trial has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// The key did not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// What was issued cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// Issues by `material` all the way down to a leaf and verifies that as a peer would.
pub(super) async fn try_out(
    material: &Material,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), TrialError> {
    try_crossed(material, None, trust_domain, now).await
}

/// The same of what `cross` vouches for besides, by the other certificate.
pub(super) async fn try_crossed(
    material: &Material,
    cross: Option<(&Certificate, &Certificate)>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), TrialError> {
    let trial = trial(material, trust_domain, now).map_err(unusable)?;
    let signature = material.key.sign(trial.0.to_be_signed()).await?;
    verify_trial(material, cross, trust_domain, trial, &signature, now).map_err(unusable)
}

fn unusable(error: Box<dyn std::error::Error>) -> TrialError {
    TrialError::Unusable(error.to_string())
}

type Trial = (Unsigned, PrivateKey, Validity);

fn trial(
    material: &Material,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Trial, Box<dyn std::error::Error>> {
    let issuer = Issuer::new(material.above.first().unwrap_or(&material.root))?;
    let (begins, ends) = (now - Duration::from_secs(1), now + Duration::from_secs(1));
    let validity = Validity {
        not_before: begins,
        not_after: ends.min(issuer.not_after()),
    };

    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let unsigned = profile::intermediate(
        &issuer,
        key.public_key(),
        trust_domain,
        "trial",
        validity,
        0,
    )?;
    Ok((unsigned, key, validity))
}

fn verify_trial(
    material: &Material,
    cross: Option<(&Certificate, &Certificate)>,
    trust_domain: &TrustDomain,
    (unsigned, key, validity): Trial,
    signature: &[u8],
    now: SystemTime,
) -> Result<(), Box<dyn std::error::Error>> {
    let intermediate = unsigned.complete(signature)?;
    let id = SpiffeId::new(trust_domain, "/trial")?;
    let leaf = profile::leaf(
        &Issuer::new(&intermediate)?,
        &Leaf {
            public_key: key.public_key(),
            id: &id,
            dns_names: &[],
            validity,
            revocable: false,
        },
    )?;
    let signature = key.sign(leaf.to_be_signed())?;
    let mut chain = vec![leaf.complete(&signature)?, intermediate];
    chain.extend(material.above.iter().cloned());
    chain.extend(cross.map(|(cross, _)| cross.clone()));
    let chain = CertChain::new(chain)?;

    let sequence = Sequence {
        epoch: 1,
        number: 1,
    };
    for root in [Some(&material.root), cross.map(|(_, by)| by)] {
        let roots: Vec<_> = root.into_iter().cloned().collect();
        if !roots.is_empty() {
            let bundle = TrustBundle::new(trust_domain.clone(), sequence, roots)?;
            verify(&chain, &bundle, now)?;
        }
    }
    Ok(())
}
