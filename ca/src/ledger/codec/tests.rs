use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_identity::TrustDomain;
use proptest::collection::vec;
use proptest::prelude::*;

use super::outline::Leaf;
use super::*;
use crate::ledger::frame::{self, CHAIN};
use crate::ledger::record::{MAX_KEY_ID, MAX_SERIAL, Validity, from_millis};
use crate::ledger::{Entry, Ledger, Options};

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

/// Any that the record can keep: whole milliseconds, from the epoch to far away.
fn time() -> impl Strategy<Value = SystemTime> {
    (0..1_u64 << 45).prop_map(from_millis)
}

fn validity() -> impl Strategy<Value = Validity> {
    (time(), time()).prop_map(|(not_before, not_after)| Validity {
        not_before,
        not_after,
    })
}

fn issued() -> impl Strategy<Value = Event> {
    let names = (text(), text(), text(), text(), text());
    let ids = (
        bytes(MAX_SERIAL),
        bytes(MAX_SERIAL),
        bytes(MAX_KEY_ID),
        bytes(MAX_KEY_ID),
        bytes(MAX_KEY_ID),
    );
    let rest = (bytes(40), bytes(40), bytes(40), any::<[u64; 3]>());
    (names, ids, rest, validity()).prop_map(|(names, ids, rest, validity)| {
        let (replica, cluster, node, spiffe_id, evidence) = names;
        let (serial, replaces, subject_key_id, issuer_key_id, root_key_id) = ids;
        let (request_id, agent_instance, trace_id, numbers) = rest;
        let [policy_generation, bundle_epoch, bundle_number] = numbers;
        let issued = Issued {
            replica,
            cluster,
            node,
            spiffe_id,
            serial,
            subject_key_id,
            issuer_key_id,
            root_key_id,
            validity,
            request_id,
            replaces,
            agent_instance,
            evidence,
            policy_generation,
            bundle_epoch,
            bundle_number,
            trace_id,
        };
        issued.into()
    })
}

fn refused() -> impl Strategy<Value = Event> {
    let names = (text(), text(), text(), text(), text());
    (names, bytes(40), bytes(40)).prop_map(|(names, request_id, trace_id)| {
        let (who, cluster, node, code, message) = names;
        let refused = Refused {
            who,
            cluster,
            node,
            code,
            message,
            request_id,
            trace_id,
        };
        refused.into()
    })
}

fn intermediate() -> impl Strategy<Value = Event> {
    let ids = (bytes(MAX_SERIAL), bytes(MAX_KEY_ID), bytes(MAX_KEY_ID));
    (text(), ids, validity()).prop_map(|(replica, (serial, key_id, root_key_id), validity)| {
        let registered = IntermediateRegistered {
            replica,
            serial,
            key_id,
            root_key_id,
            validity,
        };
        registered.into()
    })
}

fn in_words() -> impl Strategy<Value = Event> {
    (any::<bool>(), text(), text(), text()).prop_map(|(by_hand, subject, name, detail)| {
        if by_hand {
            let operator = Operator {
                who: subject,
                action: name,
                detail,
            };
            return operator.into();
        }
        let rotation = Rotation {
            rotation: subject,
            step: name,
            detail,
        };
        rotation.into()
    })
}

fn gone() -> impl Strategy<Value = Event> {
    let released = (bytes(MAX_SERIAL), time(), text()).prop_map(|(serial, not_after, reason)| {
        let released = Released {
            serial,
            not_after,
            reason,
        };
        Event::from(released)
    });
    let pruned = (any::<u32>(), any::<u64>(), any::<[u8; 32]>());
    let pruned = pruned.prop_map(|(first_segment, first_record, hash)| {
        let pruned = Pruned {
            first_segment,
            first_record,
            hash,
        };
        Event::from(pruned)
    });
    prop_oneof![released, pruned]
}

