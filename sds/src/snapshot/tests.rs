use std::sync::Arc;

use super::*;
use crate::testing::Authority;

#[test]
fn a_key_is_in_no_debug_text() {
    let authority = Authority::new("example.org");
    let svid = authority.svid("/web");
    let snapshot = Snapshot::builder()
        .certificate(["default"], &svid)
        .build()
        .expect("a snapshot");
    let secret = snapshot.get("default").expect("there");
    let version = secret.version();
    assert_eq!(
        format!("{snapshot:?}"),
        format!("[Secret(default at {version})]")
    );
    let content = format!("{:?}", secret.content());
    let key = svid.key().pkcs8_pem();
    let line = key.lines().nth(1).expect("a line of the key");
    assert!(!content.contains(line) && !content.contains("PRIVATE"));
}

#[test]
fn unchanged_content_stays_the_same_secret_with_the_same_bytes() {
    let authority = Authority::new("example.org");
    let svid = authority.svid("/web");
    let names = ["default", "spiffe://example.org/web"];
    let one = Snapshot::builder()
        .certificate(names, &svid)
        .trust(["ROOTCA"], &authority.bundle(1));
    let one = one.build().expect("a snapshot");
    let two = Snapshot::builder()
        .with(&one)
        .certificate(names, &svid)
        .trust(["ROOTCA"], &authority.bundle(2));
    let two = two.build().expect("a snapshot");
    for name in names {
        let (before, after) = (one.get(name).expect("there"), two.get(name).expect("there"));
        assert!(Arc::ptr_eq(before, after));
        let frames = [before, after].map(|secret| secret.state_of_the_world().frame());
        assert_eq!(frames[0].as_ptr(), frames[1].as_ptr());
    }
    assert!(!Arc::ptr_eq(
        one.get("ROOTCA").expect("there"),
        two.get("ROOTCA").expect("there")
    ));
    assert_eq!(two.secrets().count(), 3);
    let less = Snapshot::builder()
        .with(&two)
        .without("default")
        .build()
        .expect("a snapshot");
    assert!(less.get("default").is_none() && less.get("ROOTCA").is_some());
}
