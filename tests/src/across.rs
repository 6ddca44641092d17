//! An authority below another one, and Envoys under each that call those under the other.

use std::time::Duration;

use anyhow::ensure;
use arx_daemon::files::write_atomically;

use crate::app::App;
use crate::envoy::{Envoy, Options as Proxy};
use crate::http as web;
use crate::load::{Load, Outcome};
use crate::mesh::{Agent, Mesh, Options};
use crate::pair::{API, WEB};
use crate::token_issuer::Claims;

/// Whom the authority above lets stand below it.
pub const BELOW: &str = "spiffe://example.org/ns/arx-system/sa/arx-ca";

/// The tables of an authority that lets one stand below it.
#[must_use]
pub fn above() -> Options {
    Options {
        authority: format!(
            "[rotation]\nwindow = \"1s\"\ndwell = \"500ms\"\n\
             [[nested]]\nid = \"{BELOW}\"\nname = \"west\"\nmax_ttl = \"30d\""
        ),
        ..Options::default()
    }
}

/// A token of the authority below.
#[must_use]
pub fn token(up: &Mesh, account: &str) -> String {
    let claims = Claims::new("arx/join", "arx-system", account, "n9");
    up.issuer.mint(&claims)
}

/// An authority below `up`, not started yet; it comes with the token of `account`.
///
/// # Errors
/// If its files cannot be written.
pub fn below(up: &Mesh, account: &str, more: &str) -> anyhow::Result<Mesh> {
    let mut down = Mesh::prepare(Options {
        authority: "[rotation]\nwindow = \"1s\"\ndwell = \"500ms\"".to_owned(),
        ..Options::default()
    })?;
    let file = down.directory.join("upstream.token");
    write_atomically(&file, token(up, account).as_bytes(), 0o600)?;
    let identity = format!("token_file = {file:?}, {more}");
    points_to(&mut down, up, &identity)?;
    Ok(down)
}

/// Configures `down` to be certified by `up`.
///
/// # Errors
/// If that cannot be written.
pub fn points_to(down: &mut Mesh, up: &Mesh, identity: &str) -> anyhow::Result<()> {
    let (port, bundle) = (up.node_port, up.bundle());
    down.reconfigure(|options| {
        options.roots = format!(
            "upstream = {{ deadline = \"20s\", arx = {{ address = \"127.0.0.1:{port}\", \
             bundle_file = {bundle:?}, {identity} }} }}"
        );
    })
}

/// One application calls another, by an Envoy each.
struct Way {
    from: Envoy,
    _to: Envoy,
    _agents: [Agent; 2],
    _apps: [App; 2],
}

impl Way {
    /// `web` under the one calls `api` under the other.
    async fn start(from: &Mesh, to: &Mesh, nodes: [&str; 2]) -> anyhow::Result<Self> {
        let agents = [from.agent(nodes[0]).await?, to.agent(nodes[1]).await?];
        let apps = [App::start().await?, App::start().await?];
        let mut api = Proxy::new("api", &agents[1].socket, apps[1].port);
        api.token = Some(to.token("shop", "api", nodes[1]));
        WEB.clone_into(&mut api.accept);
        let api = Envoy::warm(&to.directory, api).await?;
        let mut web = Proxy::new("web", &agents[0].socket, apps[0].port);
        web.token = Some(from.token("shop", "web", nodes[0]));
        web.peer = Some((api.ports.inbound, API.to_owned()));
        Ok(Self {
            from: Envoy::warm(&from.directory, web).await?,
            _to: api,
            _agents: agents,
            _apps: apps,
        })
    }
}

/// `web` calls `api`: under the authority above that under the one below, and the other way
/// round.
pub struct Across([Way; 2]);

impl Across {
    /// Starts everything.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn start(up: &Mesh, down: &Mesh) -> anyhow::Result<Self> {
        Ok(Self([
            Way::start(up, down, ["n1", "n2"]).await?,
            Way::start(down, up, ["n3", "n4"]).await?,
        ]))
    }

    /// Sends a request each way: it is answered, and known who asks.
    ///
    /// # Errors
    /// If not.
    pub async fn talks(&self) -> anyhow::Result<()> {
        for way in &self.0 {
            let (status, body) = web::get(way.from.ports.outbound, "/").await?;
            ensure!(
                status == 200 && body.contains(&format!("URI={WEB}")),
                "{status}: {body}"
            );
        }
        Ok(())
    }

    /// Callers each way.
    #[must_use]
    pub fn load(&self) -> Loads {
        let start = |way: &Way| Load::start(way.from.ports.outbound, 2, Duration::from_millis(20));
        Loads(self.0.each_ref().map(start))
    }
}

/// Callers both ways.
pub struct Loads([Load; 2]);

impl Loads {
    /// Ends them, and tells what became of both.
    pub async fn stop(self) -> [Outcome; 2] {
        let [there, back] = self.0;
        [there.stop().await, back.stop().await]
    }

    /// The same where nothing may have failed.
    ///
    /// # Errors
    /// If something has, or nothing was answered.
    pub async fn without_failure(self) -> anyhow::Result<()> {
        let each = self.stop().await;
        each.iter().try_for_each(Outcome::without_failure)
    }
}
