//! A real Envoy: its configuration, its process, and what its admin port says.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::http as web;
use crate::process::{Process, free_port, tool, until};

/// What an Envoy is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// `node.id`.
    pub id: String,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Sent as `authorization: Bearer` with each stream, for the attestor `token`.
    pub token: Option<String>,
    /// Where the application behind it listens.
    pub app: u16,
    /// Who may connect: a URI, or the beginning of one that ends in `/`.
    pub accept: String,
    /// Another Envoy that requests go to, and who that has to be.
    pub peer: Option<(u16, String)>,
    /// Delta instead of state-of-the-world.
    pub delta: bool,
    /// Name of the certificate's secret.
    pub certificate: String,
    /// Name of the roots' secret.
    pub trust: String,
    /// Bytes of metadata in `node`: a real sidecar's has some 61,000.
    pub padding: usize,
}

impl Options {
    /// An Envoy behind this socket that accepts everybody of the trust domain.
    #[must_use]
    pub fn new(id: &str, socket: &Path, app: u16) -> Self {
        Self {
            id: id.to_owned(),
            socket: socket.to_owned(),
            token: None,
            app,
            accept: "spiffe://example.org/".to_owned(),
            peer: None,
            delta: false,
            certificate: "default".to_owned(),
            trust: "ROOTCA".to_owned(),
            padding: 0,
        }
    }
}

/// A running Envoy.
pub struct Envoy {
    /// The process.
    pub process: Process,
    /// The admin port.
    pub admin: u16,
    /// Where peers connect, by mTLS.
    pub inbound: u16,
    /// Where the own application sends its requests, in plain text.
    pub outbound: u16,
    options: Options,
    config: PathBuf,
}

/// Each Envoy needs a number of its own on one machine.
fn base_id() -> String {
    let random = arx_identity::crypto::random::<4>();
    (u32::from_be_bytes(random) % 1_000_000_000).to_string()
}

impl Envoy {
    /// Starts it. It may not be ready yet: it waits for its secrets.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(folder: &Path, options: Options) -> anyhow::Result<Self> {
        let (admin, inbound, outbound) = (free_port()?, free_port()?, free_port()?);
        let config = folder.join(format!("{}.json", options.id));
        std::fs::write(
            &config,
            bootstrap(&options, admin, inbound, outbound).to_string(),
        )?;
        let process = run(&config)?;
        Ok(Self {
            process,
            admin,
            inbound,
            outbound,
            options,
            config,
        })
    }

    /// Starts it and waits until both sides are open: the secrets have come.
    ///
    /// # Errors
    /// If they do not.
    pub async fn warm(folder: &Path, options: Options) -> anyhow::Result<Self> {
        let envoy = Self::start(folder, options)?;
        envoy.is_warm().await?;
        Ok(envoy)
    }

    /// Waits until peers can connect.
    ///
    /// # Errors
    /// If they can't.
    pub async fn is_warm(&self) -> anyhow::Result<()> {
        let warm = until("warming", || async {
            Ok(tokio::net::TcpStream::connect(("127.0.0.1", self.inbound))
                .await
                .is_ok())
        });
        warm.await
            .with_context(|| format!("{} says:\n{}", self.options.id, self.process.log().tail()))
    }

    /// Points it at another peer: writes the configuration anew and starts it again on the
    /// same ports.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn restart(self, change: impl FnOnce(&mut Options)) -> anyhow::Result<Self> {
        let Self {
            process,
            admin,
            inbound,
            outbound,
            mut options,
            config,
        } = self;
        process.kill().await?;
        change(&mut options);
        std::fs::write(
            &config,
            bootstrap(&options, admin, inbound, outbound).to_string(),
        )?;
        let process = run(&config)?;
        Ok(Self {
            process,
            admin,
            inbound,
            outbound,
            options,
            config,
        })
    }

    /// A counter or gauge of its statistics; 0 if there is none of this name.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let (_, text) = web::get(
            self.admin,
            &format!("/stats?filter=^{}$", name.replace('.', "\\.")),
        )
        .await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.map(str::parse).transpose()?.unwrap_or(0))
    }

    /// Serial number and end of the certificate that it serves, from `/certs`.
    ///
    /// # Errors
    /// If it does not answer or serves none.
    pub async fn certificate(&self) -> anyhow::Result<(String, String)> {
        let (_, text) = web::get(self.admin, "/certs").await?;
        let certs: Value = serde_json::from_str(&text)?;
        let chains = certs["certificates"].as_array().context("certificates")?;
        let leaf = chains
            .iter()
            .find_map(|entry| entry["cert_chain"].as_array()?.first())
            .context("it serves no certificate")?;
        let text = |key: &str| {
            leaf[key]
                .as_str()
                .map(str::to_owned)
                .context("a field of /certs")
        };
        Ok((text("serial_number")?, text("expiration_time")?))
    }

    /// Who it says to be, from `/certs`.
    ///
    /// # Errors
    /// If it does not answer or serves none.
    pub async fn identity(&self) -> anyhow::Result<String> {
        let (_, text) = web::get(self.admin, "/certs").await?;
        let certs: Value = serde_json::from_str(&text)?;
        let chains = certs["certificates"].as_array().context("certificates")?;
        let leaf = chains
            .iter()
            .find_map(|entry| entry["cert_chain"].as_array()?.first())
            .context("it serves no certificate")?;
        leaf["subject_alt_names"][0]["uri"]
            .as_str()
            .map(str::to_owned)
            .context("a URI")
    }

    /// How often it has taken a certificate.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn pushes(&self) -> anyhow::Result<u64> {
        self.stat(&format!("sds.{}.update_success", self.options.certificate))
            .await
    }
}

