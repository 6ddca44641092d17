//! Two nodes, a real Envoy on each with an application behind it; `web` calls `api`.

use std::time::Duration;

use anyhow::ensure;

use crate::app::App;
use crate::envoy::{Envoy, Options as Proxy};
use crate::http as web;
use crate::load::Load;
use crate::mesh::{Agent, Mesh, Options};
use crate::process::until;

/// Who calls.
pub const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
/// Who is called.
pub const API: &str = "spiffe://example.org/ns/shop/sa/api";

/// What runs.
pub struct Pair {
    /// The caller.
    pub web: Envoy,
    /// The callee; it accepts `web` only.
    pub api: Envoy,
    /// Those of `web` and of `api`, on the nodes `n1` and `n2`.
    pub agents: [Agent; 2],
    /// Authority and issuer; last, because the folder of all goes with it.
    pub mesh: Mesh,
    _apps: [App; 2],
}

impl Pair {
    /// Starts everything, and waits until both Envoys have their secrets.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        Self::with(options, |_| {}).await
    }

    /// The same with a change to both Envoys; `id` is `web` or `api`.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn with(options: Options, change: impl Fn(&mut Proxy)) -> anyhow::Result<Self> {
        let mesh = Mesh::start(options).await?;
        Self::over(mesh, change).await
    }

    /// The same over a mesh whose authority runs.
    ///
    /// # Errors
    /// If anything does not start.
    pub async fn over(mesh: Mesh, change: impl Fn(&mut Proxy)) -> anyhow::Result<Self> {
        let agents = [mesh.agent("n1").await?, mesh.agent("n2").await?];
        let apps = [App::start().await?, App::start().await?];
        let mut api = Proxy::new("api", &agents[1].socket, apps[1].port);
        api.token = Some(mesh.token("shop", "api", "n2"));
        WEB.clone_into(&mut api.accept);
        change(&mut api);
        let api = Envoy::warm(&mesh.directory, api).await?;
        let mut web = Proxy::new("web", &agents[0].socket, apps[0].port);
        web.token = Some(mesh.token("shop", "web", "n1"));
        web.peer = Some((api.ports.inbound, API.to_owned()));
        change(&mut web);
        let web = Envoy::warm(&mesh.directory, web).await?;
        Ok(Self {
            mesh,
            agents,
            web,
            api,
            _apps: apps,
        })
    }

    /// Callers that send requests from `web` to `api`.
    #[must_use]
    pub fn load(&self) -> Load {
        Load::start(self.web.ports.outbound, 4, Duration::from_millis(10))
    }

    /// Sends one request from `web` to `api`: it is answered, and `api` knows who asks.
    ///
    /// # Errors
    /// If not.
    pub async fn talks(&self) -> anyhow::Result<()> {
        let (status, body) = web::get(self.web.ports.outbound, "/").await?;
        ensure!(
            status == 200 && body.contains(&format!("URI={WEB}")),
            "{status}: {body}"
        );
        Ok(())
    }

    /// Waits until both Envoys serve another certificate than these.
    ///
    /// # Errors
    /// If they do not.
    pub async fn renewed(&self, since: &[String; 2]) -> anyhow::Result<()> {
        until("renewal of both", || async {
            let now = self.serials().await?;
            Ok(now[0] != since[0] && now[1] != since[1])
        })
        .await
    }

    /// Serial numbers of what `web` and `api` serve.
    ///
    /// # Errors
    /// If one does not answer.
    pub async fn serials(&self) -> anyhow::Result<[String; 2]> {
        Ok([
            self.web.certificate().await?.serial,
            self.api.certificate().await?.serial,
        ])
    }
}
