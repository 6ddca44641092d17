//! Requests, read while they arrive: the gRPC frames of a request body become
//! [`Request`]s of a few hundred bytes, whatever the client wraps around them. Most of
//! what Envoy sends is its `node`, 61 KB that are never held.

mod skim;
#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes};
use tonic::Status;

use crate::limits;
use skim::Skim;

/// What is kept of the `node` that a client says it is. It is a claim: good for logs,
/// never for a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `node.id`, at most 1 KiB of it.
    pub id: String,
    /// `node.cluster`, at most 1 KiB of it.
    pub cluster: String,
}

/// One `DiscoveryRequest` or `DeltaDiscoveryRequest`, without what nobody asks for.
/// Texts longer than 1 KiB are clipped; names are never clipped, but refused beyond
/// 2,048 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Who the client says it is. Read from the first message of a stream only.
    pub node: Option<Node>,
    /// `type_url`: empty, or the type that is asked for.
    pub type_url: String,
    /// `version_info`: the version that was accepted last. State of the world only.
    pub version: String,
    /// `resource_names`, or `resource_names_subscribe` of a delta request.
    pub names: Vec<String>,
    /// `resource_names_unsubscribe`. Delta only.
    pub unsubscribe: Vec<String>,
    /// `response_nonce`: the response that this answers, or empty.
    pub nonce: String,
    /// The message of `error_detail`: the response was rejected.
    pub rejection: Option<String>,
}

/// Which of the two request messages a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `DiscoveryRequest`
    StateOfTheWorld,
    /// `DeltaDiscoveryRequest`
    Delta,
}

/// Why a request is not read on. Each ends its stream, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("compressed messages are not supported, send them with encoding identity")]
    Compressed,
    #[error("the message has {0} bytes, {max} are allowed", max = limits::MESSAGE)]
    TooLong(u32),
    #[error("more than {max} resource names, spread them over several streams", max = limits::NAMES)]
    TooManyNames,
    #[error("the resource names have more than {max} bytes together, spread them over several streams", max = limits::NAMES_LENGTH)]
    NamesTooLong,
    #[error("a resource name has {0} bytes, {max} are allowed", max = limits::NAME)]
    NameTooLong(u32),
    #[error("the message is not a discovery request: {0}")]
    Malformed(&'static str),
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        match error {
            RequestError::Compressed => Status::unimplemented(text),
            RequestError::TooLong(_) | RequestError::TooManyNames | RequestError::NamesTooLong => {
                Status::resource_exhausted(text)
            }
            RequestError::NameTooLong(_) | RequestError::Malformed(_) => {
                Status::invalid_argument(text)
            }
        }
    }
}

/// The reader of one stream's requests. It keeps no byte that it has been given, apart
/// from the texts of the request under way.
pub(crate) struct Decoder {
    shape: Shape,
    /// The 5 bytes before each message: a flag, and the length, big-endian ("gRPC over
    /// HTTP2", Length-Prefixed-Message).
    prefix: [u8; 5],
    have: usize,
    /// The message under way, and how many of its bytes are to come. Most of the time there
    /// is none.
    message: Option<Box<(Skim, u32)>>,
    first: bool,
}

impl Decoder {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            prefix: [0; 5],
            have: 0,
            message: None,
            first: true,
        }
    }

    /// Takes bytes off the front of `chunk` until a request is complete or none are
    /// left. After an error the stream can't be read on.
    pub(crate) fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Request>, RequestError> {
        loop {
            let Some((skim, left)) = self.message.as_deref_mut() else {
                if !self.read_prefix(chunk)? {
                    return Ok(None);
                }
                continue;
            };
            let part = chunk.len().min(*left as usize);
            skim.read(&chunk[..part])?;
            chunk.advance(part);
            *left -= part as u32;
            if *left > 0 {
                return Ok(None);
            }
            if let Some(message) = self.message.take() {
                return message.0.finish().map(Some);
            }
        }
    }

    /// Whether the stream may end here.
    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.message.is_none()
    }

    fn read_prefix(&mut self, chunk: &mut Bytes) -> Result<bool, RequestError> {
        let part = chunk.len().min(self.prefix.len() - self.have);
        self.prefix[self.have..self.have + part].copy_from_slice(&chunk[..part]);
        chunk.advance(part);
        self.have += part;
        if self.have < self.prefix.len() {
            return Ok(false);
        }
        let [flag, length @ ..] = self.prefix;
        let length = u32::from_be_bytes(length);
        match flag {
            0 => {}
            1 => return Err(RequestError::Compressed),
            _ => {
                return Err(RequestError::Malformed(
                    "the flag before it is neither 0 nor 1",
                ));
            }
        }
        if length > limits::MESSAGE {
            return Err(RequestError::TooLong(length));
        }
        self.have = 0;
        let skim = Skim::new(self.shape, length, self.first);
        self.message = Some(Box::new((skim, length)));
        self.first = false;
        Ok(true)
    }
}
