//! A real Chromium without a window, driven over two pipes in its own protocol (Chrome
//! DevTools Protocol, `--remote-debugging-pipe`).

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::process::PATIENCE;

/// Nothing but what the tests ask it for.
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
];

/// A browser with one page open. It ends with whoever holds it.
pub struct Browser {
    pipe: Pipe,
    session: String,
    _child: Child,
    _profile: tempfile::TempDir,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// Width of the window, in CSS pixels.
    pub width: u32,
    /// Height of it.
    pub height: u32,
    /// `prefers-color-scheme: dark`.
    pub dark: bool,
}

struct Pipe {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    asked: u64,
    /// Events that came before the answers that were waited for.
    events: VecDeque<Value>,
    /// What the page complained of: exceptions, and what the browser refused it.
    problems: Vec<String>,
}

impl Browser {
    /// Starts `chromium` with a new profile.
    ///
    /// # Errors
    /// If it is not there or does not answer.
    pub async fn start() -> anyhow::Result<Self> {
        let profile = tempfile::Builder::new().prefix("arx-browser-").tempdir()?;
        // It reads commands from descriptor 3 and writes to 4.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
                "sh",
                "chromium",
            ])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut pipe = Pipe {
            input: child.stdin.take().context("standard input is piped")?,
            output: BufReader::new(child.stdout.take().context("standard output is piped")?),
            asked: 0,
            events: VecDeque::new(),
            problems: Vec::new(),
        };
        let target = pipe.ask("", "Target.createTarget", json!({"url": "about:blank"}));
        let target = target.await.context("does chromium start?")?["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let session = pipe.ask("", "Target.attachToTarget", attach).await?["sessionId"].clone();
        let session = session.as_str().context("a session has a name")?.to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            pipe.ask(&session, &format!("{domain}.enable"), json!({}))
                .await?;
        }
        Ok(Self {
            pipe,
            session,
            _child: child,
            _profile: profile,
        })
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.pipe.ask(&self.session, method, parameters).await
    }

    /// Goes to an address, and waits until the page is loaded.
    ///
    /// # Errors
    /// If it can't be loaded.
    pub async fn open(&mut self, address: &str) -> anyhow::Result<()> {
        self.pipe.events.clear();
        let gone = self.ask("Page.navigate", json!({"url": address})).await?;
        if let Some(error) = gone["errorText"].as_str() {
            bail!("{address}: {error}");
        }
        self.pipe.event("Page.loadEventFired").await
    }

    /// The value of an expression; a promise is awaited.
    ///
    /// # Errors
    /// If it throws.
    pub async fn value(&mut self, expression: &str) -> anyhow::Result<Value> {
        let parameters =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.ask("Runtime.evaluate", parameters).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression about the document is true, looking at it after each change.
    ///
    /// # Errors
    /// If it does not become true.
    pub async fn until(&mut self, expression: &str) -> anyhow::Result<()> {
        let wait = format!(
            "new Promise(done => {{
                const look = () => {{ if ({expression}) {{ watch.disconnect(); done(true); }} }};
                const watch = new MutationObserver(look);
                watch.observe(document, {{subtree: true, childList: true, characterData: true, attributes: true}});
                look();
            }})"
        );
        let waited = self.value(&wait).await;
        if waited.is_err() {
            let text = self.value("document.body.innerText").await?;
            waited.with_context(|| format!("not true: {expression}; the page says:\n{text}"))?;
        }
        Ok(())
    }

    /// Looks at the page in another way.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub async fn look(&mut self, looks: Looks) -> anyhow::Result<()> {
        let Looks {
            width,
            height,
            dark,
        } = looks;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.ask("Emulation.setEmulatedMedia", json!({"features": [feature]}))
            .await?;
        Ok(())
    }

    /// Lets pages run their scripts, or not.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub async fn scripts(&mut self, run: bool) -> anyhow::Result<()> {
        let parameters = json!({"value": !run});
        self.ask("Emulation.setScriptExecutionDisabled", parameters)
            .await?;
        Ok(())
    }

    /// The whole page as PNG.
    ///
    /// # Errors
    /// If the browser does not answer, or the file can't be written.
    pub async fn photograph(&mut self, file: &Path) -> anyhow::Result<()> {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.ask("Page.captureScreenshot", parameters).await?;
        let data = answer["data"].as_str().context("a picture")?;
        let png = base64::engine::general_purpose::STANDARD.decode(data)?;
        Ok(std::fs::write(file, png)?)
    }

    /// Exceptions of scripts, and what the browser has refused to do, since it was asked last.
    pub fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.pipe.problems)
    }
}

impl Pipe {
    async fn ask(
        &mut self,
        session: &str,
        method: &str,
        parameters: Value,
    ) -> anyhow::Result<Value> {
        self.asked += 1;
        let mut command = json!({"id": self.asked, "method": method, "params": parameters});
        if !session.is_empty() {
            command["sessionId"] = session.into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await?;
        loop {
            let message = self
                .read()
                .await
                .with_context(|| format!("no answer to {method}"))?;
            if message["id"] == self.asked {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(message["result"].clone());
            }
            self.events.push_back(message);
        }
    }

    async fn event(&mut self, name: &str) -> anyhow::Result<()> {
        loop {
            let message = match self.events.pop_front() {
                Some(message) => message,
                None => self
                    .read()
                    .await
                    .with_context(|| format!("no {name} comes"))?,
            };
            if message["method"] == name {
                return Ok(());
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<Value> {
        loop {
            let mut bytes = Vec::new();
            timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await??;
            if bytes.pop() != Some(0) {
                bail!("the browser has ended");
            }
            let message: Value = serde_json::from_slice(&bytes)?;
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => {
                    self.problems
                        .push(message["params"]["exceptionDetails"].to_string());
                }
                Some("Log.entryAdded") => {
                    self.problems.push(message["params"]["entry"].to_string());
                }
                _ if message["id"].as_u64().is_some_and(|id| id < self.asked) => {}
                _ => return Ok(message),
            }
        }
    }
}
