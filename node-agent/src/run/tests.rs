//! A whole agent between an authority and proxies, all over real sockets.

mod pods;
mod replicas;
mod unseen;

use super::*;
use crate::testing::proxy::{Proxy, Stream};
use crate::testing::server::{self, Told};
use crate::testing::{self, id};
use arx_daemon::drain::Cause;
use arx_identity::verify;
use arx_proto::node::v1::{
    AgentMessage, Inventory, Presence, RenewalHint, SubscriberState, TrustPosition, agent_message,
    authority_message, issue_item,
};
use std::path::Path;
use tonic::Code;

/// A node: its directory, and the agent while it runs.
struct Node {
    directory: tempfile::TempDir,
    /// Its addresses, with a space between.
    authority: String,
    /// How long one of several may take to answer.
    patience: &'static str,
    extra: String,
    drain: Drain,
    running: Option<Running>,
}

impl Node {
    async fn start(ca: &server::Running) -> Self {
        Self::with(ca, "").await
    }

    async fn with(ca: &server::Running, extra: &str) -> Self {
        let mut node = Self::prepare(ca, extra);
        node.begin().await;
        node
    }

    fn prepare(ca: &server::Running, extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let root = ca.mind().authority.root.pem();
        std::fs::write(path("bundle.pem"), root).expect("writable");
        std::fs::write(path("token"), testing::JWT).expect("writable");
        Self {
            directory,
            authority: ca.ca.address.clone(),
            patience: "60s",
            extra: extra.to_owned(),
            drain: Drain::new(GRACE),
            running: None,
        }
    }

    fn config(&self) -> Config {
        let path = self.directory.path().join("agent.toml");
        let (directory, authority, extra) = (
            self.directory.path().display(),
            match self.authority.split_once(' ') {
                None => format!("address = \"{}\"", self.authority),
                Some(_) => format!(
                    "addresses = [\"{}\"], rebalance = \"100ms\", connect_timeout = \"{}\"",
                    self.authority.replace(' ', "\", \""),
                    self.patience
                ),
            },
            &self.extra,
        );
        let text = format!(
            r#"
            trust_domain = "example.org"
            cluster = "demo"
            node = "node-1"
            authority = {{ {authority}, bundle_file = "{directory}/bundle.pem", token_file = "{directory}/token", longest_retry = "200ms" }}
            socket = {{ path = "{directory}/sds.sock" }}
            state = {{ directory = "{directory}/state", cache_key_file = "{directory}/run/cache.key" }}
            ops = {{ address = "127.0.0.1:0" }}
            {extra}
            "#
        );
        let text = text.replace("{HERE}", &directory.to_string());
        std::fs::write(&path, text).expect("writable");
        Config::load(&path).expect("a good configuration")
    }

    async fn begin(&mut self) {
        self.drain = Drain::new(GRACE);
        let clock = Clock::system();
        let started = start(self.config(), &clock, &self.drain).await;
        self.running = Some(started.expect("it starts").0);
    }

