//! What an agent gets, whatever it asks for: identities of live pods on its own node, and no
//! others. Who asks here are programs that speak the agents' protocol and try everything.

use anyhow::{Context as _, ensure};
use arx_identity::{KeyAlgorithm, PrivateKey, Svid};
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::{IssueItem, IssueRequest, NodeRenewal};
use arx_tests::kube::{Cluster, Kubelet, NewPod, Token};
use arx_tests::mesh::{AUDIENCE, CLUSTER};
use arx_tests::node::{Authority, issued, unique};
use arx_tests::openssl::openssl;
use arx_tests::process::until;
use arx_tests::token_issuer::Claims;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::shop::{Shop, Verification};

/// A node with an identity of its own, and a program of ours instead of an agent.
pub(super) struct Rogue {
    authority: Authority,
    svid: Svid,
}

impl Rogue {
    /// Registers a node, puts an agent's pod on it, and joins by that pod's token.
    pub(super) async fn on(shop: &Shop, node: &str) -> anyhow::Result<(Self, Kubelet)> {
        Self::of(shop, &shop.cluster, &shop.system, node).await
    }

    /// The same in this cluster, where agents are in the namespace `system`.
    pub(super) async fn of(
        shop: &Shop,
        cluster: &Cluster,
        system: &str,
        node: &str,
    ) -> anyhow::Result<(Self, Kubelet)> {
        let kubelet = cluster.kubelet(node).await?;
        let pod = NewPod {
            namespace: system,
            name: node,
            account: "arx-node-agent",
            node,
            audiences: &["arx/join"],
        };
        cluster.pod(pod).await?;
        let this = Self::by(shop, &join_token(system, &kubelet).await?).await?;
        Ok((this, kubelet))
    }

    /// Who it is.
    pub(super) fn id(&self) -> String {
        self.svid.chain().spiffe_id().to_string()
    }

    /// Joins by this token.
    async fn by(shop: &Shop, token: &str) -> anyhow::Result<Self> {
        let authority = Authority {
            port: shop.mesh.node_port,
            bundle: shop.mesh.bundle(),
        };
        let svid = authority.new_node(&authority.tls(None)?, token).await?;
        Ok(Self { authority, svid })
    }

    /// Asks for an identity on a connection of its own.
    pub(super) async fn ask(&self, evidence: Evidence) -> anyhow::Result<String> {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        self.ask_with(evidence, key.create_csr()?).await
    }

    async fn ask_with(&self, evidence: Evidence, csr: Vec<u8>) -> anyhow::Result<String> {
        let tls = self.authority.tls(Some(&self.svid))?;
        let mut client = self.authority.connect(&tls).await?;
        let item = IssueItem {
            idempotency_key: unique(),
            csr: csr.into(),
            evidence: Some(evidence),
            ..IssueItem::default()
        };
        let items = vec![item];
        let answer = client.issue(IssueRequest { items }).await?.into_inner();
        let result = answer.results.into_iter().next().context("one result")?;
        Ok(issued(result.outcome)?.spiffe_id)
    }

    /// The same, which is refused with this code.
    pub(super) async fn is_refused(&self, evidence: Evidence, code: &str) -> anyhow::Result<()> {
        let answer = self.ask(evidence).await;
        let refused = answer.err().context("it was issued")?.to_string();
        ensure!(refused.starts_with(code), "{refused} instead of {code}");
        Ok(())
    }

    /// The same, as soon as what has happened was heard of.
    pub(super) async fn becomes_refused(
        &self,
        evidence: Evidence,
        code: &str,
    ) -> anyhow::Result<()> {
        until(code, || async {
            self.is_refused(evidence.clone(), code).await.map(|()| true)
        })
        .await
    }
}

async fn join_token(system: &str, kubelet: &Kubelet) -> anyhow::Result<String> {
    let token = Token {
        namespace: system,
        pod: &kubelet.node,
        audience: "arx/join",
    };
    kubelet.token(token).await
}

impl Shop {
    /// A pod of the shop on this node, and its UID.
    pub(super) async fn pod_on(&self, node: &str, name: &str) -> anyhow::Result<Evidence> {
        let pod = NewPod {
            namespace: &self.namespace,
            name,
            account: "web",
            node,
            audiences: &[AUDIENCE],
        };
        let made = self.cluster.pod(pod).await?;
        Ok(Evidence::PodUid(made.uid().context("it has one")?))
    }

    /// The token of a pod of the shop.
    async fn token_of(&self, kubelet: &Kubelet, pod: &str) -> anyhow::Result<Evidence> {
        let token = Token {
            namespace: &self.namespace,
            pod,
            audience: AUDIENCE,
        };
        Ok(Evidence::ServiceAccountToken(kubelet.token(token).await?))
    }

