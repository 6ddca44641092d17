//! Control groups of this machine, made and named as a kubelet and its runtime do it. They need
//! root.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Who names a container's group.
#[derive(Clone, Copy, Debug)]
pub enum Runtime {
    /// containerd, with the driver cgroupfs.
    Containerd,
    /// containerd, with the driver systemd.
    ContainerdSystemd,
    /// CRI-O, with the driver systemd.
    CriO,
}

/// A group; it goes when this is dropped, if nobody is in it.
#[derive(Debug)]
pub struct Group(Vec<PathBuf>);

/// The hierarchies of this machine in which groups can be made: of version 2, and of one
/// controller of version 1 where there is that as well.
///
/// # Errors
/// If none is mounted.
pub fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    let places = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/pids",
    ];
    let found = places.iter().map(Path::new);
    let found: Vec<_> = found
        .filter(|place| place.join("cgroup.procs").exists())
        .map(Path::to_path_buf)
        .collect();
    if found.is_empty() {
        bail!("no control groups are mounted below /sys/fs/cgroup");
    }
    Ok(found)
}

impl Group {
    /// Makes that of a container in a pod with this UID.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn of_container(hierarchy: &Path, runtime: Runtime, pod: &str) -> anyhow::Result<Self> {
        let slice = format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
            pod.replace('-', "_")
        );
        let container = "9ca45d48c9dbd4d5d5c4d6f7a1a3c5e9f0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5";
        Self::make(
            hierarchy,
            &match runtime {
                Runtime::Containerd => format!("kubepods/burstable/pod{pod}/{container}"),
                Runtime::ContainerdSystemd => format!("{slice}/cri-containerd-{container}.scope"),
                Runtime::CriO => format!("{slice}/crio-{container}.scope"),
            },
        )
    }

    /// Makes `path` and what lies above it.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn make(hierarchy: &Path, path: &str) -> anyhow::Result<Self> {
        let mut made = Vec::new();
        let mut at = hierarchy.to_owned();
        for part in path.split('/') {
            at.push(part);
            if !at.exists() {
                std::fs::create_dir(&at).with_context(|| format!("making {}", at.display()))?;
            }
            made.push(at.clone());
        }
        Ok(Self(made))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.last().map_or(Path::new("/"), PathBuf::as_path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for group in self.0.iter().rev() {
            // One that others use as well goes with the last of them.
            let _unused = std::fs::remove_dir(group);
        }
    }
}
