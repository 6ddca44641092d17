use super::*;
use crate::testing;
use arx_proto::csi::v1::VolumeCapability;
use arx_proto::csi::v1::volume_capability::{Block, Mount};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::{Code, Status};

const UID: &str = "7c3c2b7e-6c8d-4c53-9a55-0b6f3a2a9d11";

fn terms(audience: Option<&'static str>) -> Terms<'static> {
    Terms {
        root: Path::new("/var/lib/kubelet"),
        audience,
        node: "node-1",
    }
}

/// A token that claims this.
fn token(account: &str, uid: &str, node: Option<&str>) -> String {
    let mut claims = serde_json::json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": format!("system:serviceaccount:{account}"),
        "exp": 2_000_000_000,
        "kubernetes.io": {"namespace": "shop", "pod": {"name": "web-1", "uid": uid}},
    });
    if let Some(node) = node {
        claims["kubernetes.io"]["node"] = serde_json::json!({"name": node, "uid": "n"});
    }
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{payload}.c2ln")
}

fn tokens(token: &str) -> String {
    let issued = serde_json::json!({"token": token, "expirationTimestamp": "2033-05-18T03:33:20Z"});
    serde_json::json!({"arx": issued}).to_string()
}

/// NodePublishVolume as a kubelet of Kubernetes 1.37 sends it for an ephemeral volume of a driver
/// with podInfoOnMount and tokenRequests.
fn recorded() -> NodePublishVolumeRequest {
    let own = token("shop:web", UID, Some("node-1"));
    let context = [
        (POD_NAME, "web-1"),
        (POD_NAMESPACE, "shop"),
        (POD_UID, UID),
        (SERVICE_ACCOUNT, "web"),
        (EPHEMERAL, "true"),
        (TOKENS, &tokens(&own)),
    ];
    NodePublishVolumeRequest {
        volume_id: "csi-2b7f5d0c9a4e4a5dbb1c27e6f7c0f3a1d4e8b9c6a5f4e3d2c1b0a9f8e7d6c5b4"
            .to_owned(),
        target_path: format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/arx/mount"),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(Mount::default())),
        }),
        readonly: true,
        secrets: HashMap::new(),
        volume_context: context
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

fn context(call: &mut NodePublishVolumeRequest, key: &str, value: &str) {
    call.volume_context.insert(key.to_owned(), value.to_owned());
}

fn status(change: impl FnOnce(&mut NodePublishVolumeRequest)) -> Status {
    let mut call = recorded();
    change(&mut call);
    let refused = Publish::read(call, terms(Some("arx")));
    refused.map(|_| ()).expect_err("must be refused").into()
}

#[test]
fn a_kubelets_call_is_understood() -> Result<(), Refused> {
    let publish = Publish::read(recorded(), terms(Some("arx")))?;
    assert_eq!(publish.pod.to_string(), format!("shop/web-1 ({UID})"));
    assert_eq!(publish.pod.service_account, "web");
    assert_eq!(publish.token.claims().subject.pod_uid, UID);
    assert!(publish.target.is_of(&testing::uid(UID)));
    assert!(publish.volume.starts_with("csi-2b7f"));
    Ok(())
}

#[test]
fn tokens_come_in_the_context_or_in_the_secrets_which_count_first() -> Result<(), Refused> {
    let mut call = recorded();
    let tokens = call.volume_context.remove(TOKENS).expect("it has some");
    call.secrets.insert(TOKENS.to_owned(), tokens);
    let secret = Publish::read(call.clone(), terms(None))?;
    // What is in the context then is only what the pod's author has put there.
    context(&mut call, TOKENS, "{}");
    let both = Publish::read(call, terms(None))?;
    assert_eq!(secret.token.digest(), both.token.digest());
    Ok(())
}

#[test]
fn a_call_that_lacks_something_is_refused_and_says_what() {
    for (status, part) in [
        (status(|call| call.volume_id.clear()), "volume_id"),
        (status(|call| call.volume_id = "x".repeat(129)), "128 bytes"),
        (status(|call| call.target_path.clear()), "target_path"),
        (
            status(|call| call.volume_capability = None),
            "volume_capability",
        ),
        (
            status(|call| {
                let block = Some(AccessType::Block(Block {}));
                call.volume_capability = Some(VolumeCapability { access_type: block });
            }),
            "block",
        ),
    ] {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("ARX-CSI-REQUEST: "),
            "{status}"
        );
        assert!(status.message().contains(part), "{status}");
    }
}

