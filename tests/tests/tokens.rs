//! Service-account tokens that prove nothing: each is refused with a reason of its own,
//! and stands in no log.

use anyhow::{Context as _, ensure};
use arx_identity::{KeyAlgorithm, PrivateKey, Svid};
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::node::v1::issue_result::Outcome;
use arx_proto::node::v1::{IssueItem, IssueRequest, JoinRequest, Refusal};
use arx_tests::http as web;
use arx_tests::mesh::{AUDIENCE, Mesh, Options};
use arx_tests::node::{Authority, hello, unique};
use arx_tests::process::until;
use arx_tests::token_issuer::{Claims, Discovery, TokenIssuer};
use tonic::Code;

fn authority(mesh: &Mesh) -> Authority {
    Authority {
        port: mesh.node_port,
        bundle: mesh.bundle(),
    }
}

/// What the authority says to a join with this token: nothing, if it is taken.
async fn join(mesh: &Mesh, token: &str) -> anyhow::Result<Option<tonic::Status>> {
    let authority = authority(mesh);
    let mut client = authority.connect(&authority.tls(None)?).await?;
    let mut request = tonic::Request::new(JoinRequest {
        hello: Some(hello()),
        idempotency_key: unique(),
        csr: PrivateKey::generate(KeyAlgorithm::EcdsaP256)?
            .create_csr()?
            .into(),
    });
    let value = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", value);
    Ok(client.join(request).await.err())
}

fn code(status: &tonic::Status) -> &str {
    let code = status.metadata().get("arx-code");
    code.and_then(|code| code.to_str().ok()).unwrap_or_default()
}

/// A node of the mesh, as its agent would be.
async fn node(mesh: &Mesh, name: &str) -> anyhow::Result<Svid> {
    let claims = joining(name);
    let authority = authority(mesh);
    let token = mesh.issuer.mint(&claims);
    authority.new_node(&authority.tls(None)?, &token).await
}

fn joining(node: &str) -> Claims {
    let audience = format!("{AUDIENCE}/join");
    Claims::new(&audience, "arx-system", "arx-node-agent", node)
}

