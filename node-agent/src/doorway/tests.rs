use super::*;
use crate::config;
use crate::testing;
use std::path::Path;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A doorway that goes by these attestors, of a pod's own socket if there is one.
fn doorway(
    folder: &Path,
    attestors: &str,
    pod: Option<Pod>,
) -> Result<Doorway, Box<dyn std::error::Error>> {
    let path = folder.join("agent.toml");
    let text = config::tests::text(folder) + &format!("[attestation]\nattestors = {attestors}\n");
    std::fs::write(&path, text)?;
    let (opens, _) = mpsc::channel(1);
    let (events, _) = mpsc::unbounded_channel();
    Ok(Doorway {
        pod: pod.map(Arc::new),
        config: watch::Sender::new(Arc::new(Config::load(&path)?)).subscribe(),
        digests: Arc::default(),
        metrics: Metrics::default(),
        opens,
        events,
        quiet: Arc::default(),
    })
}

fn shows(pod: Option<&str>) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    if let Some(pod) = pod {
        let token = testing::token("a:b", pod, 2_000_000_000, "x");
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

/// Who somebody is, or with which code it is refused.
async fn judged(doorway: &Doorway, token: Option<&str>) -> Result<String, &'static str> {
    let peer = Arc::new(Peer::unseen(0, 0));
    match doorway.caller(&shows(token), &peer).await {
        Ok(Caller::Token(token)) => Ok(format!("token {}", token.claims().subject.pod_uid)),
        Ok(Caller::Socket(pod)) => Ok(format!("socket {}", pod.uid)),
        Ok(Caller::Process(uid)) => Ok(format!("process {uid}")),
        Ok(Caller::Local(process)) => Ok(format!("local {}", process.uid)),
        Err(refused) => Err(refused.code),
    }
}

#[tokio::test]
async fn whoever_connects_to_a_pods_own_socket_is_that_pod_though_its_process_is_not_seen()
-> Outcome {
    let folder = tempfile::tempdir()?;
    let doorway = doorway(folder.path(), "[\"token\"]", Some(testing::pod("u-1")))?;
    assert_eq!(judged(&doorway, None).await, Ok("socket u-1".to_owned()));
    assert_eq!(
        judged(&doorway, Some("u-1")).await,
        Ok("socket u-1".to_owned())
    );
    let stolen = judged(&doorway, Some("u-2")).await;
    assert_eq!(stolen, Err("ARX-AGENT-POD-DISAGREES"));
    Ok(())
}

#[tokio::test]
async fn a_process_that_is_not_seen_is_refused_unless_a_token_may_speak_for_it() -> Outcome {
    let folder = tempfile::tempdir()?;
    let hidden = Err("ARX-AGENT-PROCESS-HIDDEN");
    let alone = doorway(folder.path(), "[\"process\"]", None)?;
    assert_eq!(judged(&alone, None).await, hidden);
    assert_eq!(judged(&alone, Some("u-1")).await, hidden);
    let both = doorway(folder.path(), "[\"process\", \"token\", \"local\"]", None)?;
    assert_eq!(
        judged(&both, None).await,
        hidden,
        "local would take it for anybody"
    );
    assert_eq!(judged(&both, Some("u-1")).await, Ok("token u-1".to_owned()));
    Ok(())
}

#[test]
fn a_token_of_another_pod_than_that_of_the_process_is_refused() {
    let token = |pod| {
        let text = testing::token("a:b", pod, 2_000_000_000, "x");
        ServiceAccountToken::new(&text).expect("well formed")
    };
    let uid = testing::uid("u-1");
    assert!(agree(None, &uid).is_ok());
    assert!(agree(Some(&token("u-1")), &uid).is_ok());
    for other in ["u-2", ""] {
        let refused = agree(Some(&token(other)), &uid).expect_err("another pod");
        assert_eq!(refused.code, "ARX-AGENT-POD-DISAGREES");
        assert!(refused.status.message().contains("pod u-1"));
    }
}

#[test]
fn of_a_requests_head_only_type_and_credentials_are_kept() {
    let mut headers = http::HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("authorization", "Bearer a"),
        ("authorization", "Bearer b"),
        ("authorization", "Bearer c"),
        ("x-anything", "long"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let citadel = HeaderValue::from_static("d");
    headers.insert(token::CITADEL_HEADER, citadel);
    let length = lighten(&mut headers);
    let mut left: Vec<_> = headers.values().map(|value| value.as_bytes()).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [&b"Bearer a"[..], b"Bearer b", b"application/grpc", b"d"]
    );
    assert_eq!(length, 8 + 8 + 16 + 1);
}
