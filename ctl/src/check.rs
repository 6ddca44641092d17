//! `arx check`: what can be checked from the authority's machine, a line for each test.

use std::fmt::Write as _;
use std::path::Path;

use arx_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::agents;
use crate::client::{Client, Failure, connect};
use crate::output::{Output, Style, count, relative, span};

/// Clocks that are farther apart make certificates look expired or not yet valid.
const CLOCK_MS: u64 = 60_000;

/// One line.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    test: String,
    /// What is wrong, and what to do; `None` if it is well.
    wrong: Option<String>,
    /// It does not make the exit code 1.
    warning: bool,
}

impl Finding {
    fn new(test: impl Into<String>, wrong: Option<String>) -> Self {
        Self {
            test: test.into(),
            wrong,
            warning: false,
        }
    }

    fn warning(test: impl Into<String>, wrong: Option<String>) -> Self {
        Self {
            test: test.into(),
            wrong,
            warning: true,
        }
    }
}

pub(crate) async fn run(socket: &Path, style: Style, kube: bool) -> Result<Output, Failure> {
    let mut findings = Vec::new();
    let reached = match connect(socket).await {
        Ok(mut client) => look(&mut client, &mut findings, style.now_ms, kube).await,
        Err(failure) => Err(failure),
    };
    let answers = format!("the authority answers at {}", socket.display());
    let wrong = reached.as_ref().err().map(ToString::to_string);
    findings.insert(0, Finding::new(answers, wrong));
    let well = findings
        .iter()
        .all(|finding| finding.wrong.is_none() || finding.warning);
    let output = if style.json {
        Output::json(&to_json(&findings))
    } else {
        Output::text(&to_text(&findings))
    };
    Ok(match reached {
        Ok(()) => output.well_if(well),
        Err(failure) => Output {
            exit_code: failure.exit_code(),
            ..output
        },
    })
}

/// Asks for everything. A question that the authority refuses is a line that failed;
/// one that does not reach it ends the asking.
async fn look(
    client: &mut Client,
    findings: &mut Vec<Finding>,
    now_ms: i64,
    kube: bool,
) -> Result<(), Failure> {
    let status = client.status(wire::StatusRequest {}).await?.into_inner();
    findings.extend(of_status(&status, now_ms));
    match agents::all(client).await {
        Ok(agents) => findings.extend(of_agents(&agents, &status, now_ms)),
        Err(Failure::Unreachable(message)) => return Err(Failure::Unreachable(message)),
        Err(failure) => findings.push(Finding::new(
            "the agents can be listed",
            Some(failure.to_string()),
        )),
    }
    let verified = client.verify_ledger(wire::VerifyLedgerRequest {}).await;
    match verified.map_err(Failure::from) {
        Ok(report) => findings.push(of_ledger(report.get_ref())),
        Err(Failure::Unreachable(message)) => return Err(Failure::Unreachable(message)),
        Err(failure) => findings.push(Finding::new(
            "the ledger can be verified",
            Some(failure.to_string()),
        )),
    }
    if !kube {
        return Ok(());
    }
    let checked = client.check_clusters(wire::CheckClustersRequest {}).await;
    match checked.map_err(Failure::from) {
        Ok(answer) => findings.extend(of_clusters(answer.into_inner())),
        Err(Failure::Unreachable(message)) => return Err(Failure::Unreachable(message)),
        Err(failure) => findings.push(Finding::new(
            "the clusters can be checked",
            Some(failure.to_string()),
        )),
    }
    Ok(())
}

fn of_clusters(answer: wire::CheckClustersResponse) -> Vec<Finding> {
    let of = |found: wire::ClusterFinding| Finding {
        test: match found.cluster.as_str() {
            "" => found.test,
            cluster => format!("cluster {cluster}: {}", found.test),
        },
        wrong: (!found.wrong.is_empty()).then_some(found.wrong),
        warning: found.warning,
    };
    answer.findings.into_iter().map(of).collect()
}

