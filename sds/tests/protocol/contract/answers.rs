//! What is answered, and what is not: lines 1 to 8.

use arx_sds::{Node, Snapshot};

use super::{both, caller};
use crate::client::{World, ack, ask, delta_ack, first, nack, subscribe};
use crate::secrets::{certificate, delta_secrets, names, roots, secrets};

#[tokio::test(start_paused = true)]
async fn contract_01_one_connection_carries_many_streams_and_none_stands_for_its_caller() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut streams = Vec::new();
    for number in 0..300 {
        let name = if number % 2 == 0 { "default" } else { "ROOTCA" };
        let stream = client.state_of_the_world().await;
        stream.send_bytes(first(&[name]));
        streams.push((name, stream));
    }
    for (name, stream) in &mut streams {
        assert_eq!(names(&secrets(&stream.next().await)), [*name]);
    }
    // One that ends takes no other with it.
    let (_, mut stream) = streams.remove(0);
    stream.half_close();
    assert_eq!(stream.end().await.0, tonic::Code::Ok);
    let (_, left) = streams.last_mut().expect("299 streams");
    left.send(&ask(&["ROOTCA", "default"]));
    assert_eq!(names(&secrets(&left.next().await)), ["default"]);
}

#[tokio::test(start_paused = true)]
async fn contract_02_every_first_request_is_answered_and_only_id_and_cluster_are_kept_of_61_kb() {
    let (_, svid, snapshot) = caller();
    let version = snapshot
        .get("default")
        .expect("there")
        .version()
        .to_string();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["default"]));
    let response = stream.next().await;
    assert_eq!(certificate(&response).0, svid.chain().pem());
    // Whatever it says to have, even with a nonce that is another stream's.
    for claim in ["", "v1", &version] {
        for nonce in ["", &response.nonce, "else"] {
            let mut stream = client.state_of_the_world().await;
            let mut request = ask(&["default"]);
            request.version_info = claim.to_owned();
            request.response_nonce = nonce.to_owned();
            stream.send(&request);
            assert_eq!(
                stream.next().await,
                response,
                "claims {claim:?}, nonce {nonce:?}"
            );
            stream.is_silent().await;
        }
    }
    let mut delta = client.delta().await;
    let mut request = subscribe(&["default"]);
    request
        .initial_resource_versions
        .insert("default".to_owned(), version);
    delta.send(&request);
    // Only its answer proves that it has it.
    assert_eq!(names(&delta_secrets(&delta.next().await)), ["default"]);
    let nodes = world.caller.nodes.lock().expect("no panic while held");
    let node = Node {
        id: "sidecar-1".to_owned(),
        cluster: "web".to_owned(),
    };
    assert_eq!(nodes[0], Some(node));
    assert_eq!(nodes[1], None);
}

#[tokio::test(start_paused = true)]
async fn contract_03_a_response_holds_exactly_the_asked_names_once() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    for asked in [
        vec!["default"],
        vec!["ROOTCA", "default"],
        vec!["default", "default", "ROOTCA"],
    ] {
        let mut expected = asked.clone();
        expected.sort_unstable();
        expected.dedup();
        let mut stream = client.state_of_the_world().await;
        stream.send(&ask(&asked));
        let mut got = secrets(&stream.next().await);
        got.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(names(&got), expected);
        stream.is_silent().await;
        let mut delta = client.delta().await;
        delta.send(&subscribe(&asked));
        let mut got = delta_secrets(&delta.next().await);
        got.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(names(&got), expected);
        delta.is_silent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn contract_04_acks_stale_nonces_and_nacks_are_not_answered() {
    let (authority, svid, snapshot) = caller();
    let mut world = World::new(snapshot.clone());
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["default"]));
    let one = stream.next().await;
    stream.send(&ack(&["default"], &one));
    stream.is_silent().await;
    let mut stale = ack(&["default", "ROOTCA"], &one);
    stale.response_nonce = "long-gone".to_owned();
    stream.send(&stale);
    stream.is_silent().await;
    // Refused: not sent again, not even when it comes back, and the stream goes on.
    let renewed = authority.svid("/ns/shop/sa/web");
    world.show(both(&authority, &renewed, 1));
    let two = stream.next().await;
    stream.send(&nack(&["default"], &one.version_info, &two));
    stream.is_silent().await;
    world.show(snapshot);
    let three = stream.next().await;
    assert_eq!(certificate(&three).0, svid.chain().pem());
    stream.send(&ack(&["default"], &three));
    world.show(both(&authority, &renewed, 1));
    stream.is_silent().await;
    let fresh = authority.svid("/ns/shop/sa/web");
    world.show(both(&authority, &fresh, 1));
    assert_eq!(certificate(&stream.next().await).0, fresh.chain().pem());
    world
        .expect_events(&[
            "1 sent default",
            "1 acked default",
            "1 sent default",
            "1 nacked default: bad",
            "1 sent default",
            "1 acked default",
            "1 sent default",
        ])
        .await;
}

