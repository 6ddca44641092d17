//! A call that failed as a whole: whether and when it is worth trying again, and whether
//! the node itself is no longer believed.

use arx_proto::google::rpc;
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

/// Metadata in which an authority says why it refuses.
const REASON_CODE: &str = "arx-code";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
/// No authority is obeyed that wants to be left alone for longer.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// Of an authority's words.
const LONGEST_MESSAGE: usize = 1024;

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallFailure {
    /// What kind of failure it was.
    pub code: Code,
    /// The authority's words, or what happened to the connection.
    pub message: String,
    /// Not before this long; zero if nothing was asked for.
    pub retry_after: Duration,
}

impl CallFailure {
    pub(crate) fn timeout(after: Duration) -> Self {
        Self {
            code: Code::DeadlineExceeded,
            message: format!("the authority did not answer within {after:?}"),
            retry_after: Duration::ZERO,
        }
    }

    pub(crate) fn lost() -> Self {
        Self {
            code: Code::Unavailable,
            message: "there is no connection to the authority".to_owned(),
            retry_after: Duration::ZERO,
        }
    }

    /// Whether the caller, this node, is not believed any more: it has to join again.
    pub(crate) fn refuses_the_node(&self) -> bool {
        self.code == Code::Unauthenticated
    }

    /// Whether it was refused for who asks and what for, and not because whoever was asked can't
    /// answer now.
    pub(crate) fn is_about_the_caller(&self) -> bool {
        matches!(
            self.code,
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
        )
    }

    /// The stable name of the failure, for logs and metrics: the authority's own reason
    /// code if it gave one.
    pub(crate) fn reason(&self) -> &str {
        let first = self.message.split([':', ' ']).next().unwrap_or_default();
        let is_code = first.starts_with("ARX-")
            && first.len() <= 64
            && first
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-');
        match self.code {
            _ if is_code => first,
            Code::Unavailable => "ARX-AGENT-UNAVAILABLE",
            Code::DeadlineExceeded => "ARX-AGENT-TIMEOUT",
            Code::ResourceExhausted => "ARX-AGENT-OVERLOAD",
            Code::Unauthenticated | Code::PermissionDenied => "ARX-AGENT-REFUSED",
            _ => "ARX-AGENT-FAILED",
        }
    }
}

impl From<Status> for CallFailure {
    fn from(status: Status) -> Self {
        let code = status.metadata().get(REASON_CODE);
        let said = match code.and_then(|code| code.to_str().ok()) {
            Some(code) => format!("{code}: {}", status.message()),
            None => status.message().to_owned(),
        };
        Self {
            code: status.code(),
            message: said.chars().take(LONGEST_MESSAGE).collect(),
            retry_after: retry_info(status.details()).min(LONGEST_PATIENCE),
        }
    }
}

/// The `RetryInfo` in a status's details; zero if there is none.
fn retry_info(details: &[u8]) -> Duration {
    let Ok(status) = rpc::Status::decode(details) else {
        return Duration::ZERO;
    };
    let info = status.details.iter().find(|any| any.type_url == RETRY_INFO);
    let info = info.and_then(|any| rpc::RetryInfo::decode(any.value.as_ref()).ok());
    let delay = info.and_then(|info| info.retry_delay);
    delay
        .and_then(|delay| Duration::try_from(delay).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use tonic::metadata::MetadataValue;

    fn status(delay: Option<prost_types::Duration>) -> Status {
        let info = rpc::RetryInfo { retry_delay: delay };
        let details = rpc::Status {
            details: vec![prost_types::Any {
                type_url: RETRY_INFO.into(),
                value: info.encode_to_vec(),
            }],
            ..Default::default()
        };
        let mut status = Status::with_details(
            Code::ResourceExhausted,
            "the queue is full",
            Bytes::from(details.encode_to_vec()),
        );
        let code = MetadataValue::from_static("ARX-QUEUE-FULL");
        status.metadata_mut().insert(REASON_CODE, code);
        status
    }

    #[test]
    fn the_time_to_come_back_is_read() {
        let delay = prost_types::Duration {
            seconds: 3,
            nanos: 500_000_000,
        };
        let failure = CallFailure::from(status(Some(delay)));
        assert_eq!(failure.retry_after, Duration::from_millis(3500));
        assert_eq!(failure.reason(), "ARX-QUEUE-FULL");
        assert_eq!(failure.to_string(), "ARX-QUEUE-FULL: the queue is full");
    }

    #[test]
    fn an_absurd_or_absent_time_to_come_back_is_bounded() {
        for (seconds, expected) in [(i64::MAX, LONGEST_PATIENCE), (-5, Duration::ZERO)] {
            let delay = prost_types::Duration { seconds, nanos: 0 };
            assert_eq!(CallFailure::from(status(Some(delay))).retry_after, expected);
        }
        assert_eq!(CallFailure::from(status(None)).retry_after, Duration::ZERO);
    }

    #[test]
    fn what_is_said_of_the_caller_is_told_from_what_is_said_of_the_authority() {
        let is_about = |code| CallFailure::from(Status::new(code, "")).is_about_the_caller();
        let caller = [
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::InvalidArgument,
        ];
        assert!(caller.into_iter().all(is_about));
        let authority = [
            Code::ResourceExhausted,
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Internal,
            Code::Aborted,
        ];
        assert!(!authority.into_iter().any(is_about));
    }

    #[test]
    fn words_that_are_no_reason_code_become_no_label() {
        let failure = CallFailure::from(Status::unavailable("ARX-x y"));
        assert_eq!(failure.reason(), "ARX-AGENT-UNAVAILABLE");
    }

    proptest! {
        #[test]
        fn no_details_make_it_panic(details: Vec<u8>) {
            let _ = retry_info(&details);
        }
    }
}