#[test]
fn a_volume_that_outlives_its_pod_is_refused() {
    for status in [
        status(|call| context(call, EPHEMERAL, "false")),
        status(|call| drop(call.volume_context.remove(EPHEMERAL))),
    ] {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("ARX-CSI-NOT-EPHEMERAL: "),
            "{status}"
        );
    }
}

#[test]
fn without_a_whole_context_nothing_is_published() {
    for key in [POD_NAME, POD_NAMESPACE, POD_UID, SERVICE_ACCOUNT] {
        for value in [None, Some(""), Some("../etc"), Some("a b")] {
            let status = status(|call| {
                call.volume_context.remove(key);
                if let Some(value) = value {
                    context(call, key, value);
                }
            });
            assert_eq!(status.code(), Code::InvalidArgument);
            let message = status.message();
            assert!(message.starts_with("ARX-CSI-CONTEXT: "), "{message}");
            assert!(
                message.contains(key) && message.contains("podInfoOnMount"),
                "{message}"
            );
        }
    }
}

#[test]
fn a_forged_context_agrees_with_neither_path_nor_token() {
    let other = "00000000-6c8d-4c53-9a55-0b6f3a2a9d11";
    // Another pod's UID, at this pod's path.
    let uid = status(|call| context(call, POD_UID, other));
    assert!(uid.message().starts_with("ARX-CSI-TARGET: "), "{uid}");
    // Another pod's UID and token, at this pod's path: what a pod's author could write.
    let both = status(|call| {
        context(call, POD_UID, other);
        context(call, TOKENS, &tokens(&token("shop:web", other, None)));
    });
    assert!(both.message().starts_with("ARX-CSI-TARGET: "), "{both}");
    for (change, part) in [
        ((POD_NAMESPACE, "bank"), "service account bank/web"),
        ((SERVICE_ACCOUNT, "admin"), "service account shop/admin"),
        (
            (TOKENS, &*tokens(&token("shop:web", other, None))),
            "not bound to pod",
        ),
        (
            (TOKENS, &*tokens(&token("shop:web", "", None))),
            "not bound to pod",
        ),
        (
            (TOKENS, &*tokens(&token("shop:web", UID, Some("node-2")))),
            "bound to node \"node-2\"",
        ),
    ] {
        let status = status(|call| context(call, change.0, change.1));
        assert_eq!(status.code(), Code::PermissionDenied);
        let message = status.message();
        assert!(message.starts_with("ARX-CSI-DISAGREES: "), "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn without_the_pods_token_for_us_nothing_is_published_and_no_token_is_told() {
    let own = token("shop:web", UID, Some("node-1"));
    let two = serde_json::json!({"a": {"token": own}, "b": {"token": own}}).to_string();
    for (tokens, audience, part) in [
        (None, Some("arx"), "tokenRequests"),
        (Some(tokens(&own)), Some("other"), "no token for \"other\""),
        (Some(two), None, "pod_sockets.audience"),
        (Some("{}".to_owned()), None, "empty list"),
        (Some(own.clone()), None, "not as kubelets write them"),
        (
            Some(tokens("nonsense")),
            None,
            "not a service-account token",
        ),
    ] {
        let mut call = recorded();
        call.volume_context.remove(TOKENS);
        if let Some(tokens) = tokens {
            context(&mut call, TOKENS, &tokens);
        }
        let refused = Publish::read(call, terms(audience)).map(|_| ());
        let status = Status::from(refused.expect_err("must be refused"));
        assert_eq!(status.code(), Code::FailedPrecondition);
        let message = status.message();
        assert!(message.starts_with("ARX-CSI-TOKEN: "), "{message}");
        assert!(message.contains(part), "{message}");
        assert!(!message.contains(&own), "{message}");
    }
}

#[test]
fn a_path_outside_of_the_kubelets_root_is_refused_in_every_call() {
    for path in [
        "/etc",
        "/var/lib/kubelet/../../etc/x/mount",
        "relative/mount",
    ] {
        let published = status(|call| call.target_path = path.to_owned());
        let call = NodeUnpublishVolumeRequest {
            volume_id: "v".to_owned(),
            target_path: path.to_owned(),
        };
        let refused = Unpublish::read(call, Path::new("/var/lib/kubelet")).map(|_| ());
        for status in [published, refused.expect_err("must be refused").into()] {
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with("ARX-CSI-TARGET: "), "{status}");
        }
    }
}