fn of_status(status: &wire::StatusResponse, now_ms: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for health in &status.health {
        let wrong = (!health.ok || health.warning)
            .then(|| format!("{} ({}, see docs/errors.md)", health.message, health.code));
        findings.push(Finding {
            test: format!("{} is well", health.component),
            wrong,
            warning: health.ok,
        });
    }
    let offset = status.clock_unix_ms.abs_diff(now_ms);
    let wrong = (offset > CLOCK_MS)
        .then(|| format!("it is {} off: check the time synchronisation", span(offset)));
    findings.push(Finding::new(
        "the authority's clock agrees with this one",
        wrong,
    ));
    let building = (!status.index_ready)
        .then(|| "it is still being built after the start: ask again in a moment".to_owned());
    findings.push(Finding::warning(
        "the index of valid certificates is ready",
        building,
    ));
    for authority in &status.authorities {
        // One that does not sign yet, or not any more, may end.
        if !authority.state.is_empty() && authority.state != "active" {
            continue;
        }
        let name = match authority.role.as_str() {
            "serving" => "serving certificate",
            "upper" => "upper intermediate",
            other => other,
        };
        let end = authority.not_after_unix_ms;
        let wrong = (end <= now_ms).then(|| {
            format!(
                "it has ended {}: see the authority's log",
                relative(end, now_ms)
            )
        });
        findings.push(Finding::new(format!("the {name} is valid"), wrong));
        let overdue = authority.renews_unix_ms > 0 && authority.renews_unix_ms + 120_000 < now_ms;
        let wrong = overdue.then(|| {
            format!(
                "it was due {}: see why in the authority's log",
                relative(authority.renews_unix_ms, now_ms)
            )
        });
        // The upper one may be an operator's to renew, and is told of among the components.
        if authority.renews_unix_ms > 0 && authority.role != "upper" {
            findings.push(Finding::new(
                format!("the {name} is renewed in time"),
                wrong,
            ));
        }
    }
    findings
}

fn of_agents(agents: &[wire::Agent], status: &wire::StatusResponse, now_ms: i64) -> Vec<Finding> {
    let named = |agents: Vec<&wire::Agent>, what: &str| {
        let names: Vec<_> = agents
            .iter()
            .take(5)
            .map(|agent| format!("{}/{}", agent.cluster, agent.node))
            .collect();
        let more = if agents.len() > names.len() {
            format!(" and {} more", agents.len() - names.len())
        } else {
            String::new()
        };
        (!agents.is_empty()).then(|| format!("{}{more}: {what}", names.join(", ")))
    };
    let connected: Vec<_> = agents.iter().filter(|agent| agent.connected).collect();
    // An agent whose certificate has ended is gone for good, or will join again.
    let away = agents
        .iter()
        .filter(|agent| !agent.connected && agent.certificate_not_after_unix_ms > now_ms)
        .collect();
    let newest = (status.bundle_epoch, status.bundle_number);
    let pick = |wanted: &dyn Fn(&wire::Agent) -> bool| {
        connected
            .iter()
            .copied()
            .filter(|agent| wanted(agent))
            .collect::<Vec<_>>()
    };
    vec![
        Finding::warning(
            "an agent is connected",
            connected
                .is_empty()
                .then(|| "none is: start one, or see why it can't join in its log".to_owned()),
        ),
        Finding::new(
            "agents with valid certificates are connected",
            named(away, "see their logs and the network between"),
        ),
        Finding::new(
            "connected agents hold the newest roots",
            named(
                pick(&|agent| (agent.trust_epoch, agent.trust_number) != newest),
                "they are behind; see their logs",
            ),
        ),
        Finding::warning(
            "proxies have confirmed the newest roots",
            named(
                pick(&|agent| agent.subscribers_confirmed < agent.subscribers),
                "not all proxies there have; they were asked a moment ago, or hang",
            ),
        ),
        Finding::new(
            "connected agents' own certificates are valid",
            named(
                pick(&|agent| {
                    agent.certificate_not_after_unix_ms > 0
                        && agent.certificate_not_after_unix_ms <= now_ms
                }),
                "theirs has ended and was not renewed; see their logs",
            ),
        ),
        Finding::new(
            "the agents' clocks agree with the authority's",
            named(
                pick(&|agent| agent.clock_offset_ms.unsigned_abs() > CLOCK_MS),
                "check their time synchronisation",
            ),
        ),
        Finding::new(
            "proxies have taken what they were sent",
            named(
                pick(&|agent| agent.nacks > 0),
                "proxies there sent a NACK; the agent's log has its words",
            ),
        ),
    ]
}

