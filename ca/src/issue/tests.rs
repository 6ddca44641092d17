use arx_identity::{CertChain, KeyAlgorithm, PrivateKey, verify};
use wire::issue_item::Evidence;

use super::*;
use crate::testing::{House, Outcome, node};

fn token(text: String) -> Evidence {
    Evidence::ServiceAccountToken(text)
}

fn local(uid: u32) -> Evidence {
    Evidence::Local(wire::LocalProcess {
        uid,
        gid: uid,
        executable: "/usr/bin/envoy".into(),
        ..Default::default()
    })
}

async fn one(house: &House, item: wire::IssueItem) -> Result<wire::Issued, wire::Refusal> {
    let mut results = house.ca.issue(&node(), vec![item]).await;
    match results
        .remove(0)
        .outcome
        .expect("every item has an outcome")
    {
        super::Outcome::Issued(issued) => Ok(issued),
        super::Outcome::Refused(refused) => Err(refused),
    }
}

async fn code(house: &House, item: wire::IssueItem) -> String {
    one(house, item).await.expect_err("refused").code
}

#[tokio::test]
async fn a_workload_s_token_becomes_a_certificate_that_verifies_and_stands_in_the_ledger() -> Outcome
{
    let house = House::new().await?;
    let shown = house.token("arx", "shop", "web", "n1");
    let issued = one(&house, house.item(token(shown.clone())))
        .await
        .expect("issued");
    assert_eq!(issued.spiffe_id, "spiffe://example.org/ns/shop/sa/web");
    let chain = CertChain::from_der_list(issued.chain.iter().map(|der| &der[..]))?;
    let peer = verify(&chain, &house.ca.trust.current(), house.clock.now())?;
    assert_eq!(peer.id.as_str(), issued.spiffe_id);
    let records = house.recorded(&issued.spiffe_id).await;
    assert_eq!(records.len(), 1);
    assert!(
        records[0].contains(&peer.serial.to_string()),
        "{}",
        records[0]
    );
    assert!(
        records[0].contains("shop/web, pod pod (pod-uid)"),
        "{}",
        records[0]
    );
    let (_, secret) = shown.rsplit_once('.').expect("it is signed");
    assert!(!records[0].contains(secret), "{}", records[0]);
    Ok(())
}

#[tokio::test]
async fn each_item_of_a_batch_succeeds_or_fails_by_itself_and_in_its_place() -> Outcome {
    let house = House::new().await?;
    let good = || house.item(token(house.token("arx", "shop", "web", "n1")));
    let mut bad_signature = good();
    let mut csr = bad_signature.csr.to_vec();
    *csr.last_mut().expect("not empty") ^= 1;
    bad_signature.csr = csr.into();
    let mut long = good();
    long.csr = vec![0x30; 1024 * 1024].into();
    let mut trailing = good();
    trailing.csr = [&trailing.csr[..], b"x"].concat().into();
    let batch = vec![
        good(),
        bad_signature,
        good(),
        long,
        trailing,
        house.item(local(1000)),
        house.item(local(7)),
    ];
    let keys: Vec<_> = batch
        .iter()
        .map(|item| item.idempotency_key.clone())
        .collect();
    let results = house.ca.issue(&node(), batch).await;
    let got: Vec<_> = results
        .iter()
        .map(
            |result| match result.outcome.as_ref().expect("an outcome") {
                super::Outcome::Issued(issued) => issued.spiffe_id.as_str(),
                super::Outcome::Refused(refused) => refused.code.as_str(),
            },
        )
        .collect();
    let web = "spiffe://example.org/ns/shop/sa/web";
    assert_eq!(
        got[..6],
        [
            web,
            "ARX-CSR-SIGNATURE",
            web,
            "ARX-CSR-TOO-LARGE",
            "ARX-CSR-TRAILING",
            "spiffe://example.org/local/web",
        ]
    );
    assert!(got[6].starts_with("ARX-"), "{}", got[6]);
    assert!(
        results
            .iter()
            .map(|result| &result.idempotency_key)
            .eq(&keys)
    );
    Ok(())
}

