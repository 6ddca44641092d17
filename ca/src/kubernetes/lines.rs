//! The lines of a watch.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::in_short;

/// Longest line, in bytes: etcd takes no object of more than 1.5 MiB.
const MAX: usize = 4 << 20;
/// An API server says about once a minute how far a watch has come. After so long without a word
/// the connection is not there any more.
const QUIET: Duration = Duration::from_secs(90);

/// The lines of a watch.
pub(crate) struct Lines {
    body: Body,
    read: BytesMut,
    /// So many bytes of it hold no end of a line.
    searched: usize,
}

/// Why there is no next line though the watch has not ended.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) why: String,
    /// Whether it was not even said how far the watch has come.
    pub(crate) is_silent: bool,
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
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
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
                return Err(Broken::by(format!("a line of more than {} MiB", MAX >> 20)));
            }
            let frame = tokio::time::timeout(QUIET, self.body.frame()).await;
            let frame = frame.map_err(|_| Broken {
                why: format!("nothing was heard for {} s", QUIET.as_secs()),
                is_silent: true,
            })?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Broken::by(in_short(&error))),
                None => return Ok(None),
            }
        }
    }
}

impl Broken {
    fn by(why: String) -> Self {
        Self {
            why,
            is_silent: false,
        }
    }
}
