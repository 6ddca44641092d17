//! What a rotation of the root costs.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arx_ca::rotation::{Event, Facts, Obstacle, begin, step};
use arx_ca::seal;
use arx_ca::state::{Decision, Document as _, Loaded, Rotations, State, StateError, Terms};
use arx_ca::store::Redb;
use arx_daemon::files::write_atomically;
use arx_identity::{KeyId, Sequence, TrustDomain};
use arx_proto::admin::v1::{ContinueRotationRequest, RotateRootRequest};

use super::Effort;
use super::agent::same_identity;
use super::authority::{self, join_tokens, mesh, process, reach};
use super::client::{Client, Role};
use super::cpu::Cpu;
use super::figure::{Figure, Goal};
use super::proxies::Options;
use super::{crowd, issue, node};
use crate::mesh::{self, Mesh, TRUST_DOMAIN};
use crate::rotating::{abort, reaches, rotate};
use crate::token_issuer::now;

const NODE: &str = "node-1";

/// A rotation that stays where its first bundle is confirmed.
fn as_far_as_distribute() -> RotateRootRequest {
    RotateRootRequest {
        window_ms: Some(0),
        dwell_ms: Some(3_600_000),
        reason: "a measurement".to_owned(),
        ..RotateRootRequest::default()
    }
}

/// Turns the rotation round, which is another bundle, and waits until it is over.
async fn back(mesh: &Mesh) -> anyhow::Result<()> {
    abort(mesh).await?;
    reaches(mesh, "aborted", |it| it.phase == "aborted").await?;
    Ok(())
}

/// From `arx rotate root` to the ACK of its first bundle by two streams on each of 500
/// connections.
pub(crate) async fn proxies(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mesh = mesh().await?;
    let agent = mesh.agent(NODE).await?;
    let process = agent.process.as_ref().context("the agent runs")?.id();
    // Roots are served to whoever has a certificate; this one has it.
    let mut holder = Client::start(&Role::Proxies(same_identity(
        &agent,
        1,
        ["default", "ROOTCA"],
    )?))
    .await?;
    holder.ask::<usize>("open", "open").await?;
    let connections = effort.of(500);
    let mut client = Client::start(&Role::Proxies(Options {
        names: vec!["ROOTCA".to_owned(); 2],
        ..same_identity(&agent, connections, ["ROOTCA"; 2])?
    }))
    .await?;
    client.ask::<usize>("open", "open").await?;
    let (mut wall, mut cpu) = (vec![], vec![]);
    for run in 0..=effort.repetitions {
        let before = Cpu::at_rest(process).await?;
        client.ask::<()>("all", "armed").await?;
        let start = Instant::now();
        rotate(&mesh, as_far_as_distribute()).await?;
        client.hear::<f64>("acked").await?;
        let took = start.elapsed();
        let used = Cpu::both_at_rest(process, client.id()?)
            .await?
            .since(&before);
        client.ask::<()>("all", "armed").await?;
        back(&mesh).await?;
        client.hear::<f64>("acked").await?;
        // The first one warms up.
        if run > 0 {
            wall.push(took.as_secs_f64() * 1e3);
            cpu.push(used.as_secs_f64() * 1e3);
        }
    }
    Ok(vec![
        Figure::new("rotate_push_1000_ms", "ms", Goal::None, wall)
            .note("from `arx rotate root`, which makes the root, to the last ACK".to_owned()),
        Figure::new("rotate_push_1000_cpu", "ms", Goal::AtMost(20.0), cpu)
            .note("of the agent".to_owned()),
    ])
}

