//! The three calls that no safe interface offers: `SO_PEERPIDFD`, without which a peer's
//! pid could have been reused before it was looked up; waiting for a pidfd; and
//! `mount_setattr`, by which a mount is read-only before anybody sees it. This is the only
//! file of the agent with unsafe code.
#![allow(
    unsafe_code,
    reason = "SO_PEERPIDFD, AsyncFd::register and mount_setattr have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pidfd of the process that connected this Unix socket (Linux 6.5 and later).
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel; other errors when the process is gone already.
pub(crate) fn peer_pidfd(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to locals that outlive the call, and `length` is the size
    // of what `fd` can take.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if fd < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a mount that nobody sees yet (`open_tree` with `OPEN_TREE_CLONE`) read-only, without
/// devices, set-user-ids or executables, and no peer of any other.
///
/// # Errors
/// `ENOSYS` before Linux 5.12, `EPERM` without CAP_SYS_ADMIN.
pub(crate) fn make_read_only(tree: &impl AsRawFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string, and the kernel reads as many bytes of the
    // attributes as it is told that there are.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Resolves when `fd` is readable.
///
/// # Errors
/// If the runtime can't wait for it.
pub(crate) async fn readable(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` neither changes its descriptor nor closes it before it is
    // dropped, and the `AsyncFd` owns it.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    let fd = fd.map_err(|error| error.into_parts().1)?;
    fd.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() -> io::Result<()> {
        let (a, _b) = UnixStream::pair()?;
        match peer_pidfd(&a) {
            Ok(fd) => {
                let info =
                    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
                assert!(
                    info.contains(&format!("Pid:\t{}\n", std::process::id())),
                    "{info}"
                );
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
        Ok(())
    }
}
