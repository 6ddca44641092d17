//! A whole authority for tests, without sockets: real keys, a real ledger in a temporary
//! directory, the store in memory, tokens of a small issuer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::config::File;
use arx_daemon::drain::Drain;
use arx_daemon::ops::Readiness;
use arx_identity::profile::{self, Validity};
use arx_identity::{KeyAlgorithm, PrivateKey, Sequence, Serial, TrustBundle, TrustDomain};
use arx_proto::node::v1 as wire;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::answers::Answers;
use crate::authority::Authority;
use crate::ca::{Ca, CurrentRules, Rules};
use crate::caller::{Node, NodeName};
use crate::config::Config;
use crate::fleet::{Fleet, Session};
use crate::ledger::{Ledger, Query};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::queue::Queue;
use crate::refusal::Told;
use crate::seal::Seal;
use crate::share::Shares;
use crate::state::State;
use crate::store::{Memory, Shared};
use crate::token::Tokens;
use crate::trust::{Evidence, Trust};

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Everything that a test needs.
pub(crate) struct House {
    pub(crate) ca: Arc<Ca>,
    pub(crate) clock: Clock,
    _directory: tempfile::TempDir,
    issuer: PrivateKey,
    keys: Mutex<u64>,
}

const CONFIG: &str = r#"
trust_domain = "example.org"
[node_api]
address = "127.0.0.1:8443"
[admin]
socket = "/run/arx/admin.sock"
[state]
directory = "/nowhere"
seal = "none"
[policy]
ttl = "1h"
[[policy.exception]]
namespace = "denied"
service_account = "*"
deny = true
[[policy.local]]
path = "/local/web"
nodes = ["c1/n1"]
uid = 1000
[[cluster]]
name = "c1"
issuer = "https://issuer"
audiences = ["arx"]
agents = ["arx-system/arx-node-agent"]
jwks_file = "JWKS"
"#;

/// A configuration, without keys of a cluster.
pub(crate) fn config() -> Result<Config, Box<dyn std::error::Error>> {
    Ok(File::from_text("test.toml", CONFIG.to_owned())?.parse()?)
}

impl House {
    pub(crate) async fn new() -> Result<Self, Box<dyn std::error::Error>> {
        Self::with("", Clock::system()).await
    }

    /// The same with these lines in `[authority]`, and by this clock.
    pub(crate) async fn with(
        authority: &str,
        clock: Clock,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Self::over(Arc::new(Memory::new()), authority, clock).await
    }

    /// The same over this store.
    pub(crate) async fn over(
        store: Shared,
        authority: &str,
        clock: Clock,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Self::named("ca-1", store, authority, clock).await
    }

    /// Another replica of the same authority.
    pub(crate) async fn beside(&self, name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let store = Arc::clone(self.ca.state.store());
        Self::named(name, store, "", self.clock.clone()).await
    }

    async fn named(
        name: &str,
        store: Shared,
        authority: &str,
        clock: Clock,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let issuer = PrivateKey::generate(KeyAlgorithm::Ed25519)?;
        let spki = issuer.public_key().spki_der();
        let x = URL_SAFE_NO_PAD.encode(&spki[spki.len() - 32..]);
        let jwks = directory.path().join("jwks.json");
        let set = serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k1", "use": "sig"}]});
        std::fs::write(&jwks, set.to_string())?;
        let text = CONFIG
            .replace("JWKS", &jwks.display().to_string())
            .replace("[policy]", &format!("[authority]\n{authority}\n[policy]"));
        let config: Config = File::from_text("test.toml", text)?.parse()?;

        let now = clock.now();
        let state = State::open(store, Seal::plain(), &config.trust_domain, "test").await?;
        let replica = state.replica(Some(name), now).await?;
        let (ledger, _recovery) = Ledger::open(
            crate::ledger::Options {
                directory: directory.path().join("ledger"),
                trust_domain: config.trust_domain.clone(),
                segment_bytes: 1024 * 1024,
                gather: Duration::from_millis(1),
            },
            now,
        )?;
        let authority =
            Authority::open(state.clone(), &replica, config.authority_options(), now).await?;
        let trust = Trust::open(
            state.clone(),
            &replica,
            &authority.root(),
            Evidence::default(),
            now,
        )
        .await?;
        let prepared = authority.prepare(now).await?;
        authority.install(prepared);
        let rules = Rules {
            generation: 1,
            policy: Policy::new(&config.trust_domain, &config.policy, &config.clusters)?,
            tokens: Tokens::new(&config.clusters, &clock).await?,
            retention: config.ledger.retention.get(),
            nested: crate::nested::Allowed::new(&config.nested),
            rotation: config.rotation_defaults(),
        };
        let ca = Ca {
            trust_domain: config.trust_domain.clone(),
            replica: name.into(),
            place: config.state.place(),
            replicas: crate::peer::Replicas::Several,
            custody: "memory".to_owned(),
            software: "arx-ca test",
            started: now,
            clock: clock.clone(),
            state: state.clone(),
            authority: Arc::new(authority),
            trust: Arc::new(trust),
            publishers: crate::publish::Publishers::default(),
            leading: crate::lease::Leading::alone(),
            rotator: crate::rotation::Rotator::default(),
            overview: crate::overview::Overview::default(),
            denials: crate::denial::Current::open(state.clone(), &replica).await?,
            restore: crate::restore::Current::open(state.clone()).await?,
            ledger,
            sink: None,
            fleet: Fleet::default(),
            shares: Shares::default(),
            confirmed_below: crate::nested::Confirmed::default(),
            above: crate::rotation::Above::default(),
            nested: crate::nested::Rate::default(),
            queue: Queue::new(2, 1000),
            answers: Answers::default(),
            told: Told::default(),
            recent: crate::recent::Recent::default(),
            metrics: Metrics::new(&mut prometheus_client::registry::Registry::default()),
            drain: Drain::new(Duration::from_secs(1)),
            fleet_ahead: Mutex::new(None),
            rules: CurrentRules::new(rules),
            readiness: Readiness::new(),
        };
        Ok(Self {
            ca: Arc::new(ca),
            clock,
            _directory: directory,
            issuer,
            keys: Mutex::new(0),
        })
    }

