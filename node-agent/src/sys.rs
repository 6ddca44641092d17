//! The two calls that no safe interface offers: `SO_PEERPIDFD`, without which a peer's
//! pid could have been reused before it was looked up, and waiting for a pidfd. This is
//! the only file of the agent with unsafe code.
#![allow(
    unsafe_code,
    reason = "SO_PEERPIDFD and AsyncFd::register have no safe wrapper"
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
