//! The pod of a process, by the kernel's word. Nothing that the process can write is looked at:
//! of its control groups, only those that its kubelet has made count; and its mounts, its
//! environment, and whatever it says about containers and labels are not asked.

use super::cgroup::{self, Ambiguous};
use super::peer::Peer;
use super::pod::PodUid;
use std::io;

/// What a process proves.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is of this pod.
    Pod(PodUid),
    /// It is a process of the machine, of no pod.
    NoPod,
    /// It lives in a pid namespace that the agent does not see into.
    Hidden,
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has ended.
    #[error("the peer's process has ended")]
    Gone,
    /// No runtime makes such groups.
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    /// The kernel would not say.
    #[error("cannot read the control groups of the peer's process: {0}")]
    Unreadable(io::Error),
}

/// Looks at the peer's process; `root` is the kubelet's control group, as [`cgroup::pod_of`]
/// takes it.
///
/// # Errors
/// If the process has ended, or the kernel's word makes no sense.
pub fn observe(peer: &Peer, root: &str) -> Result<Seen, ProcessError> {
    let Some(process) = peer.process() else {
        return Ok(Seen::Hidden);
    };
    let read = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
    if !peer.is_alive() {
        // What was read may belong to whoever got the pid next.
        return Err(ProcessError::Gone);
    }
    let text = read.map_err(ProcessError::Unreadable)?;
    Ok(cgroup::pod_of(&text, root)?.map_or(Seen::NoPod, Seen::Pod))
}

#[cfg(test)]
mod tests;
