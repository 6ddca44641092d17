//! The configuration itself. What each unusual line is for stands in `yaml::WHY`.

use serde_json::{Value, json};

use super::{Options, Peer, Upstream};

/// Envoy forms `:authority` of this, so it has to be a legal one of a URI.
const SDS: &str = "arx_sds";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Connections keep the certificate that they were made with: this is how long.
const CONNECTION: &str = "1800s";

pub(super) fn bootstrap(options: &Options, token: Option<&str>) -> Value {
    let inbound = json!({
        "name": "inbound",
        "address": address("0.0.0.0", options.listen),
        "filter_chains": [{
            "transport_socket": transport_socket(json!({
                "@type": format!("{TLS}.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": tls(&options.accept, token),
            })),
            "filters": [http("inbound", "app")],
        }],
    });
    let app = json!({
        "name": "app",
        "type": "STATIC",
        "typed_extension_protocol_options": http_options(as_it_came()),
        "load_assignment": endpoint("app", &address("127.0.0.1", options.app)),
    });
    let mut listeners = vec![inbound];
    let mut clusters = vec![sds(options), app];
    for upstream in &options.upstream {
        listeners.push(outbound(upstream));
        clusters.push(cluster(upstream, token));
    }
    json!({
        "node": {"id": options.node, "cluster": "arx"},
        "admin": {"address": address("127.0.0.1", options.admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn outbound(upstream: &Upstream) -> Value {
    let local = upstream.local;
    json!({
        "name": format!("outbound_{local}"),
        "address": address("127.0.0.1", local),
        "filter_chains": [{"filters": [http(&format!("outbound_{local}"), &format!("upstream_{local}"))]}],
    })
}

fn cluster(upstream: &Upstream, token: Option<&str>) -> Value {
    let name = format!("upstream_{}", upstream.local);
    let is_address = upstream.host.parse::<std::net::IpAddr>().is_ok();
    let mut protocol = as_it_came();
    protocol["common_http_protocol_options"] = json!({"max_connection_duration": CONNECTION});
    json!({
        "name": name,
        "type": if is_address { "STATIC" } else { "STRICT_DNS" },
        "typed_extension_protocol_options": http_options(protocol),
        "load_assignment": endpoint(&name, &address(&upstream.host, upstream.port)),
        "transport_socket": transport_socket(json!({
            "@type": format!("{TLS}.UpstreamTlsContext"),
            "common_tls_context": tls(&upstream.peers, token),
        })),
    })
}

fn sds(options: &Options) -> Value {
    let protocol = json!({"explicit_http_config": {"http2_protocol_options": {
        "connection_keepalive": {"interval": "1s", "timeout": "1s"},
    }}});
    let pipe = json!({"pipe": {"path": options.sds_socket.display().to_string()}});
    json!({
        "name": SDS,
        "type": "STATIC",
        "typed_extension_protocol_options": http_options(protocol),
        "load_assignment": endpoint(SDS, &pipe),
    })
}

fn tls(peers: &[Peer], token: Option<&str>) -> Value {
    let matchers: Vec<_> = peers
        .iter()
        .map(|peer| {
            let matcher = match peer {
                Peer::Exactly(id) => json!({"exact": id.as_str()}),
                Peer::Under(beginning) => json!({"prefix": beginning}),
            };
            json!({"san_type": "URI", "matcher": matcher})
        })
        .collect();
    json!({
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": source(token)}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": matchers},
            "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": source(token)},
        },
    })
}

fn source(token: Option<&str>) -> Value {
    let mut service = json!({"envoy_grpc": {
        "cluster_name": SDS,
        "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
    }});
    if let Some(token) = token {
        service["initial_metadata"] =
            json!([{"key": "authorization", "value": format!("Bearer {token}")}]);
    }
    json!({
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [service],
        },
    })
}

fn http(name: &str, cluster: &str) -> Value {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": true},
            "common_http_protocol_options": {"max_connection_duration": CONNECTION},
            "route_config": {"virtual_hosts": [{
                "name": name,
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")},
            }],
        },
    })
}

/// HTTP/1.1 or HTTP/2 (gRPC), whichever the application speaks.
fn as_it_came() -> Value {
    json!({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}})
}

fn http_options(mut options: Value) -> Value {
    options["@type"] = format!("type.googleapis.com/{HTTP_OPTIONS}").into();
    json!({HTTP_OPTIONS: options})
}

fn transport_socket(context: Value) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn endpoint(cluster: &str, address: &Value) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    })
}
