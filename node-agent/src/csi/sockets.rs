//! The sockets of pods: each is served by itself, and whoever connects is its pod.

use crate::attest::Pod;
use crate::doorway::Doorway;
use crate::socket::{Close, Connections};
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

/// Makes sockets serve.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// As it is for everybody.
    pub(crate) doorway: Doorway,
    /// As they are for one pod.
    pub(crate) connections: Connections,
}

impl Sockets {
    /// Serves whoever connects to `listener` as `pod`, until what is answered is dropped.
    ///
    /// # Errors
    /// If the runtime can't wait for connections.
    pub(crate) fn serve(&self, listener: UnixListener, pod: Arc<Pod>) -> io::Result<Close> {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let doorway = Doorway {
            pod: Some(pod),
            ..self.doorway.clone()
        };
        let service = arx_sds::SdsService::new(Arc::new(doorway));
        Ok(self.connections.serve_until_closed(listener, service))
    }
}