#[tokio::test(start_paused = true)]
async fn contract_05_an_empty_list_unsubscribes_and_means_nothing_else() {
    let (authority, svid, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut silent = client.state_of_the_world().await;
    silent.send_bytes(first(&[]));
    silent.is_silent().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["ROOTCA"]));
    let response = stream.next().await;
    stream.send(&ack(&["ROOTCA"], &response));
    stream.send(&ack(&[], &response));
    stream.is_silent().await;
    world.show(both(&authority, &svid, 2));
    stream.is_silent().await;
    silent.is_silent().await;
    // As Envoy does when the last user is gone.
    stream.half_close();
    assert_eq!(stream.end().await.0, tonic::Code::Ok);
    world
        .expect_events(&[
            "2 sent ROOTCA",
            "2 acked ROOTCA",
            "2 unsubscribed ROOTCA",
            "2 closed",
        ])
        .await;
}

#[tokio::test(start_paused = true)]
async fn contract_06_a_name_that_is_asked_for_again_is_answered_again() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send(&ask(&["default", "ROOTCA"]));
    let one = stream.next().await;
    stream.send(&ack(&["default", "ROOTCA"], &one));
    stream.send(&ack(&["ROOTCA"], &one));
    // Old version, old nonce, longer list.
    stream.send(&ack(&["ROOTCA", "default"], &one));
    let two = stream.next().await;
    assert_eq!(names(&secrets(&two)), ["default"]);
    // The same response once more, but not the same nonce: an answer to the first one
    // that is still on its way is not taken for an answer to this.
    stream.send(&ack(&["ROOTCA"], &two));
    stream.send(&ack(&["ROOTCA", "default"], &two));
    let three = stream.next().await;
    assert_eq!(three.resources, two.resources);
    assert_ne!(three.nonce, two.nonce);
    stream.send(&ack(&["ROOTCA", "default"], &three));
    stream.is_silent().await;
    // Back to back, as on ADS, without a nonce and without waiting.
    let mut eager = client.state_of_the_world().await;
    eager.send(&ask(&["default"]));
    let first = eager.next().await;
    eager.send(&ask(&["ROOTCA", "default"]));
    assert_eq!(names(&secrets(&eager.next().await)), ["ROOTCA"]);
    eager.send(&ack(&["ROOTCA", "default"], &first));
    eager.is_silent().await;
    // Delta: by subscribing again, with or without unsubscribing in between.
    let mut delta = client.delta().await;
    for _ in 0..2 {
        delta.send(&subscribe(&["default"]));
        assert_eq!(names(&delta_secrets(&delta.next().await)), ["default"]);
    }
    let mut unsubscribe = subscribe(&[]);
    unsubscribe.resource_names_unsubscribe = vec!["default".to_owned()];
    delta.send(&unsubscribe);
    delta.is_silent().await;
    delta.send(&subscribe(&["default"]));
    let response = delta.next().await;
    assert_eq!(names(&delta_secrets(&response)), ["default"]);
    delta.send(&delta_ack(&response));
    delta.is_silent().await;
}

#[tokio::test(start_paused = true)]
async fn contract_07_what_is_not_ready_is_waited_for_in_silence() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(Snapshot::default());
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["default", "ROOTCA"]));
    let mut delta = client.delta().await;
    delta.send(&subscribe(&["ROOTCA"]));
    stream.is_silent().await;
    delta.is_silent().await;
    // One is ready: it goes alone.
    world.show(
        Snapshot::builder()
            .with(&snapshot)
            .without("default")
            .build()
            .expect("a snapshot"),
    );
    let response = stream.next().await;
    roots(&response);
    stream.send(&ack(&["default", "ROOTCA"], &response));
    let response = delta.next().await;
    assert_eq!(names(&delta_secrets(&response)), ["ROOTCA"]);
    delta.send(&delta_ack(&response));
    world.show(snapshot.clone());
    certificate(&stream.next().await);
    // Gone, and there again: neither is worth a word.
    world.show(Snapshot::default());
    delta.is_silent().await;
    world.show(snapshot);
    delta.is_silent().await;
    stream.is_silent().await;
}

#[tokio::test(start_paused = true)]
async fn contract_08_unknown_and_forbidden_names_get_silence_and_strangers_a_status() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut known = client.state_of_the_world().await;
    known.send_bytes(first(&["default"]));
    let response = known.next().await;
    known.send(&ack(&["default"], &response));
    for name in [
        "",
        "*",
        "spiffe://example.org/ns/shop/sa/admin",
        "no such thing",
    ] {
        let mut stream = client.state_of_the_world().await;
        stream.send(&ask(&[name]));
        stream.is_silent().await;
        let mut delta = client.delta().await;
        delta.send(&subscribe(&[name]));
        delta.is_silent().await;
    }
    let path = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
    let request = client.request(path).header("stranger", "yes");
    let mut stranger = client
        .call::<arx_proto::envoy::service::discovery::v3::DiscoveryResponse>(request)
        .await;
    stranger.send(&ask(&["default"]));
    let (code, message) = stranger.end().await;
    assert_eq!(code, tonic::Code::PermissionDenied);
    assert_eq!(message, "nobody knows you, \u{e4}sk");
    known.send(&ack(&["default", "ROOTCA"], &response));
    roots(&known.next().await);
}
