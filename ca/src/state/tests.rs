use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::crypto::SealingKey;
use arx_identity::{KeyAlgorithm, PrivateKey, Sequence};
use serde_json::Value;

use super::*;
use crate::store::faults::{Fault, Faulty};
use crate::store::{Memory, StoreError};

const SOFTWARE: &str = "arx-ca 1.2.3";

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn seal(n: u8) -> Seal {
    let mut key = [n; 32];
    key[0] = 0;
    Seal::with(SealingKey::from_bytes(&key))
}

async fn open(store: &Shared) -> State {
    State::open(store.clone(), seal(1), &trust_domain(), SOFTWARE)
        .await
        .expect("it opens")
}

fn memory() -> Shared {
    Arc::new(Memory::new())
}

/// Changes the document of a replica, which stands for any document here.
async fn count(state: &State) -> Result<u64, StateError> {
    state
        .update(&counter(state), |found: Option<Loaded<ReplicaDocument>>| {
            let mut document = found.map(|found| found.value).unwrap_or_default();
            document.starts += 1;
            let starts = document.starts;
            Ok(Decision::Write(document, starts))
        })
        .await
}

fn counter(state: &State) -> Key {
    state
        .key(&ReplicaDocument::KIND)
        .named(Segment::fixed("counter"))
}

async fn counted(state: &State) -> Loaded<ReplicaDocument> {
    state
        .load(&counter(state))
        .await
        .expect("it reads")
        .expect("it is there")
}

/// Puts into the store what stood there before, as somebody would who has write access to it.
async fn put_back(store: &Shared, entry: &crate::store::Entry) {
    let stored = store
        .get(&entry.key)
        .await
        .expect("it reads")
        .expect("it is there");
    store
        .compare_and_swap(&entry.key, Some(&stored.version), entry.value.clone())
        .await
        .expect("it is written");
}

