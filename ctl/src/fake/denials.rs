//! Denials of the authority of the tests.

use arx_proto::admin::v1 as wire;

use crate::output::{now, unix_ms};

/// Who is denied.
#[derive(Default)]
pub(crate) struct Denials {
    pub(crate) all: Vec<wire::Denial>,
    /// Replicas that it never reaches.
    pub(crate) unreached: Vec<String>,
}

impl Denials {
    pub(super) fn deny(&mut self, request: &wire::DenyRequest) -> wire::DenyResponse {
        let now_ms = unix_ms(now());
        let denial = wire::Denial {
            subject: request.subject.clone(),
            reason: request.reason.clone(),
            since_unix_ms: now_ms,
            until_unix_ms: request.until_unix_ms,
            certificates: 2,
            identity_count: 1,
            identities: vec!["spiffe://example.org/ns/shop/sa/web".to_owned()],
            last_certificate_ends_unix_ms: now_ms + 3_600_900,
        };
        self.all.push(denial.clone());
        wire::DenyResponse {
            denial: Some(denial),
            unreached: self.unreached.clone(),
            index_ready: true,
        }
    }

    pub(super) fn allow(&mut self, request: &wire::AllowRequest) -> wire::AllowResponse {
        self.all.retain(|denial| denial.subject != request.subject);
        wire::AllowResponse {
            unreached: self.unreached.clone(),
        }
    }
}
