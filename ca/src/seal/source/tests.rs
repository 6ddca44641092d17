use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use arx_identity::TrustDomain;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::{Key, Segment};

const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

fn key_file(dir: &TempDir, content: &[u8], mode: u32) -> Source {
    let path = dir.path().join("seal.key");
    fs::write(&path, content).expect("it is written");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
    Source::File {
        path,
        create: false,
    }
}

fn source(dir: &TempDir, create: bool) -> Source {
    Source::File {
        path: dir.path().join("seal.key"),
        create,
    }
}

fn seal_of(content: &[u8]) -> Result<Seal, SourceError> {
    let dir = TempDir::new().expect("a temporary directory");
    key_file(&dir, content, 0o600).seal(false)
}

#[test]
fn a_key_is_read_raw_or_as_text_with_a_newline() {
    let expected = Seal::with(SealingKey::from_bytes(&KEY)).id();
    let hexadecimal = Hex(&KEY).to_string();
    for content in [
        KEY.to_vec(),
        format!("{hexadecimal}\n").into_bytes(),
        hexadecimal.to_uppercase().into_bytes(),
        format!("{}\n", STANDARD.encode(KEY)).into_bytes(),
        format!("{}\r\n", STANDARD_NO_PAD.encode(KEY)).into_bytes(),
        format!(" {} \n", URL_SAFE_NO_PAD.encode(KEY)).into_bytes(),
    ] {
        let seal = seal_of(&content).expect("it holds the key");
        assert_eq!(seal.id(), expected, "{}", content.escape_ascii());
    }
}

#[test]
fn a_file_that_holds_no_key_is_refused_with_how_to_make_one() {
    for content in [
        &b"short"[..],
        &[1; 31],
        &[1; 33],
        b"zz",
        &[b'a'; 66],
        &[7; 32],
        &[b'0'; 64],
    ] {
        let refused = seal_of(content).expect_err("it is no key");
        assert_eq!(refused.code(), "ARX-SEAL-KEY-FILE");
        assert!(
            refused.to_string().contains("openssl rand -base64 32"),
            "{refused}"
        );
    }
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    for mode in [0o640, 0o604, 0o660, 0o644] {
        let dir = TempDir::new().expect("a temporary directory");
        let refused = key_file(&dir, &KEY, mode)
            .seal(false)
            .expect_err("it is exposed");
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }
}

#[test]
fn a_missing_key_is_made_at_the_first_start_if_the_configuration_says_so() {
    let dir = TempDir::new().expect("a temporary directory");
    let made = source(&dir, true).seal(true).expect("it is made");
    let path = dir.path().join("seal.key");
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = source(&dir, true).seal(false).expect("it is read");
    assert_eq!(again.id(), made.id());
    let other = TempDir::new().expect("a temporary directory");
    assert_ne!(
        source(&other, true).seal(true).expect("it is made").id(),
        made.id()
    );
}

#[test]
fn a_look_makes_no_key() {
    let dir = TempDir::new().expect("a temporary directory");
    let look = source(&dir, true)
        .look(true)
        .expect("the first start will make it");
    assert!(look.is_none());
    let lost = source(&dir, true).look(false).expect_err("there is state");
    assert_eq!(lost.code(), "ARX-SEAL-KEY-LOST");
    source(&dir, false)
        .look(true)
        .expect_err("nobody will make it");
    assert!(fs::read_dir(dir.path()).expect("it reads").next().is_none());

    let made = source(&dir, true).seal(true).expect("it is made");
    let look = source(&dir, true)
        .look(true)
        .expect("it reads")
        .expect("it is there");
    assert_eq!(look.id(), made.id());
}

#[test]
fn a_missing_key_is_not_made_without_being_told_to() {
    let dir = TempDir::new().expect("a temporary directory");
    let refused = source(&dir, false).seal(true).expect_err("it is missing");
    assert!(refused.to_string().contains("no such file"), "{refused}");
    assert!(fs::read_dir(dir.path()).expect("it reads").next().is_none());
}

#[test]
fn a_lost_key_is_never_replaced_where_there_is_state() {
    let dir = TempDir::new().expect("a temporary directory");
    let refused = source(&dir, true).seal(false).expect_err("it is lost");
    assert_eq!(refused.code(), "ARX-SEAL-KEY-LOST");
    assert!(fs::read_dir(dir.path()).expect("it reads").next().is_none());
}

#[test]
fn a_link_that_leads_nowhere_is_not_replaced_by_a_new_key() {
    let dir = TempDir::new().expect("a temporary directory");
    symlink(dir.path().join("not-mounted"), dir.path().join("seal.key")).expect("a link");
    source(&dir, true).seal(true).expect_err("it leads nowhere");
    assert!(dir.path().join("seal.key").is_symlink());
}

#[test]
fn without_a_key_values_are_plain_only_when_told() {
    let seal = Source::None.seal(false).expect("nothing is needed");
    assert_eq!(seal.id(), None);
    let td = TrustDomain::parse("example.org").expect("a trust domain");
    let key = Key::new(&td, &Segment::fixed("kind"));
    assert!(seal.seal(&key, 1, b"clear").ends_with(b"clear"));
}

#[test]
fn no_message_and_no_debug_form_shows_the_key() {
    let seal = seal_of(&KEY).expect("it holds the key");
    let shown = format!("{seal:?}");
    assert!(
        !shown.contains("0123456789abcdef") && !shown.contains("30313233"),
        "{shown}"
    );
    let refused = seal_of(b"0123456789abcdef0123456789abcdef-not").expect_err("it is no key");
    assert!(!format!("{refused} {refused:?}").contains("0123456789abcdef"));
}

proptest! {
    #[test]
    fn any_content_is_a_key_or_refused(content in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(parse(&content).is_some(), content.len() == 32);
    }

    #[test]
    fn any_text_is_a_key_or_refused(content in "[A-Za-z0-9+/_=\n -]{0,70}") {
        let _ = parse(content.as_bytes());
    }

    #[test]
    fn every_key_is_read_in_every_form(key in any::<[u8; 32]>()) {
        for text in [
            Hex(&key).to_string(),
            STANDARD.encode(key),
            URL_SAFE.encode(key),
            STANDARD_NO_PAD.encode(key),
            URL_SAFE_NO_PAD.encode(key),
        ] {
            let parsed = parse(text.as_bytes());
            prop_assert_eq!(parsed.as_deref(), Some(&key));
        }
    }
}
