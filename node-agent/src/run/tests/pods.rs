//! Sockets of pods, with real mounts: these need root, and fail without it.

use super::*;
use crate::testing::kubelet::{Kubelet, Wanted};
use arx_proto::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest,
    NodeGetInfoRequest, ProbeRequest,
};
use rustix::mount::{UnmountFlags, unmount};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

const DRIVER: &str = "csi.arx.dev";
pub(super) const PODS: &str = r#"pod_sockets = { kubelet_root = "{HERE}/kubelet", directory = "{HERE}/pods" }
attestation = { attestors = ["token"], linger = "1h" }"#;

/// A node with its kubelet; no mount outlives it.
pub(super) struct World {
    pub(super) ca: server::Running,
    pub(super) node: Node,
    pub(super) kubelet: Kubelet,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with(PODS).await
    }

    pub(super) async fn with(pods: &str) -> Self {
        let ca = server::Running::start().await;
        let node = Node::with(&ca, pods).await;
        let kubelet = Kubelet::new(&node.directory.path().join("kubelet"), DRIVER);
        Self { ca, node, kubelet }
    }

    async fn restart(&mut self) {
        self.node.end().await;
        self.node.begin().await;
    }

    fn kept(&self) -> usize {
        let pods = std::fs::read_dir(self.node.directory.path().join("pods"));
        pods.expect("it is there").count()
    }

    fn unmount_all(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
        let root = self.kubelet.root.display().to_string();
        for line in mounts.lines() {
            let place = line.split(' ').nth(1).unwrap_or_default();
            if place.starts_with(&root) {
                let _gone = unmount(place, UnmountFlags::DETACH);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.unmount_all();
    }
}

pub(super) fn wanted(n: u32) -> Wanted {
    let uid = format!("u-{n}");
    Wanted {
        volume: format!("csi-{n}"),
        token: testing::token("a:b", &uid, 2_000_000_000, "x"),
        name: format!("web-{n}"),
        uid,
    }
}

/// Who whoever connects there is.
async fn identity(target: &Path) -> String {
    let proxy = Proxy::connect(&target.join("socket")).await;
    let got = proxy.ask("default", None).take().await;
    got.expect("a certificate").chain().spiffe_id().to_string()
}

/// The tokens that the authority is shown next.
async fn shown(ca: &mut server::Running) -> Vec<String> {
    ca.hear(|told| match told {
        Told::Issue(items) => Some(
            items
                .iter()
                .map(|item| match &item.evidence {
                    Some(issue_item::Evidence::ServiceAccountToken(token)) => token.clone(),
                    other => format!("{other:?}"),
                })
                .collect(),
        ),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn who_connects_to_a_pods_socket_is_that_pod_by_the_token_that_its_kubelet_has_brought() {
    let mut world = World::start().await;
    let (one, two) = (wanted(1), wanted(2));
    let target = world.kubelet.publish(&one).await.expect("published");
    // Before anybody has connected.
    assert_eq!(shown(&mut world.ca).await, [&*one.token]);
    assert_eq!(identity(&target).await, id("/sa/b").to_string());
    world.kubelet.publish(&two).await.expect("published");
    assert_eq!(shown(&mut world.ca).await, [&*two.token]);

    // A token that comes by the wire has to be the same pod's.
    let proxy = Proxy::connect(&target.join("socket")).await;
    let own = proxy.ask("default", Some(&one.token)).take().await;
    own.expect("its own token changes nothing");
    let stolen = proxy.ask("default", Some(&two.token)).take().await;
    let status = stolen.expect_err("another pod's token");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(
        status.message().starts_with("ARX-AGENT-POD-DISAGREES"),
        "{status}"
    );

    // Nobody writes there.
    let mode = std::fs::metadata(target.join("socket"))
        .expect("there")
        .mode();
    assert_eq!(mode & 0o777, 0o666);
    assert!(
        std::fs::write(target.join("file"), "").is_err(),
        "read-only"
    );
    let folder = std::fs::metadata(world.node.directory.path().join("pods"));
    assert_eq!(folder.expect("there").permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn after_a_restart_pods_are_served_at_the_same_place_without_token_or_authority() {
    let mut world = World::start().await;
    let one = wanted(1);
    let target = world.kubelet.publish(&one).await.expect("published");
    assert_eq!(identity(&target).await, id("/sa/b").to_string());
    let before = std::fs::metadata(&target).expect("mounted").ino();
    world.node.end().await;
    world.ca.stop().await;
    world.node.begin().await;
    assert_eq!(
        identity(&target).await,
        id("/sa/b").to_string(),
        "from the cache"
    );
    assert_eq!(std::fs::metadata(&target).expect("mounted").ino(), before);
    // And the next token comes as if nothing had been.
    world.ca.again().await;
    world.kubelet.register("").await;
    world.node.readiness().ready().await;
    world.kubelet.publish(&one).await.expect("published again");
    let root = world.ca.mind().authority.root.subject_key_id();
    world.ca.say(authority_message::Message::Renew(RenewalHint {
        issuer_key_id: bytes::Bytes::copy_from_slice(root.expect("a root has one").as_bytes()),
        ..RenewalHint::default()
    }));
    loop {
        // The node's own renewal comes the same way.
        let shown = shown(&mut world.ca).await;
        if shown.contains(&one.token) {
            break;
        }
    }
}

#[tokio::test]
async fn a_pod_that_came_while_there_was_no_authority_gets_its_identity_with_the_next_token() {
    let mut world = World::start().await;
    let one = wanted(1);
    world.ca.stop().await;
    let target = world.kubelet.publish(&one).await.expect("published");
    // The token is not kept anywhere, so after this it is gone.
    world.restart().await;
    world.ca.again().await;
    let proxy = Proxy::connect(&target.join("socket")).await;
    let mut own = proxy.ask("default", None);
    world.kubelet.publish(&one).await.expect("published again");
    let chain = own.take().await.expect("a certificate").chain();
    assert_eq!(*chain.spiffe_id(), id("/sa/b"));
}

#[tokio::test]
async fn a_volume_that_is_published_again_stays_mounted_as_it_is() {
    let mut world = World::start().await;
    let one = wanted(1);
    let target = world.kubelet.publish(&one).await.expect("published");
    let mount = |target: &Path| {
        let flags = rustix::fs::StatxFlags::MNT_ID;
        let seen = rustix::fs::statx(rustix::fs::CWD, target, rustix::fs::AtFlags::empty(), flags);
        seen.expect("there").stx_mnt_id
    };
    let before = mount(&target);
    let proxy = Proxy::connect(&target.join("socket")).await;
    let mut own = proxy.ask("default", None);
    own.take().await.expect("a certificate");
    for n in 0..3 {
        let fresh = Wanted {
            token: testing::token("a:b", &one.uid, 2_000_000_001 + n, "x"),
            ..one.clone()
        };
        world
            .kubelet
            .publish(&fresh)
            .await
            .expect("published again");
    }
    assert_eq!(mount(&target), before);
    assert_eq!(world.kept(), 1);
    assert!(is_silent(&mut own).await, "nothing new, and not ended");
}

#[tokio::test]
async fn a_pod_that_has_ended_leaves_nothing_however_often_that_is_said() {
    let mut world = World::start().await;
    let one = wanted(1);
    let target = world.kubelet.publish(&one).await.expect("published");
    let proxy = Proxy::connect(&target.join("socket")).await;
    let mut own = proxy.ask("default", None);
    own.take().await.expect("a certificate");
    world
        .kubelet
        .unpublish(&one.volume, &target)
        .await
        .expect("gone");
    let ended = own.next().await;
    assert!(ended.is_err(), "its streams end");
    assert!(!target.exists());
    assert_eq!(world.kept(), 0);
    // The leaf is nowhere any more.
    world
        .ca
        .hear(|told| {
            let leaves = inventory(told)?.leaves;
            let own = id("/sa/b").to_string();
            leaves
                .iter()
                .all(|leaf| leaf.spiffe_id != own)
                .then_some(())
        })
        .await;
    for volume in [&one.volume, "never-seen"] {
        let again = world.kubelet.unpublish(volume, &target).await;
        again.expect("nothing to do");
    }
    // Its place is free.
    world.kubelet.publish(&one).await.expect("published anew");
}

#[tokio::test]
async fn one_volume_is_in_one_place_for_one_pod() {
    let mut world = World::start().await;
    let (one, two) = (wanted(1), wanted(2));
    world.kubelet.publish(&one).await.expect("published");
    let taken = |status: tonic::Status| {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().starts_with("ARX-CSI-TAKEN: "), "{status}");
    };
    let elsewhere = Wanted {
        volume: one.volume.clone(),
        ..two.clone()
    };
    taken(
        world
            .kubelet
            .publish(&elsewhere)
            .await
            .expect_err("another pod"),
    );
    let renamed = Wanted {
        name: "web-9".to_owned(),
        ..one.clone()
    };
    taken(
        world
            .kubelet
            .publish(&renamed)
            .await
            .expect_err("another name"),
    );
    let beside = Wanted {
        volume: "csi-9".to_owned(),
        ..one.clone()
    };
    taken(
        world
            .kubelet
            .publish(&beside)
            .await
            .expect_err("another volume"),
    );
    assert_eq!(world.kept(), 1);
    // What is said of it at another place leaves it alone.
    let target = world.kubelet.target(&one.uid);
    let other = world.kubelet.target(&two.uid);
    let elsewhere = world.kubelet.unpublish(&one.volume, &other).await;
    elsewhere.expect("nothing is there");
    assert_eq!(identity(&target).await, id("/sa/b").to_string());
}

#[tokio::test]
async fn a_refused_call_leaves_nothing_behind() {
    let mut world = World::start().await;
    let one = wanted(1);
    let target = world.kubelet.target(&one.uid);
    std::fs::create_dir_all(target.parent().expect("not the root")).expect("writable");
    std::os::unix::fs::symlink("/etc", &target).expect("writable");
    let refused = world.kubelet.publish(&one).await.expect_err("a link");
    assert!(
        refused.message().starts_with("ARX-CSI-TARGET: "),
        "{refused}"
    );
    assert_eq!(world.kept(), 0);
    std::fs::remove_file(&target).expect("there");
    world.kubelet.publish(&one).await.expect("published");
    assert_eq!(identity(&target).await, id("/sa/b").to_string());
}

#[tokio::test]
async fn after_a_reboot_no_litter_is_left() {
    let mut world = World::start().await;
    let (one, two) = (wanted(1), wanted(2));
    let target = world.kubelet.publish(&one).await.expect("published");
    world.kubelet.publish(&two).await.expect("published");
    world.node.end().await;
    // No mount outlives a reboot. The directories of a disk do, and so does what a crash leaves.
    world.unmount_all();
    let half = world.node.directory.path().join("pods/half");
    std::fs::create_dir_all(half.join("socket")).expect("writable");
    std::fs::write(half.join("volume.json"), "{").expect("writable");
    world.node.begin().await;
    assert_eq!(world.kept(), 0);
    // The kubelet still has the directories, and takes them back.
    world
        .kubelet
        .unpublish(&one.volume, &target)
        .await
        .expect("gone");
    assert!(!target.exists());
}

#[tokio::test]
async fn the_kubelet_finds_the_driver_and_what_it_says_of_it_is_shown() {
    let mut world = World::start().await;
    assert!(!world.node.readiness().is_ready(), "not registered yet");
    let info = world.kubelet.register("").await;
    let endpoint = world.kubelet.root.join("plugins/csi.arx.dev/csi.sock");
    assert_eq!((&*info.r#type, &*info.name), ("CSIPlugin", DRIVER));
    assert_eq!(info.endpoint, endpoint.display().to_string());
    assert_eq!(info.supported_versions, ["1.0.0"]);
    world.node.readiness().ready().await;
    let mut identity = world.kubelet.identity().await;
    let plugin = identity.get_plugin_info(GetPluginInfoRequest {}).await;
    assert_eq!(plugin.expect("an answer").into_inner().name, DRIVER);
    let ready = identity.probe(ProbeRequest {}).await;
    assert_eq!(ready.expect("an answer").into_inner().ready, Some(true));
    let none = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {});
    none.await.expect("an answer");
    let mut node = world.kubelet.node().await;
    let info = node.node_get_info(NodeGetInfoRequest {}).await;
    assert_eq!(info.expect("an answer").into_inner().node_id, "node-1");
    let none = node.node_get_capabilities(NodeGetCapabilitiesRequest {});
    none.await.expect("an answer");
    world.kubelet.register("no such version").await;
    assert!(!world.node.readiness().is_ready());
}

#[tokio::test]
async fn only_root_talks_to_the_driver() {
    let world = World::start().await;
    let folder = world.kubelet.root.join("plugins/csi.arx.dev");
    let socket = folder.join("csi.sock");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!((mode(&folder), mode(&socket)), (0o700, 0o600));
    // Were they not so, the kernel's word on who connects would do.
    for path in [
        world.node.directory.path(),
        &world.kubelet.root,
        &folder,
        &socket,
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("ours");
    }
    std::fs::set_permissions(
        world.kubelet.root.join("plugins"),
        std::fs::Permissions::from_mode(0o777),
    )
    .expect("ours");
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n\
        sys.exit(0 if s.recv(1) == b'' else 1)";
    let nobody = tokio::task::spawn_blocking(move || {
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(socket).uid(65_534);
        python.status()
    });
    let closed = nobody.await.expect("no panic").expect("it runs");
    assert!(
        closed.success(),
        "it was not closed before anything was said"
    );
}