#[tokio::test]
async fn what_the_evidence_does_not_prove_is_forbidden_and_recorded() -> Outcome {
    let house = House::new().await?;
    let elsewhere = house.item(token(house.token("arx", "shop", "web", "n2")));
    let refused = one(&house, elsewhere)
        .await
        .expect_err("another node's token");
    assert_eq!(refused.grpc_code, tonic::Code::PermissionDenied as u32);
    let denied = one(
        &house,
        house.item(token(house.token("arx", "denied", "any", "n1"))),
    )
    .await
    .expect_err("denied by policy");
    assert_eq!(denied.grpc_code, tonic::Code::PermissionDenied as u32);
    let records = house.recorded("spiffe://example.org/arx/node/c1/n1").await;
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(records.iter().any(|record| record.contains(&refused.code)));
    assert_eq!(house.ca.metrics.totals(), (0, 2));
    Ok(())
}

#[tokio::test]
async fn a_token_that_proves_nothing_is_unauthenticated_and_not_recorded() -> Outcome {
    let house = House::new().await?;
    for broken in [
        "not a token".to_owned(),
        house.token("other", "shop", "web", "n1"),
        house.token("arx/join", "shop", "web", "n1"),
    ] {
        let refused = one(&house, house.item(token(broken)))
            .await
            .expect_err("refused");
        assert_eq!(
            refused.grpc_code,
            tonic::Code::Unauthenticated as u32,
            "{}",
            refused.code
        );
        assert_eq!(refused.retry_after_ms, 0);
    }
    assert!(
        house
            .recorded("spiffe://example.org/arx/node/c1/n1")
            .await
            .is_empty()
    );
    Ok(())
}

