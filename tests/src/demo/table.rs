//! The live table: drawn over itself on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use tokio::time::Instant;

use super::proxy::Proxy;
use super::rotation::Rotation;

/// Between lines where nothing can be drawn over.
const EVERY: Duration = Duration::from_secs(5);
/// Back over so many lines (ECMA-48: CUU), and nothing left below (ED).
const UP: (&str, &str) = ("\x1b[", "A\x1b[J");

pub(super) struct Table {
    terminal: bool,
    /// Lines that stand there now.
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

    /// Shows how it stands.
    pub(super) fn show(
        &mut self,
        started: Instant,
        authority: bool,
        proxies: &[Proxy],
        rotation: Option<&Rotation>,
    ) {
        let elapsed = started.elapsed().as_secs();
        let authority = if authority { "up" } else { "DOWN" };
        if self.terminal {
            let mut lines = lines(elapsed, authority, proxies);
            lines.extend(rotation.into_iter().flat_map(Rotation::lines));
            self.draw(&lines);
            self.drawn = lines.len();
        } else if self.last.is_none_or(|last| last.elapsed() >= EVERY) {
            self.last = Some(Instant::now());
            let mut parts = vec![format!("[{elapsed:>3} s] authority {authority}")];
            parts.extend(proxies.iter().map(line));
            parts.extend(rotation.map(Rotation::line));
            self.draw(&[parts.join(" | ")]);
        }
    }

    /// Says what has happened; it stays there above the table.
    pub(super) fn say(&mut self, started: Instant, what: &str) {
        self.draw(&[format!("[{:>3} s] ** {what}", started.elapsed().as_secs())]);
        self.drawn = 0;
        // What it led to is told at once.
        self.last = None;
    }

    fn draw(&self, lines: &[String]) {
        let mut text = match self.drawn {
            0 => String::new(),
            drawn => format!("{}{drawn}{}", UP.0, UP.1),
        };
        text.extend(lines.iter().flat_map(|line| [line.as_str(), "\n"]));
        let mut out = stdout().lock();
        // Whoever has closed the other end does not want to see it.
        let _shown = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn lines(elapsed: u64, authority: &str, proxies: &[Proxy]) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!("[{elapsed:>3} s] authority {authority}"),
        format!(
            "  {:<6}{:>9}{:>8}  {:<14}{:<10}{:>8}{:>8}{:>6}{:>9}",
            "proxy",
            "requests",
            "failed",
            "serial",
            "expires",
            "renewed",
            "pushes",
            "ACKs",
            "refused"
        ),
    ];
    lines.extend(proxies.iter().map(|proxy| {
        let requests = proxy.requests();
        format!(
            "  {:<6}{:>9}{:>8}  {:<14}{:<10}{:>8}{:>8}{:>6}{:>9}",
            proxy.name,
            requests.good + requests.failed,
            requests.failed,
            proxy.serial(),
            proxy.expires,
            proxy.renewals(),
            proxy.pushes,
            proxy.acks(),
            proxy.refused
        )
    }));
    lines
}

fn line(proxy: &Proxy) -> String {
    let requests = proxy.requests();
    format!(
        "{} {} requests, {} failed, serial {} until {}, renewed {}, {} pushes, {} ACKs",
        proxy.name,
        requests.good + requests.failed,
        requests.failed,
        proxy.serial(),
        proxy.expires,
        proxy.renewals(),
        proxy.pushes,
        proxy.acks()
    )
}
