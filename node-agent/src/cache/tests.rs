use super::*;
use crate::attest::LocalProcess;
use crate::attest::token::Subject;
use crate::testing::{self, Authority, id, noon};
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn key(n: u8) -> Arc<SealingKey> {
    Arc::new(SealingKey::from_bytes(&[n; 32]))
}

fn open(directory: &Path, k: u8, node: &str) -> Result<(Cache, Loaded), CacheError> {
    Cache::open(directory, &key(k), &id(node), noon())
}

fn full(authority: &Authority) -> State {
    let hour = Duration::from_secs(3600);
    let root = authority.root.subject_key_id().expect("a root has one");
    let workload = |key, path| SavedWorkload {
        key,
        proven: vec![[1; 32], [2; 32]],
        svid: authority.svid(path, noon(), hour),
        root,
    };
    let local = LocalProcess {
        uid: 1,
        gid: 2,
        executable: "/usr/bin/envoy".into(),
        executable_sha256: Some([9; 32]),
    };
    let subject = Subject {
        issuer: "https://k8s".into(),
        account: "system:serviceaccount:a:b".into(),
        pod_uid: "u-1".into(),
    };
    State {
        bundle: Some(authority.bundle(7)),
        node: Some((authority.svid("/arx/node/c/n", noon(), hour), root)),
        workloads: vec![
            workload(SavedKey::Local(local), "/a"),
            workload(SavedKey::Account(subject), "/b"),
            workload(SavedKey::Socket(testing::pod("u-2")), "/c"),
            workload(SavedKey::Process(testing::uid("u-3")), "/d"),
        ],
        inventory_ordinal: 42,
    }
}

#[test]
fn everything_comes_back_after_a_restart() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (cache, empty) = open(directory.path(), 1, "/n")?;
    assert!(empty.state.bundle.is_none() && empty.subscribers.is_empty());
    let state = full(&Authority::new());
    cache.state_file().write(&state.encode())?;
    let age = cache.id();
    drop(cache);
    let (cache, loaded) = open(directory.path(), 1, "/n")?;
    assert_eq!(cache.id(), age, "nothing was forgotten");
    assert_eq!(loaded.state.inventory_ordinal, 42);
    assert_eq!(loaded.state.bundle, state.bundle);
    let serials = |state: &State| -> Vec<_> {
        state
            .workloads
            .iter()
            .map(|w| w.svid.serial().clone())
            .collect()
    };
    assert_eq!(serials(&loaded.state), serials(&state));
    let keys =
        |state: &State| -> Vec<_> { state.workloads.iter().map(|w| w.key.clone()).collect() };
    assert_eq!(keys(&loaded.state), keys(&state));
    assert_eq!(loaded.state.workloads[1].proven, state.workloads[1].proven);
    Ok(())
}

#[test]
fn no_key_lies_open_in_the_directory() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (cache, _) = open(directory.path(), 1, "/n")?;
    let state = full(&Authority::new());
    cache.state_file().write(&state.encode())?;
    let secret = state.workloads[0].svid.key().pkcs8_der().to_vec();
    for entry in fs::read_dir(directory.path())? {
        let content = fs::read(entry?.path())?;
        assert!(!content.windows(32).any(|window| window == &secret[36..68]));
    }
    Ok(())
}

#[test]
fn another_key_or_another_node_begins_another_age() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (cache, _) = open(directory.path(), 1, "/n")?;
    cache
        .state_file()
        .write(&full(&Authority::new()).encode())?;
    let first = cache.id();
    drop(cache);
    let (cache, loaded) = open(directory.path(), 2, "/n")?;
    assert_ne!(cache.id(), first);
    assert!(loaded.state.workloads.is_empty());
    let second = cache.id();
    drop(cache);
    let (cache, _) = open(directory.path(), 2, "/m")?;
    assert_ne!(cache.id(), second);
    Ok(())
}

#[test]
fn without_its_subscribers_a_cache_has_another_age_and_keeps_its_certificates() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (cache, _) = open(directory.path(), 1, "/n")?;
    cache
        .state_file()
        .write(&full(&Authority::new()).encode())?;
    let first = cache.id();
    fs::remove_file(cache.subscribers_file().path())?;
    drop(cache);
    let (cache, loaded) = open(directory.path(), 1, "/n")?;
    assert_ne!(
        cache.id(),
        first,
        "who held the leaves is not known any more"
    );
    assert_eq!(loaded.state.workloads.len(), 4);
    let second = cache.id();
    drop(cache);
    let (cache, loaded) = open(directory.path(), 1, "/n")?;
    assert_eq!(cache.id(), second);
    assert_eq!(loaded.state.workloads.len(), 4);
    Ok(())
}

#[test]
fn a_second_agent_is_told_who_uses_the_directory() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (_cache, _) = open(directory.path(), 1, "/n")?;
    let refused = open(directory.path(), 1, "/n").map(drop);
    let message = refused.expect_err("it is locked").to_string();
    assert!(
        message.contains(&std::process::id().to_string()),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_damaged_cache_is_discarded_and_work_goes_on() -> Outcome {
    let directory = tempfile::tempdir()?;
    let (cache, _) = open(directory.path(), 1, "/n")?;
    let path = cache.state_file().path().to_owned();
    drop(cache);
    for content in [&b""[..], b"arx-sealed\x01", b"something else"] {
        fs::write(&path, content)?;
        let (cache, _) = open(directory.path(), 1, "/n")?;
        assert_ne!(cache.state_file().path(), path);
        assert!(!path.exists(), "only one cache is kept");
    }
    Ok(())
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = State::decode(&bytes);
    }
}
