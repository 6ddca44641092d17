//! Which pod a process is of, by the control groups that it is in.
//!
//! A kubelet keeps its pods in one place of the hierarchy, `kubepods`, and runtimes put each
//! container below the group of its pod. The group is looked for there and nowhere else: a
//! pod may make groups of its own below its container, named like another pod's, and so may
//! users of the machine below theirs.
//!
//! | driver | group of a pod |
//! |---|---|
//! | cgroupfs | `/kubepods/burstable/pod<uid>` |
//! | systemd | `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`, with `_` for `-` in the UID |
//! | systemd by the kubelet alone | `/system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<container>` |
//!
//! The class of service is left out for pods that are guaranteed all that they ask for.

use super::pod::PodUid;

/// The kubelet's own group, by itself or below the group that `--cgroup-root` names.
const KUBEPODS: &str = "kubepods";
/// Classes of service that have a group of their own.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];
/// Services that start containers below their own group, where only the kubelet is told to use
/// systemd.
const RUNTIMES: [&str; 6] = [
    "containerd.service",
    "crio.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-agent.service",
    "rke2-server.service",
];

/// Two hierarchies put one process into two pods, which no runtime does.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("control groups put the process into pod {0} and into pod {1}")]
pub struct Ambiguous(pub PodUid, pub PodUid);

/// The pod of a process with this `/proc/PID/cgroup` (cgroups(7)); None if it is of none.
/// `root` is the group that the kubelet's `--cgroup-root` makes, `/` if it is not given.
///
/// # Errors
/// If the hierarchies contradict each other.
pub fn pod_of(cgroup: &str, root: &str) -> Result<Option<PodUid>, Ambiguous> {
    let mut found: Option<PodUid> = None;
    for line in cgroup.lines() {
        // Hierarchy, controllers, path; the path may have colons of its own.
        let Some(path) = line.splitn(3, ':').nth(2) else {
            continue;
        };
        let Some(uid) = of_path(path, root) else {
            continue;
        };
        match found {
            Some(other) if other != uid => return Err(Ambiguous(other, uid)),
            _ => found = Some(uid),
        }
    }
    Ok(found)
}

fn of_path(path: &str, root: &str) -> Option<PodUid> {
    let mut names = path.split('/').filter(|part| !part.is_empty()).peekable();
    // Whoever looks from a control group namespace of its own sees groups above it this way
    // (cgroup_namespaces(7)); nobody can make such a name.
    let mut above = false;
    while names.next_if_eq(&"..").is_some() {
        above = true;
    }
    if !above {
        let mut wanted = root.split('/').filter(|part| !part.is_empty());
        if !wanted.all(|part| names.next_if_eq(&part).is_some()) {
            return None;
        }
        if names.next_if_eq(&"system.slice").is_some() {
            names.next_if(|name| RUNTIMES.contains(name))?;
            let (slice, _container) = names.next()?.split_once(':')?;
            return of_slice(slice);
        }
    }
    let kubepods = names.next_if(|name| is_kubepods(name)).is_some();
    if !kubepods && !above {
        return None;
    }
    let _class = names.next_if(|name| is_class(name));
    match names.next()? {
        slice if slice.ends_with(".slice") => of_slice(slice),
        plain => of_plain(plain),
    }
}

fn is_kubepods(name: &str) -> bool {
    let slice = name.strip_suffix(".slice");
    let bare = slice.unwrap_or(name);
    // Below `--cgroup-root=/a` systemd calls it `a-kubepods.slice`.
    bare == KUBEPODS
        || (slice.is_some()
            && bare
                .rsplit_once('-')
                .is_some_and(|(_, last)| last == KUBEPODS))
}

fn is_class(name: &str) -> bool {
    CLASSES.iter().any(|class| {
        name == *class
            || name
                .strip_suffix(".slice")
                .and_then(|bare| bare.strip_suffix(class))
                .and_then(|bare| bare.strip_suffix('-'))
                .is_some_and(|above| above.rsplit('-').next() == Some(KUBEPODS))
    })
}

/// `[...-]kubepods[-class]-pod<uid>.slice`
fn of_slice(name: &str) -> Option<PodUid> {
    let (above, pod) = name.strip_suffix(".slice")?.rsplit_once('-')?;
    let above = CLASSES
        .iter()
        .find_map(|class| above.strip_suffix(class)?.strip_suffix('-'))
        .unwrap_or(above);
    if above.rsplit('-').next() != Some(KUBEPODS) {
        return None;
    }
    uid(&pod.strip_prefix("pod")?.replace('_', "-"))
}

/// `pod<uid>`
fn of_plain(name: &str) -> Option<PodUid> {
    uid(name.strip_prefix("pod")?)
}

/// A UUID, or the digest by which a kubelet calls a pod that it has from a file.
fn uid(text: &str) -> Option<PodUid> {
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    let good = matches!(lengths[..], [8, 4, 4, 4, 12] | [32]) && text.split('-').all(hex);
    good.then(|| PodUid::parse(text)).flatten()
}

#[cfg(test)]
mod tests;