#[tokio::test]
async fn names_in_a_csr_are_ignored() -> Outcome {
    let house = House::new().await?;
    // Made by OpenSSL with CN=admin, SAN DNS:admin.example.org and CA:TRUE asked for.
    let csr = include_bytes!("tests/csr-with-names.der");
    let mut item = house.item(token(house.token("arx", "shop", "web", "n1")));
    item.csr = bytes::Bytes::from_static(csr);
    let issued = one(&house, item).await.expect("issued");
    let leaf = arx_identity::Certificate::from_der(&issued.chain[0])?;
    assert!(!leaf.is_ca());
    assert!(leaf.dns_names().is_empty());
    assert_eq!(leaf.subject(), "");
    assert_eq!(
        leaf.spiffe_id().map(|id| id.as_str()),
        Some("spiffe://example.org/ns/shop/sa/web")
    );
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_certificate_and_one_record() -> Outcome {
    let house = House::new().await?;
    let item = house.item(token(house.token("arx", "shop", "web", "n1")));
    let first = one(&house, item.clone()).await.expect("issued");
    let again = one(&house, item.clone()).await.expect("issued");
    assert_eq!(first, again);
    assert_eq!(house.recorded(&first.spiffe_id).await.len(), 1);
    let mut other = house.item(token(house.token("arx", "shop", "web", "n1")));
    other.idempotency_key = item.idempotency_key;
    assert_eq!(code(&house, other).await, "ARX-REQUEST-KEY-REUSED");
    Ok(())
}

#[tokio::test]
async fn a_batch_that_repeats_a_key_and_batches_that_cross_do_not_wait_for_each_other() -> Outcome {
    let house = House::new().await?;
    let a = house.item(token(house.token("arx", "shop", "web", "n1")));
    let b = house.item(token(house.token("arx", "shop", "web", "n1")));
    let node = node();
    let (first, second) = tokio::join!(
        house.ca.issue(&node, vec![a.clone(), b.clone(), a.clone()]),
        house.ca.issue(&node, vec![b.clone(), a.clone()]),
    );
    let issued = |result: &wire::IssueResult| match &result.outcome {
        Some(super::Outcome::Issued(issued)) => issued.chain[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(issued(&first[0]), issued(&second[1]));
    assert_eq!(issued(&first[1]), issued(&second[0]));
    assert!(
        matches!(&first[2].outcome, Some(super::Outcome::Refused(refused)) if refused.code == "ARX-REQUEST-KEY-REUSED")
    );
    Ok(())
}

#[tokio::test]
async fn a_node_renews_its_own_certificate_only() -> Outcome {
    let house = House::new().await?;
    let issued = one(&house, house.item(Evidence::Node(wire::NodeRenewal {})))
        .await
        .expect("issued");
    assert_eq!(issued.spiffe_id, "spiffe://example.org/arx/node/c1/n1");
    Ok(())
}

#[tokio::test]
async fn what_is_no_evidence_here_is_refused_by_name() -> Outcome {
    let house = House::new().await?;
    assert_eq!(
        code(&house, house.item(Evidence::PodUid("uid".into()))).await,
        "ARX-EVIDENCE-UNSUPPORTED"
    );
    let mut none = house.item(local(1000));
    none.evidence = None;
    assert_eq!(code(&house, none).await, "ARX-EVIDENCE-MISSING");
    let mut short = house.item(local(1000));
    short.idempotency_key = bytes::Bytes::from_static(b"short");
    assert_eq!(code(&house, short).await, "ARX-REQUEST-MALFORMED");
    Ok(())
}

fn join(house: &House, key: &PrivateKey) -> wire::JoinRequest {
    wire::JoinRequest {
        hello: Some(wire::Hello {
            min_version: 1,
            max_version: 1,
            instance_id: vec![1; 16].into(),
            ..Default::default()
        }),
        idempotency_key: house.key(),
        csr: key.create_csr().expect("a request").into(),
    }
}

#[tokio::test]
async fn an_agent_joins_with_a_token_of_its_own_audience_and_account_only() -> Outcome {
    let house = House::new().await?;
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let good = house.token("arx/join", "arx-system", "arx-node-agent", "n1");
    let issued = house.ca.join(&good, &join(&house, &key)).await?;
    assert_eq!(issued.spiffe_id, "spiffe://example.org/arx/node/c1/n1");
    let workload = house.token("arx/join", "shop", "web", "n1");
    let refused = house
        .ca
        .join(&workload, &join(&house, &key))
        .await
        .expect_err("not an agent");
    assert_eq!(refused.fault, Fault::Forbidden);
    let audience = house.token("arx", "arx-system", "arx-node-agent", "n1");
    let refused = house
        .ca
        .join(&audience, &join(&house, &key))
        .await
        .expect_err("a workload's audience");
    assert_eq!(refused.fault, Fault::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn a_token_joins_again_with_another_key_only_while_its_agent_is_away() -> Outcome {
    let house = House::new().await?;
    let token = house.token("arx/join", "arx-system", "arx-node-agent", "n1");
    let first = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let issued = house.ca.join(&token, &join(&house, &first)).await?;
    let leaf = arx_identity::Certificate::from_der(&issued.chain[0])?;
    let mut agent = Node::clone(&node());
    agent.serial = leaf.serial().clone();
    let hello = wire::Hello {
        instance_id: vec![1; 16].into(),
        cache_id: vec![1; 16].into(),
        ..Default::default()
    };
    let follow = house.ca.fleet.follow(&agent, &hello, house.clock.now())?;
    let thief = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let refused = house
        .ca
        .join(&token, &join(&house, &thief))
        .await
        .expect_err("replayed");
    assert_eq!(refused.code, "ARX-JOIN-TOKEN-REPLAYED");
    let records = house.recorded("spiffe://example.org/arx/node/c1/n1").await;
    assert!(
        records
            .iter()
            .any(|record| record.contains("ARX-JOIN-TOKEN-REPLAYED")),
        "{records:?}"
    );
    drop(follow);
    house.ca.join(&token, &join(&house, &thief)).await?;
    Ok(())
}
