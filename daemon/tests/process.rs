//! A real process: signals, exit codes and what it says on standard error. The process is this test binary, started
//! again for its `child`.

use std::error::Error;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use arx_daemon::drain::{self, Cause, OnPanic, Tasks};
use arx_daemon::{Clock, exit, log};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const ROLE: &str = "ARX_TEST_ROLE";

/// What the child does beside draining; by the environment variable `ARX_TEST_ROLE`.
#[tokio::test]
#[ignore = "the process that the other tests start"]
async fn child() -> Outcome {
    let clock = Clock::system();
    log::init(log::Options::default(), &clock)?;
    let role = std::env::var(ROLE)?;
    let grace = Duration::from_secs(if role == "stuck" { 600 } else { 20 });
    let (drain, mut reloads) = drain::listen(grace)?;
    let tasks = Tasks::new(&drain);
    match role.as_str() {
        "stuck" => tasks.spawn("stuck", OnPanic::End, std::future::pending()),
        "panics" => tasks.spawn("vital", OnPanic::End, async { panic!("on purpose") }),
        "twice" => {
            let again = log::init(log::Options::default(), &clock);
            drain.request(match again {
                Err(log::AlreadySet) => Cause::Finished,
                Ok(_) => Cause::Failed("set up twice".to_owned()),
            });
        }
        _ => {}
    }
    tracing::info!("up");
    loop {
        tokio::select! {
            () = drain.requested() => break,
            () = reloads.next() => tracing::info!("reload"),
        }
    }
    tasks.finish().await;
    std::process::exit(drain.exit_code().into());
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Process {
    fn start(role: &str) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().ok_or("standard error was piped")?;
        let mut process = Self {
            child,
            lines: BufReader::new(stderr).lines(),
        };
        process.line("up")?;
        Ok(process)
    }

    /// Reads up to the line with this message; everything on the way must be JSON lines too.
    fn line(&mut self, message: &str) -> Result<Value, Box<dyn Error>> {
        for line in &mut self.lines {
            let line = line?;
            let value: Value =
                serde_json::from_str(&line).map_err(|error| format!("{error} in {line:?}"))?;
            if value["message"] == message {
                return Ok(value);
            }
        }
        Err(format!("ended before it said {message:?}").into())
    }

    fn send(&self, signal: Signal) -> Outcome {
        let pid = Pid::from_raw(self.child.id().try_into()?).ok_or("a child has a pid")?;
        Ok(kill_process(pid, signal)?)
    }

    fn ended(&mut self) -> Result<ExitStatus, Box<dyn Error>> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_first_signal_drains_and_the_process_ends_well() -> Outcome {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut process = Process::start("plain")?;
        process.send(signal)?;
        assert_eq!(process.line("draining")?["cause"], name);
        assert_eq!(process.ended()?.code(), Some(exit::OK.into()));
    }
    Ok(())
}

#[test]
fn a_second_signal_ends_it_at_once_as_failed() -> Outcome {
    let mut process = Process::start("stuck")?;
    process.send(Signal::TERM)?;
    process.line("draining")?;
    process.send(Signal::INT)?;
    let line = process.line("second signal, ending at once")?;
    assert_eq!(
        (&line["code"], &line["signal"]),
        (&"ARX-FORCED-END".into(), &"SIGINT".into())
    );
    assert_eq!(process.ended()?.code(), Some(exit::RUNTIME.into()));
    Ok(())
}

#[test]
fn a_hangup_is_a_wish_to_reload_each_time() -> Outcome {
    let mut process = Process::start("plain")?;
    for _ in 0..2 {
        process.send(Signal::HUP)?;
        process.line("reload")?;
    }
    process.send(Signal::TERM)?;
    assert_eq!(process.ended()?.code(), Some(exit::OK.into()));
    Ok(())
}

#[test]
fn a_panic_in_a_vital_task_is_logged_and_ends_the_process_as_failed() -> Outcome {
    let mut process = Process::start("panics")?;
    let line = process.line("panicked: on purpose; please report this")?;
    assert_eq!(line["code"], "ARX-PANIC");
    assert!(
        line["location"]
            .as_str()
            .is_some_and(|location| location.contains("process.rs")),
        "{line}"
    );
    assert_eq!(
        process.line("a task panicked; please report this")?["task"],
        "vital"
    );
    assert_eq!(process.line("draining")?["code"], "ARX-FAILED");
    assert_eq!(process.ended()?.code(), Some(exit::RUNTIME.into()));
    Ok(())
}

#[test]
fn logging_is_set_up_once() -> Outcome {
    assert_eq!(
        Process::start("twice")?.ended()?.code(),
        Some(exit::OK.into())
    );
    Ok(())
}
