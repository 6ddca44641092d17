//! `arx envoy bootstrap`: a configuration that works, for a proxy that takes its identity
//! from an agent's socket.

use std::fmt::Write as _;
use std::path::PathBuf;

use arx_identity::SpiffeId;
use clap::{Args, Subcommand};

use crate::client::Failure;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a configuration for Envoy: mTLS in front of an application, and to its peers.
    Bootstrap(Bootstrap),
}

#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// The agent's socket.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/arx-node-agent/sds.sock"
    )]
    sds_socket: PathBuf,
    /// Where peers connect, by mTLS.
    #[arg(long, value_name = "PORT", default_value_t = 15443)]
    listen: u16,
    /// Port of the application behind it, on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    app: u16,
    /// Who may connect: a SPIFFE id, or the beginning of ids, ending in `/`. May be given
    /// several times.
    #[arg(long, value_name = "SPIFFE-ID", required = true)]
    accept: Vec<String>,
    /// A peer that the application calls: the local port, where the peer is, and who it has
    /// to be. May be given several times.
    #[arg(long, value_name = "PORT=HOST:PORT,SPIFFE-ID")]
    upstream: Vec<String>,
    /// Port of Envoy's own admin interface, on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    admin: u16,
    /// `node.id`, for logs.
    #[arg(long, default_value = "envoy")]
    node: String,
    /// A file with the workload's service-account token, for the agent's attestor `token`.
    /// It is written into the configuration, so keep that as secret as the token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A peer that is called.
#[derive(Debug, PartialEq, Eq)]
struct Upstream {
    local: u16,
    host: String,
    port: u16,
    id: String,
}

pub(crate) fn run(command: &Command) -> Result<Output, Failure> {
    let Command::Bootstrap(options) = command;
    bootstrap(options)
        .map(Output::text)
        .map_err(Failure::Failed)
}

fn bootstrap(options: &Bootstrap) -> Result<String, String> {
    for id in &options.accept {
        check_id(id)?;
    }
    let upstreams: Vec<_> = options
        .upstream
        .iter()
        .map(|text| upstream(text))
        .collect::<Result<_, _>>()?;
    let token = options.token_file.as_ref().map(|path| {
        std::fs::read_to_string(path)
            .map_err(|error| format!("can't read {}: {error}", path.display()))
    });
    let token = token.transpose()?.map(|token| token.trim().to_owned());
    let secrets = Secrets {
        token: token.as_deref(),
    };
    let mut yaml = String::new();
    head(&mut yaml, options);
    inbound(&mut yaml, options, &secrets);
    for upstream in &upstreams {
        outbound(&mut yaml, upstream);
    }
    clusters(&mut yaml, options, &upstreams, &secrets);
    Ok(yaml)
}

fn check_id(text: &str) -> Result<(), String> {
    let whole = text.strip_suffix('/').unwrap_or(text);
    let parsed =
        SpiffeId::parse(whole).map_err(|error| format!("{text:?} is no SPIFFE id: {error}"))?;
    if parsed.path().is_empty() && !text.ends_with('/') {
        return Err(format!(
            "{text:?} names a trust domain and nobody in it: end it with / to mean everybody"
        ));
    }
    Ok(())
}

fn upstream(text: &str) -> Result<Upstream, String> {
    let wrong = || format!("{text:?} is no upstream: write it as LOCAL-PORT=HOST:PORT,SPIFFE-ID");
    let (local, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (address, id) = rest.split_once(',').ok_or_else(wrong)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    check_id(id)?;
    Ok(Upstream {
        local: local.parse().map_err(|_| wrong())?,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().map_err(|_| wrong())?,
        id: id.to_owned(),
    })
}

/// Where secrets come from.
struct Secrets<'a> {
    token: Option<&'a str>,
}

/// YAML takes JSON's strings as they are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn add(yaml: &mut String, indent: usize, lines: &str) {
    for line in lines.lines() {
        let _infallible = writeln!(yaml, "{:indent$}{line}", "");
    }
}

fn head(yaml: &mut String, options: &Bootstrap) {
    let (node, admin) = (quoted(&options.node), options.admin);
    add(
        yaml,
        0,
        &format!(
            "node: {{ id: {node}, cluster: arx }}
admin:
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }}
static_resources:
  listeners:"
        ),
    );
}

fn inbound(yaml: &mut String, options: &Bootstrap, secrets: &Secrets<'_>) {
    let listen = options.listen;
    add(yaml, 2, &format!(
        "- name: inbound
  address: {{ socket_address: {{ address: 0.0.0.0, port_value: {listen} }} }}
  filter_chains:
  - transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        # without it a client may come without a certificate
        require_client_certificate: true"
    ));
    tls(yaml, 12, &options.accept, secrets);
    http(yaml, 4, "inbound", "app");
}

fn outbound(yaml: &mut String, upstream: &Upstream) {
    let Upstream { local, .. } = upstream;
    add(
        yaml,
        2,
        &format!(
            "- name: outbound_{local}
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: {local} }} }}
  filter_chains:
  - # plain text from the application on this machine"
        ),
    );
    http(
        yaml,
        4,
        &format!("outbound_{local}"),
        &format!("upstream_{local}"),
    );
}

fn http(yaml: &mut String, indent: usize, name: &str, cluster: &str) {
    add(yaml, indent + 2, &format!(
        "filters:
- name: envoy.filters.network.http_connection_manager
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
    stat_prefix: {name}
    forward_client_cert_details: SANITIZE_SET
    set_current_client_cert_details: {{ uri: true }}
    # connections keep the certificate that they were made with
    common_http_protocol_options: {{ max_connection_duration: 1800s }}
    route_config:
      virtual_hosts:
      - name: {name}
        domains: [\"*\"]
        routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }} ]
    http_filters:
    - name: envoy.filters.http.router
      typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}"
    ));
}

