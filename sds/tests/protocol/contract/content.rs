//! What secrets hold: lines 9 to 12, 14, 17 and 18.

use arx_identity::{CertChain, KeyAlgorithm, PrivateKey, Svid, TrustBundle};
use arx_sds::{Snapshot, SnapshotError};

use super::{both, caller};
use crate::client::{World, ack, ask, delta_ack, subscribe};
use crate::secrets::{certificate, delta_secrets, domains, names, roots, secrets, validation};
use crate::testing::Authority;

#[test]
fn contract_09_secrets_that_do_not_go_together_make_no_snapshot() {
    let authority = Authority::new("example.org");
    let impostor = Authority::new("example.org");
    let svid = authority.svid("/web");
    let built = Snapshot::builder()
        .certificate(["default"], &svid)
        .trust(["ROOTCA"], &impostor.bundle(1))
        .build();
    assert!(
        matches!(built, Err(SnapshotError::Unreached { .. })),
        "{built:?}"
    );
    let built = Snapshot::builder()
        .certificate(["default"], &svid)
        .all(["ALL"], &[impostor.bundle(1)])
        .build();
    assert!(
        matches!(built, Err(SnapshotError::Unreached { .. })),
        "{built:?}"
    );
    // A bundle that has it among others, and one of another domain beside it, are fine.
    let other = Authority::new("other.example");
    Snapshot::builder()
        .certificate(["default"], &svid)
        .trust(["ROOTCA"], &impostor.bundle_with(2, &[&authority]))
        .trust(["other"], &other.bundle(1))
        .build()
        .expect("they go together");
    // The rest is what the types promise: no chain without order, no SVID with another's
    // key, no bundle without roots or with a leaf among them.
    let mut chain = svid.chain().certificates().to_vec();
    chain.reverse();
    assert!(CertChain::new(chain).is_err());
    assert!(Svid::new(svid.chain().clone(), authority.svid("/web").key().clone()).is_err());
    let leaf = svid.chain().leaf().clone();
    let sequence = authority.bundle(1).sequence();
    assert!(TrustBundle::new(authority.trust_domain.clone(), sequence, vec![leaf]).is_err());
    assert!(TrustBundle::new(authority.trust_domain.clone(), sequence, vec![]).is_err());
}

