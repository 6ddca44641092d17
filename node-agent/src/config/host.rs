//! What only this machine can answer: whether the paths lead to what the agent could use, and
//! whether its token is one for this node. Nothing is changed.

use arx_daemon::config::{Problems, secret_file};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Config;

/// Notes what would keep the agent from starting here.
pub(super) fn places(config: &Config, problems: &mut Problems<'_>) {
    problems.socket("socket.path", &config.socket.path);
    problems.directory("state.directory", &config.state.directory);
    if let Some(pods) = &config.pod_sockets {
        problems.directory("pod_sockets.kubelet_root", &pods.kubelet_root);
        problems.directory("pod_sockets.directory", &pods.directory);
    }
    let key = &config.state.cache_key_file;
    if key.symlink_metadata().is_ok() {
        problems.take("state.cache_key_file", secret_file(key));
    } else if let Some(above) = key.parent() {
        problems.directory("state.cache_key_file", above);
    }
}

/// Notes what would keep the node from joining, as far as that can be told here: an agent that
/// has joined before starts without it.
pub(super) fn joining(config: &Config, problems: &mut Problems<'_>) {
    let Ok(token) = config.join_token() else {
        return;
    };
    if let Some(node) = node_of(token.secret())
        && node != config.node
    {
        problems.add(
            "authority.token_file",
            format!(
                "{}: the token is bound to a pod on node {node:?}, and this is {:?}",
                config.authority.token_file.display(),
                config.node
            ),
            "name this node as its cluster does, or give the token of this node's agent",
        );
    }
}

/// The node that a token says to be bound to (Kubernetes, KEP-4193). **Unverified.**
pub(super) fn node_of(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    let node = payload["kubernetes.io"]["node"]["name"].as_str()?;
    Some(node.to_owned())
}