fn run(config: &Path) -> anyhow::Result<Process> {
    let (id, config) = (
        base_id(),
        config.to_str().context("the folder's name is text")?,
    );
    let arguments = [
        "-c",
        config,
        "--concurrency",
        "1",
        "--base-id",
        &id,
        "--disable-hot-restart",
        "-l",
        "warn",
    ];
    Process::start("envoy", &tool("envoy")?, &arguments)
}

/// The bootstrap of an Envoy that takes its certificate and roots from an agent's socket.
#[must_use]
pub fn bootstrap(options: &Options, admin: u16, inbound: u16, outbound: u16) -> Value {
    let socket_address =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let server = tls(options, &options.accept, "DownstreamTlsContext");
    let mut listeners = vec![json!({
        "name": "inbound",
        "address": socket_address(inbound),
        "filter_chains": [{"transport_socket": server, "filters": [http("inbound", "app")]}],
    })];
    let mut clusters = vec![sds(options), cluster("app", options.app, None)];
    if let Some((port, who)) = &options.peer {
        listeners.push(json!({
            "name": "outbound",
            "address": socket_address(outbound),
            "filter_chains": [{"filters": [http("outbound", "peer")]}],
        }));
        clusters.push(cluster(
            "peer",
            *port,
            Some(tls(options, who, "UpstreamTlsContext")),
        ));
    }
    json!({
        "node": {"id": options.id, "cluster": "test", "metadata": {"padding": "x".repeat(options.padding)}},
        "admin": {"address": socket_address(admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn sds(options: &Options) -> Value {
    json!({
        "name": "sds",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {
                "connection_keepalive": {"interval": "1s", "timeout": "1s"},
            }},
        }},
        "load_assignment": {"cluster_name": "sds", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": options.socket}}}},
        ]}]},
    })
}

fn config_source(options: &Options) -> Value {
    let mut service = json!({"envoy_grpc": {
        "cluster_name": "sds",
        "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
    }});
    if let Some(token) = &options.token {
        service["initial_metadata"] =
            json!([{"key": "authorization", "value": format!("Bearer {token}")}]);
    }
    json!({
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": if options.delta { "DELTA_GRPC" } else { "GRPC" },
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [service],
        },
    })
}

fn tls(options: &Options, accept: &str, context: &str) -> Value {
    let matcher = if accept.ends_with('/') {
        json!({"prefix": accept})
    } else {
        json!({"exact": accept})
    };
    let mut typed = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}"),
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [{"name": options.certificate, "sds_config": config_source(options)}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": matcher}]},
                "validation_context_sds_secret_config": {"name": options.trust, "sds_config": config_source(options)},
            },
        },
    });
    if context == "DownstreamTlsContext" {
        typed["require_client_certificate"] = true.into();
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": typed})
}

fn cluster(name: &str, port: u16, transport_socket: Option<Value>) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}},
        ]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            // A few requests a connection, so that handshakes go on all the time.
            "common_http_protocol_options": {"max_requests_per_connection": 20},
        }},
    });
    if let Some(transport_socket) = transport_socket {
        cluster["transport_socket"] = transport_socket;
    }
    cluster
}

fn http(name: &str, cluster: &str) -> Value {
    let filters = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": true},
            "route_config": {"virtual_hosts": [{
                "name": name, "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "5s"}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{filters}.http.router.v3.Router")},
            }],
        },
    })
}
