//! The state file between processes, and one that is killed. The other process is this test
//! binary again, told by its environment to play a part.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arx_ca::authority::{Authority, Options, RootRenewal};
use arx_ca::seal::Seal;
use arx_ca::signer::options::Outside;
use arx_ca::state::State;
use arx_ca::store::{Key, Redb, Segment, Store};
use arx_ca::trust::{Evidence, Trust};
use arx_identity::crypto::SealingKey;
use arx_identity::{KeyAlgorithm, Sequence, TrustDomain};
use bytes::Bytes;
use tempfile::TempDir;

const STATE_FILE: &str = "ARX_TEST_STATE_FILE";

/// One test at a time: between fork and exec a child of one would hold the locks of the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This test binary, playing the part of one of the ignored tests below.
fn play(part: &str, state_file: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary has a path"))
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "--test-threads=1",
            part,
        ])
        .env(STATE_FILE, state_file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary starts again")
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> {
    let out = child.stdout.take().expect("it is piped");
    BufReader::new(out)
        .lines()
        .map(|line| line.expect("it writes text"))
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the other side reads");
}

/// The file to play with; `None` when nobody asked for a part to be played.
fn given_path() -> Option<PathBuf> {
    std::env::var_os(STATE_FILE).map(PathBuf::from)
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("state.redb")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn counter() -> Key {
    let trust_domain = TrustDomain::parse("example.org").expect("a trust domain");
    Key::new(&trust_domain, &Segment::fixed("counter"))
}

async fn counted(store: &Redb) -> u32 {
    let entry = store.get(&counter()).await.expect("it reads");
    let value = entry
        .map(|entry| entry.value)
        .unwrap_or(Bytes::from_static(b"0"));
    std::str::from_utf8(&value)
        .ok()
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

#[test]
#[ignore = "a part that another test has played"]
fn hold() {
    let Some(path) = given_path() else { return };
    let _store = Redb::open_or_create(&path, now()).expect("it opens");
    say("\nholding");
    // Until the other side kills us, or is gone itself.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[tokio::test]
#[ignore = "a part that another test has played"]
async fn count() {
    let Some(path) = given_path() else { return };
    let store = Redb::open_or_create(&path, now()).expect("it opens");
    say("");
    let mut version = store
        .get(&counter())
        .await
        .expect("it reads")
        .map(|entry| entry.version);
    for n in counted(&store).await + 1..1_000_000 {
        let written = store
            .compare_and_swap(&counter(), version.as_ref(), n.to_string().into())
            .await;
        version = Some(written.expect("it is written"));
        say(&format!("count {n}"));
    }
}

/// A whole start of an authority; says each step that is done.
async fn begin_to_issue(path: &Path, mut done: impl FnMut(&str)) -> anyhow::Result<Trust> {
    let day = Duration::from_secs(86_400);
    let options = Options {
        root_key: KeyAlgorithm::EcdsaP256,
        root_ttl: 3650 * day,
        root_renewal: RootRenewal::Auto(None),
        intermediate_ttl: 7 * day,
        serving_ttl: day,
        serving_names: Vec::new(),
        operator: None,
        outside: Outside::default(),
        certifier: None,
        longest_leaf: day,
    };
    let trust_domain = TrustDomain::parse("example.org")?;
    let store = std::sync::Arc::new(Redb::open_or_create(path, now())?);
    done("store");
    let seal = Seal::with(SealingKey::from_bytes(&[7; 32]));
    let state = State::open(store, seal, &trust_domain, "arx-ca 1.2.3").await?;
    done("state");
    let replica = state.replica(None, now()).await?;
    done("replica");
    let authority = Authority::open(state.clone(), &replica, options, now()).await?;
    done("authority");
    let root = &authority.root();
    let trust = Trust::open(state, &replica, root, Evidence::default(), now()).await?;
    done("trust");
    let prepared = authority.prepare(now()).await?;
    authority.install(prepared);
    done("issuing");
    Ok(trust)
}

#[tokio::test]
#[ignore = "a part that another test has played"]
async fn begin() {
    let Some(path) = given_path() else { return };
    say("");
    let trust = begin_to_issue(&path, say).await;
    trust.expect("it starts");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn an_authority_that_is_killed_while_it_starts_has_one_root_for_ever() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    for fatal in ["store", "state", "replica", "authority", "trust", "issuing"] {
        let dir = TempDir::new().expect("a temporary directory");
        let mut roots = Vec::new();
        for _ in 0..2 {
            let mut process = play("begin", &path(&dir));
            assert!(
                lines(&mut process).any(|line| line == fatal),
                "it came to {fatal}"
            );
            process.kill().expect("it runs");
            process.wait().expect("it was killed");
        }
        for _ in 0..2 {
            let trust = runtime.block_on(begin_to_issue(&path(&dir), |_| ()));
            let bundle = trust.expect("the next start succeeds").current();
            assert_eq!(
                bundle.sequence(),
                Sequence {
                    epoch: 1,
                    number: 1
                }
            );
            roots.push(bundle.roots().to_vec());
        }
        assert_eq!(roots[0], roots[1], "killed at {fatal}");
    }
}

#[test]
fn a_second_process_is_told_which_one_holds_the_file_and_since_when() {
    let _alone = alone();
    let dir = TempDir::new().expect("a temporary directory");
    let mut holder = play("hold", &path(&dir));
    assert!(lines(&mut holder).any(|line| line == "holding"));

    let refused = Redb::open_or_create(&path(&dir), now()).expect_err("it is held");
    assert_eq!(refused.code(), "ARX-STORE-HELD");
    let message = refused.to_string();
    let by = format!(
        "in use by process {} since 2026-05-28T20:26:40",
        holder.id()
    );
    assert!(message.contains(&by), "{message}");
    assert!(message.contains("stop that one first"), "{message}");

    // However the holder ends, the file is free.
    holder.kill().expect("it runs");
    holder.wait().expect("it was killed");
    Redb::open(&path(&dir), now()).expect("it is free");
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let dir = TempDir::new().expect("a temporary directory");
    let mut found = 0;
    for round in 1..=8 {
        let mut process = play("count", &path(&dir));
        let mut acknowledged: u32 = 0;
        for line in lines(&mut process) {
            if let Some(n) = line.strip_prefix("count ") {
                acknowledged = n.parse().expect("a number");
                if acknowledged >= found + round * 3 {
                    break;
                }
            }
        }
        process.kill().expect("it runs");
        process.wait().expect("it was killed");

        let store = Redb::open(&path(&dir), now()).expect("it is whole");
        found = runtime.block_on(counted(&store));
        assert!(
            found >= acknowledged,
            "{found} after {acknowledged} were acknowledged"
        );
    }
}
