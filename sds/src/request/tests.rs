//! Whatever a client may send: prost is the reference for what is valid, and nothing
//! that is not may do more than return an error.

use arx_proto::envoy::config::core::v3 as core;
use arx_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use arx_proto::google::rpc;
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// Reads a whole body given in these pieces.
fn read(shape: Shape, pieces: &[&[u8]]) -> Result<Vec<Request>, RequestError> {
    let mut decoder = Decoder::new(shape);
    let mut requests = Vec::new();
    for piece in pieces {
        let mut chunk = Bytes::copy_from_slice(piece);
        while let Some(request) = decoder.next(&mut chunk)? {
            requests.push(request);
        }
        assert!(chunk.is_empty(), "a chunk is used up or ends in an error");
    }
    if decoder.at_boundary() {
        Ok(requests)
    } else {
        Err(RequestError::Malformed("test: cut off"))
    }
}

fn one(shape: Shape, message: &[u8]) -> Result<Request, RequestError> {
    let mut requests = read(shape, &[&framed(message)])?;
    assert_eq!(requests.len(), 1);
    Ok(requests.remove(0))
}

fn status(message: &str) -> rpc::Status {
    rpc::Status {
        code: 13,
        message: message.to_owned(),
        ..Default::default()
    }
}

fn expected(request: &DiscoveryRequest) -> Request {
    Request {
        node: request.node.as_ref().map(|node| Node {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
        }),
        type_url: request.type_url.clone(),
        version: request.version_info.clone(),
        names: request.resource_names.clone(),
        unsubscribe: Vec::new(),
        nonce: request.response_nonce.clone(),
        rejection: request
            .error_detail
            .as_ref()
            .map(|status| status.message.clone()),
    }
}

fn expected_delta(request: &DeltaDiscoveryRequest) -> Request {
    Request {
        node: request.node.as_ref().map(|node| Node {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
        }),
        type_url: request.type_url.clone(),
        version: String::new(),
        names: request.resource_names_subscribe.clone(),
        unsubscribe: request.resource_names_unsubscribe.clone(),
        nonce: request.response_nonce.clone(),
        rejection: request
            .error_detail
            .as_ref()
            .map(|status| status.message.clone()),
    }
}

/// A node as Envoy sends it: id, cluster, and tens of kilobytes of extensions (field 9)
/// and metadata (field 3), which our own definition does not even name.
fn envoy_node(id: &str, size: usize) -> Vec<u8> {
    let mut node = core::Node {
        id: id.to_owned(),
        cluster: "frontend".to_owned(),
    }
    .encode_to_vec();
    let extension = [
        b"\x0a\x20envoy.filters.http.some_extension".as_slice(),
        &[0x22, 0x02, 0x08, 0x01],
    ]
    .concat();
    while node.len() < size {
        node.push(9 << 3 | 2);
        node.push(extension.len() as u8);
        node.extend_from_slice(&extension);
    }
    node
}

fn with_node(field: u8, node: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![field << 3 | 2];
    prost::encoding::encode_varint(node.len() as u64, &mut message);
    message.extend_from_slice(node);
    message.extend_from_slice(rest);
    message
}

fn sample() -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: "1.7-0011223344556677".into(),
        node: Some(core::Node {
            id: "node-1".into(),
            cluster: "frontend".into(),
        }),
        resource_names: vec!["default".into(), "ROOTCA".into()],
        type_url: TYPE_URL.into(),
        response_nonce: "0123456789abcdef".into(),
        error_detail: Some(status("Failed to load: p\u{e4}m")),
    }
}

fn sample_delta() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: "node-1".into(),
            cluster: "frontend".into(),
        }),
        type_url: TYPE_URL.into(),
        resource_names_subscribe: vec!["default".into(), "ROOTCA".into()],
        resource_names_unsubscribe: vec!["other".into()],
        initial_resource_versions: [("default".to_owned(), "v1".to_owned())].into(),
        response_nonce: "0123456789abcdef".into(),
        error_detail: Some(status("no")),
    }
}

#[test]
fn a_request_split_at_every_byte_reads_the_same() {
    let messages = [
        framed(&sample().encode_to_vec()),
        framed(&[]),
        framed(&sample().encode_to_vec()),
    ]
    .concat();
    let whole = read(Shape::StateOfTheWorld, &[&messages]).expect("valid");
    assert_eq!(whole.len(), 3);
    assert_eq!(whole[0], expected(&sample()));
    assert_eq!(whole[1], Request::default());
    assert_eq!(
        whole[2],
        Request {
            node: None,
            ..expected(&sample())
        }
    );
    for at in 0..=messages.len() {
        let (a, b) = messages.split_at(at);
        assert_eq!(
            read(Shape::StateOfTheWorld, &[a, b]).as_ref(),
            Ok(&whole),
            "split at {at}"
        );
    }
    let bytes: Vec<&[u8]> = messages.chunks(1).collect();
    assert_eq!(read(Shape::StateOfTheWorld, &bytes), Ok(whole));
}

