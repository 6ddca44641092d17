//! The contract with Envoy: each line of it is a test. The clock stands still while
//! anything is left to do, so silence is proved without waiting.

mod answers;
mod content;
mod life;

use arx_identity::Svid;
use arx_sds::Snapshot;

use crate::testing::Authority;

/// An authority, and a caller with a certificate under `default` and trust under
/// `ROOTCA`.
fn caller() -> (Authority, Svid, Snapshot) {
    let authority = Authority::new("example.org");
    let svid = authority.svid("/ns/shop/sa/web");
    let snapshot = both(&authority, &svid, 1);
    (authority, svid, snapshot)
}

fn both(authority: &Authority, svid: &Svid, number: u64) -> Snapshot {
    Snapshot::builder()
        .certificate(["default"], svid)
        .trust(["ROOTCA"], &authority.bundle(number))
        .build()
        .expect("a snapshot that goes together")
}