fn published() -> impl Strategy<Value = Event> {
    let roots = proptest::collection::vec(bytes(MAX_KEY_ID), 0..4);
    let numbers = (any::<u64>(), any::<u64>());
    (text(), numbers, bytes(32), roots).prop_map(|(replica, (epoch, number), sha256, roots)| {
        Published {
            replica,
            epoch,
            number,
            sha256,
            roots,
        }
        .into()
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        issued(),
        refused(),
        intermediate(),
        in_words(),
        gone(),
        published()
    ]
}

/// A body with the tag of a known kind, or nearly, and anything behind it.
fn nearly_a_body() -> impl Strategy<Value = Vec<u8>> {
    (0_u16..10, any::<u16>(), any::<u64>(), bytes(300)).prop_map(|(tag, version, time, rest)| {
        let mut body = tag.to_le_bytes().to_vec();
        body.extend_from_slice(&version.to_le_bytes());
        body.extend_from_slice(&time.to_le_bytes());
        body.extend_from_slice(&rest);
        body
    })
}

proptest! {
    #[test]
    fn every_kind_of_record_is_read_as_it_was_written(event in event(), time in time()) {
        let body = encode(Record::new(time, event.clone()));
        prop_assert_eq!(from_millis(prefix(&body).time_ms), time);
        prop_assert_eq!(decode(&body), Content::Known(event));
    }

    #[test]
    fn the_outline_says_the_same_as_the_record(event in event(), time in time()) {
        let body = encode(Record::new(time, event.clone()));
        let outline = outline(&body);
        prop_assert_eq!(from_millis(outline.time_ms), time);
        let expected = match &event {
            Event::Issued(issued) => Kind::Issued(Leaf {
                replaces: &issued.replaces,
                replica: &issued.replica,
                cluster: &issued.cluster,
                node: &issued.node,
                spiffe_id: &issued.spiffe_id,
                serial: &issued.serial,
                issuer_key_id: &issued.issuer_key_id,
                root_key_id: &issued.root_key_id,
                not_after_ms: to_millis(issued.validity.not_after),
                bundle: (issued.bundle_epoch, issued.bundle_number),
            }),
            Event::Refused(refused) => Kind::Refused { who: &refused.who },
            Event::IntermediateRegistered(registered) => Kind::Intermediate { serial: &registered.serial },
            Event::Released(released) => Kind::Released {
                serial: &released.serial,
                not_after_ms: to_millis(released.not_after),
            },
            Event::Published(published) => Kind::Published {
                bundle: (published.epoch, published.number),
            },
            Event::Rotation(_) | Event::Operator(_) | Event::Pruned(_) => Kind::Other,
        };
        prop_assert_eq!(outline.kind, expected);
    }

    #[test]
    fn arbitrary_bytes_are_read_as_something_without_a_panic(
        body in prop_oneof![bytes(100), nearly_a_body()], index in any::<u64>()
    ) {
        let _any = outline(&body);
        let line = Entry::decode(index, &body).to_json();
        prop_assert!(!line.contains('\n'));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn fields_of_a_newer_version_are_passed_over(event in event(), time in time(), field in bytes(50)) {
        let mut body = encode(Record::new(time, event.clone()));
        prost::encoding::bytes::encode(1000, &field, &mut body);
        prop_assert_eq!(decode(&body), Content::Known(event));
    }
}

#[tokio::test]
async fn a_kind_of_a_newer_version_is_chained_counted_and_exported_by_its_tag()
-> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let options = Options {
        directory: directory.path().to_owned(),
        trust_domain: TrustDomain::parse("example.org")?,
        segment_bytes: 1024 * 1024,
        gather: Duration::ZERO,
    };
    drop(Ledger::open(options.clone(), UNIX_EPOCH)?);
    let segment = directory.path().join("00000001.seg");
    let mut bytes = std::fs::read(&segment)?;
    let mut commit = bytes.split_off(bytes.len() - CHAIN);
    let mut body = 999_u16.to_le_bytes().to_vec();
    body.extend_from_slice(&3_u16.to_le_bytes());
    body.extend_from_slice(&5000_u64.to_le_bytes());
    body.extend_from_slice(b"what a newer version knows");
    frame::push(&mut commit, 0, &body);
    bytes.extend_from_slice(&commit);
    std::fs::write(&segment, bytes)?;

    let (ledger, recovery) = Ledger::open(options, UNIX_EPOCH)?;
    assert_eq!((recovery.records, recovery.torn), (1, None));
    let operator = Operator::default();
    let receipt = ledger.append(vec![Record::new(from_millis(6000), operator)]);
    assert_eq!(receipt.await?.first, 1);
    assert!(ledger.verify()?.problems.is_empty());
    let mut export = ledger.export(UNIX_EPOCH, from_millis(6000))?;
    let line = export.next_chunk()?.ok_or("nothing was exported")?;
    let line: serde_json::Value = serde_json::from_slice(&line)?;
    let time = "1970-01-01T00:00:05.000Z";
    assert_eq!(
        line,
        serde_json::json!({"index": 0, "time": time, "event": "unknown", "tag": 999, "version": 3})
    );
    Ok(())
}
