//! Following a rotation to its end, over restarts of the authority.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use arx_proto::admin::v1 as wire;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::lines::Teller;
use super::live::{self, Screen};
use super::show;
use crate::client::{Failure, connect};
use crate::output::{Output, Style, now, safe_json, unix_ms};

/// Between two attempts to reach an authority that has gone away.
const AGAIN: Duration = Duration::from_millis(250);

/// An authority that is restarted is back within this.
const PATIENCE: Duration = Duration::from_secs(600);

/// A picture shows how time passes.
const TICK: Duration = Duration::from_secs(1);

/// The exit code of a watch that was interrupted: 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// How it is shown.
#[derive(Debug)]
pub(super) enum View {
    /// Drawn over itself, on a terminal.
    Live(Screen),
    /// What is new, in lines.
    Lines(Teller),
    /// One line of JSON for each change.
    Json,
}

/// How a watch ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The rotation has ended.
    With(Box<wire::Rotation>),
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// Nobody reads any more.
    Unread,
}

/// Follows a rotation (an empty id: the running or else the last one) on standard output.
pub(super) async fn run(socket: &Path, style: Style, id: String) -> Result<Output, Failure> {
    let view = if style.json {
        View::Json
    } else if std::io::stdout().is_terminal() {
        View::Live(Screen::default())
    } else {
        View::Lines(Teller::default())
    };
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Then Ctrl-C ends this program as it ends others.
            std::future::pending::<()>().await;
        }
    };
    let ended = follow(socket, id, view, style, &mut std::io::stdout(), interrupted).await?;
    let exit_code = match ended {
        Ended::With(rotation) => u8::from(rotation.phase != "done"),
        Ended::Unread => 0,
        Ended::Interrupted => {
            let text = "\narx: the watch has ended, the rotation goes on: `arx rotate status --watch` follows it again, `arx rotate abort` goes back\n";
            // Where standard error is closed, the exit code still tells.
            let _unheard = std::io::stderr().write_all(text.as_bytes());
            INTERRUPTED
        }
    };
    Ok(Output {
        exit_code,
        ..Output::raw(Vec::new())
    })
}

/// Follows it until it has ended, or until `interrupted`.
pub(super) async fn follow(
    socket: &Path,
    id: String,
    view: View,
    style: Style,
    out: &mut dyn Write,
    interrupted: impl Future<Output = ()>,
) -> Result<Ended, Failure> {
    let watch = Watch {
        socket,
        id,
        view,
        style,
        out,
        shown: None,
        heard: Instant::now(),
    };
    let interrupted = pin!(interrupted);
    tokio::select! {
        ended = watch.until_it_ends() => ended,
        () = interrupted => Ok(Ended::Interrupted),
    }
}

struct Watch<'a> {
    socket: &'a Path,
    id: String,
    view: View,
    style: Style,
    out: &'a mut dyn Write,
    shown: Option<wire::Rotation>,
    /// When the authority was there last.
    heard: Instant,
}

/// Why a connection is no use any more.
enum Over {
    Ended(Ended),
    Failed(Failure),
    /// The authority has gone away, or did not come yet.
    Lost(String),
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(why) => Self::Lost(why),
            failure => Self::Failed(failure),
        }
    }
}

impl From<tonic::Status> for Over {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            // Also in its own words: one that starts or ends is there again soon.
            tonic::Code::Unavailable => Self::Lost(status.message().to_owned()),
            _ => Failure::from(status).into(),
        }
    }
}

impl Watch<'_> {
    async fn until_it_ends(mut self) -> Result<Ended, Failure> {
        let mut told = false;
        loop {
            let heard = self.heard;
            let Err(over) = self.one_connection().await;
            let why = match over {
                Over::Ended(ended) => return Ok(ended),
                Over::Failed(failure) => return Err(failure),
                Over::Lost(why) if self.shown.is_none() => return Err(Failure::Unreachable(why)),
                Over::Lost(why) => why,
            };
            if self.heard.elapsed() > PATIENCE {
                return Err(Failure::Unreachable(format!(
                    "{why}; the rotation goes on when the authority runs again"
                )));
            }
            // Said once for each time that it goes away.
            told &= heard == self.heard;
            if !told {
                told = true;
                if let Err(ended) = self.lost() {
                    return Ok(ended);
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Follows as long as the connection holds.
    async fn one_connection(&mut self) -> Result<std::convert::Infallible, Over> {
        let mut client = connect(self.socket).await?;
        let request = wire::WatchRotationRequest {
            id: self.id.clone(),
            unconfirmed_limit: 0,
        };
        let mut changes = client.watch_rotation(request).await?.into_inner();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = changes.message() => message?,
                _ = tick.tick() => {
                    self.show(false)?;
                    continue;
                }
            };
            let gone = || Over::Lost("the authority has ended the watch: it ends, too".to_owned());
            let rotation = message
                .ok_or_else(gone)?
                .rotation
                .ok_or_else(|| Over::Failed(super::nothing_said()))?;
            self.heard = Instant::now();
            // The next connection must not follow another one.
            self.id.clone_from(&rotation.id);
            let ended = show::has_ended(&rotation);
            self.shown = Some(rotation);
            self.show(true)?;
            if let Some(rotation) = self.shown.take_if(|_| ended) {
                return Err(Over::Ended(Ended::With(Box::new(rotation))));
            }
        }
    }

    /// Shows the rotation as it was last heard of; nothing before that.
    fn show(&mut self, news: bool) -> Result<(), Over> {
        let Some(rotation) = &self.shown else {
            return Ok(());
        };
        let style = Style {
            now_ms: unix_ms(now()),
            ..self.style
        };
        let text = match &mut self.view {
            View::Live(screen) => screen.draw(rotation, "", style, live::room()),
            View::Lines(teller) => teller.tell(rotation, style),
            View::Json if news => safe_json(&format!("{}\n", show::to_json(rotation))),
            View::Json => String::new(),
        };
        self.write(&text)
    }

    /// Says that the authority has gone away.
    fn lost(&mut self) -> Result<(), Ended> {
        let note = "the authority has gone away: it is looked for until it is back";
        let text = match (&mut self.view, &self.shown) {
            (View::Live(screen), Some(rotation)) => {
                let style = Style {
                    now_ms: unix_ms(now()),
                    ..self.style
                };
                screen.draw(rotation, note, style, live::room())
            }
            (View::Lines(_), _) => format!("{note}\n"),
            _ => String::new(),
        };
        match self.write(&text) {
            Err(Over::Ended(ended)) => Err(ended),
            _ => Ok(()),
        }
    }

    /// A reader that has seen enough is no failure.
    fn write(&mut self, text: &str) -> Result<(), Over> {
        if text.is_empty() {
            return Ok(());
        }
        let written = self.out.write_all(text.as_bytes());
        match written.and_then(|()| self.out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Over::Ended(Ended::Unread))
            }
            Err(error) => Err(Over::Failed(Failure::Failed(format!(
                "can't write to standard output: {error}"
            )))),
        }
    }
}

#[cfg(test)]
mod tests;
