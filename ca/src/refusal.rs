//! Why somebody did not get what they asked for, in the form that leaves the house: a
//! stable reason code, whose fault it is, and what to do.
//!
//! `docs/errors.md` has an entry for every code. A message never holds a secret and
//! never quotes what a stranger sent beyond a name.

mod told;

use std::time::Duration;

use arx_proto::google::rpc;
use arx_proto::node::v1 as wire;
use bytes::Bytes;
use prost::Message;

pub use told::{COUNTED, Peer, Repeated, Told};

/// What a caller can do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Who the caller is was not proved: come back with other credentials.
    Unauthenticated,
    /// Who the caller is was proved, and it may not have this.
    Forbidden,
    /// The request itself is wrong: the same again fails again.
    Request,
    /// There is more to do than can be done: come back later.
    Overload,
    /// Something that the authority needs is away: come back later.
    Dependency,
    /// What the caller decided by is not so any more: look again.
    Changed,
    /// The authority's own fault.
    Internal,
}

impl Fault {
    fn grpc(self) -> tonic::Code {
        match self {
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::Forbidden => tonic::Code::PermissionDenied,
            Self::Request => tonic::Code::InvalidArgument,
            Self::Overload => tonic::Code::ResourceExhausted,
            Self::Dependency => tonic::Code::Unavailable,
            Self::Changed => tonic::Code::Aborted,
            Self::Internal => tonic::Code::Internal,
        }
    }

    /// How long to wait where the cause says nothing better.
    fn usual_wait(self) -> Option<Duration> {
        match self {
            Self::Overload => Some(Duration::from_millis(500)),
            Self::Dependency => Some(Duration::from_secs(2)),
            Self::Internal => Some(Duration::from_secs(10)),
            Self::Unauthenticated | Self::Forbidden | Self::Request | Self::Changed => None,
        }
    }
}

/// A request, or one item of a batch, that was turned down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// `ARX-...`, never changed once published.
    pub code: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// Lower-case, without a full stop; says what to do.
    pub message: String,
    /// Not before this; `None` if the same request will fail again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that asks to wait as long as is usual for its fault.
    pub fn new(code: &'static str, fault: Fault, message: impl Into<String>) -> Self {
        Self {
            code,
            fault,
            message: message.into(),
            retry_after: fault.usual_wait(),
        }
    }

    /// The same, with another wait.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    fn retry_after_ms(&self) -> u32 {
        // 0 means "never", so a short wait is at least one millisecond.
        self.retry_after.map_or(0, |wait| {
            u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
        })
    }

    /// As one result of a batch.
    #[must_use]
    pub fn to_wire(&self) -> wire::Refusal {
        wire::Refusal {
            code: self.code.to_owned(),
            message: self.message.clone(),
            grpc_code: self.fault.grpc() as u32,
            retry_after_ms: self.retry_after_ms(),
        }
    }
}

/// The reason code stands in the metadata `arx-code`, the wait in a `google.rpc.RetryInfo`.
impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        let code = refusal.fault.grpc();
        let details = refusal.retry_after.map_or_else(Bytes::new, |wait| {
            let info = rpc::RetryInfo {
                retry_delay: Some(prost_types::Duration {
                    seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(wait.subsec_nanos()).unwrap_or(0),
                }),
            };
            let status = rpc::Status {
                code: code as i32,
                message: refusal.message.clone(),
                details: vec![prost_types::Any {
                    type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                    value: info.encode_to_vec(),
                }],
            };
            status.encode_to_vec().into()
        });
        let mut metadata = tonic::metadata::MetadataMap::new();
        metadata.insert(
            "arx-code",
            tonic::metadata::MetadataValue::from_static(refusal.code),
        );
        Self::with_details_and_metadata(code, refusal.message, details, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_code_and_when_to_come_back() {
        let refusal = Refusal::new("ARX-QUEUE-FULL", Fault::Overload, "too much to do")
            .after(Duration::from_millis(1500));
        let status = tonic::Status::from(refusal);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            status.metadata().get("arx-code").expect("set"),
            "ARX-QUEUE-FULL"
        );
        let details = rpc::Status::decode(status.details()).expect("a google.rpc.Status");
        let info = rpc::RetryInfo::decode(&details.details[0].value[..]).expect("a RetryInfo");
        let wait = info.retry_delay.expect("set");
        assert_eq!((wait.seconds, wait.nanos), (1, 500_000_000));
    }

    #[test]
    fn a_request_that_will_always_fail_asks_for_no_repetition() {
        let refusal = Refusal::new("ARX-CSR-SIGNATURE", Fault::Request, "bad signature");
        assert_eq!(refusal.to_wire().retry_after_ms, 0);
        assert!(tonic::Status::from(refusal).details().is_empty());
    }

    #[test]
    fn the_shortest_wait_is_still_a_wait() {
        let refusal =
            Refusal::new("ARX-QUEUE-FULL", Fault::Overload, "x").after(Duration::from_micros(3));
        assert_eq!(refusal.to_wire().retry_after_ms, 1);
    }
}