#[test]
fn a_delta_request_split_at_every_byte_reads_the_same() {
    let message = framed(&sample_delta().encode_to_vec());
    for at in 0..=message.len() {
        let (a, b) = message.split_at(at);
        assert_eq!(
            read(Shape::Delta, &[a, b]),
            Ok(vec![expected_delta(&sample_delta())]),
            "split at {at}"
        );
    }
}

#[test]
fn a_request_cut_off_anywhere_is_an_error_or_incomplete() {
    let message = sample().encode_to_vec();
    for length in 0..message.len() {
        // Cut, with a prefix that says so: a message of its own, valid or not as prost finds.
        let cut = &message[..length];
        match (
            one(Shape::StateOfTheWorld, cut),
            DiscoveryRequest::decode(cut),
        ) {
            (Ok(ours), Ok(reference)) => assert_eq!(ours, expected(&reference)),
            (Err(_), Err(_)) => {}
            (ours, reference) => panic!("cut at {length}: {ours:?}, prost {reference:?}"),
        }
        // Cut, with the whole length announced: never complete.
        let framed = framed(&message);
        assert!(read(Shape::StateOfTheWorld, &[&framed[..5 + length]]).is_err());
    }
}

#[test]
fn a_61_kb_node_leaves_its_id_and_cluster() {
    let node = envoy_node("sidecar-1", 61_000);
    let rest = DiscoveryRequest {
        node: None,
        ..sample()
    };
    let message = framed(&with_node(2, &node, &rest.encode_to_vec()));
    assert!(message.len() > 61_000);
    let pieces: Vec<&[u8]> = message.chunks(16_384).collect();
    let request = read(Shape::StateOfTheWorld, &pieces)
        .expect("valid")
        .remove(0);
    assert_eq!(
        request.node,
        Some(Node {
            id: "sidecar-1".into(),
            cluster: "frontend".into()
        })
    );
    assert_eq!(
        Request {
            node: None,
            ..request
        },
        expected(&rest)
    );
    let delta = framed(&with_node(1, &node, &sample_delta().encode_to_vec()));
    assert_eq!(
        read(Shape::Delta, &[&delta])
            .expect("valid")
            .remove(0)
            .nonce,
        "0123456789abcdef"
    );
}

#[test]
fn the_node_of_later_requests_is_not_even_looked_at() {
    // Not a node at all: the first message is refused for it, the second is not.
    let message = framed(&with_node(2, &[0xff; 40], &[]));
    assert!(read(Shape::StateOfTheWorld, &[&message]).is_err());
    let requests = read(Shape::StateOfTheWorld, &[&framed(&[]), &message]).expect("not looked at");
    assert_eq!(requests[1], Request::default());
}

#[test]
fn fields_that_stand_twice_merge_as_protobuf_says() {
    let a = sample().encode_to_vec();
    let b = DiscoveryRequest {
        node: Some(core::Node {
            id: "second".into(),
            cluster: String::new(),
        }),
        resource_names: vec!["other".into()],
        error_detail: Some(rpc::Status::default()),
        ..Default::default()
    };
    let both = [a, b.encode_to_vec()].concat();
    let reference = DiscoveryRequest::decode(both.as_slice()).expect("valid");
    assert_eq!(one(Shape::StateOfTheWorld, &both), Ok(expected(&reference)));
}

#[test]
fn unknown_fields_of_every_wire_type_are_passed_over() {
    let mut message = Vec::new();
    message.extend_from_slice(&[
        0xf8, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ]); // 31: varint
    message.extend_from_slice(&[0xf9, 0x01, 1, 2, 3, 4, 5, 6, 7, 8]); // 31: 64 bits
    message.extend_from_slice(&[0xfd, 0x01, 1, 2, 3, 4]); // 31: 32 bits
    message.extend_from_slice(&[0xfa, 0x01, 0]); // 31: empty
    message.extend_from_slice(&[0xfa, 0x01, 3, 0xff, 0xff, 0xff]); // 31: bytes
    message.extend_from_slice(&sample().encode_to_vec());
    let bytes = framed(&message);
    let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(
        read(Shape::StateOfTheWorld, &pieces),
        Ok(vec![expected(&sample())])
    );
}

