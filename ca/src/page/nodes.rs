//! Who has confirmed and who has not, by node and proxy.

use std::collections::{BTreeMap, BTreeSet};

use arx_identity::{KeyId, Sequence};

use super::Look;
use super::frame::Tone;
use super::html::{Html, put};
use super::words::{counted, grouped};
use crate::caller::NodeName;
use crate::fleet::{Agent, Consumer, Standing};
use crate::rotation::View;
use crate::state::{Phase, Rotation};

/// Nodes that are looked at, and rows that are shown.
const NODES: usize = 500;
const ROWS: usize = 200;

/// What stands in place of a proxy.
const ITSELF: &str = "the agent itself";

/// A node or a proxy of it.
struct Line {
    name: NodeName,
    process: String,
    roots: String,
    certificate: String,
    word: &'static str,
    tone: Tone,
}

impl Line {
    /// Nobody waits for a denied holder, whatever it said.
    fn leave_out(&mut self, denied: &BTreeSet<(&str, &str)>) {
        let node = self.name.to_string();
        let process = match self.process.as_str() {
            ITSELF => "",
            process => process,
        };
        if matches!(self.tone, Tone::Bad | Tone::Open) && denied.contains(&(&*node, process)) {
            (self.word, self.tone) = ("denied, left out", Tone::Quiet);
        }
    }
}

pub(super) fn section(h: &mut Html, look: &Look<'_>, view: &View) {
    let bundle = look.ca.trust.current();
    let (found, more) = look.ca.fleet.page(None, NODES, |agent| {
        let consumers: Vec<_> = agent.consumers(&bundle).take(ROWS).collect();
        lines(agent, &consumers, bundle.sequence(), &view.rotation)
    });
    let mut lines: Vec<_> = found.into_iter().flatten().collect();
    let denied = view.denied.iter().map(|one| (&*one.node, &*one.process));
    let denied: BTreeSet<_> = denied.collect();
    for line in &mut lines {
        line.leave_out(&denied);
    }
    let order = |line: &Line| match line.tone {
        Tone::Bad => 0,
        Tone::Open => 1,
        Tone::Good | Tone::Quiet => 2,
    };
    lines.sort_by_key(order);
    let done = lines.iter().filter(|line| line.tone == Tone::Good).count();
    h.raw("<section aria-labelledby=\"nodes\">\n<h2 id=\"nodes\">By node and proxy</h2>\n");
    let caption = format!(
        "{} of {}, those that are waited for first",
        grouped(done as u64),
        counted(
            lines.len() as u64,
            "agent or proxy is done",
            "agents and proxies are done"
        ),
    );
    let columns = ["Node", "Proxy", "Roots taken", "Certificate taken", "State"];
    let all = lines.len();
    h.table(&caption, &columns, |table| {
        for line in lines.into_iter().take(ROWS) {
            table.row(|row| {
                row.head(|h| h.node(&line.name.cluster, &line.name.node));
                row.text(&line.process);
                row.text(&line.roots);
                row.cell(|h| match line.certificate.as_str() {
                    "" => h.raw("–"),
                    serial => h.serial(serial),
                });
                row.cell(|h| h.chip(line.tone, line.word));
            });
        }
    });
    if all > ROWS || more.is_some() {
        put!(
            h,
            "<p>Not all are shown: see <a href=\"/agents\">the agents</a>.</p>\n"
        );
    }
    h.raw("</section>\n");
}

fn lines(
    agent: &Agent,
    consumers: &[Consumer],
    newest: Sequence,
    rotation: &Rotation,
) -> Vec<Line> {
    let reissue = rotation.phase == Phase::Reissue;
    let mut lines = vec![itself(agent, newest, reissue, rotation.from)];
    let mut processes: BTreeMap<&str, Vec<&Consumer>> = BTreeMap::new();
    for consumer in consumers {
        processes
            .entry(&consumer.process)
            .or_default()
            .push(consumer);
    }
    for (process, consumers) in processes {
        let roots = consumers.iter().find(|one| one.roots);
        let certificate = consumers
            .iter()
            .find(|one| !one.roots && !one.acked.is_empty());
        let judged: Vec<_> = consumers
            .iter()
            .filter(|one| one.roots != reissue)
            .collect();
        let old = judged.iter().any(|one| one.under == Some(rotation.from));
        let (word, tone) = match worst(&judged) {
            Some(Standing::Refused) => ("refused", Tone::Bad),
            Some(Standing::Open) => ("not confirmed", Tone::Open),
            Some(Standing::Confirmed) if reissue && old => ("under the old root", Tone::Open),
            Some(Standing::Confirmed) if reissue => ("renewed", Tone::Good),
            Some(Standing::Confirmed) => ("confirmed", Tone::Good),
            None if reissue => ("no certificate", Tone::Quiet),
            None => ("takes no roots", Tone::Open),
        };
        lines.push(Line {
            name: agent.name().clone(),
            process: process.to_owned(),
            roots: roots.map_or("–", |one| &one.acked).to_owned(),
            certificate: certificate.map_or("", |one| &one.acked).to_owned(),
            word,
            tone,
        });
    }
    lines
}

fn itself(agent: &Agent, newest: Sequence, reissue: bool, from: KeyId) -> Line {
    let (word, tone) = if !agent.is_connected() {
        ("away", Tone::Open)
    } else if reissue && agent.leaves_under(&from) > 0 {
        ("holds some under the old root", Tone::Open)
    } else if reissue {
        ("renewed", Tone::Good)
    } else if agent.trust() == Some(newest) {
        ("confirmed", Tone::Good)
    } else {
        ("not confirmed", Tone::Open)
    };
    Line {
        name: agent.name().clone(),
        process: ITSELF.to_owned(),
        roots: agent.trust().map_or("–".to_owned(), |at| at.to_string()),
        certificate: String::new(),
        word,
        tone,
    }
}

fn worst(consumers: &[&&Consumer]) -> Option<Standing> {
    let rank = |standing: &Standing| match standing {
        Standing::Refused => 0,
        Standing::Open => 1,
        Standing::Confirmed => 2,
    };
    consumers.iter().map(|one| one.standing).min_by_key(rank)
}