/// A rotation's first bundle to 10,000 agents, all of which confirm it.
pub(crate) async fn agents(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let mut mesh = mesh().await?;
    let agents = effort.of(10_000);
    let mut crowd = Client::start(&Role::Crowd(crowd::Options {
        authority: reach(&mesh),
        tokens: join_tokens(&mesh, "node", agents)?,
    }))
    .await?;
    // A new process, so that nothing which joins have left is used again.
    mesh.stop_authority().await?;
    mesh.start_authority().await?;
    let process = process(&mesh)?;
    let memory = |mesh: &Mesh| {
        let authority = mesh.authority.as_ref().context("the authority runs")?;
        authority.rss_kib()
    };
    Cpu::at_rest(process).await?;
    let empty = memory(&mesh)?;
    let count: u32 = crowd.ask("follow", "following").await?;
    Cpu::at_rest(process).await?;
    let each = (memory(&mesh)? as f64 - empty as f64) / f64::from(count);
    let mut pushes = vec![];
    for _ in 0..effort.repetitions {
        let before = Cpu::at_rest(process).await?;
        crowd.ask::<()>("push", "armed").await?;
        rotate(&mesh, as_far_as_distribute()).await?;
        crowd.hear::<u32>("heard").await?;
        let confirmed = |it: &arx_proto::admin::v1::Rotation| {
            it.phase == "distribute" && it.unconfirmed_total == 0 && it.confirmed >= agents
        };
        reaches(&mesh, "all have confirmed", confirmed).await?;
        // From here on it only waits.
        let used = Cpu::of(process)?.since(&before);
        pushes.push(used.as_secs_f64());
        crowd.ask::<()>("push", "armed").await?;
        back(&mesh).await?;
        crowd.hear::<u32>("heard").await?;
    }
    Ok(vec![
        Figure::new("rotate_agents_10k", "CPU-s", Goal::Below(1.0), pushes).note(format!(
            "to push a rotation's first bundle to {agents} agents, and to hear that all have it"
        )),
        Figure::new("rotate_agent_kib", "KiB", Goal::AtMost(40.0), vec![each])
            .note("for each of them, connected".to_owned()),
    ])
}

/// 100,000 identities get certificates under the new root while their old ones keep the
/// rotation in Reissue; the raw limit is the same before there was a rotation.
pub(crate) async fn reissue(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    const BATCH: u64 = 50;
    let mesh = Mesh::start(mesh::Options {
        ttl: "24h".to_owned(),
        node_ttl: "24h".to_owned(),
        roots: "intermediate_ttl = \"10d\"".to_owned(),
        ..mesh::Options::default()
    })
    .await?;
    let authority = reach(&mesh);
    let join = std::fs::read_to_string(join_tokens(&mesh, NODE, 1)?)?;
    let svid = authority
        .new_node(&authority.tls(None)?, join.trim())
        .await?;
    let kept = mesh.directory.join("node.pem");
    node::keep(&svid, &kept)?;
    let calls = effort.of(2000).div_ceil(effort.repetitions as u64);
    let identities = calls * BATCH * effort.repetitions as u64;
    let mut tokens = String::new();
    for number in 0..identities {
        tokens.push_str(&mesh.token("bench", &format!("web-{number}"), &format!("{NODE}-0")));
        tokens.push('\n');
    }
    let path = mesh.directory.join("workloads.tokens");
    write_atomically(&path, tokens.as_bytes(), 0o600)?;
    drop(tokens);
    let mut client = Client::start(&Role::Issue(issue::Options {
        authority,
        node: kept,
        connections: 4,
        in_flight: 4,
        batch: usize::try_from(BATCH)?,
        calls: usize::try_from(calls)?,
        tokens: Some(path),
    }))
    .await?;
    let process = process(&mesh)?;
    let mut plain = vec![];
    for _ in 0..effort.repetitions {
        plain.push(authority::run(&mut client, process).await?.0);
    }
    let quickly = RotateRootRequest {
        window_ms: Some(0),
        dwell_ms: Some(0),
        reason: "a measurement".to_owned(),
        ..RotateRootRequest::default()
    };
    rotate(&mesh, quickly).await?;
    // The node is there by its certificates alone, so it never confirms the bundle.
    let shown = reaches(&mesh, "only the node is waited for", |it| {
        it.phase == "distribute" && it.unconfirmed_total == 1
    })
    .await?;
    let force = ContinueRotationRequest {
        force: true,
        reason: "a measurement".to_owned(),
        digest: shown.unconfirmed_digest,
        ..ContinueRotationRequest::default()
    };
    mesh.admin().await?.continue_rotation(force).await?;
    reaches(&mesh, "reissue", |it| it.phase == "reissue").await?;
    let mut values = vec![];
    for _ in 0..effort.repetitions {
        values.push(authority::run(&mut client, process).await?.0);
    }
    Ok(vec![
        Figure::new("rotate_reissue_100k", "1/CPU-s", Goal::OfRaw(0.9), values)
            .raw(plain)
            .note(format!(
                "{identities} identities, each proved by a token; raw = the same before the rotation"
            )),
    ])
}

