//! The content of the cache, as bytes.

use crate::attest::token::Subject;
use crate::attest::{LocalProcess, Pod, PodUid};
use arx_identity::{CertChain, KeyId, PrivateKey, Sequence, Svid, TrustBundle, TrustDomain};
use prost::Message;
use prost::encoding::message::{self, encoded_len as message_len};
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Everything but the subscribers.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) bundle: Option<TrustBundle>,
    pub(crate) node: Option<(Svid, KeyId)>,
    pub(crate) workloads: Vec<SavedWorkload>,
    /// The last one that was sent, or a higher one.
    pub(crate) inventory_ordinal: u64,
}

/// One workload that has a certificate.
#[derive(Debug)]
pub(crate) struct SavedWorkload {
    pub(crate) key: SavedKey,
    /// SHA-256 of the tokens by which the authority has given it.
    pub(crate) proven: Vec<[u8; 32]>,
    pub(crate) svid: Svid,
    pub(crate) root: KeyId,
}

/// By what a workload is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SavedKey {
    Local(LocalProcess),
    Account(Subject),
    Socket(Pod),
    Process(PodUid),
}

impl State {
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        const WORKLOADS: u32 = 3;
        let node = self.node.as_ref();
        let mut head = Content {
            bundle: self.bundle.as_ref().map(Bundle::from),
            node: node.map(|(svid, root)| Identity::new(svid, root)),
            workloads: Vec::new(),
            inventory_ordinal: self.inventory_ordinal,
        };
        // Room for everything at once, since a vector that grows leaves keys behind; and
        // one workload at a time, since together their parts would leave the heap in holes.
        let each = |workload| Workload::from(workload).with(|w| message_len(WORKLOADS, w));
        let len = head.encoded_len() + self.workloads.iter().map(each).sum::<usize>();
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        head.encode(&mut *bytes).expect("there is room for it");
        if let Some(node) = &mut head.node {
            node.key.zeroize();
        }
        for workload in &self.workloads {
            Workload::from(workload).with(|w| message::encode(WORKLOADS, w, &mut *bytes));
        }
        bytes
    }

    /// What [`Self::encode`] wrote; nothing if it is something else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let content = Content::decode(bytes).ok()?;
        let bundle = match content.bundle {
            Some(bundle) => Some(bundle.restore()?),
            None => None,
        };
        let node = match content.node {
            Some(node) => Some(node.restore(None)?),
            None => None,
        };
        let mut before: Option<CertChain> = node.as_ref().map(|(svid, _)| svid.chain().clone());
        let workloads = content.workloads.into_iter().map(|workload| {
            let workload = workload.restore(before.as_ref())?;
            before = Some(workload.svid.chain().clone());
            Some(workload)
        });
        Some(Self {
            bundle,
            node,
            workloads: workloads.collect::<Option<_>>()?,
            inventory_ordinal: content.inventory_ordinal,
        })
    }
}

#[derive(Message)]
struct Content {
    #[prost(message, optional, tag = "1")]
    bundle: Option<Bundle>,
    #[prost(message, optional, tag = "2")]
    node: Option<Identity>,
    #[prost(message, repeated, tag = "3")]
    workloads: Vec<Workload>,
    #[prost(uint64, tag = "4")]
    inventory_ordinal: u64,
}

#[derive(Message)]
struct Bundle {
    #[prost(string, tag = "1")]
    trust_domain: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(bytes = "vec", tag = "4")]
    roots: Vec<u8>,
}

#[derive(Message)]
struct Identity {
    #[prost(bytes = "vec", repeated, tag = "1")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    root: Vec<u8>,
}

#[derive(Message)]
struct Workload {
    #[prost(message, optional, tag = "1")]
    local: Option<Local>,
    #[prost(message, optional, tag = "2")]
    account: Option<Account>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    proven: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    identity: Option<Identity>,
    #[prost(message, optional, tag = "5")]
    socket: Option<Socket>,
    /// UID of the pod whose process it is.
    #[prost(string, optional, tag = "6")]
    process: Option<String>,
}

#[derive(Message)]
struct Socket {
    #[prost(string, tag = "1")]
    uid: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    service_account: String,
}

#[derive(Message)]
struct Local {
    #[prost(uint32, tag = "1")]
    uid: u32,
    #[prost(uint32, tag = "2")]
    gid: u32,
    #[prost(string, tag = "3")]
    executable: String,
    #[prost(bytes = "vec", optional, tag = "4")]
    executable_sha256: Option<Vec<u8>>,
}

#[derive(Message)]
struct Account {
    #[prost(string, tag = "1")]
    issuer: String,
    #[prost(string, tag = "2")]
    account: String,
    #[prost(string, tag = "3")]
    pod_uid: String,
}