#[test]
fn hostile_messages_are_refused_with_their_reason() {
    let refused = |message: &[u8]| match one(Shape::StateOfTheWorld, message) {
        Err(RequestError::Malformed(reason)) => reason,
        other => panic!("{message:02x?}: {other:?}"),
    };
    // a length of 2^64 - 1, and one just past the message
    assert_eq!(
        refused(&[
            0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
        ]),
        "a field is longer than its message"
    );
    assert_eq!(
        refused(&[0x1a, 3, b'a', b'b']),
        "a field is longer than its message"
    );
    // a varint of 11 bytes, one of 65 bits, one that does not end
    assert_eq!(refused(&[0xff; 11]), "a number has more than 64 bits");
    assert_eq!(
        refused(&[
            0xf8, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02
        ]),
        "a number has more than 64 bits"
    );
    assert_eq!(refused(&[0xf8, 0x01, 0x80]), "a field is cut off");
    assert_eq!(refused(&[0x1a]), "a field is cut off");
    // field 0, a field number of 33 bits, groups, wire types 6 and 7, text as a number
    assert_eq!(refused(&[0x02, 0]), "a field has the number 0");
    assert_eq!(
        refused(&[0xfa, 0xff, 0xff, 0xff, 0xff, 0x01, 0]),
        "a field number is out of range"
    );
    assert_eq!(
        refused(&[0xfb, 0x01, 0xfc, 0x01]),
        "groups are not part of proto3"
    );
    assert_eq!(refused(&[0xfe, 0x01]), "a field has an unknown wire type");
    assert_eq!(refused(&[0x18, 1]), "a field has the wrong wire type");
    assert_eq!(
        refused(&[0x11, 1, 2, 3, 4, 5, 6, 7, 8]),
        "a field has the wrong wire type"
    );
    // 8 and 4 fixed bytes of which some are missing
    assert_eq!(
        refused(&[0xf9, 0x01, 1, 2, 3]),
        "a field is longer than its message"
    );
    assert_eq!(
        refused(&[0xfd, 0x01, 1]),
        "a field is longer than its message"
    );
    // inside `node`: a number and a text that run past its end, though not past the message's
    assert_eq!(
        refused(&[0x12, 1, 0x80, 0x01, 0x1a, 0]),
        "a number runs past the end of its message"
    );
    assert_eq!(
        refused(&[0x12, 2, 0x0a, 4, 0x1a, 2, b'x', b'y']),
        "a field is longer than its message"
    );
    // a name that is not UTF-8
    assert_eq!(refused(&[0x1a, 2, 0xc3, 0x28]), "a text is not UTF-8");
}

#[test]
fn frames_are_limited() {
    let next = |bytes: &[u8]| {
        Decoder::new(Shape::StateOfTheWorld).next(&mut Bytes::copy_from_slice(bytes))
    };
    assert_eq!(next(&[1, 0, 0, 0, 0]), Err(RequestError::Compressed));
    assert!(matches!(
        next(&[2, 0, 0, 0, 0]),
        Err(RequestError::Malformed(_))
    ));
    assert_eq!(
        next(&[0, 0, 0x10, 0, 1]),
        Err(RequestError::TooLong(limits::MESSAGE + 1))
    );
    assert_eq!(
        next(&[0, 0xff, 0xff, 0xff, 0xff]),
        Err(RequestError::TooLong(u32::MAX))
    );
    assert_eq!(next(&[0, 0, 0x10, 0, 0]), Ok(None));
    assert_eq!(
        Status::from(RequestError::Compressed).code(),
        tonic::Code::Unimplemented
    );
    assert_eq!(
        Status::from(RequestError::TooLong(7)).code(),
        tonic::Code::ResourceExhausted
    );
    assert_eq!(
        Status::from(RequestError::TooManyNames).code(),
        tonic::Code::ResourceExhausted
    );
    assert_eq!(
        Status::from(RequestError::NameTooLong(7)).code(),
        tonic::Code::InvalidArgument
    );
    assert_eq!(
        Status::from(RequestError::Malformed("")).code(),
        tonic::Code::InvalidArgument
    );
}