    async fn end(&mut self) {
        self.drain.request(Cause::Finished);
        if let Some(running) = self.running.take() {
            assert_eq!(running.tasks.finish().await, [], "everything ended in time");
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("sds.sock")
    }

    async fn proxy(&self) -> Proxy {
        Proxy::connect(&self.socket()).await
    }

    fn readiness(&self) -> &Readiness {
        &self.running.as_ref().expect("it runs").readiness
    }
}

fn local() -> String {
    format!("/local/{}", rustix::process::getuid().as_raw())
}

fn named(state: &SubscriberState, name: &str) -> bool {
    let subscriber = state.subscriber.as_ref();
    subscriber.is_some_and(|s| s.resource_name == name)
}

fn number(position: &TrustPosition) -> u64 {
    position.sequence.as_ref().map_or(0, |s| s.number)
}

fn inventory(told: &Told) -> Option<Inventory> {
    match told {
        Told::Up(AgentMessage {
            message: Some(agent_message::Message::Inventory(inventory)),
        }) => Some(inventory.clone()),
        _ => None,
    }
}

/// Waits until something that was asked for has not come, because something that was
/// asked for later has.
async fn is_silent(stream: &mut Stream) -> bool {
    tokio::select! {
        biased;
        _ = stream.next() => false,
        () = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn a_proxy_gets_its_certificate_and_the_roots_and_what_it_takes_is_told() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let proxy = node.proxy().await;
    let (mut own, mut roots) = (proxy.ask("default", None), proxy.ask("ROOTCA", None));
    let chain = own.take().await.expect("a certificate").chain();
    assert_eq!(*chain.spiffe_id(), id(&local()));
    let served = roots.take().await.expect("roots").roots();
    let bundle = ca.mind().bundle.clone();
    assert_eq!(served, bundle.roots());
    verify(&chain, &bundle, server::now()).expect("it reaches the roots");

    let serial = chain.leaf().serial().as_bytes().to_vec();
    let state = ca
        .hear_state(|s| named(s, "default") && !s.acked_serial.is_empty())
        .await;
    assert_eq!(state.acked_serial, serial);
    assert_eq!(state.spiffe_id, id(&local()).to_string());
    assert_eq!(state.presence(), Presence::Connected);
    let state = ca
        .hear_state(|s| named(s, "ROOTCA") && s.acked_trust.is_some())
        .await;
    let acked = state
        .acked_trust
        .and_then(|t| t.sequence)
        .expect("a sequence");
    assert_eq!((acked.epoch, acked.number), (1, 1));
    node.readiness().ready().await;
}

#[tokio::test]
async fn inventories_name_every_leaf_and_the_nodes_own() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let mut own = node.proxy().await.ask("default", None);
    let serial = own
        .take()
        .await
        .expect("a certificate")
        .chain()
        .leaf()
        .serial()
        .clone();
    let leaves = ca
        .hear(|told| {
            let leaves = inventory(told)?.leaves;
            let there = leaves.iter().any(|leaf| leaf.serial == serial.as_bytes());
            there.then_some(leaves)
        })
        .await;
    assert_eq!(leaves.len(), 2);
    assert!(leaves.iter().all(|leaf| leaf.current));
    assert!(
        leaves
            .iter()
            .any(|leaf| leaf.spiffe_id == id(server::NODE).to_string())
    );
    let root = ca
        .mind()
        .authority
        .root
        .subject_key_id()
        .expect("a root has one");
    assert!(
        leaves
            .iter()
            .all(|leaf| leaf.root_key_id == root.as_bytes()[..])
    );
}

#[tokio::test]
async fn a_proxy_gets_only_its_own_identity_whatever_names_it_asks() {
    let ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let proxy = node.proxy().await;
    let other = id("/local/other").to_string();
    let mut strangers: Vec<_> = [
        other.as_str(),
        "no-such-name",
        &id(server::NODE).to_string(),
        "spiffe://other.org",
    ]
    .map(|name| proxy.ask(name, None))
    .into();
    for (name, certificate) in [
        (id(&local()).to_string(), true),
        ("spiffe://example.org".to_owned(), false),
    ] {
        let got = proxy.ask(&name, None).take().await.expect(&name);
        assert_eq!(matches!(got.secret.r#type, Some(arx_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type::TlsCertificate(_))), certificate);
    }
    let all = proxy.ask("ALL", None).take().await.expect("all roots");
    assert!(all.version.starts_with("all-"));
    for stranger in &mut strangers {
        assert!(is_silent(stranger).await);
    }
}

#[tokio::test]
async fn streams_and_connections_of_one_workload_share_one_certificate() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let mut serials = std::collections::BTreeSet::new();
    let proxies = [node.proxy().await, node.proxy().await];
    for proxy in &proxies {
        for _ in 0..3 {
            let got = proxy
                .ask("default", None)
                .take()
                .await
                .expect("a certificate");
            serials.insert(got.chain().leaf().serial().to_string());
        }
    }
    assert_eq!(serials.len(), 1);
    drop(proxies);
    let items = ca.hear(|told| match told {
        Told::Issue(items) => Some(items.len()),
        _ => None,
    });
    assert_eq!(items.await, 1);
}

#[tokio::test]
async fn a_wish_of_the_authority_renews_at_once_and_with_another_key() {
    let ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let proxy = node.proxy().await;
    let mut own = proxy.ask("default", None);
    let old = own.take().await.expect("a certificate").chain();
    ca.say(authority_message::Message::Renew(RenewalHint {
        renew_by_unix_ms: crate::wire::unix_ms(server::now()),
        serials: vec![old.leaf().serial().as_bytes().to_vec().into()],
        ..RenewalHint::default()
    }));
    let new = own.take().await.expect("the next one").chain();
    assert_eq!(new.spiffe_id(), old.spiffe_id());
    assert_ne!(new.leaf().public_key(), old.leaf().public_key());
}

#[tokio::test]
async fn new_roots_are_stored_then_pushed_and_confirmed_at_their_sequence() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let mut roots = node.proxy().await.ask("ROOTCA", None);
    roots.take().await.expect("roots");
    let old = ca.mind().authority.root.clone();
    let next = testing::Authority::made(server::now()).root;
    ca.publish(2, &[&old, &next]);
    let got = roots.take().await.expect("both roots");
    assert_eq!(got.roots(), [old, next]);
    let (mut stored, mut confirmed) = (false, false);
    let both = ca.hear(|told| {
        let Told::Up(AgentMessage { message }) = told else {
            return None;
        };
        match message {
            Some(agent_message::Message::Stored(position)) => stored |= number(position) == 2,
            Some(agent_message::Message::Subscribers(report)) => {
                let mut roots = report.states.iter().filter(|s| named(s, "ROOTCA"));
                confirmed |= roots.any(|s| s.acked_trust.as_ref().is_some_and(|t| number(t) == 2));
            }
            _ => {}
        }
        (stored && confirmed).then_some(())
    });
    both.await;
}

#[tokio::test]
async fn roots_are_told_to_be_stored_only_behind_everybody_who_was_given_others_before() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    node.proxy()
        .await
        .ask("ROOTCA", None)
        .take()
        .await
        .expect("roots");
    // It has the old roots, and nothing of that was written or told yet.
    let mut late = node.proxy().await.ask("spiffe://example.org", None);
    late.next().await.expect("roots");
    let next = testing::Authority::made(server::now()).root;
    let old = ca.mind().authority.root.clone();
    ca.publish(2, &[&old, &next]);
    let mut told = false;
    let ordered = ca.hear(|message| match message {
        Told::Up(AgentMessage {
            message: Some(agent_message::Message::Subscribers(report)),
        }) => {
            let mut states = report.states.iter();
            told |= states.any(|state| named(state, "spiffe://example.org"));
            None
        }
        Told::Up(AgentMessage {
            message: Some(agent_message::Message::Stored(position)),
        }) => (number(position) == 2).then_some(told),
        _ => None,
    });
    assert!(ordered.await);
}