#[tokio::test(start_paused = true)]
async fn contract_10_no_validation_context_is_without_roots() {
    let authority = Authority::new("example.org");
    let empty = Snapshot::builder().all(["ALL"], &[]).build();
    assert!(
        matches!(empty, Err(SnapshotError::NoTrustDomain(_))),
        "{empty:?}"
    );
    let snapshot = Snapshot::builder()
        .trust(["ROOTCA", "spiffe://example.org"], &authority.bundle(1))
        .all(["ALL"], &[authority.bundle(1)])
        .build()
        .expect("a snapshot");
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send(&ask(&["ROOTCA", "spiffe://example.org", "ALL"]));
    let secrets = secrets(&stream.next().await);
    assert_eq!(secrets.len(), 3);
    for secret in &secrets {
        let context = validation(secret);
        assert!(context.trusted_ca.is_some() != context.custom_validator_config.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn contract_11_key_and_chain_are_one_secret_and_each_step_of_a_rotation_can_be_awaited() {
    let (old, svid, snapshot) = caller();
    let new = Authority::new("example.org");
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut leaf = client.state_of_the_world().await;
    let mut bundle = client.state_of_the_world().await;
    leaf.send(&ask(&["default"]));
    let response = leaf.next().await;
    bundle.send(&ask(&["ROOTCA"]));
    let (chain, key) = certificate(&response);
    let key = PrivateKey::from_pem(&key).expect("a key");
    let chain = CertChain::from_pem(&chain).expect("a chain");
    assert_eq!(
        chain.leaf().public_key().spki_der(),
        key.public_key().spki_der()
    );
    leaf.send(&ack(&["default"], &response));
    let response = bundle.next().await;
    bundle.send(&ack(&["ROOTCA"], &response));
    while world.event().await != "2 acked ROOTCA" {}

    let build = |svid: &Svid, bundle: &TrustBundle| {
        Snapshot::builder()
            .certificate(["default"], svid)
            .trust(["ROOTCA"], bundle)
            .build()
    };
    // bundle [old, new] -> confirmed
    let wide = old.bundle_with(2, &[&new]);
    world.show(build(&svid, &wide).expect("a snapshot"));
    let response = bundle.next().await;
    assert_eq!(roots(&response), wide.pem());
    bundle.send(&ack(&["ROOTCA"], &response));
    world
        .expect_events(&["2 sent ROOTCA", "2 acked ROOTCA"])
        .await;
    // -> leaf of the new -> confirmed
    let renewed = new.svid("/ns/shop/sa/web");
    world.show(build(&renewed, &wide).expect("a snapshot"));
    let response = leaf.next().await;
    assert_eq!(certificate(&response).0, renewed.chain().pem());
    leaf.send(&ack(&["default"], &response));
    world
        .expect_events(&["1 sent default", "1 acked default"])
        .await;
    // -> bundle [new]; a leaf of the old would not even make a snapshot with it.
    assert!(build(&svid, &new.bundle(3)).is_err());
    world.show(build(&renewed, &new.bundle(3)).expect("a snapshot"));
    assert_eq!(roots(&bundle.next().await), new.bundle(3).pem());
    leaf.is_silent().await;
}

#[tokio::test(start_paused = true)]
async fn contract_12_a_rotation_is_pushed_once_per_stream_with_the_same_bytes() {
    let (authority, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut client = world.connect().await;
        for _ in 0..4 {
            let mut stream = client.state_of_the_world().await;
            stream.send(&ask(&["default"]));
            let response = stream.next().await;
            stream.send(&ack(&["default"], &response));
            streams.push((stream, response));
        }
        clients.push(client);
    }
    let renewed = authority.svid("/ns/shop/sa/web");
    let snapshot = both(&authority, &renewed, 1);
    world.show(snapshot.clone());
    // A snapshot that says nothing new, also if built from scratch, is no rotation.
    world.show(snapshot);
    let mut pushed = Vec::new();
    for (stream, before) in &mut streams {
        let response = stream.next().await;
        assert_ne!(response.version_info, before.version_info);
        stream.send(&ack(&["default"], &response));
        pushed.push(response);
    }
    assert!(pushed.iter().all(|response| *response == pushed[0]));
    world.show(both(&authority, &renewed, 1));
    for (stream, _) in &mut streams {
        stream.is_silent().await;
    }
}

#[test]
fn contract_14_versions_follow_from_the_content_and_survive_a_restart() {
    let (authority, svid, snapshot) = caller();
    let version =
        |snapshot: &Snapshot, name: &str| snapshot.get(name).expect("there").version().to_string();
    // Built anew from what a cache on disk holds.
    let key = PrivateKey::from_pem(&svid.key().pkcs8_pem()).expect("a key");
    let chain = CertChain::from_pem(&svid.chain().pem()).expect("a chain");
    let restored = Svid::new(chain, key.into()).expect("an SVID");
    let again = both(&authority, &restored, 1);
    for name in ["default", "ROOTCA"] {
        assert_eq!(version(&snapshot, name), version(&again, name));
    }
    let other = both(&authority, &authority.svid("/ns/shop/sa/web"), 2);
    for name in ["default", "ROOTCA"] {
        assert_ne!(version(&snapshot, name), version(&other, name));
    }
    assert!(version(&snapshot, "default").starts_with(&format!("{}-", svid.serial())));
    // The same roots at another place in the history are another version.
    assert!(version(&snapshot, "ROOTCA").starts_with("1.1-"));
    assert!(version(&other, "ROOTCA").starts_with("1.2-"));
}

#[tokio::test(start_paused = true)]
async fn contract_17_each_trust_domain_has_its_own_roots_and_they_come_and_go_by_push() {
    let (a, b) = (Authority::new("a.example"), Authority::new("b.example"));
    let all = |bundles: &[TrustBundle]| Snapshot::builder().all(["ALL"], bundles).build();
    let mut world = World::new(all(&[a.bundle(1)]).expect("a snapshot"));
    let mut client = world.connect().await;
    let mut stream = client.delta().await;
    stream.send(&subscribe(&["ALL"]));
    let steps = [vec![&a], vec![&b, &a], vec![&b]];
    for step in steps {
        let bundles: Vec<TrustBundle> = step.iter().map(|authority| authority.bundle(1)).collect();
        world.show(all(&bundles).expect("a snapshot"));
        let response = stream.next().await;
        let secrets = delta_secrets(&response);
        let mut expected: Vec<(String, String)> = bundles
            .iter()
            .map(|bundle| (bundle.trust_domain().to_string(), bundle.pem()))
            .collect();
        expected.sort();
        let context = validation(&secrets[0]);
        assert_eq!(domains(context), expected);
        assert_eq!(context.trusted_ca, None);
        stream.send(&delta_ack(&response));
    }
    let twice = all(&[a.bundle(1), a.bundle(2)]);
    assert!(
        matches!(twice, Err(SnapshotError::TwoBundles { .. })),
        "{twice:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn contract_18_keys_are_pkcs8_and_leaves_have_one_spiffe_id() {
    let authority = Authority::new("example.org");
    let mut world = World::new(Snapshot::default());
    let mut client = world.connect().await;
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Rsa(2048),
    ] {
        let svid = match PrivateKey::generate(algorithm) {
            Ok(_) => authority.svid_of("/web", algorithm),
            // The `ring` provider makes no RSA keys.
            Err(_) => continue,
        };
        world.show(both(&authority, &svid, 1));
        let mut stream = client.state_of_the_world().await;
        stream.send(&ask(&["default"]));
        let response = stream.next().await;
        assert_eq!(names(&secrets(&response)), ["default"]);
        let (chain, key) = certificate(&response);
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8");
        assert_eq!(
            PrivateKey::from_pem(&key)
                .expect("a key")
                .public_key()
                .algorithm(),
            algorithm
        );
        let chain = CertChain::from_pem(&chain).expect("a chain");
        assert_eq!(chain.leaf().uris(), ["spiffe://example.org/web"]);
        assert!(!chain.leaf().is_ca());
        use arx_identity::profile::{Kind, violations};
        assert_eq!(violations(chain.leaf(), Kind::Leaf), []);
    }
}