#[test]
fn names_are_limited_in_number_and_length() {
    let names = |names: Vec<String>| {
        let request = DiscoveryRequest {
            resource_names: names,
            ..Default::default()
        };
        one(Shape::StateOfTheWorld, &request.encode_to_vec()).map(|request| request.names.len())
    };
    let many = |count: usize| (0..count).map(|i| i.to_string()).collect();
    assert_eq!(names(many(limits::NAMES)), Ok(limits::NAMES));
    assert_eq!(
        names(many(limits::NAMES + 1)),
        Err(RequestError::TooManyNames)
    );
    assert_eq!(
        names(vec![String::new(); limits::NAMES + 1]),
        Err(RequestError::TooManyNames)
    );
    assert_eq!(names(vec!["n".repeat(limits::NAME as usize)]), Ok(1));
    let long = "n".repeat(limits::NAME as usize + 1);
    assert_eq!(
        names(vec![long.clone()]),
        Err(RequestError::NameTooLong(2049))
    );
    let delta = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec![long],
        ..Default::default()
    };
    assert_eq!(
        one(Shape::Delta, &delta.encode_to_vec()),
        Err(RequestError::NameTooLong(2049))
    );
}

#[test]
fn other_texts_are_clipped_between_characters_or_not() {
    let request = DiscoveryRequest {
        version_info: "v".repeat(5_000),
        response_nonce: "n".repeat(1_024),
        error_detail: Some(status(&"\u{20ac}".repeat(20_000))),
        ..Default::default()
    };
    let request = one(Shape::StateOfTheWorld, &request.encode_to_vec()).expect("valid");
    assert_eq!(request.version, "v".repeat(1_024));
    assert_eq!(request.nonce, "n".repeat(1_024));
    let detail = request.rejection.expect("rejected");
    assert_eq!(detail, format!("{}\u{fffd}", "\u{20ac}".repeat(341)));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zA-Z/:.]{1,40}", "\\PC{0,200}"]
}

prop_compose! {
    fn a_request()(
        version_info in text(),
        node in proptest::option::of((text(), text())),
        resource_names in proptest::collection::vec(text(), 0..8),
        type_url in text(),
        response_nonce in text(),
        error in proptest::option::of(text()),
    ) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info,
            node: node.map(|(id, cluster)| core::Node { id, cluster }),
            resource_names,
            type_url,
            response_nonce,
            error_detail: error.map(|message| status(&message)),
        }
    }
}

prop_compose! {
    fn a_delta_request()(
        node in proptest::option::of((text(), text())),
        type_url in text(),
        resource_names_subscribe in proptest::collection::vec(text(), 0..8),
        resource_names_unsubscribe in proptest::collection::vec(text(), 0..8),
        initial_resource_versions in proptest::collection::hash_map(text(), text(), 0..4),
        response_nonce in text(),
        error in proptest::option::of(text()),
    ) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: node.map(|(id, cluster)| core::Node { id, cluster }),
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail: error.map(|message| status(&message)),
        }
    }
}

proptest! {
    #[test]
    fn valid_requests_read_as_prost_reads_them(request in a_request(), piece in 1_usize..400) {
        let bytes = framed(&request.encode_to_vec());
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        prop_assert_eq!(read(Shape::StateOfTheWorld, &pieces), Ok(vec![expected(&request)]));
    }

    #[test]
    fn valid_delta_requests_read_as_prost_reads_them(request in a_delta_request(), piece in 1_usize..400) {
        let bytes = framed(&request.encode_to_vec());
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        prop_assert_eq!(read(Shape::Delta, &pieces), Ok(vec![expected_delta(&request)]));
    }

    /// One byte changed: whatever prost still reads as a request, we read the same, and
    /// what we read it reads. Known exceptions: groups, which only prost reads, and
    /// fields that we don't look into (`error_detail.code`, `error_detail.details`).
    #[test]
    fn damaged_requests_read_as_prost_reads_them(
        request in a_request(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut message = request.encode_to_vec();
        if !message.is_empty() {
            let at = at.index(message.len());
            message[at] = byte;
        }
        match (one(Shape::StateOfTheWorld, &message), DiscoveryRequest::decode(message.as_slice())) {
            (Ok(ours), Ok(reference)) => prop_assert_eq!(ours, expected(&reference)),
            (Err(RequestError::Malformed("groups are not part of proto3")), Ok(_)) | (Err(_), Err(_)) => {}
            (Ok(ours), Err(_)) => prop_assert!(ours.rejection.is_some()),
            (Err(error), Ok(_)) => prop_assert!(false, "prost reads it: {error}"),
        }
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
        for shape in [Shape::StateOfTheWorld, Shape::Delta] {
            let _ = one(shape, &noise);
            let pieces: Vec<&[u8]> = noise.chunks(piece).collect();
            let _ = read(shape, &pieces);
        }
    }
}
