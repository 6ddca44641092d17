//! A Unix socket that listens at a path.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

/// The longest path of a socket, in bytes (`sun_path` of unix(7), less its closing zero).
pub const LONGEST_SOCKET_PATH: usize = 107;

/// Connections that may wait to be accepted: all proxies of a node, when an agent restarts. The kernel's
/// `net.core.somaxconn` may be lower.
const BACKLOG: i32 = 4096;

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into an address.
    #[error(
        "{path} has {length} bytes, and the path of a socket has {LONGEST_SOCKET_PATH} at most: choose a shorter one"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Somebody accepts connections there.
    #[error("{0} is in use by another process: stop it first, or choose another path")]
    InUse(PathBuf),
    /// There is something that is not a socket.
    #[error("{0} is there and is not a socket: remove it, or choose another path")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("can't listen on {path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Listens at `path`, with these permissions. What a process that died has left there is replaced in one step, so that
/// the path never leads nowhere; a process that lives keeps its own.
///
/// # Errors
/// [`SocketError`], with what to do.
pub fn bind_socket(path: impl AsRef<Path>, mode: u32) -> Result<UnixListener, SocketError> {
    let path = path.as_ref();
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
            length,
        });
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(SocketError::InUse(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    // The name beside it may be as long as the path allows, and no longer.
    let beside = path.with_file_name(format!(".{}", std::process::id()));
    let beside = if beside.as_os_str().len() > LONGEST_SOCKET_PATH {
        path.with_file_name(".s")
    } else {
        beside
    };
    let _left_behind = std::fs::remove_file(&beside);
    let made = listen_at(&beside, mode)
        .and_then(|listener| std::fs::rename(&beside, path).map(|()| listener));
    made.map_err(|error| {
        let _unused = std::fs::remove_file(&beside);
        io(error)
    })
}

fn listen_at(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Before anybody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn what_a_dead_process_left_is_replaced() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("a.sock");
        drop(bind_socket(&path, 0o600)?);
        assert!(path.exists());
        let _listener = bind_socket(&path, 0o666)?;
        UnixStream::connect(&path)?;
        assert_eq!(
            std::fs::metadata(&path)?.permissions().mode() & 0o777,
            0o666
        );
        assert_eq!(
            std::fs::read_dir(directory.path())?.count(),
            1,
            "nothing else is left"
        );
        Ok(())
    }

    #[test]
    fn a_living_process_keeps_its_socket() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("a.sock");
        let _first = bind_socket(&path, 0o600)?;
        assert!(matches!(
            bind_socket(&path, 0o600),
            Err(SocketError::InUse(_))
        ));
        UnixStream::connect(&path)?;
        Ok(())
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() -> Outcome {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("a.sock");
        std::fs::write(&path, "mine")?;
        assert!(matches!(
            bind_socket(&path, 0o600),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(std::fs::read_to_string(&path)?, "mine");
        Ok(())
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_with_its_length() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let error = bind_socket(&path, 0o600).expect_err("too long");
        assert!(error.to_string().contains("205 bytes"), "{error}");
    }

    #[test]
    fn the_longest_path_that_fits_works() -> Outcome {
        let directory = tempfile::tempdir()?;
        let room = LONGEST_SOCKET_PATH - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let _listener = bind_socket(&path, 0o600)?;
        UnixStream::connect(&path)?;
        Ok(())
    }
}
