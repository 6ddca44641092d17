//! What stands in an Envoy's configuration, to be copied.

use std::path::Path;

use super::TRUST_DOMAIN;

/// A name, a cluster, and the TLS context of a listener, for the agent at `socket`.
pub(super) fn snippet(socket: &Path) -> String {
    format!(
        r#"# Envoy asks for secrets only under a name; any text will do
node: {{ id: envoy, cluster: local }}

# a cluster, beside your own (static_resources)
clusters:
- name: arx
  type: STATIC
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{ http2_protocol_options: {{ connection_keepalive: {{ interval: 1s, timeout: 1s }} }} }}
  load_assignment:
    cluster_name: arx
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ pipe: {{ path: "{0}" }} }} }} }} ] }} ]

# the TLS context of a listener (or, without require_client_certificate, UpstreamTlsContext of a cluster)
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    require_client_certificate: true
    common_tls_context:
      tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
      tls_certificate_sds_secret_configs:
      - name: default
        sds_config: &arx
          resource_api_version: V3
          initial_fetch_timeout: 0s
          api_config_source:
            api_type: GRPC
            transport_api_version: V3
            set_node_on_first_message_only: true
            grpc_services:
            - envoy_grpc:
                cluster_name: arx
                retry_policy: {{ retry_back_off: {{ base_interval: 0.1s, max_interval: 1s }} }}
      combined_validation_context:
        default_validation_context:
          match_typed_subject_alt_names:
          - {{ san_type: URI, matcher: {{ prefix: "spiffe://{TRUST_DOMAIN}/" }} }}
        validation_context_sds_secret_config: {{ name: ROOTCA, sds_config: *arx }}
"#,
        socket.display()
    )
}
