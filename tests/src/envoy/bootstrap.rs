//! The configuration of an Envoy that takes its identity from an agent's socket.

use serde_json::{Value, json};

use super::{Options, Ports};

/// The bootstrap of an Envoy that takes its certificate and roots from an agent's socket.
#[must_use]
pub fn bootstrap(options: &Options, ports: Ports) -> Value {
    let Ports {
        admin,
        inbound,
        outbound,
    } = ports;
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
    let mut rules =
        json!({"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": matcher}]});
    if options.refuses_roots {
        // As long as a hash, and not hexadecimal.
        rules["verify_certificate_hash"] = json!(["g".repeat(64)]);
    }
    let mut typed = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}"),
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [{"name": options.certificate, "sds_config": config_source(options)}],
            "combined_validation_context": {
                "default_validation_context": rules,
                "validation_context_sds_secret_config": {"name": options.trust, "sds_config": config_source(options)},
            },
        },
    });
    if let Some(file) = &options.roots_file {
        let common = &mut typed["common_tls_context"];
        let rules = common["combined_validation_context"]["default_validation_context"].take();
        common["validation_context"] = rules;
        common["validation_context"]["trusted_ca"] = json!({"filename": file});
        if let Some(common) = common.as_object_mut() {
            common.remove("combined_validation_context");
        }
    }
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
