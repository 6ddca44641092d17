use super::*;
use proptest::prelude::*;

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
const OTHER: &str = "7f3a1d52-90be-4c11-a6f4-5d0c9c3f2b10";
const CONTAINER: &str = "9ca45d48c9dbd4d5d5c4d6f7a1a3c5e9f0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5";

/// The names that kubelets, containerd and CRI-O give, as they stand in `/proc/PID/cgroup`; `U`
/// is the pod's UID, `_` the same with underscores, `C` the container's id.
const RECORDED: &[(&str, &str)] = &[
    (
        "containerd, cgroup v2, systemd",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod_.slice/cri-containerd-C.scope",
    ),
    (
        "containerd, cgroup v2, systemd, best effort",
        "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod_.slice/cri-containerd-C.scope",
    ),
    (
        "containerd, cgroup v2, systemd, guaranteed",
        "0::/kubepods.slice/kubepods-pod_.slice/cri-containerd-C.scope",
    ),
    (
        "containerd, cgroup v2, cgroupfs",
        "0::/kubepods/besteffort/podU/C",
    ),
    (
        "containerd, cgroup v2, cgroupfs, guaranteed",
        "0::/kubepods/podU/C",
    ),
    (
        "containerd, cgroup v1, cgroupfs",
        "12:memory:/kubepods/burstable/podU/C\n11:cpu,cpuacct:/kubepods/burstable/podU/C\n1:name=systemd:/kubepods/burstable/podU/C\n0::/system.slice/containerd.service",
    ),
    (
        "containerd, cgroup v1, systemd",
        "5:devices:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod_.slice/cri-containerd-C.scope\n0::/",
    ),
    (
        "containerd told of cgroupfs, its kubelet of systemd",
        "3:pids:/system.slice/containerd.service/kubepods-burstable-pod_.slice:cri-containerd:C",
    ),
    (
        "k3s",
        "0::/system.slice/k3s.service/kubepods-pod_.slice:cri-containerd:C",
    ),
    (
        "CRI-O, cgroup v2, systemd",
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod_.slice/crio-C.scope",
    ),
    (
        "CRI-O, cgroup v2, a container with groups of its own",
        "0::/kubepods.slice/kubepods-pod_.slice/crio-C.scope/container",
    ),
    (
        "CRI-O, cgroup v1, systemd",
        "9:freezer:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod_.slice/crio-C.scope",
    ),
    (
        "CRI-O, cgroup v1, cgroupfs",
        "4:blkio:/kubepods/burstable/podU/crio-C",
    ),
    (
        "systemd inside the container",
        "0::/kubepods.slice/kubepods-pod_.slice/cri-containerd-C.scope/init.scope",
    ),
    (
        "seen from another pod of the same class",
        "0::/../../kubepods-burstable-pod_.slice/cri-containerd-C.scope",
    ),
    (
        "seen from a pod of another class",
        "0::/../../../kubepods-besteffort.slice/kubepods-besteffort-pod_.slice/cri-containerd-C.scope",
    ),
    (
        "seen from a pod of another class, guaranteed",
        "0::/../../../kubepods-pod_.slice/cri-containerd-C.scope",
    ),
    (
        "seen from a pod of another class, cgroupfs",
        "0::/../../../burstable/podU/C",
    ),
    (
        "seen from another pod of the same class, cgroupfs",
        "0::/../../podU/C",
    ),
    ("nothing but the pod's own group", "0::/kubepods/podU"),
];

fn filled(text: &str, uid: &str) -> String {
    text.replace("pod_", &format!("pod{}", uid.replace('-', "_")))
        .replace("podU", &format!("pod{uid}"))
        .replace("/C", &format!("/{CONTAINER}"))
        .replace("-C", &format!("-{CONTAINER}"))
}

fn found(cgroup: &str) -> Option<String> {
    let uid = pod_of(cgroup, "/").expect("not ambiguous");
    uid.map(|uid| uid.to_string())
}

#[test]
fn the_pod_is_found_by_every_name_that_runtimes_give() {
    for (who, text) in RECORDED {
        for uid in [UID, "6d1b8b0a9f4e47f2a8c1d2e3f4a5b6c7"] {
            let cgroup = filled(text, uid);
            assert_eq!(found(&cgroup).as_deref(), Some(uid), "{who}: {cgroup}");
        }
    }
}

