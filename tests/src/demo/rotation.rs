//! The rotation of the root that the demo ends with: what the authority says while it goes
//! on, and the proof afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arx_identity::Certificate;
use arx_proto::admin::v1::rotate_root_response::Outcome;
use arx_proto::admin::v1::{
    EnteredPhase, GetBundleRequest, ListAgentsRequest, RotateRootRequest, Rotation as Stands,
    RotationReportRequest, RotationRoot, RotationStatusRequest,
};
use serde_json::Value;

use super::proxy::Proxy;
use crate::mesh::Mesh;

/// Renewals are spread over this long.
const WINDOW: Duration = Duration::from_secs(8);
/// How long a gate stays shut after its last confirmation: 15 s where nobody is watching.
const DWELL: Duration = Duration::from_secs(3);
/// Of those who are waited for, so many are named.
const NAMED: u32 = 2;

/// A rotation as it stands.
pub(super) struct Rotation {
    stands: Stands,
    /// Phases that were said to be over.
    said: usize,
}

impl Rotation {
    /// Begins one.
    pub(super) async fn begin(mesh: &Mesh) -> anyhow::Result<Self> {
        let request = RotateRootRequest {
            window_ms: u64::try_from(WINDOW.as_millis()).ok(),
            dwell_ms: u64::try_from(DWELL.as_millis()).ok(),
            reason: "the demo".to_owned(),
            ..RotateRootRequest::default()
        };
        let answer = mesh.admin().await?.rotate_root(request).await?;
        match answer.into_inner().outcome {
            Some(Outcome::Rotation(stands)) => Ok(Self { stands, said: 0 }),
            other => anyhow::bail!("the rotation did not begin: {other:?}"),
        }
    }

    /// What an operator would say to the same end.
    pub(super) fn begun(&self) -> String {
        format!(
            "`arx rotate root`: {} begins; renewals within {} s, and each gate stays shut for {} s after its last confirmation",
            self.stands.id,
            WINDOW.as_secs(),
            DWELL.as_secs()
        )
    }

    /// Asks how it stands, and tells which phases are over since.
    pub(super) async fn look(&mut self, mesh: &Mesh) -> anyhow::Result<Vec<String>> {
        let request = RotationStatusRequest {
            id: self.stands.id.clone(),
            unconfirmed_limit: NAMED,
        };
        let answer = mesh.admin().await?.rotation_status(request).await?;
        self.stands = answer.into_inner().rotation.context("the rotation")?;
        let over: Vec<_> = self
            .stands
            .phases
            .iter()
            .filter(|entered| entered.ended_unix_ms != 0)
            .skip(self.said)
            .map(|entered| format!("the root: {} took {} s", entered.phase, took(entered)))
            .collect();
        self.said += over.len();
        Ok(over)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stands.ended_unix_ms != 0
    }