#[tokio::test]
async fn an_authority_that_goes_back_is_not_believed() {
    let ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let mut roots = node.proxy().await.ask("ROOTCA", None);
    roots.take().await.expect("roots");
    let old = ca.mind().authority.root.clone();
    let next = testing::Authority::made(server::now()).root;
    ca.publish(3, &[&old, &next]);
    roots.take().await.expect("both roots");
    ca.publish(2, &[&old]);
    ca.publish(3, &[&next]);
    ca.publish(4, &[&next, &old]);
    let got = roots.take().await.expect("what comes after");
    assert!(got.version.starts_with("1.4-"), "{}", got.version);
}

#[tokio::test]
async fn after_a_restart_without_the_authority_the_same_certificate_is_served() {
    let mut ca = server::Running::start().await;
    let mut node = Node::start(&ca).await;
    let proxy = node.proxy().await;
    let (mut own, mut roots) = (proxy.ask("default", None), proxy.ask("ROOTCA", None));
    let (certificate, trust) = (
        own.take().await.expect("one"),
        roots.take().await.expect("one"),
    );
    ca.stop().await;
    node.end().await;
    for stream in [&mut own, &mut roots] {
        let ended = stream.next().await.expect_err("the agent is gone");
        assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    }
    node.begin().await;
    let proxy = node.proxy().await;
    let again = proxy
        .ask("default", None)
        .take()
        .await
        .expect("from the cache");
    assert_eq!(again.version, certificate.version);
    let again = proxy
        .ask("ROOTCA", None)
        .take()
        .await
        .expect("from the cache");
    assert_eq!(again.version, trust.version);
}

