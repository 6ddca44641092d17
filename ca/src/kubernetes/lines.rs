//! The lines of a watch.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::{QUIET, in_short};

/// Longest line, in bytes: etcd takes no object of more than 1.5 MiB.
const MAX: usize = 4 << 20;

/// The lines of a watch.
pub(crate) struct Lines {
    body: Body,
    read: BytesMut,
    /// So many bytes of it hold no end of a line.
    searched: usize,
}

impl Lines {
    pub(crate) fn of(body: Body) -> Self {
        Self {
            body,
            read: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next one; `None` when the watch has ended.
    ///
    /// # Errors
    /// Why there is none though it has not ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let end = self.read[self.searched..]
                .iter()
                .position(|it| *it == b'\n');
            if let Some(end) = end {
                let line = self.read.split_to(self.searched + end).freeze();
                self.read.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > MAX {
                return Err(format!("a line of more than {} MiB", MAX >> 20));
            }
            let frame = tokio::time::timeout(QUIET, self.body.frame()).await;
            match frame.map_err(|_| format!("nothing was heard for {} s", QUIET.as_secs()))? {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(in_short(&error)),
                None => return Ok(None),
            }
        }
    }
}
