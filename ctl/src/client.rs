//! The connection to an authority, and what can go wrong with it.

use std::error::Error as _;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use arx_proto::admin::v1::admin_client::AdminClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// An authority that hangs is noticed after so long without a sign of life; one that
/// works on a long answer gives signs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// A connection to the admin API.
pub(crate) type Client = AdminClient<Channel>;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The authority can't be reached.
    Unreachable(String),
    /// The authority refused, or what was given can't be used.
    Failed(String),
    /// The command line is wrong.
    Usage(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(message) | Self::Failed(message) | Self::Usage(message) => {
                f.write_str(message)
            }
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let code = status
            .metadata()
            .get("arx-code")
            .and_then(|code| code.to_str().ok());
        let message = status.message();
        match (status.code(), code) {
            (_, Some(code)) => Self::Failed(format!("{message} ({code})")),
            // What tonic itself found, not the authority's word.
            _ if status.source().is_some() => Self::Unreachable(format!(
                "the authority has gone away, or hangs: {message}; see its log"
            )),
            (tonic::Code::Unavailable, None) => Self::Unreachable(format!(
                "the authority is not there for this now: {message}"
            )),
            (tonic::Code::Unimplemented, None) => Self::Failed(
                "what answers there does not know this command: it is an authority of an older version, or something else, such as a node agent's socket; the authority's is `admin.socket` of its configuration".to_owned(),
            ),
            (_, None) => Self::Failed(message.to_owned()),
        }
    }
}

/// Connects to the authority's socket.
pub(crate) async fn connect(socket: &Path) -> Result<Client, Failure> {
    channel(socket).await.map(AdminClient::new)
}

/// A connection to the authority's socket, for any of its services.
pub(crate) async fn channel(socket: &Path) -> Result<Channel, Failure> {
    // Asked here, because what tonic would say of it is not for people.
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| unreachable(socket, &error))?;
    if let Ok(authority) = stream.peer_cred() {
        may_ask(socket, rustix::process::geteuid().as_raw(), authority.uid())?;
    }
    drop(stream);
    let endpoint = Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(SIGN_OF_LIFE)
        .keep_alive_timeout(SIGN_OF_LIFE);
    let channel = endpoint
        .connect_with_connector(Socket(socket.to_owned()))
        .await;
    channel.map_err(|error| Failure::Unreachable(format!("{}: {error}", socket.display())))
}

/// The authority would close the connection of anybody else without a word.
fn may_ask(socket: &Path, own: u32, authority: u32) -> Result<(), Failure> {
    if own == 0 || own == authority {
        return Ok(());
    }
    Err(Failure::Unreachable(format!(
        "you have uid {own}, and only root and uid {authority}, which runs the authority at {}, may ask it: run this as one of them",
        socket.display()
    )))
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let path = socket.display();
    Failure::Unreachable(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no socket at {path}: is the authority running on this machine? Its path is `admin.socket` of the configuration; give it with --socket or ARX_ADMIN_SOCKET"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("you may not use {path}: run this as root, or as the authority's own user")
        }
        io::ErrorKind::ConnectionRefused if !is_socket(socket) => format!(
            "{path} is no socket: that of the authority is `admin.socket` of its configuration"
        ),
        io::ErrorKind::InvalidInput => format!(
            "{path} cannot be a socket: its path has more than the 107 bytes that one may have"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!(
                "nobody listens at {path}: the authority has ended; see its log, and start it again"
            )
        }
        _ => format!("can't connect to {path}: {error}"),
    })
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

/// Connects to a Unix socket, whatever the address says.
#[derive(Clone)]
struct Socket(PathBuf);

impl tower_service::Service<Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _address: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_said_with_what_to_do() {
        let failure = connect(Path::new("/nonexistent/admin.sock"))
            .await
            .expect_err("not there");
        assert_eq!(failure.exit_code(), 3);
        assert!(
            failure.to_string().contains("ARX_ADMIN_SOCKET"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn what_can_be_no_socket_is_said() {
        let directory = tempfile::tempdir().expect("a folder");
        let failure = connect(directory.path()).await.expect_err("a folder");
        assert!(failure.to_string().contains("is no socket"), "{failure}");
        let long = directory.path().join("s".repeat(108));
        let failure = connect(&long).await.expect_err("too long");
        assert!(failure.to_string().contains("107 bytes"), "{failure}");
        assert_eq!(failure.exit_code(), 3);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_at_is_said_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("admin.sock");
        drop(tokio::net::UnixListener::bind(&path).expect("a socket"));
        let failure = connect(&path).await.expect_err("nobody there");
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().contains("start it again"), "{failure}");
    }

    #[test]
    fn a_refusal_keeps_its_reason_code() {
        let mut status = tonic::Status::invalid_argument("no such page");
        status.metadata_mut().insert(
            "arx-code",
            tonic::metadata::MetadataValue::from_static("ARX-PAGE-TOKEN"),
        );
        assert_eq!(
            Failure::from(status).to_string(),
            "no such page (ARX-PAGE-TOKEN)"
        );
    }
}
