//! Where a kubelet wants a volume: a path that leads from the kubelet's root downwards, through
//! directories alone.

use super::refused::Refused;
use crate::attest::PodUid;
use std::path::{Component, Path, PathBuf};

/// A path below the kubelet's root, at least one directory deep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As the kubelet has it.
    text: String,
    /// From the root to the directory that it lies in.
    above: PathBuf,
    /// Its own name.
    name: String,
}

impl Target {
    /// Reads a path. Nothing is looked at.
    ///
    /// # Errors
    /// If it does not lead below `root`.
    pub(crate) fn parse(text: &str, root: &Path) -> Result<Self, Refused> {
        let refused = |reason: &str| Refused::Target {
            path: text.chars().take(4096).collect(),
            reason: reason.to_owned(),
        };
        // `Path` leaves out what is empty or a dot: what is written twice names the same.
        if text.contains("//") || text.contains("/./") || text.ends_with('/') {
            return Err(refused("not written as kubelets do"));
        }
        let Ok(below) = Path::new(text).strip_prefix(root) else {
            return Err(refused(&format!(
                "not below {}, the kubelet's root; if its --root-dir is another, say so in pod_sockets.kubelet_root",
                root.display()
            )));
        };
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !below.components().all(is_plain) {
            return Err(refused("leads upwards"));
        }
        let name = below.file_name().and_then(|name| name.to_str());
        match (below.parent(), name) {
            (Some(above), Some(name)) if above.components().next().is_some() => Ok(Self {
                text: text.to_owned(),
                above: above.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(refused("lies in no directory below the kubelet's root")),
        }
    }

    /// Whether the kubelet keeps volumes of this pod there: `pods/<uid>/...`.
    pub(crate) fn is_of(&self, uid: &PodUid) -> bool {
        self.above.starts_with(Path::new("pods").join(uid.as_str()))
    }

    pub(crate) fn above(&self) -> &Path {
        &self.above
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// As the kubelet has it.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Refused {
        Refused::Target {
            path: self.text.clone(),
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/var/lib/kubelet";

    #[test]
    fn a_path_of_a_kubelet_is_taken_apart() -> Result<(), Refused> {
        let path = "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/arx/mount";
        let target = Target::parse(path, Path::new(ROOT))?;
        assert_eq!(
            target.above(),
            Path::new("pods/u-1/volumes/kubernetes.io~csi/arx")
        );
        assert_eq!((target.name(), target.as_str()), ("mount", path));
        let of = |uid| target.is_of(&PodUid::parse(uid).expect("valid"));
        assert!(of("u-1") && !of("u-2") && !of("u"));
        Ok(())
    }

    #[test]
    fn a_path_that_does_not_lead_below_the_root_is_refused_with_a_reason() {
        for (path, reason) in [
            ("/etc/passwd", "not below /var/lib/kubelet"),
            ("/var/lib/kubelet2/pods/mount", "not below"),
            ("pods/u-1/mount", "not below"),
            (
                "/var/lib/kubelet/pods/../../../../etc/mount",
                "leads upwards",
            ),
            ("/var/lib/kubelet/pods/u-1/mount/..", "leads upwards"),
            ("/var/lib/kubelet/../kubelet/pods/mount", "leads upwards"),
            ("/var/lib/kubelet//pods/mount", "not written as kubelets do"),
            (
                "/var/lib/kubelet/pods/./mount",
                "not written as kubelets do",
            ),
            ("/var/lib/kubelet/pods/mount/", "not written as kubelets do"),
            ("/var/lib/kubelet", "lies in no directory"),
            ("/var/lib/kubelet/mount", "lies in no directory"),
        ] {
            let refused = Target::parse(path, Path::new(ROOT)).expect_err(path);
            assert_eq!(refused.code(), "ARX-CSI-TARGET");
            assert!(refused.to_string().contains(reason), "{path}: {refused}");
        }
    }
}