/// One step of the machine, stored; the raw limit is as many bytes, written and synchronised.
pub(crate) async fn step_and_persist(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    let store = Redb::open_or_create(&folder.path().join("state.redb"), now())?;
    let seal = seal::Source::File {
        path: folder.path().join("seal.key"),
        create: true,
    };
    let state = State::open(
        Arc::new(store),
        seal.seal(true)?,
        &trust_domain,
        "arx-bench",
    )
    .await?;
    let steps = u32::try_from(effort.of(200))?;
    let mut rotations = Rotations::default();
    let size = two_steps(&state, &mut rotations).await?;
    let (mut values, mut raw) = (vec![], vec![]);
    for _ in 0..effort.repetitions {
        let start = Instant::now();
        for _ in 0..steps / 2 {
            two_steps(&state, &mut rotations).await?;
        }
        values.push(start.elapsed().as_secs_f64() * 1e3 / f64::from(steps / 2 * 2));
        raw.push(write_and_synchronise(folder.path(), size, steps)?);
    }
    Ok(vec![
        Figure::new("rotate_step_ms", "ms", Goal::Below(2.0), values)
            .raw(raw)
            .note(format!(
                "{size} bytes, sealed; raw = as many, written and synchronised"
            )),
    ])
}

/// Two steps in Distribute, each stored: nobody is in the way any more, and somebody is again.
/// Before them the rotation is brought there, if it is not. How long what is stored is.
async fn two_steps(state: &State, rotations: &mut Rotations) -> anyhow::Result<usize> {
    let [from, to] = [1, 2].map(|number| KeyId::from_slice(&[number; 20]).expect("20 bytes"));
    let sequence = Sequence {
        epoch: 1,
        number: 2,
    };
    let mut facts = Facts {
        active: from,
        prepared: Some(to),
        roots: vec![from, to],
        signs_under: from,
        serves_under: from,
        bundle: vec![from, to],
        sequence,
        from_ends: None,
        longest_leaf: Duration::from_secs(3600),
        reissue_takes: Duration::ZERO,
        counting_for: None,
        confirmed: 1000,
        obstacles: vec![Obstacle {
            node: "c1/n1".to_owned(),
            reason: "agent-away",
            ..Obstacle::default()
        }],
        denied: Vec::new(),
        by_word: false,
        clear_for: Duration::MAX,
    };
    if rotations.running().is_none() {
        let terms = Terms {
            window: Duration::from_secs(1800),
            dwell: Duration::from_secs(15),
            patience: None,
        };
        begin(rotations, from, terms, "a measurement".to_owned(), now())?;
        for _ in 0..2 {
            next(rotations, &facts)?;
        }
    }
    let mut size = 0;
    for obstacles in [Vec::new(), std::mem::take(&mut facts.obstacles)] {
        facts.obstacles = obstacles;
        let stored: Result<_, StateError> = state
            .update(
                &state.key(&Rotations::KIND),
                |found: Option<Loaded<Rotations>>| {
                    let mut rotations =
                        found.map_or_else(|| rotations.clone(), |found| found.value);
                    let _refused = next(&mut rotations, &facts);
                    Ok(Decision::Write(rotations.clone(), rotations))
                },
            )
            .await;
        *rotations = stored?;
        size = rotations.encode().len();
    }
    Ok(size)
}

fn next(rotations: &mut Rotations, facts: &Facts) -> anyhow::Result<()> {
    let running = rotations.all.last_mut().context("one is under way")?;
    let step = step(running, &Event::Looked, facts, now())?;
    *running = step.next.context("that is a step")?;
    Ok(())
}

/// Milliseconds that one write takes.
fn write_and_synchronise(folder: &Path, size: usize, times: u32) -> anyhow::Result<f64> {
    let mut file = std::fs::File::create(folder.join("raw"))?;
    let bytes = vec![7; size];
    let start = Instant::now();
    for _ in 0..times {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(times))
}
