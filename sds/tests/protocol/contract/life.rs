//! How streams live and end: lines 13, 15, 16, 19 and 20.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::{both, caller};
use crate::client::{World, ack, ask, delta_ack, first, subscribe};
use crate::secrets::{certificate, delta_secrets, names, roots, secrets};

#[tokio::test(start_paused = true)]
async fn contract_13_the_server_pushes_without_being_asked() {
    let (authority, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["default"]));
    let response = stream.next().await;
    stream.send(&ack(&["default"], &response));
    for _ in 0..3 {
        let renewed = authority.svid("/ns/shop/sa/web");
        world.show(both(&authority, &renewed, 1));
        let at = Instant::now();
        let response = stream.next().await;
        assert_eq!(certificate(&response).0, renewed.chain().pem());
        assert_eq!(at.elapsed(), Duration::ZERO, "nothing is waited for");
        stream.send(&ack(&["default"], &response));
    }
    // Also to a client that never answers, which is not waited for much longer.
    let mut mute = client.state_of_the_world().await;
    mute.send(&ask(&["default"]));
    mute.next().await;
    for _ in 0..20 {
        let renewed = authority.svid("/ns/shop/sa/web");
        world.show(both(&authority, &renewed, 1));
        assert_eq!(certificate(&mute.next().await).0, renewed.chain().pem());
    }
}

#[tokio::test(start_paused = true)]
async fn contract_15_streams_are_ended_with_a_status_when_the_server_goes() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["default"]));
    stream.next().await;
    let mut delta = client.delta().await;
    delta.send(&subscribe(&["not ready"]));
    delta.is_silent().await;
    let mut fetch = client.fetch().await;
    fetch.send(&ask(&["not ready"]));
    world.expect_events(&["1 sent default"]).await;
    tokio::task::yield_now().await;
    world.close();
    for (code, message) in [stream.end().await, delta.end().await, fetch.end().await] {
        assert_eq!(code, Code::Unavailable, "{message}");
    }
    let mut late = client.state_of_the_world().await;
    late.send(&ask(&["default"]));
    assert_eq!(late.end().await.0, Code::Unavailable);
    let mut ends = [
        world.event().await,
        world.event().await,
        world.event().await,
    ];
    ends.sort();
    assert_eq!(ends[..2], ["1 closed", "1 ended default"]);
}

#[tokio::test(start_paused = true)]
async fn contract_16_a_connection_carries_a_thousand_streams_and_its_window_is_replenished() {
    let (_, _, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut streams = Vec::new();
    for number in 0..1_100 {
        let stream = client.state_of_the_world().await;
        if number % 10 == 0 {
            // Two of these exceed the connection's window.
            stream.send_bytes(first(&["default"]));
        } else {
            stream.send(&ask(&["default"]));
        }
        streams.push(stream);
    }
    for stream in &mut streams {
        let response = stream.next().await;
        stream.send(&ack(&["default"], &response));
    }
    streams[1_099].is_silent().await;
    drop(client);
    drop(streams);
    let mut closed = 0;
    while closed < 1_100 {
        closed += usize::from(world.event().await.ends_with("closed"));
    }
}

#[tokio::test(start_paused = true)]
async fn contract_19_delta_and_fetch_are_there_and_ads_is_not() {
    let (authority, svid, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;

    let mut delta = client.delta().await;
    delta.send(&subscribe(&["default", "ROOTCA"]));
    let response = delta.next().await;
    assert_eq!(names(&delta_secrets(&response)), ["default", "ROOTCA"]);
    delta.send(&delta_ack(&response));
    world.show(both(&authority, &svid, 2));
    let response = delta.next().await;
    assert_eq!(names(&delta_secrets(&response)), ["ROOTCA"]);
    let mut refusal = delta_ack(&response);
    refusal.error_detail = Some(arx_proto::google::rpc::Status {
        code: 13,
        message: "no".to_owned(),
        ..Default::default()
    });
    delta.send(&refusal);
    delta.is_silent().await;
    let mut unsubscribe = subscribe(&[]);
    unsubscribe.resource_names_unsubscribe = vec!["ROOTCA".to_owned()];
    delta.send(&unsubscribe);
    delta.half_close();
    assert_eq!(delta.end().await.0, Code::Ok);
    world
        .expect_events(&[
            "1 sent default",
            "1 sent ROOTCA",
            "1 acked default",
            "1 acked ROOTCA",
            "1 sent ROOTCA",
            "1 nacked ROOTCA: no",
            "1 unsubscribed ROOTCA",
            "1 ended default",
            "1 closed",
        ])
        .await;

    let mut fetch = client.fetch().await;
    fetch.send(&ask(&["ROOTCA"]));
    fetch.half_close();
    assert_eq!(roots(&fetch.next().await), authority.bundle(2).pem());
    assert_eq!(fetch.end().await.0, Code::Ok);
    world.expect_events(&["2 fetched ROOTCA", "2 closed"]).await;
    // What is not ready is waited for, but not for ever.
    let mut fetch = client.fetch().await;
    fetch.send(&ask(&["default", "elsewhere"]));
    let at = Instant::now();
    assert_eq!(names(&secrets(&fetch.next().await)), ["default"]);
    assert!(at.elapsed() >= Duration::from_secs(15));
    let mut fetch = client.fetch().await;
    fetch.send(&ask(&["elsewhere"]));
    assert_eq!(fetch.end().await.0, Code::Unavailable);
    let mut fetch = client.fetch().await;
    fetch.send(&ask(&[]));
    assert_eq!(fetch.end().await.0, Code::InvalidArgument);

    let paths = [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "/envoy.service.secret.v3.SecretDiscoveryService/Else",
        "/",
    ];
    for path in paths {
        let request = client.request(path);
        let mut stream = client
            .call::<arx_proto::envoy::service::discovery::v3::DiscoveryResponse>(request)
            .await;
        assert_eq!(stream.head.status, http::StatusCode::OK);
        let (code, message) = stream.end().await;
        assert_eq!(code, Code::Unimplemented);
        assert!(message.contains(path), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn contract_20_what_users_must_set_is_written_down_and_a_node_in_the_first_message_is_enough()
{
    let users = include_str!("../../../ENVOY.md");
    for setting in [
        "combined_validation_context",
        "match_typed_subject_alt_names",
        "set_node_on_first_message_only: true",
        "retry_back_off: {base_interval: 0.1s, max_interval: 1s}",
        "connection_keepalive: {interval: 1s, timeout: 1s}",
        "initial_fetch_timeout: 0s",
        "a legal URI authority",
    ] {
        assert!(users.contains(setting), "{setting}");
    }
    let (authority, svid, snapshot) = caller();
    let mut world = World::new(snapshot);
    let mut client = world.connect().await;
    let mut stream = client.state_of_the_world().await;
    stream.send_bytes(first(&["ROOTCA"]));
    let response = stream.next().await;
    stream.send(&ack(&["ROOTCA"], &response));
    world.show(both(&authority, &svid, 2));
    let response = stream.next().await;
    stream.send(&ack(&["ROOTCA"], &response));
    // A proxy that repeats it all the time is no trouble either.
    stream.send_bytes(first(&["ROOTCA"]));
    stream.is_silent().await;
    assert_eq!(
        world
            .caller
            .nodes
            .lock()
            .expect("no panic while held")
            .len(),
        1
    );
}