fn of_ledger(report: &wire::VerifyLedgerResponse) -> Finding {
    let wrong = report.problems.first().map(|first| {
        format!(
            "{}, the first: {first}; keep the files, and compare them with a copy",
            count(report.problems.len() as u64, "problem")
        )
    });
    Finding::new(
        format!("the ledger verifies, {}", count(report.records, "record")),
        wrong,
    )
}

fn to_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let _infallible = match &finding.wrong {
            None => writeln!(text, "ok     {}", finding.test),
            Some(wrong) => {
                let mark = if finding.warning { "warn" } else { "FAILED" };
                writeln!(text, "{mark:<7}{}\n       {wrong}", finding.test)
            }
        };
    }
    let failed = findings
        .iter()
        .filter(|finding| finding.wrong.is_some() && !finding.warning)
        .count();
    let _infallible = match failed {
        0 => writeln!(text, "\nall is well"),
        _ => writeln!(text, "\n{failed} of {} failed", findings.len()),
    };
    text
}

fn to_json(findings: &[Finding]) -> Value {
    let findings = findings.iter().map(|finding| {
        let result = match (&finding.wrong, finding.warning) {
            (None, _) => "ok",
            (Some(_), true) => "warning",
            (Some(_), false) => "failed",
        };
        json!({"test": finding.test, "result": result, "hint": finding.wrong})
    });
    Value::Array(findings.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(findings: &[Finding]) -> Vec<&str> {
        findings
            .iter()
            .filter(|finding| finding.wrong.is_some())
            .map(|finding| finding.test.as_str())
            .collect()
    }

    fn agent() -> wire::Agent {
        wire::Agent {
            cluster: "c1".to_owned(),
            node: "n1".to_owned(),
            connected: true,
            trust_epoch: 1,
            trust_number: 1,
            certificate_not_after_unix_ms: 5000,
            ..Default::default()
        }
    }

    fn status() -> wire::StatusResponse {
        wire::StatusResponse {
            bundle_epoch: 1,
            bundle_number: 1,
            clock_unix_ms: 1000,
            index_ready: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_well_fleet_passes() {
        assert!(failing(&of_agents(&[agent()], &status(), 1000)).is_empty());
        assert!(failing(&of_status(&status(), 1000)).is_empty());
    }

    #[test]
    fn each_thing_that_is_wrong_with_an_agent_fails_its_own_line() {
        let wrong = |change: &dyn Fn(&mut wire::Agent)| {
            let mut other = agent();
            change(&mut other);
            let findings = of_agents(&[other, agent()], &status(), 1000);
            failing(&findings).join("; ")
        };
        assert_eq!(
            wrong(&|agent| agent.connected = false),
            "agents with valid certificates are connected"
        );
        assert_eq!(
            wrong(&|agent| agent.trust_number = 0),
            "connected agents hold the newest roots"
        );
        assert_eq!(
            wrong(&|agent| agent.subscribers = 1),
            "proxies have confirmed the newest roots"
        );
        assert_eq!(
            wrong(&|agent| agent.certificate_not_after_unix_ms = 1000),
            "connected agents' own certificates are valid"
        );
        assert_eq!(
            wrong(&|agent| agent.clock_offset_ms = -70_000),
            "the agents' clocks agree with the authority's"
        );
        assert_eq!(
            wrong(&|agent| agent.nacks = 1),
            "proxies have taken what they were sent"
        );
        assert_eq!(
            failing(&of_agents(&[], &status(), 1000)),
            ["an agent is connected"]
        );
    }

    #[test]
    fn each_thing_that_is_wrong_with_the_authority_fails_its_own_line() {
        let of = |authority: wire::Authority| {
            let status = wire::StatusResponse {
                authorities: vec![authority],
                ..status()
            };
            failing(&of_status(&status, 1000)).join("; ")
        };
        let authority = |role: &str, end, renews| wire::Authority {
            role: role.to_owned(),
            not_after_unix_ms: end,
            renews_unix_ms: renews,
            ..Default::default()
        };
        assert_eq!(
            of(authority("serving", 500, 0)),
            "the serving certificate is valid"
        );
        let retiring = wire::Authority {
            state: "retiring".to_owned(),
            ..authority("root", 500, 0)
        };
        assert_eq!(of(retiring), "");
        assert_eq!(
            of(authority("intermediate", 9000, -120_000)),
            "",
            "none is due where the time is not told"
        );
        let announced = wire::StatusResponse {
            clock_unix_ms: 200_000,
            authorities: vec![authority("upper", 900_000, 1000)],
            ..status()
        };
        assert_eq!(failing(&of_status(&announced, 200_000)), [""; 0]);
        let skewed = of_status(&status(), 62_000);
        assert_eq!(
            failing(&skewed),
            ["the authority's clock agrees with this one"]
        );
        let late = wire::StatusResponse {
            clock_unix_ms: 200_000,
            authorities: vec![authority("intermediate", 900_000, 1000)],
            ..status()
        };
        assert_eq!(
            failing(&of_status(&late, 200_000)),
            ["the intermediate is renewed in time"]
        );
        let building = wire::StatusResponse {
            index_ready: false,
            ..status()
        };
        assert_eq!(
            failing(&of_status(&building, 1000)),
            ["the index of valid certificates is ready"]
        );
        let sick = wire::StatusResponse {
            health: vec![wire::Health {
                component: "ledger".to_owned(),
                code: "ARX-LEDGER-PAUSED".to_owned(),
                ..Default::default()
            }],
            ..status()
        };
        assert_eq!(failing(&of_status(&sick, 1000)), ["ledger is well"]);
        let ending = wire::StatusResponse {
            health: vec![wire::Health {
                component: "root".to_owned(),
                ok: true,
                warning: true,
                code: "ARX-ROOT-ENDING".to_owned(),
                message: "it ends within 30 days".to_owned(),
            }],
            ..status()
        };
        let warned = of_status(&ending, 1000);
        assert_eq!(failing(&warned), ["root is well"]);
        assert!(
            warned
                .iter()
                .all(|finding| finding.wrong.is_none() || finding.warning)
        );
        let damaged = wire::VerifyLedgerResponse {
            problems: vec!["x".to_owned()],
            ..Default::default()
        };
        assert!(of_ledger(&damaged).wrong.is_some());
    }

    #[test]
    fn an_agent_that_is_gone_for_good_is_no_failure() {
        let gone = wire::Agent {
            connected: false,
            certificate_not_after_unix_ms: 500,
            ..agent()
        };
        assert!(failing(&of_agents(&[gone, agent()], &status(), 1000)).is_empty());
    }

    #[test]
    fn a_failure_is_said_with_its_hint() {
        let text = to_text(&[Finding::new(
            "x works",
            Some("it does not: do y".to_owned()),
        )]);
        assert!(
            text.contains("FAILED x works\n       it does not: do y"),
            "{text}"
        );
        assert!(text.contains("1 of 1 failed"), "{text}");
    }
}