    pub(super) fn web(&self) -> String {
        format!("spiffe://example.org/ns/{}/sa/web", self.namespace)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_agent_gets_identities_of_live_pods_on_its_own_node_and_of_no_others()
-> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let (near, kubelet) = Rogue::on(&shop, "near").await?;
    let (far, kubelet_of_far) = Rogue::on(&shop, "far").await?;
    let own = shop.pod_on("near", "web-near").await?;
    let other = shop.pod_on("far", "web-far").await?;
    until("the pod is heard of", || async {
        Ok(near.ask(own.clone()).await? == shop.web())
    })
    .await?;
    // Of another node: by its UID, and by its token, which is genuine.
    near.becomes_refused(other.clone(), "ARX-EVIDENCE-NODE")
        .await?;
    let token = shop.token_of(&kubelet_of_far, "web-far").await?;
    near.is_refused(token.clone(), "ARX-EVIDENCE-NODE").await?;
    ensure!(far.ask(token).await? == shop.web());
    // One that nobody has.
    let none = Evidence::PodUid("6b1f6b3e-0000-4000-8000-000000000000".to_owned());
    near.is_refused(none, "ARX-POD-GONE").await?;

    // Deleted, and made anew with the same name.
    let token = shop.token_of(&kubelet, "web-near").await?;
    ensure!(near.ask(token.clone()).await? == shop.web());
    shop.cluster.delete_pod(&shop.namespace, "web-near").await?;
    near.becomes_refused(own.clone(), "ARX-POD-GONE").await?;
    let next = shop.pod_on("near", "web-near").await?;
    until("the next pod is heard of", || async {
        Ok(near.ask(next.clone()).await? == shop.web())
    })
    .await?;
    near.is_refused(own, "ARX-POD-GONE").await?;
    near.is_refused(token, "ARX-TOKEN-POD-GONE").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_pod_that_its_kubelet_reports_to_have_ended_is_as_good_as_gone() -> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let (near, kubelet) = Rogue::on(&shop, "near").await?;
    let own = shop.pod_on("near", "job-1").await?;
    let token = shop.token_of(&kubelet, "job-1").await?;
    kubelet.report(&shop.namespace, "job-1", "Running").await?;
    until("the pod is heard of", || async {
        Ok(near.ask(own.clone()).await? == shop.web())
    })
    .await?;
    ensure!(near.ask(token.clone()).await? == shop.web());
    kubelet
        .report(&shop.namespace, "job-1", "Succeeded")
        .await?;
    near.becomes_refused(own, "ARX-POD-GONE").await?;
    // It is there still, and the API server takes its token for good.
    near.is_refused(token, "ARX-TOKEN-POD-GONE").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_stolen_agent_identity_is_worth_the_pods_of_its_node_until_the_agent_joins_anew()
-> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let (near, kubelet) = Rogue::on(&shop, "near").await?;
    let _far = shop.cluster.kubelet("far").await?;
    let own = shop.pod_on("near", "web-near").await?;
    let other = shop.pod_on("far", "web-far").await?;
    // Whoever is on the far node has the near one's certificate and key.
    let thief = near;
    until("the pod is heard of", || async {
        Ok(thief.ask(own.clone()).await? == shop.web())
    })
    .await?;
    thief.becomes_refused(other, "ARX-EVIDENCE-NODE").await?;
    // Which of two tokens is newer is known to the second.
    until("the agent joins by a newer token", || async {
        let token = join_token(&shop.system, &kubelet).await?;
        Ok(Rogue::by(&shop, &token).await.is_ok())
    })
    .await?;
    let refused = thief.ask(own).await.err().context("it was issued")?;
    let status = refused
        .downcast_ref::<tonic::Status>()
        .context("a status")?;
    let code = status.metadata().get("arx-code");
    ensure!(
        code.is_some_and(|code| code == "ARX-NODE-SUPERSEDED"),
        "{status:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_agent_that_claims_another_node_is_the_node_of_its_own_token() -> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let (near, kubelet) = Rogue::on(&shop, "near").await?;
    let own = near.id();
    ensure!(own == format!("spiffe://example.org/arx/node/{CLUSTER}/near"));
    // What its request says of it counts for nothing.
    let claimed = format!("spiffe://example.org/arx/node/{CLUSTER}/far");
    let (key, out) = (
        shop.mesh.directory.join("claimed.key"),
        shop.mesh.directory.join("claimed.csr"),
    );
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-noenc",
        "-subj",
        "/CN=far",
        "-addext",
        &format!("subjectAltName=URI:{claimed}"),
        "-outform",
        "DER",
        "-keyout",
        key.to_str().context("text")?,
        "-out",
        out.to_str().context("text")?,
    ])?;
    let renewal = Evidence::Node(NodeRenewal {});
    ensure!(near.ask_with(renewal, std::fs::read(out)?).await? == own);
    // And a workload's token makes nobody an agent.
    let _pod = shop.pod_on("near", "web-near").await?;
    let Evidence::ServiceAccountToken(token) = shop.token_of(&kubelet, "web-near").await? else {
        anyhow::bail!("a token");
    };
    let refused = near
        .authority
        .new_node(&near.authority.tls(None)?, &token)
        .await;
    let refused = refused.err().context("it joined")?.to_string();
    ensure!(refused.contains("audience is for workloads"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_token_of_one_cluster_is_worth_nothing_to_an_agent_of_another() -> anyhow::Result<()> {
    // The second is known by its issuer and its keys alone.
    let shop = Shop::open_with(Verification::Watched, |options, site| {
        options.authority = format!(
            r#"
[[cluster]]
name = "c2"
issuer = "https://issuer.example.org"
audiences = ["arx"]
agents = ["arx-system/arx-node-agent"]
jwks_file = "{}/jwks.json"
"#,
            site.folder.display()
        );
        Vec::new()
    })
    .await?;
    let (here, kubelet) = Rogue::on(&shop, "near").await?;
    let mint = |audience, namespace, account| {
        let claims = Claims::new(audience, namespace, account, "near");
        shop.mesh.issuer.mint(&claims)
    };
    let there = mint("arx/join", "arx-system", "arx-node-agent");
    let there = Rogue::by(&shop, &there).await?;
    let expected = "spiffe://example.org/arx/node/c2/near";
    ensure!(there.id() == expected);

    let of_there = Evidence::ServiceAccountToken(mint("arx", "bank", "api"));
    ensure!(there.ask(of_there.clone()).await? == "spiffe://example.org/ns/bank/sa/api");
    here.is_refused(of_there, "ARX-TOKEN-ISSUER").await?;

    let pod = shop.pod_on("near", "web-near").await?;
    let of_here = shop.token_of(&kubelet, "web-near").await?;
    ensure!(here.ask(of_here.clone()).await? == shop.web());
    there.is_refused(of_here, "ARX-TOKEN-ISSUER").await?;
    // Nobody watches the pods there.
    there.is_refused(pod, "ARX-EVIDENCE-UNSUPPORTED").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn a_token_that_the_api_server_has_extended_is_refused() -> anyhow::Result<()> {
    // It extends only those for itself.
    let shop = Shop::open_with(Verification::Watched, |options, _| {
        options.audiences.extend(options.issuer.clone());
        Vec::new()
    })
    .await?;
    let (near, _kubelet) = Rogue::on(&shop, "near").await?;
    let Evidence::PodUid(uid) = shop.pod_on("near", "web-near").await? else {
        anyhow::bail!("a UID");
    };
    // As the admission of pods asks for a token where nobody says how long it is to be good.
    for (seconds, code) in [(3607, Some("ARX-TOKEN-EXTENDED")), (3600, None)] {
        let request: TokenRequest = serde_json::from_value(json!({"spec": {
            "audiences": [],
            "expirationSeconds": seconds,
            "boundObjectRef": {
                "apiVersion": Pod::api_version(&()), "kind": "Pod", "name": "web-near", "uid": uid,
            },
        }}))?;
        let accounts =
            Api::<ServiceAccount>::namespaced(shop.cluster.admin.clone(), &shop.namespace);
        let made = accounts
            .create_token_request("web", &PostParams::default(), &request)
            .await?;
        let token = made.status.and_then(|status| status.token);
        let token = token.context("a token")?;
        let evidence = Evidence::ServiceAccountToken(token);
        match code {
            Some(code) => near.is_refused(evidence, code).await?,
            None => ensure!(near.ask(evidence).await? == shop.web()),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs a control plane: make test-kube"]
async fn an_agent_serves_without_any_right_in_the_cluster() -> anyhow::Result<()> {
    let shop = Shop::open(Verification::Watched).await?;
    let token = shop.pod("web-1").await?;
    ensure!(shop.identity(&token).await? == shop.web());
    // No more than any service account there is has, and no less.
    let rules = rules(&shop, "arx-node-agent").await?;
    ensure!(rules.as_array().is_some_and(|rules| !rules.is_empty()));
    ensure!(rules == self::rules(&shop, "nobody").await?, "{rules}");
    Ok(())
}

/// What a service account beside the authority may do.
async fn rules(shop: &Shop, account: &str) -> anyhow::Result<Value> {
    let system = &shop.system;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": system},
    });
    let user = format!("system:serviceaccount:{system}:{account}");
    let mut request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews")
        .header("content-type", "application/json")
        .header("impersonate-user", user);
    let own = format!("system:serviceaccounts:{system}");
    for group in ["system:authenticated", "system:serviceaccounts", &own] {
        request = request.header("impersonate-group", group);
    }
    let request = request.body(serde_json::to_vec(&review)?)?;
    let mut answer: Value = shop.cluster.admin.request(request).await?;
    let mut rules = answer["status"]["resourceRules"].take();
    if let Some(rules) = rules.as_array_mut() {
        rules.sort_by_key(Value::to_string);
    }
    Ok(rules)
}
