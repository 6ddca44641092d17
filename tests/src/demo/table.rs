//! The live table: drawn over itself on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use tokio::time::Instant;

use crate::envoy::Envoy;
use crate::http as web;
use crate::load::Outcome;
use crate::mesh::Agent;

/// Between lines where nothing can be drawn over.
const EVERY: Duration = Duration::from_secs(5);

/// A proxy at one moment.
pub(super) struct Row {
    name: &'static str,
    serial: String,
    expires: String,
    taken: u64,
    refused: u64,
    acks: u64,
}

impl Row {
    /// What the proxy and its agent say. A dash where one does not answer just now.
    pub(super) async fn read(name: &'static str, envoy: &Envoy, agent: &Agent) -> Self {
        let certificate = envoy.certificate().await.ok();
        let dash = || "-".to_owned();
        let acks = web::metric(agent.ops_port, "arx_agent_push_ack_seconds_count")
            .await
            .ok()
            .flatten();
        Self {
            name,
            serial: certificate
                .as_ref()
                .map_or_else(dash, |(serial, _)| serial.chars().take(12).collect()),
            // The time of day of "2026-11-26T00:28:18Z".
            expires: certificate
                .map_or_else(dash, |(_, end)| end.chars().skip(11).take(8).collect()),
            taken: envoy.pushes().await.unwrap_or(0),
            refused: envoy.stat("sds.default.update_rejected").await.unwrap_or(0),
            acks: acks.map_or(0, |count| count as u64),
        }
    }
}

pub(super) struct Table {
    terminal: bool,
    drawn: usize,
    last: Option<Instant>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            terminal: stdout().is_terminal(),
            drawn: 0,
            last: None,
        }
    }

    pub(super) fn show(
        &mut self,
        started: Instant,
        rows: &[Row],
        load: &Outcome,
        back: &Outcome,
        authority: bool,
    ) {
        let authority = if authority { "up" } else { "DOWN" };
        let requests = load.good + load.failed + back.good + back.failed;
        let failed = load.failed + back.failed;
        let elapsed = started.elapsed().as_secs();
        if !self.terminal {
            if self.last.is_some_and(|last| last.elapsed() < EVERY) {
                return;
            }
            self.last = Some(Instant::now());
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    format!(
                        "{} {} until {} pushed {} acked {}",
                        row.name, row.serial, row.expires, row.taken, row.acks
                    )
                })
                .collect();
            println!(
                "[{elapsed:>3} s] authority {authority}, {requests} requests, {failed} failed | {}",
                rows.join(" | ")
            );
            return;
        }
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let mut lines = vec![
            format!(
                "[{elapsed:>3} s] authority {authority:<5} requests {requests:<8} failed {failed}"
            ),
            format!(
                "  {:<6}{:<15}{:<11}{:>7}{:>9}{:>6}",
                "proxy", "serial", "expires", "pushes", "refused", "ACKs"
            ),
        ];
        lines.extend(rows.iter().map(|row| {
            format!(
                "  {:<6}{:<15}{:<11}{:>7}{:>9}{:>6}",
                row.name, row.serial, row.expires, row.taken, row.refused, row.acks
            )
        }));
        for line in &lines {
            text.push_str(&format!("\x1b[2K{line}\n"));
        }
        self.drawn = lines.len();
        let mut out = stdout().lock();
        let _shown = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
