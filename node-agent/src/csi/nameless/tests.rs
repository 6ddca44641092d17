use super::*;
use bytes::Bytes;
use http_body::Frame;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What the plugin manager of a kubelet (Kubernetes 1.37, grpc-go 1.83) sends to a socket at
/// `/tmp/arx-cap.sock`: two calls of GetInfo, the second of which refers to the first's head by
/// number. `:authority` is `%2Ftmp%2Farx-cap.sock`, compressed.
const RECORDED: &str = "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a\
    000000040000000000\
    000000040100000000\
    0000680104000000018386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41905458534d6a8b08ecf2b1075ae8393aff5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbc25c340027465864d833505b11f40899acac8b24d494f6a7f860befbe16dcb7\
    0000050001000000010000000000\
    00000f0104000000038386c3c2c1c0bf7e860b8fbce3ee5b\
    0000050001000000030000000000";

fn recorded() -> Vec<u8> {
    let digits: Vec<u8> = RECORDED.bytes().collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("digits")
    };
    digits.chunks(2).map(byte).collect()
}

/// Empty, and at its end.
struct Nothing;

impl http_body::Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

/// What a stream that is refused is ended with (RFC 9113, 6.4).
const RESET: u8 = 3;

/// The requests that a server reads out of `bytes`, which come in pieces of this size.
async fn read(bytes: &[u8], piece: usize, nameless: bool) -> Vec<http::Uri> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        notes.lock().expect("whole").push(request.uri().clone());
        std::future::ready(Ok::<_, Infallible>(http::Response::new(Nothing)))
    });
    let server: Box<dyn Stream> = match nameless {
        true => Box::new(Nameless::new(server)),
        false => Box::new(server),
    };
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(server), answer);
    let talk = async {
        for piece in bytes.chunks(piece) {
            client.write_all(piece).await.expect("it is read");
        }
        let mut heads = 0;
        while heads < 2 {
            let mut head = [0; HEAD];
            client.read_exact(&mut head).await.expect("it goes on");
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            client.read_exact(&mut payload).await.expect("it goes on");
            heads += usize::from(head[3] == HEADERS || head[3] == RESET);
        }
    };
    tokio::select! {
        ended = connection => panic!("it ends with {ended:?}"),
        () = talk => {}
    }
    seen.lock().expect("whole").clone()
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[tokio::test]
async fn the_calls_of_a_kubelet_are_read_however_they_come() -> Outcome {
    let bytes = recorded();
    let refused = read(&bytes, bytes.len(), false).await;
    assert!(
        refused.is_empty(),
        "there would be no need for this: {refused:?}"
    );
    let expected: http::Uri = "http://x/pluginregistration.Registration/GetInfo".parse()?;
    for piece in [1, 7, 24, 100, bytes.len()] {
        let seen = read(&bytes, piece, true).await;
        assert_eq!(seen, [expected.clone(), expected.clone()], "{piece}");
    }
    Ok(())
}

fn rewritten(bytes: &[u8]) -> Vec<u8> {
    let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
    rewriter.take(bytes, &mut out);
    out
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

#[test]
fn padding_priority_and_continuations_are_taken_in() {
    // Indexed, a size of the table, the authority as a literal of each kind, and another field.
    let block = [
        &[0x83, 0x3f, 0xe1, 0x1f][..],
        &[0x41, 3, b'%', b'2', b'F'],
        &[0x01, 3, b'/', b'a', b'b'],
        &[0x11, 1, b'/'],
        &[0x40, 1, b'a', 1, b'b'],
        &[0x01, 0],
    ]
    .concat();
    let expected = [
        &[0x83, 0x3f, 0xe1, 0x1f][..],
        &[0x41, 1, b'x', 0x01, 1, b'x', 0x11, 1, b'x'],
        &[0x40, 1, b'a', 1, b'b', 0x01, 0],
    ]
    .concat();
    let preface = [b' '; PREFACE];
    let priority = [0, 0, 0, 0, 16];
    let padded = [&[2][..], &priority, &block[..6], &[0, 0]].concat();
    let sent = [
        preface.to_vec(),
        frame(HEADERS, PADDED | PRIORITY | 1, &padded),
        frame(CONTINUATION, 0, &block[6..9]),
        frame(CONTINUATION, END_HEADERS, &block[9..]),
        frame(0, 0, b"data"),
    ]
    .concat();
    let wanted = [
        preface.to_vec(),
        frame(
            HEADERS,
            PRIORITY | END_HEADERS | 1,
            &[&priority[..], &expected].concat(),
        ),
        frame(0, 0, b"data"),
    ]
    .concat();
    assert_eq!(rewritten(&sent), wanted);
}

#[test]
fn what_is_not_as_the_standard_has_it_goes_through_as_it_is() {
    let preface = [b' '; PREFACE];
    for bad in [
        frame(CONTINUATION, END_HEADERS, &[0x83]),
        [frame(HEADERS, 0, &[0x83]), frame(0, 0, b"data")].concat(),
        frame(HEADERS, END_HEADERS | PADDED, &[9, 0x83]),
        frame(HEADERS, END_HEADERS | PRIORITY, &[0x83]),
        frame(HEADERS, END_HEADERS, &[0x41, 9, b'a']),
        frame(
            HEADERS,
            END_HEADERS,
            &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        frame(HEADERS, END_HEADERS, &[0; LARGEST + 1]),
    ] {
        let sent = [
            &preface[..],
            &bad,
            &frame(HEADERS, END_HEADERS, &[0x41, 2, b'/', b'/']),
        ]
        .concat();
        assert_eq!(rewritten(&sent), sent);
    }
    // More heads than anybody has.
    let mut many = [&preface[..], &frame(HEADERS, 0, &[0; LARGEST])].concat();
    for _ in 0..8 {
        many.extend(frame(CONTINUATION, 0, &[0; LARGEST]));
    }
    assert_eq!(rewritten(&many), many);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_and_pieces_make_no_difference(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in 0_usize..200,
    ) {
        let sent = [&[b' '; PREFACE][..], &bytes].concat();
        let whole = rewritten(&sent);
        let (one, two) = sent.split_at(at.min(sent.len()));
        let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
        rewriter.take(one, &mut out);
        rewriter.take(two, &mut out);
        prop_assert_eq!(out, whole);
    }
}
