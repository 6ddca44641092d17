//! Rotations in worlds where everything goes wrong, and what the observer must never see.
//!
//! `ARX_SIMULATION_RUNS` says how many worlds, `ARX_SIMULATION_SEED` which one alone, and
//! `ARX_SIMULATION_FAULT` what is done wrong in them.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

use arx_tests::simulation::{Broken, Ended, Fault, Tally, Worlds};

/// Worlds, where nothing else is said: `make test` and `make simulate` say more.
const RUNS: u64 = 400;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is to be done wrong, by the name of the fault.
fn fault() -> Option<Fault> {
    let name = std::env::var("ARX_SIMULATION_FAULT").ok()?;
    let named = Fault::ALL.into_iter();
    let mut named = named.filter(|fault| format!("{fault:?}") == name);
    named.next()
}

/// What shows the world of a seed again.
fn command(seed: u64, fault: Option<Fault>) -> String {
    let fault = fault.map(|fault| format!("ARX_SIMULATION_FAULT={fault:?} "));
    format!(
        "ARX_SIMULATION_SEED={seed} {}cargo test -p arx-tests --test simulation -- whatever_happens",
        fault.unwrap_or_default()
    )
}

/// As whoever mends it wants to see it.
fn shown(worlds: &mut Worlds, seed: u64, broken: &Broken) -> String {
    let again = worlds.run(seed, fault(), true);
    let trace = again.err().map(|again| again.trace).unwrap_or_default();
    let last = trace.len().saturating_sub(60);
    format!(
        "after {} s: {}\n{}\nagain: {}",
        broken.at / 1000,
        broken.what,
        trace[last..].join("\n"),
        command(seed, fault())
    )
}

#[test]
fn whatever_happens_no_live_certificate_meets_a_follower_who_lacks_its_root() -> anyhow::Result<()>
{
    let (first, runs) = match number("ARX_SIMULATION_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("ARX_SIMULATION_RUNS").unwrap_or(RUNS)),
    };
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let fault = fault();
    let (mut ends, mut steps, mut forced) = (BTreeMap::new(), 0, 0);
    let mut drawn = Tally::default();
    std::thread::scope(|scope| {
        let live = || -> anyhow::Result<Result<Vec<Ended>, String>> {
            let mut worlds = Worlds::new()?;
            let mut ended = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + runs {
                    return Ok(Ok(ended));
                }
                match worlds.run(seed, fault, false) {
                    Ok(end) => ended.push(end),
                    Err(broken) => {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        return Ok(Err(format!(
                            "seed {seed}, {}",
                            shown(&mut worlds, seed, &broken)
                        )));
                    }
                }
            }
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(live)).collect();
        for thread in running {
            let ended = thread.join().map_err(|_| anyhow::anyhow!("a panic"))??;
            // A panic shows what happened, and an error where it was made.
            for end in ended.unwrap_or_else(|broken| panic!("{broken}")) {
                *ends.entry(end.phase).or_insert(0) += 1;
                steps += end.steps;
                forced += end.forced;
                drawn.extend(&end.drawn);
            }
        }
        anyhow::Ok(())
    })?;
    println!("{runs} worlds, {steps} steps, {forced} forced gates, ended {ends:?}");
    println!("{drawn}");
    let lacks = drawn.lacks();
    anyhow::ensure!(
        runs < RUNS || lacks.is_empty(),
        "in {runs} worlds this never happened: {lacks:?}"
    );
    Ok(())
}

/// Worlds in which a fault must have shown.
const SEEDS: u64 = 400;

#[test]
fn every_fault_is_seen_and_seen_again_by_its_seed() -> anyhow::Result<()> {
    let (mut worlds, mut others) = (Worlds::new()?, Worlds::new()?);
    let mut unseen = Vec::new();
    let only = fault();
    for fault in Fault::ALL {
        if only.is_some_and(|only| only != fault) {
            continue;
        }
        let seen = (0..SEEDS).find_map(|seed| {
            let broken = worlds.run(seed, Some(fault), false).err()?;
            Some((seed, broken))
        });
        match seen {
            Some((seed, broken)) => {
                println!("{fault:?}: seed {seed}: {}", broken.what);
                let again = others.run(seed, Some(fault), true).err();
                let again = again.filter(|again| again.at == broken.at);
                anyhow::ensure!(again.is_some(), "not again: {}", command(seed, Some(fault)));
            }
            None => unseen.push(fault),
        }
    }
    anyhow::ensure!(
        unseen.is_empty(),
        "not seen within {SEEDS} worlds: {unseen:?}"
    );
    Ok(())
}

#[test]
fn a_seed_is_the_same_world_every_time() -> anyhow::Result<()> {
    let mut traces = [Vec::new(), Vec::new()];
    for traces in &mut traces {
        let mut worlds = Worlds::new()?;
        for seed in 0..40 {
            traces.push(format!("{:?}", worlds.run(seed, None, false)));
        }
    }
    for (seed, (one, other)) in traces[0].iter().zip(&traces[1]).enumerate() {
        anyhow::ensure!(one == other, "seed {seed}: {one} and {other}");
    }
    Ok(())
}