    /// The agent of `node` that has connected, and says that it holds nothing and has no
    /// consumers.
    pub(crate) fn follow(&self, node: &Node, cache: u8) -> Session {
        let hello = wire::Hello {
            instance_id: vec![1; 16].into(),
            cache_id: vec![cache; 16].into(),
            boot_id: "boot".to_owned(),
            clock_unix_ms: crate::node_api::unix_ms(self.clock.now()),
            ..wire::Hello::default()
        };
        let now = self.clock.now();
        let session = self.ca.fleet.follow(node, &hello, now);
        let session = session.expect("it is admitted");
        let report = wire::SubscriberReport {
            ordinal: 1,
            complete: true,
            ..wire::SubscriberReport::default()
        };
        session.subscribers(report, now).expect("it is taken");
        session
    }

    /// A token of `namespace`/`account`, bound to a pod on `node`.
    pub(crate) fn token(
        &self,
        audience: &str,
        namespace: &str,
        account: &str,
        node: &str,
    ) -> String {
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        let now = seconds(self.clock.now());
        let claims = serde_json::json!({
            "iss": "https://issuer", "aud": [audience], "iat": now, "nbf": now, "exp": now + 600,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "jti": format!("{namespace}-{account}-{node}"),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": account, "uid": "sa-uid"},
                "pod": {"name": "pod", "uid": "pod-uid"},
                "node": {"name": node, "uid": "node-uid"},
            },
        });
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"k1"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.issuer.sign(message.as_bytes()).expect("Ed25519 signs");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// An idempotency key that was not used before.
    pub(crate) fn key(&self) -> bytes::Bytes {
        let mut keys = self.keys.lock().expect("no test panics while holding it");
        *keys += 1;
        let mut key = vec![0; 8];
        key.extend_from_slice(&keys.to_be_bytes());
        key.into()
    }

    /// An item with a new key and this evidence.
    pub(crate) fn item(&self, evidence: wire::issue_item::Evidence) -> wire::IssueItem {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        wire::IssueItem {
            idempotency_key: self.key(),
            csr: key.create_csr().expect("a request").into(),
            evidence: Some(evidence),
            urgency: wire::Urgency::Start as i32,
            ..wire::IssueItem::default()
        }
    }

    /// The codes of the refusals in the ledger of whom `identity` names.
    pub(crate) async fn recorded(&self, identity: &str) -> Vec<String> {
        let query = Query::Identity(identity.to_owned());
        let ca = Arc::clone(&self.ca);
        let page = tokio::task::spawn_blocking(move || ca.ledger.search(&query, 100, "")).await;
        let page = page.expect("no panic").expect("the ledger can be searched");
        page.records.iter().map(|entry| entry.to_json()).collect()
    }
}

/// A bundle of one new root.
pub(crate) fn bundle(number: u64) -> TrustBundle {
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let validity = Validity::authority(from, Duration::from_secs(86_400));
    let unsigned = profile::root(key.public_key(), &domain, validity).expect("the profile has it");
    let signature = key.sign(unsigned.to_be_signed()).expect("it signs");
    let root = unsigned.complete(&signature).expect("it keeps the profile");
    let sequence = Sequence { epoch: 1, number };
    TrustBundle::new(domain, sequence, vec![root]).expect("a root makes a bundle")
}

/// The agent of node c1/n1.
pub(crate) fn node() -> Arc<Node> {
    Arc::new(Node {
        name: NodeName {
            cluster: "c1".into(),
            node: "n1".into(),
        },
        id: "spiffe://example.org/arx/node/c1/n1".into(),
        serial: Serial::from_bytes(&[1]).expect("a serial"),
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000_000),
        issuers: [].into(),
    })
}
