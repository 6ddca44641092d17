//! Whether the driver of volumes could work as it is described.

use arx_daemon::config::Problems;
use arx_daemon::files::LONGEST_SOCKET_PATH;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::PodSockets;

/// From the directory of all pods to a socket: a digest, and what lies below it.
const BELOW: usize = "/0123456789abcdef0123456789abcdef/socket/socket".len();
/// The longest name of a driver (CSI 1.13, GetPluginInfo).
const LONGEST_NAME: usize = 63;

impl PodSockets {
    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        if !is_name(&self.driver) {
            problems.add(
                "pod_sockets.driver",
                format!("{:?} can be no driver's name", self.driver),
                "use a domain name of 63 bytes at most, such as csi.arx.dev",
            );
        }
        if self.audience.as_ref().is_some_and(String::is_empty) {
            problems.add(
                "pod_sockets.audience",
                "empty, which is the API server",
                "name the authority's audience, or leave it out",
            );
        }
        for (key, path) in [
            ("pod_sockets.kubelet_root", &self.kubelet_root),
            ("pod_sockets.directory", &self.directory),
        ] {
            if !path.is_absolute() || path.file_name().is_none() {
                problems.add(key, "not an absolute path", "begin it with a slash");
            }
        }
        if self.directory.starts_with(self.kubelet_root.join("pods")) {
            problems.add(
                "pod_sockets.directory",
                "where the kubelet keeps its pods, and removes what it does not know",
                "choose a directory elsewhere",
            );
        }
        let length = |path: &Path| path.as_os_str().as_bytes().len();
        let sockets = [
            ("pod_sockets.directory", length(&self.directory) + BELOW),
            ("pod_sockets.kubelet_root", length(&self.endpoint())),
            ("pod_sockets.kubelet_root", length(&self.registration())),
        ];
        for (key, length) in sockets {
            if length > LONGEST_SOCKET_PATH {
                problems.add(
                    key,
                    format!("its sockets' paths would have {length} bytes, and {LONGEST_SOCKET_PATH} are possible"),
                    "choose a shorter path",
                );
            }
        }
        if self.max_connections == 0 {
            problems.add(
                "pod_sockets.max_connections",
                "nobody could connect",
                "give at least 1",
            );
        }
    }
}

/// Letters, digits, dashes, dots and underscores, with letters at both ends.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let ends = [name.bytes().next(), name.bytes().next_back()];
    (2..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && ends.iter().flatten().all(u8::is_ascii_alphabetic)
}
