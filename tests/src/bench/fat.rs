//! Discovery requests as Envoy sends them: with a node of 61 KiB, nearly all of it a list
//! of extensions that nobody reads.

use prost::Message as _;

/// A `DiscoveryRequest` (envoy.service.discovery.v3), with a whole node.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) version_info: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) response_nonce: String,
}

/// A `Node` (envoy.config.core.v3).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(string, tag = "6")]
    user_agent_name: String,
    #[prost(message, repeated, tag = "9")]
    extensions: Vec<Extension>,
}

/// An `Extension` (envoy.config.core.v3).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Extension {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    category: String,
    #[prost(string, repeated, tag = "6")]
    type_urls: Vec<String>,
}

/// Bytes of a request with a whole node.
pub(crate) fn length() -> usize {
    node("a").encoded_len()
}

/// A node whose encoding has about 61 KiB.
pub(crate) fn node(id: &str) -> Node {
    let extension = |number: usize| Extension {
        name: format!("envoy.filters.http.number_{number:04}"),
        category: "envoy.filters.http".to_owned(),
        type_urls: vec![format!(
            "envoy.extensions.filters.http.number_{number:04}.v3.Config"
        )],
    };
    Node {
        id: id.to_owned(),
        cluster: "bench".to_owned(),
        user_agent_name: "envoy".to_owned(),
        extensions: (0..575).map(extension).collect(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_node_is_as_large_as_an_envoys() {
        let length = super::length();
        assert!((60 * 1024..63 * 1024).contains(&length), "{length}");
    }
}
