//! Ports on loopback that nobody uses.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::bail;

/// Below those that the kernel gives to connections (`ip_local_port_range` begins at
/// 32768): one of these would be taken by somebody's outgoing connection between being
/// found free and being used.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const ATTEMPTS: usize = 1_000;

/// Handed out already by this process.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody uses, and that this process has not handed out before.
///
/// # Errors
/// If there is none.
pub fn free_port() -> anyhow::Result<u16> {
    for _ in 0..ATTEMPTS {
        let random = u16::from_be_bytes(arx_identity::crypto::random());
        let port = PORTS.start + random % (PORTS.end - PORTS.start);
        let is_new = TAKEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port);
        if is_new && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!(
        "no port between {} and {} is free on loopback",
        PORTS.start,
        PORTS.end
    )
}