fn tls(yaml: &mut String, indent: usize, accept: &[String], secrets: &Secrets<'_>) {
    add(yaml, indent - 2, "common_tls_context:");
    add(
        yaml,
        indent,
        "tls_params: { tls_maximum_protocol_version: TLSv1_3 }
tls_certificate_sds_secret_configs:
- name: default",
    );
    sds(yaml, indent + 2, secrets);
    add(
        yaml,
        indent,
        "combined_validation_context:
  default_validation_context:
    match_typed_subject_alt_names:",
    );
    for id in accept {
        let kind = if id.ends_with('/') { "prefix" } else { "exact" };
        let id = quoted(id);
        add(
            yaml,
            indent + 4,
            &format!("- {{ san_type: URI, matcher: {{ {kind}: {id} }} }}"),
        );
    }
    add(
        yaml,
        indent + 2,
        "validation_context_sds_secret_config:
  name: ROOTCA",
    );
    sds(yaml, indent + 4, secrets);
}

fn sds(yaml: &mut String, indent: usize, secrets: &Secrets<'_>) {
    add(
        yaml,
        indent,
        "sds_config:
  resource_api_version: V3
  # wait for ever rather than open without a certificate
  initial_fetch_timeout: 0s
  api_config_source:
    api_type: GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc:
        cluster_name: arx_sds
        # come back at once when the agent was restarted
        retry_policy: { retry_back_off: { base_interval: 0.1s, max_interval: 1s } }",
    );
    if let Some(token) = secrets.token {
        let value = quoted(&format!("Bearer {token}"));
        add(
            yaml,
            indent + 6,
            &format!("initial_metadata: [ {{ key: authorization, value: {value} }} ]"),
        );
    }
}

fn clusters(yaml: &mut String, options: &Bootstrap, upstreams: &[Upstream], secrets: &Secrets<'_>) {
    let socket = quoted(&options.sds_socket.display().to_string());
    let app = options.app;
    add(yaml, 2, &format!(
        "clusters:
- name: arx_sds
  type: STATIC
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config:
        # without it an agent that hangs is never noticed
        http2_protocol_options: {{ connection_keepalive: {{ interval: 1s, timeout: 1s }} }}
  load_assignment:
    cluster_name: arx_sds
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ pipe: {{ path: {socket} }} }} }} }} ] }} ]
- name: app
  type: STATIC
  load_assignment:
    cluster_name: app
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {app} }} }} }} }} ] }} ]"
    ));
    for Upstream {
        local,
        host,
        port,
        id,
    } in upstreams
    {
        let kind = if host.parse::<std::net::IpAddr>().is_ok() {
            "STATIC"
        } else {
            "STRICT_DNS"
        };
        let host = quoted(host);
        add(yaml, 2, &format!(
            "- name: upstream_{local}
  type: {kind}
  load_assignment:
    cluster_name: upstream_{local}
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }} }} ] }} ]
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        ));
        tls(yaml, 10, std::slice::from_ref(id), secrets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Bootstrap {
        Bootstrap {
            sds_socket: "/run/arx/sds.sock".into(),
            listen: 15443,
            app: 8080,
            accept: vec![
                "spiffe://example.org/ns/a/".to_owned(),
                "spiffe://example.org/ns/b/sa/c".to_owned(),
            ],
            upstream: vec!["9001=10.0.0.1:15443,spiffe://example.org/ns/x/sa/y".to_owned()],
            admin: 15000,
            node: "web".to_owned(),
            token_file: None,
        }
    }

    #[test]
    fn everything_that_the_contract_with_envoy_recommends_is_there() {
        let yaml = bootstrap(&options()).expect("in order");
        for part in [
            "initial_fetch_timeout: 0s",
            "connection_keepalive",
            "max_interval: 1s",
            "set_node_on_first_message_only: true",
            "require_client_certificate: true",
            "{ prefix: \"spiffe://example.org/ns/a/\" }",
            "{ exact: \"spiffe://example.org/ns/b/sa/c\" }",
            "max_connection_duration",
            "TLSv1_3",
        ] {
            assert!(yaml.contains(part), "{part} is missing in:\n{yaml}");
        }
    }

    #[test]
    fn who_may_connect_has_to_be_somebody() {
        let message = |accept: &str| {
            bootstrap(&Bootstrap {
                accept: vec![accept.to_owned()],
                ..options()
            })
            .expect_err("refused")
        };
        assert!(message("example.org").contains("no SPIFFE id"));
        assert!(message("spiffe://example.org").contains("end it with /"));
        bootstrap(&Bootstrap {
            accept: vec!["spiffe://example.org/".to_owned()],
            ..options()
        })
        .expect("everybody of a trust domain");
    }

    #[test]
    fn an_upstream_says_where_and_who() {
        let expected = Upstream {
            local: 1,
            host: "::1".to_owned(),
            port: 2,
            id: "spiffe://a/b".to_owned(),
        };
        assert_eq!(upstream("1=[::1]:2,spiffe://a/b"), Ok(expected));
        for wrong in [
            "1=a:2",
            "a:2,spiffe://a/b",
            "1=a,spiffe://a/b",
            "1=a:b,spiffe://a/b",
        ] {
            assert!(upstream(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_given_can_not_break_out_of_its_place() {
        let yaml = bootstrap(&Bootstrap {
            node: "a\" }\nadmin: x".to_owned(),
            ..options()
        })
        .expect("in order");
        assert!(!yaml.contains("\nadmin: x"), "{yaml}");
    }
}