#[tokio::test]
async fn a_generation_grows_with_every_change() {
    let store = memory();
    let state = open(&store).await;
    for n in 1..=3 {
        assert_eq!(count(&state).await, Ok(n));
        let stored = counted(&state).await;
        assert_eq!((stored.generation, stored.value.starts), (n, n));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_change_one_document_nobody_loses_a_change() {
    let store = memory();
    let state = open(&store).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let state = state.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                count(&state).await.expect("it is counted");
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(counted(&state).await.value.starts, 80);
}

#[tokio::test]
async fn a_change_happens_once_whatever_goes_wrong_on_the_way() {
    use Fault::{Conflict, Late, LostAnswer, LostRequest, StaleRead};
    for faults in [
        &[Conflict][..],
        &[LostAnswer],
        &[LostRequest],
        &[Late],
        &[StaleRead],
        &[LostAnswer, StaleRead],
        &[Conflict, LostRequest, Conflict, LostAnswer],
        &[LostRequest, LostRequest, Late],
    ] {
        let faulty = Arc::new(Faulty::new(memory()));
        let state = open(&(faulty.clone() as Shared)).await;
        count(&state).await.expect("nothing goes wrong yet");
        for fault in faults {
            faulty.next(*fault);
        }
        assert_eq!(count(&state).await, Ok(2), "{faults:?}");
        assert!(faulty.is_spent(), "{faults:?}");
        assert_eq!(counted(&state).await.value.starts, 2, "{faults:?}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_that_passes() {
    let faulty = Arc::new(Faulty::new(memory()));
    let state = open(&(faulty.clone() as Shared)).await;
    count(&state).await.expect("nothing goes wrong yet");
    faulty.next(Fault::Unavailable);
    let error = count(&state).await.expect_err("it is away");
    assert!(error.passes(), "{error}");
    assert!(
        matches!(error, StateError::Store(StoreError::Unavailable { .. })),
        "{error:?}"
    );
    assert_eq!(count(&state).await, Ok(2));
}

#[tokio::test]
async fn an_answer_that_is_lost_with_the_store_is_never_called_undone() {
    let inner = memory();
    let faulty = Arc::new(Faulty::new(inner.clone()));
    let state = open(&(faulty.clone() as Shared)).await;
    faulty.cut_after(0, Fault::LostAnswer);
    let error = count(&state).await.expect_err("nobody knows");
    assert_eq!(error.code(), "ARX-STORE-OUTCOME-UNKNOWN");
    assert_eq!(counted(&open(&inner).await).await.value.starts, 1);
}

#[tokio::test]
async fn a_conflict_after_a_lost_answer_is_not_called_undone_either() {
    let faulty = Arc::new(Faulty::new(memory()));
    let state = open(&(faulty.clone() as Shared)).await;
    for fault in [Fault::LostRequest, Fault::Conflict, Fault::Unavailable] {
        faulty.next(fault);
    }
    let error = count(&state).await.expect_err("nobody knows");
    assert!(faulty.is_spent());
    assert_eq!(error.code(), "ARX-STORE-OUTCOME-UNKNOWN");
}

#[tokio::test]
async fn a_document_that_never_changes_is_made_once() {
    let store = memory();
    let state = open(&store).await;
    let document = |starts| ReplicaDocument {
        starts,
        ..ReplicaDocument::default()
    };
    let key = counter(&state);
    assert_eq!(state.create(&key, &document(1)).await, Ok(document(1)));
    assert_eq!(state.create(&key, &document(2)).await, Ok(document(1)));
    assert_eq!(counted(&state).await.generation, 1);
}

#[tokio::test]
async fn an_older_value_that_is_put_back_is_noticed() {
    let store = memory();
    let state = open(&store).await;
    count(&state).await.expect("it is counted");
    let key = counter(&state);
    let older = store
        .get(&key)
        .await
        .expect("it reads")
        .expect("it is there");
    count(&state).await.expect("it is counted");

    put_back(&store, &older).await;
    let error = count(&state).await.expect_err("it is older");
    assert_eq!(error.code(), "ARX-SEAL-GENERATION");
    assert_eq!(
        error.to_string(),
        "example.org/replica/counter is of generation 1, 2 was expected: an older value was put \
         back; restore the newer one"
    );
}

#[tokio::test]
async fn a_value_that_is_removed_is_noticed() {
    let store = memory();
    let state = open(&store).await;
    count(&state).await.expect("it is counted");
    let key = counter(&state);
    let entry = store
        .get(&key)
        .await
        .expect("it reads")
        .expect("it is there");
    store
        .delete(&key, &entry.version)
        .await
        .expect("it is removed");
    let error = count(&state).await.expect_err("it is gone");
    assert_eq!(error.code(), "ARX-STATE-GONE");
}

#[tokio::test]
async fn older_authorities_are_noticed_after_a_restart_too() {
    let store = memory();
    let state = open(&store).await;
    let key = state.key(&Authorities::KIND);
    let change = |state: State| async move {
        state
            .update(
                &state.key(&Authorities::KIND),
                |found: Option<Loaded<Authorities>>| {
                    let found = found.map(|found| (found.value, found.generation));
                    let (value, generation) = found.unwrap_or_default();
                    Ok::<_, StateError>(Decision::Write(value, generation + 1))
                },
            )
            .await
            .expect("it is written")
    };
    let replica = state.replica(Some("ca-1"), now()).await.expect("it starts");
    change(state.clone()).await;
    let older = store
        .get(&key)
        .await
        .expect("it reads")
        .expect("it is there");
    let generation = change(state.clone()).await;
    replica
        .saw_authorities(generation)
        .await
        .expect("it is noted");
    put_back(&store, &older).await;

    let state = open(&store).await;
    assert!(state.authorities().await.is_ok(), "nobody remembers yet");
    let state = open(&store).await;
    state.replica(Some("ca-1"), now()).await.expect("it starts");
    let error = state
        .authorities()
        .await
        .expect_err("the replica remembers");
    assert_eq!(error.code(), "ARX-SEAL-GENERATION");
}

#[tokio::test]
async fn another_sealing_key_is_refused_before_anything_is_written() {
    let store = memory();
    let state = open(&store).await;
    let write = |_: Option<Loaded<Authorities>>| {
        Ok::<_, StateError>(Decision::Write(Authorities::default(), ()))
    };
    state
        .update(&state.key(&Authorities::KIND), write)
        .await
        .expect("it is written");

    let error = State::open(store.clone(), seal(2), &trust_domain(), SOFTWARE)
        .await
        .expect_err("the key is another one");
    assert_eq!(error.code(), "ARX-SEAL-KEY");
    let (with, ours) = (seal(1).id().expect("a key"), seal(2).id().expect("a key"));
    assert_eq!(
        error.to_string(),
        format!(
            "example.org/authorities/ is sealed with key {with}, and the configured file holds \
             key {ours}: name the file of key {with}"
        )
    );
    let error = State::open(store, Seal::plain(), &trust_domain(), SOFTWARE)
        .await
        .expect_err("there is no key");
    assert!(
        error.to_string().contains("name the file of that key"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unsealed_value_is_not_taken_where_values_are_sealed() {
    let store = memory();
    let state = State::open(store.clone(), Seal::plain(), &trust_domain(), SOFTWARE)
        .await
        .expect("it opens");
    count(&state).await.expect("it is counted");
    let error = count(&open(&store).await)
        .await
        .expect_err("it is not sealed");
    assert_eq!(error.code(), "ARX-SEAL-MISSING");
}

#[tokio::test]
async fn state_of_a_newer_version_is_refused_and_left_as_it_is() {
    let store = memory();
    let newer = crate::store::Format {
        schema: 9,
        min_reader: 9,
        steps: &[],
    };
    newer
        .open(&*store, &trust_domain(), "arx-ca 9.0.0")
        .await
        .expect("it is empty");
    let before = list_all(&*store, &Prefix::trust_domain(&trust_domain())).await;
    let error = State::open(store.clone(), seal(1), &trust_domain(), SOFTWARE)
        .await
        .expect_err("it is newer");
    assert_eq!(error.code(), "ARX-STORE-NEWER");
    assert!(
        error.to_string().contains("run arx-ca 9.0.0 or newer"),
        "{error}"
    );
    assert_eq!(
        list_all(&*store, &Prefix::trust_domain(&trust_domain())).await,
        before
    );
}

#[tokio::test]
async fn a_look_writes_nothing() {
    let store = memory();
    let look = State::inspect(store.clone(), seal(1), &trust_domain()).await;
    assert!(matches!(look, Ok(None)), "{look:?}");
    assert_eq!(State::is_new(&store, &trust_domain()).await, Ok(true));
    assert_eq!(
        list_all(&*store, &Prefix::trust_domain(&trust_domain())).await,
        Ok(Vec::new())
    );
    open(&store).await;
    assert_eq!(State::is_new(&store, &trust_domain()).await, Ok(false));
    let look = State::inspect(store, seal(1), &trust_domain()).await;
    assert!(matches!(look, Ok(Some(_))), "{look:?}");
}

fn authorities() -> (Authorities, Arc<PrivateKey>) {
    use arx_identity::profile::{self, Validity};
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("it is made"));
    let validity = Validity::authority(now(), Duration::from_secs(86_400));
    let unsigned =
        profile::root(key.public_key(), &trust_domain(), validity).expect("the profile has it");
    let signature = key.sign(unsigned.to_be_signed()).expect("it signs");
    let certificate = unsigned.complete(&signature).expect("it keeps the profile");
    let id = certificate.subject_key_id().expect("the profile has it");
    let mut authorities = Authorities::default();
    authorities.roots.push(Root {
        certificate,
        state: RootState::Active,
        key: KeyPlace::Stored(Pkcs8::of(&key)),
        above: Vec::new(),
        cross: None,
        added: now(),
        extra: Default::default(),
    });
    authorities.register("ca-1", id, id, now());
    (authorities, key)
}

#[test]
fn authorities_are_read_back_with_the_key() {
    let (written, key) = authorities();
    let read = Authorities::decode(&written.encode()).expect("it was written here");
    let (was, is) = (&written.roots[0], &read.roots[0]);
    assert_eq!(
        (&was.certificate, &was.state, was.added),
        (&is.certificate, &is.state, is.added)
    );
    assert_eq!(read.registrations, written.registrations);
    let KeyPlace::Stored(stored) = &is.key else {
        panic!("{:?}", is.key)
    };
    assert_eq!(stored.key().expect("a key").public_key(), key.public_key());
}

#[test]
fn what_a_newer_version_has_added_is_carried_along() {
    let (written, _) = authorities();
    let mut json: Value = serde_json::from_slice(&written.encode()).expect("it is JSON");
    json["rotation"] = "r-1".into();
    json["roots"][0]["state"] = "crossing".into();
    json["roots"][0]["token"] = 7.into();
    json["registrations"][0]["closed"] = true.into();
    let bytes = serde_json::to_vec(&json).expect("it is JSON");
    let read = Authorities::decode(&bytes).expect("unknown fields do not hurt");
    assert_eq!(
        read.roots[0].state,
        RootState::Unknown("crossing".to_owned())
    );
    assert!(read.active().is_none(), "an unknown state is not active");
    let again: Value = serde_json::from_slice(&read.encode()).expect("it is JSON");
    assert_eq!(again, json);
}

#[test]
fn a_cross_certificate_is_read_back_and_a_state_from_before_there_were_any_is_read() {
    let (mut authorities, _) = authorities();
    let before: Value = serde_json::from_slice(&authorities.encode()).expect("it is JSON");
    assert!(before["roots"][0].get("cross").is_none(), "as it was");
    let read = Authorities::decode(&authorities.encode()).expect("it was written here");
    assert_eq!(read.roots[0].cross, None);
    authorities.roots[0].cross = Some(authorities.roots[0].certificate.clone());
    let read = Authorities::decode(&authorities.encode()).expect("it was written here");
    assert_eq!(read.roots[0].cross, authorities.roots[0].cross);
}

#[test]
fn two_active_roots_are_a_contradiction() {
    let (mut one, _) = authorities();
    let (two, _) = authorities();
    one.roots.extend(two.roots);
    let error = Authorities::decode(&one.encode()).expect_err("two are active");
    assert_eq!(error, "2 roots are active");
    one.roots[1].state = RootState::Retiring;
    assert!(Authorities::decode(&one.encode()).is_ok());
}

#[test]
fn a_key_is_in_no_message() {
    let (written, key) = authorities();
    let text = String::from_utf8(written.encode().to_vec()).expect("it is JSON");
    let secret = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(key.pkcs8_der())
    };
    assert!(text.contains(&secret), "or else this test tests nothing");
    let debug = format!("{written:?}");
    assert!(
        !debug.contains(&secret) && debug.contains("Pkcs8(..)"),
        "{debug}"
    );
    // A key where something else should be is quoted by nobody.
    for broken in [
        text.replace("\"added_ms\":", "\"x\":").replace(
            "\"state\":\"active\"",
            &format!("\"added_ms\":\"{secret}\""),
        ),
        text.replace("\"stored\":", "\"files\":null,\"stored\":"),
        text.replace("{\"stored\":", "{\"pkcs11\":"),
        text.replace(&secret, &format!("{secret}%")),
        text[..text.len() / 2].to_owned(),
    ] {
        let error = Authorities::decode(broken.as_bytes()).expect_err("it is broken");
        assert!(!error.contains(&secret[..16]), "{error}");
    }
}

#[test]
fn a_registration_is_one_for_each_replica_and_root_and_lasts_as_long_as_its_latest() {
    let (mut authorities, _) = authorities();
    let root = authorities.registrations[0].root;
    let newest = KeyId::from_slice(&[7; 20]).expect("20 octets");
    let at = |seconds| now() + Duration::from_secs(seconds);
    authorities.register("ca-1", root, root, at(100));
    authorities.register("ca-1", root, newest, at(50));
    authorities.register("ca-2", root, newest, at(10));
    let ends: Vec<_> = authorities
        .registrations
        .iter()
        .map(|one| (one.replica.as_str(), one.intermediate, one.not_after))
        .collect();
    assert_eq!(ends, [("ca-1", newest, at(100)), ("ca-2", newest, at(10))]);
    authorities.forget_ended(at(30), Duration::from_secs(20));
    assert_eq!(authorities.registrations.len(), 1);
}

#[tokio::test]
async fn a_replica_without_a_name_keeps_the_one_it_was_given() {
    let store = memory();
    let first = open(&store)
        .await
        .replica(None, now())
        .await
        .expect("it starts");
    let again = open(&store)
        .await
        .replica(None, now())
        .await
        .expect("it starts");
    assert!(first.name().starts_with("ca-"), "{}", first.name());
    assert_eq!(first.name(), again.name());
    assert_eq!((first.starts(), again.starts()), (1, 2));
    let named = open(&store)
        .await
        .replica(Some("zone-a.1"), now())
        .await
        .expect("it starts");
    assert_eq!((named.name(), named.starts()), ("zone-a.1", 1));
    assert_eq!(named.document().await.expect("it reads").software, SOFTWARE);
}

#[tokio::test]
async fn all_replicas_are_known_with_what_they_have_promised() {
    let store = memory();
    let state = open(&store).await;
    for name in ["ca-1", "ca-2"] {
        let replica = state.replica(Some(name), now()).await.expect("it starts");
        let number = if name == "ca-1" { 3 } else { 4 };
        replica
            .saw_sequence(Sequence { epoch: 1, number })
            .await
            .expect("it is noted");
    }
    let seen: Vec<_> = state
        .replicas()
        .await
        .expect("it reads")
        .into_iter()
        .map(|(name, document)| (name, document.seen.sequence.map(|seen| seen.number)))
        .collect();
    assert_eq!(
        seen,
        [("ca-1".to_owned(), Some(3)), ("ca-2".to_owned(), Some(4))]
    );
}

#[tokio::test]
async fn a_name_that_no_key_can_hold_is_refused() {
    let state = open(&memory()).await;
    for name in ["", "CA-1", "a/b", "-a", &"a".repeat(65)] {
        let error = state
            .replica(Some(name), now())
            .await
            .expect_err("it is no name");
        assert_eq!(error.code(), "ARX-STATE-REPLICA-NAME");
        assert_eq!(replica_name(name), Err(error));
    }
    assert_eq!(replica_name("ca-1"), Ok(()));
}

#[tokio::test]
async fn what_a_replica_has_seen_only_grows() {
    let store = memory();
    let state = open(&store).await;
    let replica = state.replica(Some("ca-1"), now()).await.expect("it starts");
    let at = |epoch, number| Sequence { epoch, number };
    for sequence in [at(1, 2), at(2, 1), at(1, 9)] {
        replica.saw_sequence(sequence).await.expect("it is noted");
    }
    for generation in [4, 7, 5] {
        replica
            .saw_authorities(generation)
            .await
            .expect("it is noted");
    }
    let day = Duration::from_secs(24 * 3600);
    let checkpoint = |record, longest| Checkpoint {
        mark: LedgerMark {
            record,
            hash: [record as u8; 32],
        },
        ends: now() + longest,
        longest,
    };
    for (record, days) in [(10, 9), (30, 1), (20, 20)] {
        let checkpoint = checkpoint(record, days * day);
        let noted = state.checkpoint("ca-1", checkpoint).await;
        noted.expect("it is noted");
    }
    let document = replica.document().await.expect("it reads");
    assert_eq!(document.seen.sequence, Some(at(2, 1)));
    assert_eq!(document.seen.authorities, 7);
    // What was issued before with a longer life is not forgotten.
    let ends = now() + 9 * day;
    assert_eq!(
        document.ledger,
        Some(Checkpoint {
            ends,
            ..checkpoint(30, day)
        })
    );
    // Another ledger begins at its own place.
    for (at, until) in [(now(), ends), (now() + day, ends - day)] {
        let lost = LedgerLost { at, until };
        let begun = replica.begin_ledger(lost, checkpoint(0, day)).await;
        begun.expect("it is noted");
    }
    let document = replica.document().await.expect("it reads");
    assert_eq!(document.ledger, Some(checkpoint(0, day)));
    let at = now() + day;
    assert_eq!(document.lost, Some(LedgerLost { at, until: ends }));
}

#[tokio::test]
async fn nothing_readable_is_in_the_store() {
    let store = memory();
    let state = open(&store).await;
    state.replica(Some("ca-1"), now()).await.expect("it starts");
    let entries = list_all(&*store, &Prefix::trust_domain(&trust_domain())).await;
    for entry in entries.expect("it reads") {
        let text = String::from_utf8_lossy(&entry.value);
        // Only what says which version may read it.
        let open = entry.key.kind().as_str() == "schema";
        assert_eq!(text.contains(SOFTWARE), open, "{}", entry.key);
    }
}