#[tokio::test]
async fn a_restart_forgets_no_subscriber_and_a_lost_authority_is_found_again() {
    let mut ca = server::Running::start().await;
    let mut node = Node::start(&ca).await;
    let mut own = node.proxy().await.ask("default", None);
    let serial = own
        .take()
        .await
        .expect("a certificate")
        .chain()
        .leaf()
        .serial()
        .clone();
    let acked = |s: &SubscriberState| named(s, "default") && s.acked_serial == serial.as_bytes();
    ca.hear_state(acked).await;
    node.end().await;
    node.begin().await;
    // This very process held it, and is alive: it is away, and not forgotten.
    let state = ca.hear_state(acked).await;
    assert_eq!(state.presence(), Presence::Away);
    ca.again().await;
    let state = ca.hear_state(acked).await;
    assert_eq!(state.presence(), Presence::Away);
}

#[tokio::test]
async fn a_refusal_by_a_proxy_is_told_with_its_words() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let mut roots = node.proxy().await.ask("ROOTCA", None);
    let got = roots.next().await.expect("roots");
    roots.refuse(&got, "Failed to load trusted CA certificate");
    let state = ca
        .hear_state(|s| named(s, "ROOTCA") && s.nack.is_some())
        .await;
    assert!(state.acked_trust.is_none());
    let nack = state.nack.expect("said so");
    assert_eq!(nack.detail, "Failed to load trusted CA certificate");
    assert_eq!(nack.content_sha256, ca.mind().bundle.sha256()[..]);
}

#[tokio::test]
async fn who_is_refused_gets_the_roots_and_silence() {
    let mut ca = server::Running::start().await;
    ca.mind().refuse_local = true;
    let node = Node::start(&ca).await;
    let proxy = node.proxy().await;
    let (mut own, mut roots) = (proxy.ask("default", None), proxy.ask("ROOTCA", None));
    roots.take().await.expect("roots are for everybody");
    let refused = ca.hear(|told| matches!(told, Told::Issue(_)).then_some(()));
    refused.await;
    assert!(is_silent(&mut own).await);
}

#[tokio::test]
async fn a_token_in_the_metadata_is_shown_to_the_authority_and_a_forged_one_gets_nothing() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let good = testing::token("a:web", "u-1", 4_000_000_000, "good");
    let forged = testing::token("a:web", "u-1", 4_100_000_000, "forged");
    let signature = forged.rsplit('.').next().unwrap_or_default().to_owned();
    ca.mind().forged.insert(signature);
    // From a process that has nothing yet.
    let proxy = node.proxy().await;
    let mut thief = proxy.ask("default", Some(&forged));
    let shown = ca.hear(|told| match told {
        Told::Issue(items) => items.iter().find_map(|item| match &item.evidence {
            Some(issue_item::Evidence::ServiceAccountToken(token)) => Some(token.clone()),
            _ => None,
        }),
        _ => None,
    });
    assert_eq!(shown.await, forged);
    let got = proxy
        .ask("default", Some(&good))
        .take()
        .await
        .expect("a certificate");
    assert_eq!(*got.chain().spiffe_id(), id("/sa/web"));
    assert!(is_silent(&mut thief).await);
}

#[tokio::test]
async fn what_is_no_token_ends_its_stream_alone() {
    let ca = server::Running::start().await;
    let node = Node::with(&ca, "attestation = { attestors = [\"token\"] }").await;
    let proxy = node.proxy().await;
    let good = testing::token("a:web", "u-1", 4_000_000_000, "good");
    for token in [Some("nonsense"), None] {
        let refused = proxy
            .ask("default", token)
            .next()
            .await
            .expect_err("no evidence");
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    proxy
        .ask("default", Some(&good))
        .take()
        .await
        .expect("another stream");
}

#[tokio::test]
async fn an_expired_token_is_refused_with_what_to_do() {
    let ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let expired = testing::token("a:web", "u-1", 1_700_000_000, "old");
    let mut stream = node.proxy().await.ask("default", Some(&expired));
    let refused = stream.next().await.expect_err("nothing can come of it");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("send a fresh one"), "{refused}");
}