#[test]
fn whoever_is_in_no_pod_is_of_none() {
    for text in [
        "",
        "0::/",
        "0::/init.scope",
        "0::/system.slice/sshd.service",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice",
        "0::/kubepods.slice",
        "0::/kubepods.slice/kubepods-burstable.slice",
        "0::/kubepods/burstable",
        "0::/docker/9ca45d48",
        // Another container of the agent's own pod, and the agent's own.
        "0::/../cri-containerd-9ca45d48.scope",
        "0::/child",
        "not a line",
        "0:",
    ] {
        assert_eq!(found(text), None, "{text}");
    }
}

#[test]
fn a_group_that_is_named_like_a_pod_counts_only_where_kubelets_put_pods() {
    for place in [
        // Users and services may make groups below their own.
        "0::/user.slice/user-1000.slice/user@1000.service/kubepods/podU",
        "0::/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod_.slice/C",
        "0::/system.slice/evil.service/kubepods-pod_.slice:cri-containerd:C",
        "0::/podU/C",
        "0::/kubepods-pod_.slice/C",
        "0::/burstable/podU",
        "0::/notkubepods/podU/C",
        "0::/kubepods/other/podU/C",
        "0::/../../user.slice/kubepods/podU",
        // No UIDs.
        "0::/kubepods/podx/C",
        "0::/kubepods/pod/C",
        "0::/kubepods/pod../C",
        "0::/kubepods.slice/kubepods-pod2c48913c.slice/C",
    ] {
        let cgroup = filled(place, UID);
        assert_eq!(found(&cgroup), None, "{cgroup}");
    }
}

#[test]
fn of_groups_within_groups_the_outermost_pod_counts() {
    for (_, text) in RECORDED {
        for below in [
            "/kubepods/podU/C",
            "/podU",
            "/kubepods.slice/kubepods-pod_.slice/C",
        ] {
            let own = filled(text, UID);
            let lines: Vec<_> = own
                .lines()
                .map(|line| match pod_of(line, "/") {
                    Ok(Some(_)) => format!("{line}{}", filled(below, OTHER)),
                    _ => line.to_owned(),
                })
                .collect();
            let cgroup = lines.join("\n");
            assert_eq!(found(&cgroup).as_deref(), Some(UID), "{cgroup}");
        }
    }
}

#[test]
fn hierarchies_that_name_two_pods_prove_neither() {
    let one = filled("3:pids:/kubepods/podU/C", UID);
    let other = filled("0::/kubepods/podU/C", OTHER);
    let both = format!("{one}\n{other}");
    assert!(pod_of(&both, "/").is_err());
    assert_eq!(found(&format!("{one}\n{one}")).as_deref(), Some(UID));
}

#[test]
fn below_a_root_of_the_kubelets_own_pods_are_found_there_and_nowhere_else() {
    let below = |root, text: &str| {
        let found = pod_of(&filled(text, UID), root).expect("not ambiguous");
        found.is_some()
    };
    assert!(below(
        "/kubelet.slice",
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod_.slice/cri-containerd-C.scope"
    ));
    assert!(below("/kubelet", "0::/kubelet/kubepods/burstable/podU/C"));
    assert!(below("/a/b", "0::/a/b/kubepods/podU/C"));
    assert!(!below("/kubelet", "0::/kubepods/burstable/podU/C"));
    assert!(!below("/", "0::/kubelet/kubepods/burstable/podU/C"));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "(\\PC|\n){0,300}", root in "\\PC{0,20}") {
        let _ = pod_of(&text, &root);
    }

    /// Whatever a pod makes below its own group, it stays that pod.
    #[test]
    fn nothing_below_a_pods_group_makes_it_another(
        which in 0..RECORDED.len(),
        below in prop::collection::vec(
            prop_oneof![
                Just("kubepods".to_owned()),
                Just("kubepods.slice".to_owned()),
                Just("burstable".to_owned()),
                Just("kubepods-burstable.slice".to_owned()),
                Just("system.slice".to_owned()),
                Just(format!("pod{OTHER}")),
                Just(format!("kubepods-burstable-pod{}.slice", OTHER.replace('-', "_"))),
                "[a-z:.-]{1,20}",
            ],
            0..6,
        ),
    ) {
        let own = filled(RECORDED[which].1, UID);
        let line = own.lines().next().expect("at least one");
        let cgroup = format!("{line}/{}", below.join("/"));
        prop_assert_eq!(found(&cgroup), Some(UID.to_owned()));
    }
}
