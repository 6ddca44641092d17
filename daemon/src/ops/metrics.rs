//! The metrics that every Arx process has, beside its own.

use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rustix::time::{ClockId, clock_gettime};

use super::Readiness;
use crate::Clock;
use crate::drain::Tasks;

/// Which program this is.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// `arx-ca`
    pub name: &'static str,
    /// `env!("CARGO_PKG_VERSION")` of the binary.
    pub version: &'static str,
}

/// A registry with the standard metrics; a process adds its own and hands it to [`super::Server::start`].
///
/// `arx_build_info`, `arx_ready{condition}` (1 well, 0 failing), `arx_warned{condition}` (1 well, but),
/// `arx_clock_jumps_total`, `arx_tasks{task}`, `arx_task_panics_total{task}`, and by the names that all Prometheus clients use `process_start_time_seconds`,
/// `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`.
pub fn registry(
    process: &Process,
    clock: &Clock,
    readiness: &Readiness,
    tasks: &Tasks,
) -> Registry {
    let mut registry = Registry::default();
    let build = Info::new([("name", process.name), ("version", process.version)]);
    registry.register("arx_build", "Program and version", build);
    registry.register_collector(Box::new(Standard {
        started: clock.now(),
        clock: clock.clone(),
        readiness: readiness.clone(),
        tasks: tasks.clone(),
    }));
    registry
}

#[derive(Debug)]
struct Standard {
    started: SystemTime,
    clock: Clock,
    readiness: Readiness,
    tasks: Tasks,
}

impl Collector for Standard {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut single =
            |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
                metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
            };
        let started = self
            .started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let started = ConstGauge::new(started.as_secs_f64());
        single(
            "process_start_time",
            "When the process started, since 1970",
            Some(&Unit::Seconds),
            &started,
        )?;
        let cpu = ConstCounter::new(cpu_time().as_secs_f64());
        single(
            "process_cpu",
            "User and system CPU time",
            Some(&Unit::Seconds),
            &cpu,
        )?;
        if let Some(bytes) = resident_bytes() {
            let memory = ConstGauge::new(bytes);
            single(
                "process_resident_memory",
                "Resident memory",
                Some(&Unit::Bytes),
                &memory,
            )?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // The directory itself is open while we count.
            let open = ConstGauge::new(
                i64::try_from(open.count())
                    .unwrap_or(i64::MAX)
                    .saturating_sub(1),
            );
            single("process_open_fds", "Open file descriptors", None, &open)?;
        }
        let jumps = ConstCounter::new(self.clock.jumps().borrow().count);
        single(
            "arx_clock_jumps",
            "Jumps of the wall clock against monotonic time",
            None,
            &jumps,
        )?;

        let said = self.readiness.all();
        let ready = said.iter();
        let ready = ready.map(|said| (said.name, ConstGauge::new(i64::from(said.ok))));
        family(
            &mut encoder,
            "arx_ready",
            "Whether a condition of readiness is well",
            "condition",
            ready,
        )?;
        let warned = said.iter().map(|said| {
            let warned = said.ok && said.why.is_some();
            (said.name, ConstGauge::new(i64::from(warned)))
        });
        family(
            &mut encoder,
            "arx_warned",
            "Whether a condition of readiness is well, and something is to be known of it",
            "condition",
            warned,
        )?;
        let tasks = self.tasks.running().into_iter();
        let tasks = tasks.map(|(name, count)| {
            (
                name,
                ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)),
            )
        });
        family(&mut encoder, "arx_tasks", "Running tasks", "task", tasks)?;
        let panics = self
            .tasks
            .panics()
            .into_iter()
            .map(|(name, count)| (name, ConstCounter::new(count)));
        family(
            &mut encoder,
            "arx_task_panics",
            "Tasks that have panicked",
            "task",
            panics,
        )
    }
}

/// One metric with a sample for each value of one label.
fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &str,
    samples: impl Iterator<Item = (&'static str, M)>,
) -> Result<(), std::fmt::Error> {
    let mut samples = samples.peekable();
    let Some((_, first)) = samples.peek() else {
        return Ok(());
    };
    let mut metric = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    for (value, sample) in samples {
        let labels = [(label, value)];
        sample.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
