mod configuration;
mod decisions;
mod properties;

use std::time::{Duration, UNIX_EPOCH};

use arx_identity::{KeyAlgorithm, TrustDomain};

use super::{Agent, Config, Denied, Evidence, Grant, Policy, Process, Request};
use crate::token::{Bound, Cluster, Purpose, Token, Verified};

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

fn clusters() -> Vec<Cluster> {
    let cluster = |name: &str| {
        toml::from_str(&format!(
            "name = {name:?}\nissuer = \"https://{name}\"\naudiences = [\"arx\"]\nagents = [\"arx-system/arx-node-agent\"]"
        ))
        .expect("a cluster")
    };
    vec![cluster("c1"), cluster("c2")]
}

fn config(text: &str) -> Config {
    toml::from_str(text).expect("a policy")
}

fn policy(text: &str) -> Policy {
    Policy::new(&domain(), &config(text), &clusters()).expect("sound")
}

fn bound(name: &str) -> Option<Bound> {
    Some(Bound {
        name: name.to_owned(),
        uid: "uid".to_owned(),
    })
}

/// The token of a pod of this service account on `c1/node-1`.
fn token(namespace: &str, service_account: &str) -> Verified {
    Verified {
        cluster: "c1".into(),
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        service_account_uid: "uid".to_owned(),
        pod: bound("pod"),
        node: bound("node-1"),
        issued: std::time::UNIX_EPOCH,
        expires: UNIX_EPOCH + Duration::from_secs(1_780_000_000),
        jti: None,
        token_id: Token::new("x").id(),
        audience: "arx".to_owned(),
        purpose: Purpose::Workload,
    }
}

fn agent_token() -> Verified {
    Verified {
        purpose: Purpose::Join,
        audience: "arx/join".to_owned(),
        ..token("arx-system", "arx-node-agent")
    }
}

const AGENT: Agent<'static> = Agent {
    cluster: "c1",
    node: "node-1",
};

fn request(evidence: Evidence<'_>) -> Request<'_> {
    Request {
        agent: AGENT,
        evidence,
        key: KeyAlgorithm::EcdsaP256,
        ttl: None,
    }
}

fn workload(policy: &Policy, token: &Verified) -> Result<Grant, Denied> {
    policy.decide(&request(Evidence::Token(token)))
}

fn process(policy: &Policy, process: Process<'_>) -> Result<Grant, Denied> {
    policy.decide(&request(Evidence::Process(process)))
}