/// The reason for which a token is refused, and what makes it so.
type Defect = (&'static str, fn(&mut Claims));

/// Every way in which a token can be wrong.
fn defects() -> Vec<Defect> {
    vec![
        ("ARX-TOKEN-EXPIRED", |claims| claims.lifetime = -60),
        ("ARX-TOKEN-NOT-YET-VALID", |claims| claims.age = -600),
        ("ARX-TOKEN-AUDIENCE", |claims| {
            claims.audience = "https://kubernetes.default.svc".to_owned();
        }),
        ("ARX-TOKEN-ISSUER", |claims| {
            claims.issuer = Some("https://elsewhere.example".to_owned());
        }),
        ("ARX-TOKEN-UNKNOWN-KEY", |claims| {
            claims.key_id = Some("key-of-nobody".to_owned());
        }),
        // Without a signature it has only two parts.
        ("ARX-TOKEN-MALFORMED", |claims| {
            claims.algorithm = Some("none".to_owned());
        }),
        ("ARX-TOKEN-ALGORITHM", |claims| {
            claims.algorithm = Some("HS256".to_owned());
        }),
        ("ARX-TOKEN-ALGORITHM", |claims| {
            claims.algorithm = Some("RS256".to_owned());
        }),
        ("ARX-TOKEN-UNBOUND", |claims| {
            (claims.pod, claims.node) = (None, None);
        }),
        ("ARX-TOKEN-EXTENDED", |claims| claims.extended = true),
        ("ARX-TOKEN-TOO-LARGE", |claims| claims.padding = 16_000),
    ]
}

/// Tokens that are changed after they were signed, or are none.
fn damaged(token: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
    let (message, signature) = token.rsplit_once('.').context("a signature")?;
    let (first, second) = if signature.starts_with('A') {
        ('B', 'A')
    } else {
        ('A', 'B')
    };
    let other: String = signature
        .char_indices()
        .map(|(at, letter)| if at == 0 { first } else { letter })
        .collect();
    ensure!(first != second && other != signature);
    Ok(vec![
        ("ARX-TOKEN-SIGNATURE", format!("{message}.{other}")),
        ("ARX-TOKEN-MALFORMED", "not-a-token".to_owned()),
        ("ARX-TOKEN-MALFORMED", format!("{token}.more")),
        ("ARX-TOKEN-MALFORMED", format!("{token}=")),
    ])
}

/// No part of the token that would let anybody use it.
fn in_no_log(mesh: &Mesh, tokens: &[String]) -> anyhow::Result<()> {
    let log = mesh.authority.as_ref().context("it runs")?.log();
    for token in tokens {
        for part in token.split('.').filter(|part| part.len() > 20) {
            ensure!(log.count(part) == 0, "a token is in the log");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_join_with_a_wrong_token_is_refused_with_a_reason_of_its_own() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let mut tokens: Vec<_> = defects()
        .into_iter()
        .map(|(reason, change)| {
            let mut claims = joining("n1");
            change(&mut claims);
            (reason, mesh.issuer.mint(&claims))
        })
        .collect();
    tokens.extend(damaged(&mesh.issuer.mint(&joining("n1")))?);
    tokens.push((
        "ARX-TOKEN-PURPOSE",
        mesh.token("arx-system", "arx-node-agent", "n1"),
    ));
    let other = TokenIssuer::new(mesh.issuer.issuer(), KeyAlgorithm::EcdsaP256)?;
    tokens.push(("ARX-TOKEN-SIGNATURE", other.mint(&joining("n1"))));
    for (reason, token) in &tokens {
        let status = join(&mesh, token).await?;
        let status = status.with_context(|| format!("{reason} is taken"))?;
        ensure!(
            status.code() == Code::Unauthenticated && code(&status) == *reason,
            "{reason}: {status:?}"
        );
    }
    let claims = Claims::new("arx/join", "shop", "web", "n1");
    let stranger = mesh.issuer.mint(&claims);
    let status = join(&mesh, &stranger).await?.context("it is taken")?;
    ensure!(
        status.code() == Code::PermissionDenied && code(&status) == "ARX-POLICY-AGENT",
        "{status:?}"
    );
    let mut tokens: Vec<_> = tokens.into_iter().map(|(_, token)| token).collect();
    tokens.push(stranger);
    in_no_log(&mesh, &tokens)?;
    let good = mesh.issuer.mint(&joining("n1"));
    ensure!(join(&mesh, &good).await?.is_none(), "a good one is refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_megabyte_in_the_place_of_a_token_is_refused_unread_and_others_go_on()
-> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let agent = mesh.agent("n1").await?;
    let huge = "x".repeat(1_000_000);
    // As metadata it does not even pass HTTP/2.
    ensure!(
        join(&mesh, &huge)
            .await
            .is_ok_and(|status| status.is_some())
    );
    let svid = node(&mesh, "n2").await?;
    let refusal = evidence(&mesh, &svid, &[huge]).await?;
    ensure!(
        refusal[0]
            .as_ref()
            .is_some_and(|refusal| refusal.code == "ARX-TOKEN-TOO-LARGE"),
        "{refusal:?}"
    );
    let connected = web::metric(agent.ops_port, "arx_agent_follow_connected").await?;
    ensure!(
        connected == Some(1.0),
        "the agent has noticed: {connected:?}"
    );
    Ok(())
}

/// What the authority says to each of these tokens of workloads, in one batch.
async fn evidence(
    mesh: &Mesh,
    node: &Svid,
    tokens: &[String],
) -> anyhow::Result<Vec<Option<Refusal>>> {
    let authority = authority(mesh);
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let items = tokens.iter().map(|token| {
        Ok(IssueItem {
            idempotency_key: unique(),
            csr: key.create_csr()?.into(),
            evidence: Some(Evidence::ServiceAccountToken(token.clone())),
            ..IssueItem::default()
        })
    });
    let items = items.collect::<anyhow::Result<_>>()?;
    let mut client = authority.connect(&authority.tls(Some(node))?).await?;
    let answer = client.issue(IssueRequest { items }).await?.into_inner();
    ensure!(answer.results.len() == tokens.len());
    let refusals = answer
        .results
        .into_iter()
        .map(|result| match result.outcome {
            Some(Outcome::Refused(refusal)) => Some(refusal),
            _ => None,
        });
    Ok(refusals.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_a_batch_only_the_items_with_wrong_tokens_are_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start(Options::default()).await?;
    let svid = node(&mesh, "n1").await?;
    let good = mesh.token("shop", "web", "n1");
    let mut expected = vec![("", good.clone())];
    for (reason, change) in defects() {
        let mut claims = Claims::new(AUDIENCE, "shop", "web", "n1");
        change(&mut claims);
        expected.push((reason, mesh.issuer.mint(&claims)));
    }
    expected.extend(damaged(&good)?);
    expected.push(("ARX-TOKEN-PURPOSE", mesh.issuer.mint(&joining("n1"))));
    expected.push(("ARX-EVIDENCE-NODE", mesh.token("shop", "web", "n2")));
    expected.push(("", mesh.token("shop", "api", "n1")));
    let tokens: Vec<_> = expected.iter().map(|(_, token)| token.clone()).collect();
    let refusals = evidence(&mesh, &svid, &tokens).await?;
    for ((reason, _), refusal) in expected.iter().zip(&refusals) {
        let found = refusal.as_ref().map_or("", |refusal| refusal.code.as_str());
        ensure!(found == *reason, "{reason}: {refusal:?}");
    }
    in_no_log(&mesh, &tokens)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_that_the_cluster_changes_are_fetched_and_its_silence_is_survived()
-> anyhow::Result<()> {
    let first = TokenIssuer::new("https://issuer.example.org", KeyAlgorithm::Rsa(2048))?;
    let discovery = Discovery::start(&first).await?;
    let mut mesh = Mesh::prepare(Options {
        keys: Some(format!(
            "discovery_url = \"{}\"\nrefetch_interval = \"1s\"",
            discovery.url
        )),
        ..Options::default()
    })?;
    mesh.issuer = first;
    mesh.start_authority().await?;
    ensure!(
        join(&mesh, &mesh.issuer.mint(&joining("n1")))
            .await?
            .is_none()
    );
    // Another key: unknown, so it is looked for.
    let second =
        TokenIssuer::new("https://issuer.example.org", KeyAlgorithm::EcdsaP256)?.key_named("key-2");
    discovery.publish(Some(second.jwks()));
    let token = second.mint(&joining("n2"));
    until("the new key", || async {
        Ok(join(&mesh, &token).await?.is_none())
    })
    .await?;
    // The API server is away: keys that are known stay good for a while, others are unknown.
    discovery.publish(None);
    ensure!(join(&mesh, &second.mint(&joining("n3"))).await?.is_none());
    let third = second.key_named("key-3");
    let status = join(&mesh, &third.mint(&joining("n4"))).await?;
    let status = status.context("a token of an unknown key is taken")?;
    ensure!(
        ["ARX-TOKEN-UNKNOWN-KEY", "ARX-TOKEN-KEYS-UNAVAILABLE"].contains(&code(&status)),
        "{status:?}"
    );
    Ok(())
}
