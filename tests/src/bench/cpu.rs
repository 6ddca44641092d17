//! CPU time of another process, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Length of one tick of /proc/PID/stat: USER_HZ is 100 wherever Linux runs.
const TICK: Duration = Duration::from_millis(10);

/// What a process has used so far.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    /// Nanoseconds by thread, from /proc/PID/task/TID/schedstat.
    threads: BTreeMap<u32, u64>,
    /// User and system time of all threads that ever were, from /proc/PID/stat.
    ticks: u64,
}

impl Cpu {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let entry = entry?;
            let Some(thread) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A thread may end between being listed and being read.
            if let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) {
                let first = text
                    .split(' ')
                    .next()
                    .and_then(|number| number.parse().ok());
                threads.insert(thread, first.context("schedstat has three numbers")?);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let (_, after) = stat.rsplit_once(')').context("stat has a name")?;
        let ticks = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>())
            .sum::<Result<u64, _>>()?;
        Ok(Self { threads, ticks })
    }

    /// CPU time from `earlier` to this. The nanoseconds of a thread that ended in between
    /// are lost with it; then the ticks, which are not, are taken if they say more.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let exact: u64 = self
            .threads
            .iter()
            .map(|(thread, now)| {
                now.saturating_sub(earlier.threads.get(thread).copied().unwrap_or(0))
            })
            .sum();
        let exact = Duration::from_nanos(exact);
        let ended = earlier
            .threads
            .keys()
            .any(|thread| !self.threads.contains_key(thread));
        let ticks =
            TICK * u32::try_from(self.ticks.saturating_sub(earlier.ticks)).unwrap_or(u32::MAX);
        if ended { exact.max(ticks) } else { exact }
    }

    /// Waits until `process` has come to rest, and then reads: the kernel brings a
    /// running thread's time up to date only when it stops.
    pub(crate) async fn at_rest(process: u32) -> anyhow::Result<Self> {
        Self::both_at_rest(process, process).await
    }

    /// The same, when whoever keeps it busy is at rest too.
    pub(crate) async fn both_at_rest(process: u32, other: u32) -> anyhow::Result<Self> {
        const LOOK: Duration = Duration::from_millis(50);
        /// What housekeeping uses between two looks.
        const REST: Duration = Duration::from_micros(500);
        /// A busy machine may let nobody run for as long as one look.
        const QUIET: usize = 3;
        let mut quiet = 0;
        let mut before = (Self::of(process)?, Self::of(other)?);
        for _ in 0..200 {
            tokio::time::sleep(LOOK).await;
            let now = (Self::of(process)?, Self::of(other)?);
            let rests = now.0.since(&before.0) < REST && now.1.since(&before.1) < REST;
            quiet = if rests { quiet + 1 } else { 0 };
            if quiet == QUIET {
                return Ok(now.0);
            }
            before = now;
        }
        Ok(before.0)
    }
}

/// CPU time of the calling thread.
pub(crate) fn own_thread() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text
        .split(' ')
        .next()
        .context("schedstat has three numbers")?;
    Ok(Duration::from_nanos(first.parse()?))
}