impl From<&TrustBundle> for Bundle {
    fn from(bundle: &TrustBundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            epoch: bundle.sequence().epoch,
            number: bundle.sequence().number,
            roots: bundle.der(),
        }
    }
}

impl Bundle {
    fn restore(self) -> Option<TrustBundle> {
        let trust_domain = TrustDomain::parse(&self.trust_domain).ok()?;
        let sequence = Sequence {
            epoch: self.epoch,
            number: self.number,
        };
        TrustBundle::from_der(trust_domain, sequence, &self.roots).ok()
    }
}

impl Identity {
    fn new(svid: &Svid, root: &KeyId) -> Self {
        let chain = svid.chain().certificates().iter();
        Self {
            chain: chain.map(|c| c.der().to_vec()).collect(),
            key: svid.key().pkcs8_der().to_vec(),
            root: root.as_bytes().to_vec(),
        }
    }

    /// What was saved. It shares its issuers with `like`.
    fn restore(self, like: Option<&CertChain>) -> Option<(Svid, KeyId)> {
        let der = Zeroizing::new(self.key);
        let key = PrivateKey::from_pkcs8_der(&der).ok()?;
        let chain = self.chain.iter().map(Vec::as_slice);
        let chain = CertChain::from_der_list_like(chain, like).ok()?;
        let svid = Svid::new(chain, Arc::new(key)).ok()?;
        Some((svid, KeyId::from_slice(&self.root)?))
    }
}

impl From<&SavedWorkload> for Workload {
    fn from(workload: &SavedWorkload) -> Self {
        let mut saved = Self {
            proven: workload.proven.iter().map(|d| d.to_vec()).collect(),
            identity: Some(Identity::new(&workload.svid, &workload.root)),
            ..Self::default()
        };
        match &workload.key {
            SavedKey::Local(process) => saved.local = Some(process.into()),
            SavedKey::Account(subject) => saved.account = Some(subject.into()),
            SavedKey::Socket(pod) => saved.socket = Some(pod.into()),
            SavedKey::Process(uid) => saved.process = Some(uid.to_string()),
        }
        saved
    }
}

impl Workload {
    /// What `use_it` makes of it, whose key is then no more.
    fn with<T>(mut self, use_it: impl FnOnce(&Self) -> T) -> T {
        let made = use_it(&self);
        if let Some(identity) = &mut self.identity {
            identity.key.zeroize();
        }
        made
    }

    fn restore(self, like: Option<&CertChain>) -> Option<SavedWorkload> {
        let key = match (self.local, self.account, self.socket, self.process) {
            (Some(local), None, None, None) => SavedKey::Local(local.restore()?),
            (None, Some(account), None, None) => SavedKey::Account(account.into()),
            (None, None, Some(pod), None) => SavedKey::Socket(pod.restore()?),
            (None, None, None, Some(uid)) => SavedKey::Process(PodUid::parse(&uid)?),
            _ => return None,
        };
        let (svid, root) = self.identity?.restore(like)?;
        let proven = self.proven.into_iter().map(|digest| digest.try_into().ok());
        Some(SavedWorkload {
            key,
            proven: proven.collect::<Option<_>>()?,
            svid,
            root,
        })
    }
}

impl From<&LocalProcess> for Local {
    fn from(process: &LocalProcess) -> Self {
        Self {
            uid: process.uid,
            gid: process.gid,
            executable: process.executable.clone(),
            executable_sha256: process.executable_sha256.map(|hash| hash.to_vec()),
        }
    }
}

impl Local {
    fn restore(self) -> Option<LocalProcess> {
        let executable_sha256 = match self.executable_sha256 {
            Some(hash) => Some(hash.try_into().ok()?),
            None => None,
        };
        Some(LocalProcess {
            uid: self.uid,
            gid: self.gid,
            executable: self.executable,
            executable_sha256,
        })
    }
}

impl From<&Pod> for Socket {
    fn from(pod: &Pod) -> Self {
        Self {
            uid: pod.uid.to_string(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
        }
    }
}

impl Socket {
    fn restore(self) -> Option<Pod> {
        Some(Pod {
            uid: PodUid::parse(&self.uid)?,
            namespace: self.namespace,
            name: self.name,
            service_account: self.service_account,
        })
    }
}

impl From<&Subject> for Account {
    fn from(subject: &Subject) -> Self {
        Self {
            issuer: subject.issuer.clone(),
            account: subject.account.clone(),
            pod_uid: subject.pod_uid.clone(),
        }
    }
}

impl From<Account> for Subject {
    fn from(account: Account) -> Self {
        Self {
            issuer: account.issuer,
            account: account.account,
            pod_uid: account.pod_uid,
        }
    }
}