    /// Its line below the table, and one for each that is waited for.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("  root    {}", self.line())];
        lines.extend(self.stands.unconfirmed.iter().map(|one| {
            let who = [&*one.node, &*one.process, &*one.resource];
            let who: Vec<_> = who.into_iter().filter(|part| !part.is_empty()).collect();
            format!("          waits for {}: {}", who.join(" "), one.reason)
        }));
        lines
    }

    /// How it stands, in one line.
    pub(super) fn line(&self) -> String {
        let stands = &self.stands;
        let counted = match stands.phase.as_str() {
            "reissue" => format!(
                ": {} certificates issued anew, {} waited for",
                stands.confirmed, stands.unconfirmed_total
            ),
            "distribute" | "retire" if stands.bundle_number != 0 => format!(
                ", bundle {}.{}: {} confirmed, {} unconfirmed",
                stands.bundle_epoch,
                stands.bundle_number,
                stands.confirmed,
                stands.unconfirmed_total
            ),
            _ => String::new(),
        };
        format!("rotation {}, {}{counted}", stands.id, stands.phase)
    }

    /// Says what it came to, and proves it: by its report, by what the agents say, and by
    /// what each proxy says that it trusts.
    pub(super) async fn sum_up(&self, mesh: &Mesh, proxies: &[Proxy]) -> anyhow::Result<()> {
        let stands = &self.stands;
        println!(
            "  the root was rotated in {} s:",
            stands.ended_unix_ms.abs_diff(stands.started_unix_ms) / 1000
        );
        println!("      from {}", root(stands.from.as_ref()));
        println!("      to   {}", root(stands.to.as_ref()));
        ensure!(
            stands.phase == "done" && stands.forced.is_empty() && !stands.aborting,
            "the rotation did not end as it should: {stands:?}"
        );
        let report = report(mesh, &stands.id).await?;
        for (phase, what) in [
            ("distribute", "both roots were confirmed"),
            ("retire", "the new root alone was confirmed"),
        ] {
            let phases = report["phases"].as_array().context("phases")?;
            let entered = phases.iter().find(|entered| entered["phase"] == phase);
            let confirmed = entered.and_then(|entered| entered["confirmed_count"].as_u64());
            let confirmed = confirmed.context("how many have confirmed")?;
            println!("      {what} by {confirmed}, all agents and proxies, before it went on");
            // An agent on each node.
            ensure!(
                confirmed >= 2 * proxies.len() as u64,
                "only {confirmed} confirmed in {phase}"
            );
        }
        every_agent_has_it(mesh, stands).await?;
        every_proxy_trusts_it(mesh, proxies).await
    }
}

fn took(entered: &EnteredPhase) -> String {
    let took = entered.ended_unix_ms.abs_diff(entered.started_unix_ms);
    format!("{}.{}", took / 1000, took % 1000 / 100)
}

fn root(root: Option<&RotationRoot>) -> String {
    root.map_or_else(
        || "none".to_owned(),
        |root| {
            let id = root.key_id.iter().map(|byte| format!("{byte:02x}"));
            format!("{} ({})", id.collect::<String>(), root.subject)
        },
    )
}

async fn report(mesh: &Mesh, id: &str) -> anyhow::Result<Value> {
    let request = RotationReportRequest { id: id.to_owned() };
    let mut chunks = mesh
        .admin()
        .await?
        .rotation_report(request)
        .await?
        .into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        text.extend_from_slice(&chunk.json);
    }
    Ok(serde_json::from_slice(&text)?)
}

async fn every_agent_has_it(mesh: &Mesh, stands: &Stands) -> anyhow::Result<()> {
    let request = ListAgentsRequest::default();
    let agents = mesh.admin().await?.list_agents(request).await?.into_inner();
    for agent in agents.agents {
        println!(
            "      {}: holds bundle {}.{}, {} of its {} streams confirmed it",
            agent.node,
            agent.trust_epoch,
            agent.trust_number,
            agent.subscribers_confirmed,
            agent.subscribers
        );
        ensure!(
            (agent.trust_epoch, agent.trust_number) == (stands.bundle_epoch, stands.bundle_number)
                && agent.subscribers_confirmed == agent.subscribers,
            "{} has not confirmed: {agent:?}",
            agent.node
        );
    }
    Ok(())
}

async fn every_proxy_trusts_it(mesh: &Mesh, proxies: &[Proxy]) -> anyhow::Result<()> {
    let request = GetBundleRequest::default();
    let bundle = mesh.admin().await?.get_bundle(request).await?.into_inner();
    let mut published = BTreeSet::new();
    for der in &bundle.roots {
        published.insert(Certificate::from_der(der)?.serial().to_string());
    }
    for proxy in proxies {
        let trusted = proxy.envoy.trusted().await?;
        ensure!(
            trusted == published,
            "{} trusts {trusted:?}, not {published:?}",
            proxy.name
        );
        println!(
            "      {}: its Envoy trusts the new root and no other",
            proxy.name
        );
    }
    Ok(())
}
