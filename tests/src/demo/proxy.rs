//! What is known of one proxy: what it says itself, what its agent says, and what became
//! of the requests that go through it.

use std::time::Duration;

use crate::envoy::Envoy;
use crate::http as web;
use crate::load::{Load, Outcome};
use crate::mesh::Agent;

/// Callers of each proxy, and how long each waits between two requests.
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
const ACKS: &str = "arx_agent_push_ack_seconds_count";

/// A proxy with its callers.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) envoy: Envoy,
    load: Load,
    /// Of every certificate that it has served, in order.
    serials: Vec<String>,
    /// Time of day, UTC.
    pub(super) expires: String,
    /// Secrets that it was given and that it took.
    pub(super) pushes: u64,
    pub(super) refused: u64,
    /// ACKs that its agent has counted, and had counted before it was started again.
    acks: u64,
    acks_before: u64,
}

impl Proxy {
    pub(super) fn new(name: &'static str, envoy: Envoy) -> Self {
        let load = Load::start(envoy.ports.outbound, CALLERS, PAUSE);
        Self {
            name,
            envoy,
            load,
            serials: Vec::new(),
            expires: String::new(),
            pushes: 0,
            refused: 0,
            acks: 0,
            acks_before: 0,
        }
    }

    /// Asks the proxy and its agent. What one does not answer stays as it was.
    pub(super) async fn look(&mut self, agent: &Agent) {
        if let Ok(served) = self.envoy.certificate().await {
            // "2026-11-26T00:28:18Z"
            self.expires = served.expires.chars().skip(11).take(8).collect();
            if self.serials.last() != Some(&served.serial) {
                self.serials.push(served.serial);
            }
        }
        if let Ok((pushes, refused)) = self.updates().await {
            (self.pushes, self.refused) = (pushes, refused);
        }
        if let Ok(Some(count)) = web::metric(agent.ops_port, ACKS).await {
            let count = count as u64;
            if count < self.acks {
                self.acks_before += self.acks;
            }
            self.acks = count;
        }
    }

    async fn updates(&self) -> anyhow::Result<(u64, u64)> {
        let (mut taken, mut refused) = (0, 0);
        for name in ["default", "ROOTCA"] {
            taken += self
                .envoy
                .stat(&format!("sds.{name}.update_success"))
                .await?;
            refused += self
                .envoy
                .stat(&format!("sds.{name}.update_rejected"))
                .await?;
        }
        Ok((taken, refused))
    }

    /// How often its certificate was replaced by another.
    pub(super) fn renewals(&self) -> usize {
        self.serials.len().saturating_sub(1)
    }

    /// The first digits of its certificate's serial number.
    pub(super) fn serial(&self) -> String {
        let serial = self.serials.last().map(String::as_str);
        serial.unwrap_or("-").chars().take(12).collect()
    }

    pub(super) fn acks(&self) -> u64 {
        self.acks_before + self.acks
    }

    /// Of those that it was given by its own application.
    pub(super) fn requests(&self) -> Outcome {
        self.load.so_far()
    }
}
