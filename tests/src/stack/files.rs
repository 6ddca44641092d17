//! What the stack's programs are told. Written anew at each start, with the same keys.

use arx_daemon::files::write_atomically;
use rustix::process::geteuid;

use super::{Settings, Stack, TRUST_DOMAIN, identity_path};
use crate::token_issuer::{Claims, TokenIssuer};

const CLUSTER: &str = "local";
const NODE: &str = "this-machine";
const ISSUER: &str = "https://stack.local.arx";
/// The agent joins with it when it has slept for longer than its certificate lives.
const TOKEN_LIFETIME: i64 = 30 * 86_400;

impl Stack {
    pub(super) fn write(&self, settings: &Settings) -> anyhow::Result<()> {
        let issuer = TokenIssuer::kept(ISSUER, &self.path("issuer.key"))?;
        let mut claims = Claims::new("arx/join", "arx-system", "arx-node-agent", NODE);
        claims.lifetime = TOKEN_LIFETIME;
        let token = issuer.mint(&claims);
        for (name, text, mode) in [
            ("settings.json", serde_json::to_string(settings)?, 0o600),
            ("jwks.json", issuer.jwks(), 0o644),
            ("agent.token", token, 0o600),
            ("arx-ca.toml", self.authority(settings), 0o600),
            ("arx-node-agent.toml", self.agent(settings), 0o600),
        ] {
            write_atomically(self.path(name), text.as_bytes(), mode)?;
        }
        Ok(())
    }

    fn authority(&self, settings: &Settings) -> String {
        let folder = self.directory.display();
        let Settings {
            node_api,
            authority_ops,
            ttl,
            ..
        } = settings;
        let (uid, path) = (geteuid().as_raw(), identity_path());
        format!(
            r#"# Written by `make up`, anew each time it starts the authority.
trust_domain = "{TRUST_DOMAIN}"
replica = "{NODE}"
[node_api]
address = "127.0.0.1:{node_api}"
[ops]
address = "127.0.0.1:{authority_ops}"
[admin]
socket = "{folder}/admin.sock"
[state]
directory = "{folder}/authority"
seal_key_file = "{folder}/seal.key"
[policy]
ttl = "{ttl}"
max_ttl = "{ttl}"
[[policy.local]]
path = "{path}"
nodes = ["{CLUSTER}/{NODE}"]
uid = {uid}
[[cluster]]
name = "{CLUSTER}"
issuer = "{ISSUER}"
audiences = ["arx"]
agents = ["arx-system/arx-node-agent"]
jwks_file = "{folder}/jwks.json"
"#
        )
    }

    fn agent(&self, settings: &Settings) -> String {
        let folder = self.directory.display();
        let Settings {
            node_api,
            agent_ops,
            ..
        } = settings;
        format!(
            r#"# Written by `make up`, anew each time it starts the agent.
trust_domain = "{TRUST_DOMAIN}"
cluster = "{CLUSTER}"
node = "{NODE}"
[authority]
address = "127.0.0.1:{node_api}"
bundle_file = "{folder}/bundle.pem"
token_file = "{folder}/agent.token"
longest_retry = "2s"
[socket]
path = "{folder}/sds.sock"
mode = "0600"
[attestation]
attestors = ["local"]
[state]
directory = "{folder}/agent"
cache_key_file = "{folder}/agent-cache.key"
[ops]
address = "127.0.0.1:{agent_ops}"
"#
        )
    }
}
