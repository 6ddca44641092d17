//! Clients that mean no good, or are broken: none gets more than its own stream's end,
//! and others notice nothing.

use arx_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use arx_sds::Snapshot;
use prost::Message;
use tonic::Code;

use crate::client::{Stream, World, ack, ask, framed, subscribe};
use crate::secrets::{certificate, names, secrets};
use crate::testing::Authority;

fn snapshot(authority: &Authority) -> Snapshot {
    Snapshot::builder()
        .certificate(["default"], &authority.svid("/web"))
        .build()
        .expect("a snapshot")
}

#[tokio::test(start_paused = true)]
async fn broken_messages_end_their_stream_with_a_reason_and_no_other() {
    let authority = Authority::new("example.org");
    let mut world = World::new(snapshot(&authority));
    let mut client = world.connect().await;
    let mut good = client.state_of_the_world().await;
    good.send(&ask(&["default"]));
    good.next().await;
    let many: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let many = DiscoveryRequest {
        resource_names: many,
        ..Default::default()
    }
    .encode_to_vec();
    let long = DiscoveryRequest {
        resource_names: vec!["n".repeat(2_049)],
        ..Default::default()
    };
    let other_type = DiscoveryRequest {
        type_url: "type.googleapis.com/x.Cluster".into(),
        ..Default::default()
    };
    let large = DiscoveryRequest {
        resource_names: (0..3).map(|n| n.to_string().repeat(2_000)).collect(),
        ..Default::default()
    };
    let cases: [(Vec<u8>, Code); 10] = [
        (vec![1, 0, 0, 0, 0], Code::Unimplemented),
        (vec![7, 0, 0, 0, 0], Code::InvalidArgument),
        (vec![0, 0, 0x10, 0, 1], Code::ResourceExhausted),
        (vec![0, 0xff, 0xff, 0xff, 0xff], Code::ResourceExhausted),
        (framed(&many), Code::ResourceExhausted),
        (framed(&long.encode_to_vec()), Code::InvalidArgument),
        (framed(&large.encode_to_vec()), Code::ResourceExhausted),
        (framed(&other_type.encode_to_vec()), Code::InvalidArgument),
        // a name of 2^63 bytes; a node whose own field is longer than it
        (
            framed(&[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            Code::InvalidArgument,
        ),
        (
            framed(&[0x12, 2, 0x0a, 4, 0x1a, 2, b'x', b'y']),
            Code::InvalidArgument,
        ),
    ];
    for (bytes, expected) in cases {
        let mut stream = client.state_of_the_world().await;
        stream.send_bytes(bytes.clone());
        let (code, message) = stream.end().await;
        assert_eq!(
            code,
            expected,
            "{:02x?}: {message}",
            &bytes[..bytes.len().min(20)]
        );
        assert!(!message.is_empty());
    }
    // Cut off within the prefix, and within the message.
    for cut in [3, 9] {
        let mut stream = client.state_of_the_world().await;
        stream.send_bytes(framed(&ask(&["default"]).encode_to_vec())[..cut].to_vec());
        stream.half_close();
        assert_eq!(stream.end().await.0, Code::InvalidArgument);
    }
    let mut fetch = client.fetch().await;
    fetch.half_close();
    assert_eq!(fetch.end().await.0, Code::InvalidArgument);
    // More names than a stream may have, a few at a time.
    let mut delta = client.delta().await;
    for number in 0..101 {
        delta.send(&subscribe(&[&format!("name-{number}")]));
    }
    assert_eq!(delta.end().await.0, Code::ResourceExhausted);
    // And fewer that are long.
    let mut delta = client.delta().await;
    for number in 0..3 {
        delta.send(&subscribe(&[&number.to_string().repeat(2_000)]));
    }
    assert_eq!(delta.end().await.0, Code::ResourceExhausted);
    world.show(snapshot(&authority));
    good.is_pushed_to().await;
}

impl Stream<DiscoveryResponse> {
    /// The stream is alive: a push comes through.
    async fn is_pushed_to(&mut self) {
        let response = self.next().await;
        certificate(&response);
        self.send(&ack(&["default"], &response));
        self.is_silent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_finds_the_newest_version_behind_the_one_on_its_way() {
    let authority = Authority::new("example.org");
    let mut world = World::new(snapshot(&authority));
    let mut slow_client = world.connect().await;
    let mut slow = slow_client.state_of_the_world().await;
    slow.send(&ask(&["default"]));
    let response = slow.next().await;
    slow.send(&ack(&["default"], &response));
    let mut client = world.connect().await;
    let mut quick = client.state_of_the_world().await;
    quick.send(&ask(&["default"]));
    let mut response = quick.next().await;
    let mut newest = authority.svid("/web");
    for _ in 0..50 {
        quick.send(&ack(&["default"], &response));
        newest = authority.svid("/web");
        let built = Snapshot::builder()
            .certificate(["default"], &newest)
            .build();
        world.show(built.expect("a snapshot"));
        response = quick.next().await;
        assert_eq!(certificate(&response).0, newest.chain().pem());
        // Long enough for any patience to end.
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
    }
    let on_its_way = slow.next().await;
    slow.send(&ack(&["default"], &on_its_way));
    let last = slow.next().await;
    assert_eq!(certificate(&last).0, newest.chain().pem());
    slow.send(&ack(&["default"], &last));
    slow.is_silent().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_and_never_reads_is_sent_no_more_than_its_window() {
    let authority = Authority::new("example.org");
    let mut world = World::new(snapshot(&authority));
    let greedy = world.connect_with(|builder| {
        builder.initial_stream_window_size(4_096);
    });
    let mut greedy = greedy.await;
    let client = greedy.state_of_the_world().await;
    let again = [
        framed(&ask(&["default"]).encode_to_vec()),
        framed(&ask(&[]).encode_to_vec()),
    ]
    .concat();
    for _ in 0..40 {
        client.send_bytes(again.repeat(50));
    }
    assert_eq!(world.event().await, "1 sent default");
    let mut quick_client = world.connect().await;
    let mut quick = quick_client.state_of_the_world().await;
    quick.send(&ask(&["default"]));
    assert_eq!(names(&secrets(&quick.next().await)), ["default"]);
    quick.is_silent().await;
    let mut sent = 1;
    while let Ok(event) = world.events.try_recv() {
        sent += usize::from(matches!(event.kind, arx_sds::EventKind::Sent(_)) && event.stream == 1);
    }
    // What fits the window and the send buffer, and one more that waits.
    assert!((1..=16).contains(&sent), "{sent} were sent");
    greedy.cut();
    while world.event().await != "1 closed" {}
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_speak_grpc_is_told_so_in_http() {
    let authority = Authority::new("example.org");
    let mut world = World::new(snapshot(&authority));
    let mut client = world.connect().await;
    let path = "http://arx/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
    let get = client.call::<DiscoveryResponse>(
        http::Request::get(path).header("content-type", "application/grpc"),
    );
    assert_eq!(get.await.head.status, http::StatusCode::METHOD_NOT_ALLOWED);
    for content_type in ["text/plain", "application/grpc-web", "application/json"] {
        let request = http::Request::post(path).header("content-type", content_type);
        let stream = client.call::<DiscoveryResponse>(request).await;
        assert_eq!(stream.head.status, http::StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
