//! Small pieces that every message of `arx.node.v1` is made of.

pub(crate) use arx_daemon::clock::unix_ms;
use arx_identity::Sequence;
use arx_proto::node::v1 as proto;
use bytes::Bytes;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The inverse of [`unix_ms`]; what no clock can show becomes 1970.
pub(crate) fn time(unix_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(unix_ms.unsigned_abs());
    let time = if unix_ms >= 0 {
        UNIX_EPOCH.checked_add(distance)
    } else {
        UNIX_EPOCH.checked_sub(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// A position in the history of X.509 roots.
pub(crate) fn position(sequence: Sequence, sha256: &[u8; 32]) -> proto::TrustPosition {
    proto::TrustPosition {
        kind: proto::TrustKind::X509Roots.into(),
        sequence: Some(proto::Sequence {
            epoch: sequence.epoch,
            number: sequence.number,
        }),
        sha256: Bytes::copy_from_slice(sha256),
    }
}

/// The results of an answer, each with its whole chain.
pub(crate) fn results(answer: proto::IssueResponse) -> Vec<proto::IssueResult> {
    let mut results = answer.results;
    for result in &mut results {
        if let Some(proto::issue_result::Outcome::Issued(issued)) = &mut result.outcome
            && issued.chain.len() == 1
        {
            issued.chain.extend_from_slice(&answer.issuers);
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_survive_the_wire(ms in -(1i64 << 42)..1 << 42) {
            prop_assert_eq!(unix_ms(time(ms)), ms);
        }

        #[test]
        fn no_time_on_the_wire_makes_it_panic(ms: i64) {
            let _ = time(ms);
        }
    }

    #[test]
    fn issuers_follow_where_a_chain_is_a_leaf_alone() {
        let chain = |names: &[&'static str]| names.iter().map(|&n| n.into()).collect::<Vec<_>>();
        let issued = |names: &[&'static str]| proto::IssueResult {
            outcome: Some(proto::issue_result::Outcome::Issued(proto::Issued {
                chain: chain(names),
                ..Default::default()
            })),
            ..Default::default()
        };
        let refused = proto::IssueResult {
            outcome: Some(proto::issue_result::Outcome::Refused(Default::default())),
            ..Default::default()
        };
        let answer = proto::IssueResponse {
            results: vec![issued(&["a"]), refused.clone(), issued(&["b", "older"])],
            issuers: chain(&["signs a", "above"]),
        };
        let whole = [
            issued(&["a", "signs a", "above"]),
            refused,
            issued(&["b", "older"]),
        ];
        assert_eq!(results(answer), whole);
    }
}