#[tokio::test]
async fn many_identities_are_renewed_in_few_calls() {
    const IDENTITIES: usize = 250;
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let mut streams = Vec::new();
    for n in 0..IDENTITIES / 10 {
        let proxy = node.proxy().await;
        streams.extend((0..10).map(|m| {
            let account = format!("a:web-{n}-{m}");
            proxy.ask(
                "default",
                Some(&testing::token(&account, "u-1", 4_000_000_000, "good")),
            )
        }));
    }
    let mut old = Vec::new();
    for stream in &mut streams {
        let chain = stream.take().await.expect("a certificate").chain();
        old.push(chain.leaf().serial().clone());
    }
    let calls = async |ca: &mut server::Running| {
        let mut calls = Vec::new();
        while calls.iter().sum::<usize>() < IDENTITIES {
            let call = ca.hear(|told| match told {
                Told::Issue(items) => Some(items.len()),
                _ => None,
            });
            calls.push(call.await);
        }
        calls
    };
    calls(&mut ca).await;
    ca.say(authority_message::Message::Renew(RenewalHint {
        renew_by_unix_ms: crate::wire::unix_ms(server::now()),
        serials: old
            .iter()
            .map(|serial| serial.as_bytes().to_vec().into())
            .collect(),
        ..RenewalHint::default()
    }));
    for (stream, old) in streams.iter_mut().zip(&old) {
        let chain = stream.take().await.expect("the next one").chain();
        assert_ne!(chain.leaf().serial(), old);
    }
    assert_eq!(calls(&mut ca).await, [50; 5]);
}

#[tokio::test]
async fn a_node_whose_certificate_has_expired_joins_again() {
    let mut ca = server::Running::start().await;
    ca.mind().node_ttl = Duration::from_secs(1);
    let mut node = Node::start(&ca).await;
    let joined = |told: &Told| matches!(told, Told::Join).then_some(());
    ca.hear(joined).await;
    ca.stop().await;
    // As after a long sleep.
    let expired = server::now() + Duration::from_secs(2);
    while server::now() < expired {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ca.mind().node_ttl = Duration::from_secs(3600);
    ca.again().await;
    ca.hear(joined).await;
    node.proxy()
        .await
        .ask("default", None)
        .take()
        .await
        .expect("a certificate");
    node.end().await;
}

#[tokio::test]
async fn the_nodes_own_certificate_is_renewed_over_the_open_connection() {
    let mut ca = server::Running::start().await;
    let node = Node::start(&ca).await;
    let own = |told: &Told| match told {
        Told::Up(AgentMessage {
            message: Some(agent_message::Message::Hello(_)),
        }) => Some(()),
        _ => None,
    };
    ca.hear(own).await;
    ca.say(authority_message::Message::Renew(RenewalHint {
        renew_by_unix_ms: crate::wire::unix_ms(server::now()),
        ..RenewalHint::default()
    }));
    let renewed = ca.hear(|told| match told {
        Told::Issue(items) => items.iter().find_map(|item| match item.evidence {
            Some(issue_item::Evidence::Node(_)) => Some(item.replaces_serial.clone()),
            _ => None,
        }),
        _ => None,
    });
    assert!(!renewed.await.is_empty());
    // The next connection shows it.
    ca.hear(own).await;
    node.readiness().ready().await;
}

#[tokio::test]
async fn a_foreign_authority_is_not_believed() {
    let ca = server::Running::start().await;
    let other = server::Running::start().await;
    let mut node = Node::start(&ca).await;
    node.end().await;
    let _ = std::fs::remove_dir_all(node.directory.path().join("state"));
    node.authority = other.ca.address.clone();
    node.begin().await;
    let mut changes = tokio::time::interval(Duration::from_millis(20));
    loop {
        let failing = node.readiness().failing();
        if failing
            .iter()
            .any(|f| f.code == "ARX-AGENT-AUTHORITY-UNTRUSTED")
        {
            break;
        }
        changes.tick().await;
    }
    node.end().await;
}

#[tokio::test]
async fn a_second_agent_of_the_same_node_is_refused_and_a_stale_socket_is_replaced() {
    let ca = server::Running::start().await;
    let mut node = Node::start(&ca).await;
    let clock = Clock::system();
    let drain = Drain::new(GRACE);
    let second = start(node.config(), &clock, &drain).await.map(drop);
    let message = second.expect_err("the first one runs").to_string();
    assert!(message.contains("is held by process"), "{message}");
    node.end().await;
    assert!(Path::new(&node.socket()).exists());
    node.begin().await;
    node.proxy()
        .await
        .ask("ROOTCA", None)
        .take()
        .await
        .expect("roots");
}
