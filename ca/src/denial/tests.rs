use arx_identity::{KeyAlgorithm, PrivateKey};
use arx_proto::node::v1 as wire;
use futures_util::FutureExt as _;
use wire::issue_item::Evidence;
use wire::issue_result::Outcome as Result_;

use super::*;
use crate::authority::Authority;
use crate::rotation::Obstacle;
use crate::seal::Seal;
use crate::testing::{House, Outcome, node};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const API: &str = "spiffe://example.org/ns/shop/sa/api";

fn subject(house: &House, text: &str) -> Subject {
    Subject::parse(text, &house.ca.trust_domain).expect(text)
}

async fn deny(house: &House, text: &str) -> Spread {
    let subject = subject(house, text);
    let denied = house.ca.deny(&subject, None, "a test".to_owned()).await;
    denied.expect(text).1
}

async fn allow(house: &House, text: &str) {
    let allowed = house.ca.allow(&subject(house, text), "a test").await;
    allowed.expect(text);
}

fn account(house: &House, name: &str) -> Evidence {
    Evidence::ServiceAccountToken(house.token("arx", "shop", name, "n1"))
}

fn local() -> Evidence {
    Evidence::Local(wire::LocalProcess {
        uid: 1000,
        ..Default::default()
    })
}

/// The identity that is issued, or the code of the refusal.
async fn ask(house: &House, evidence: Evidence) -> String {
    let mut results = house.ca.issue(&node(), vec![house.item(evidence)]).await;
    match results.remove(0).outcome.expect("an outcome") {
        Result_::Issued(issued) => issued.spiffe_id,
        Result_::Refused(refused) => refused.code,
    }
}

async fn join(house: &House) -> Result<wire::Issued, Refusal> {
    let token = house.token("arx/join", "arx-system", "arx-node-agent", "n1");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let request = wire::JoinRequest {
        idempotency_key: house.key(),
        csr: key.create_csr().expect("a request").into(),
        ..Default::default()
    };
    house.ca.join(&token, &request).await
}

#[tokio::test]
async fn a_denied_service_account_gets_nothing_and_its_neighbour_does_until_it_is_allowed()
-> Outcome {
    let house = House::new().await?;
    assert_eq!(ask(&house, account(&house, "web")).await, WEB);
    assert!(deny(&house, "sa/shop/web").await.unreached.is_empty());
    assert_eq!(ask(&house, account(&house, "web")).await, "ARX-DENIED");
    assert_eq!(ask(&house, account(&house, "api")).await, API);
    let refusals = house.recorded("spiffe://example.org/arx/node/c1/n1").await;
    assert!(
        refusals.iter().any(|line| line.contains("ARX-DENIED")),
        "{refusals:?}"
    );
    allow(&house, "sa/shop/web").await;
    assert_eq!(ask(&house, account(&house, "web")).await, WEB);
    Ok(())
}

#[tokio::test]
async fn a_denied_identity_is_denied_whatever_proves_it() -> Outcome {
    let house = House::new().await?;
    deny(&house, "spiffe://example.org/local/web").await;
    deny(&house, WEB).await;
    assert_eq!(ask(&house, local()).await, "ARX-DENIED");
    assert_eq!(ask(&house, account(&house, "web")).await, "ARX-DENIED");
    assert_eq!(ask(&house, account(&house, "api")).await, API);
    Ok(())
}

#[tokio::test]
async fn a_denied_node_neither_joins_nor_renews_nor_gets_anything_for_its_workloads() -> Outcome {
    let house = House::new().await?;
    deny(&house, "node/c1/n1").await;
    let renewal = Evidence::Node(wire::NodeRenewal {});
    assert_eq!(ask(&house, renewal.clone()).await, "ARX-DENIED");
    assert_eq!(ask(&house, account(&house, "web")).await, "ARX-DENIED");
    assert_eq!(ask(&house, local()).await, "ARX-DENIED");
    let refused = join(&house).await.expect_err("denied");
    assert_eq!(
        (refused.code, refused.fault),
        ("ARX-DENIED", Fault::Forbidden)
    );
    allow(&house, "spiffe://example.org/arx/node/c1/n1").await;
    join(&house).await?;
    assert!(ask(&house, renewal).await.ends_with("/arx/node/c1/n1"));
    // Whoever denies the agents' own account keeps all nodes from joining.
    deny(&house, "sa/arx-system/arx-node-agent").await;
    assert_eq!(join(&house).await.expect_err("denied").code, "ARX-DENIED");
    Ok(())
}

/// Returns when somebody waits for a signature.
async fn waits(house: &House) {
    while house.ca.queue.waiting() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_is_denied_while_they_wait_for_a_signature_or_for_its_record_gets_none() -> Outcome {
    let house = House::new().await?;
    let queue = &house.ca.queue;
    let start = crate::queue::Priority::START;
    let renewal = Evidence::Node(wire::NodeRenewal {});

    // Both places are taken, so the node waits for its first certificate.
    let places = (queue.acquire(start).await?, queue.acquire(start).await?);
    let (joined, ()) = tokio::join!(join(&house), async {
        waits(&house).await;
        deny(&house, "node/c1/n1").await;
        drop(places);
    });
    assert_eq!(joined.expect_err("denied").code, "ARX-DENIED");
    allow(&house, "node/c1/n1").await;

    // Of a batch, the first items are signed, and the others wait: nothing is answered yet.
    let places = (queue.acquire(start).await?, queue.acquire(start).await?);
    let mut items = vec![house.item(account(&house, "web"))];
    items.extend((0..8).map(|_| house.item(renewal.clone())));
    let caller = node();
    let (results, ()) = tokio::join!(house.ca.issue(&caller, items), async {
        waits(&house).await;
        let (first, second) = places;
        let after_the_first = queue.acquire(start);
        tokio::pin!(after_the_first);
        assert!(after_the_first.as_mut().now_or_never().is_none());
        drop(first);
        let third = after_the_first.await;
        assert_eq!(
            house.recorded(WEB).await.len(),
            0,
            "signed, and not recorded"
        );
        deny(&house, "sa/shop/web").await;
        drop((second, third));
    });
    let outcome = |place: usize| results[place].outcome.clone().expect("an outcome");
    let Result_::Refused(refused) = outcome(0) else {
        panic!("it was given to a denied account: {:?}", outcome(0));
    };
    assert_eq!(refused.code, "ARX-DENIED");
    assert!(matches!(outcome(8), Result_::Issued(_)), "the others go on");
    Ok(())
}

#[tokio::test]
async fn a_denial_with_an_end_is_over_then_and_says_when_that_is() -> Outcome {
    let house = House::new().await?;
    let end = house.clock.now() + Duration::from_secs(3600);
    let denied = subject(&house, WEB);
    house
        .ca
        .deny(&denied, Some(end), "a test".to_owned())
        .await?;
    let id = SpiffeId::parse(WEB)?;
    let check = |now| house.ca.not_denied(&id, &node().name, None, now);
    let refused = check(end - Duration::from_millis(1)).expect_err("in force");
    assert!(refused.message.contains(&rfc3339(end)), "{refused}");
    assert_eq!(refused.retry_after, None);
    check(end)?;
    Ok(())
}

#[tokio::test]
async fn each_word_of_an_operator_is_recorded_with_its_reason() -> Outcome {
    let house = House::new().await?;
    deny(&house, "sa/shop/web").await;
    allow(&house, "sa/shop/web").await;
    let again = house
        .ca
        .allow(&subject(&house, "sa/shop/web"), "a test")
        .await;
    assert_eq!(again.expect_err("not denied").code, "ARX-DENIAL-UNKNOWN");
    let ca = Arc::clone(&house.ca);
    let until = house.clock.now() + REACH;
    let reading = tokio::task::spawn_blocking(move || {
        let mut export = ca.ledger.export(SystemTime::UNIX_EPOCH, until)?;
        let mut text = String::new();
        while let Some(lines) = export.next_chunk()? {
            text += &String::from_utf8_lossy(&lines);
        }
        Ok::<_, ledger::Error>(text)
    });
    let text = reading.await??;
    for part in [
        r#""action":"deny""#,
        "sa/shop/web until it is allowed: a test",
        r#""action":"allow""#,
        "sa/shop/web: a test",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    Ok(())
}

#[tokio::test]
async fn there_are_only_so_many_denials_at_one_time() -> Outcome {
    let house = House::new().await?;
    for number in 0..MOST {
        deny(&house, &format!("sa/shop/a{number}")).await;
    }
    let one_more = subject(&house, "sa/shop/web");
    let refused = house.ca.deny(&one_more, None, "a test".to_owned()).await;
    assert_eq!(refused.expect_err("full").code, "ARX-DENIAL-LIMIT");
    // Those that are there may still be given another end.
    deny(&house, "sa/shop/a7").await;
    Ok(())
}

/// Another process over the same store, with its own intermediate.
async fn other(house: &House) -> Result<(State, Replica, Authority), Box<dyn std::error::Error>> {
    let now = house.clock.now();
    let store = house.ca.state.store().clone();
    let state = State::open(store, Seal::plain(), &house.ca.trust_domain, "test").await?;
    let replica = state.replica(Some("ca-2"), now).await?;
    let config = crate::testing::config()?;
    let authority =
        Authority::open(state.clone(), &replica, config.authority_options(), now).await?;
    authority.prepare(now).await?;
    Ok((state, replica, authority))
}

#[tokio::test]
async fn every_process_goes_by_it_in_a_moment_and_one_that_does_not_is_named() -> Outcome {
    let house = House::new().await?;
    let (state, replica, _authority) = other(&house).await?;
    assert_eq!(deny(&house, WEB).await.unreached, ["ca-2"]);

    let there = Current::open(state, &replica).await?;
    let now = house.clock.now();
    assert!(there.get().of(WEB, now).is_some(), "a start reads them");
    let spread = tokio::select! {
        spread = deny(&house, API) => spread,
        never = there.follow() => match never {},
    };
    assert!(spread.unreached.is_empty());
    assert!(there.get().of(API, now).is_some());
    Ok(())
}

#[tokio::test]
async fn denials_that_were_put_back_are_not_gone_by_after_a_restart() -> Outcome {
    let house = House::new().await?;
    let store = house.ca.state.store().clone();
    let key = house.ca.state.key(&Denials::KIND);
    deny(&house, WEB).await;
    let old = store.get(&key).await?.expect("stored");
    deny(&house, API).await;
    let new = store.get(&key).await?.expect("stored");
    store
        .compare_and_swap(&key, Some(&new.version), old.value)
        .await?;
    let domain = &house.ca.trust_domain;
    let state = State::open(store, Seal::plain(), domain, "test").await?;
    let replica = state.replica(Some("ca-1"), house.clock.now()).await?;
    let refused = Current::open(state, &replica).await.expect_err("older");
    assert_eq!(refused.code(), "ARX-SEAL-GENERATION");
    Ok(())
}

fn obstacle(node: &str, workloads: &[&str]) -> Obstacle {
    Obstacle {
        node: node.to_owned(),
        reason: "not-acked",
        workloads: workloads.iter().map(|&id| id.to_owned()).collect(),
        workload_count: u32::try_from(workloads.len()).unwrap_or(u32::MAX),
        ..Obstacle::default()
    }
}

#[tokio::test]
async fn a_gate_lists_who_is_denied_apart_and_waits_for_everybody_else() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    ca.ledger.live().ready().await;
    for name in ["web", "api"] {
        ask(&house, account(&house, name)).await;
    }
    let all = vec![
        obstacle("c1/n1", &[WEB]),
        obstacle("c1/n1", &[WEB, API]),
        obstacle("c1/n2", &["spiffe://example.org/arx/node/c1/n2"]),
        Obstacle {
            workload_count: 2,
            ..obstacle("c1/n1", &[WEB])
        },
        obstacle("c1/n1", &[]),
        obstacle("ca-2", &[]),
        obstacle("", &[]),
    ];
    let now = house.clock.now();
    assert_eq!(ca.denied_apart(all.clone(), now).await.waits, all);
    deny(&house, "sa/shop/web").await;
    deny(&house, "node/c1/n2").await;
    let apart = ca.denied_apart(all.clone(), now).await;
    assert_eq!(apart.waits, [1, 3, 4, 5, 6].map(|at| all[at].clone()));
    assert_eq!(apart.denied, [0, 2].map(|at| all[at].clone()), "listed");
    deny(&house, API).await;
    let apart = ca.denied_apart(all.clone(), now).await;
    assert_eq!(apart.waits, [3, 4, 5, 6].map(|at| all[at].clone()));
    Ok(())
}

/// The same identity may be an exception's for another account, which is not denied.
#[tokio::test]
async fn a_gate_waits_for_an_identity_that_an_allowed_account_holds_too() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    ca.ledger.live().ready().await;
    ask(&house, account(&house, "web")).await;
    deny(&house, "sa/shop/web").await;
    let now = house.clock.now();
    let it = || vec![obstacle("c1/n1", &[WEB])];
    assert_eq!(ca.denied_apart(it(), now).await.waits, []);
    let issued = ledger::Issued {
        spiffe_id: WEB.to_owned(),
        serial: vec![7; 16],
        cluster: "c1".to_owned(),
        node: "n1".to_owned(),
        evidence: "token: shop/web2, token t; by policy.exception[0]".to_owned(),
        validity: ledger::Validity {
            not_before: now,
            not_after: now + Duration::from_secs(60),
        },
        ..Default::default()
    };
    ca.ledger
        .append(vec![ledger::Record::new(now, issued)])
        .await?;
    assert_eq!(ca.denied_apart(it(), now).await.waits, it());
    // And it is not told as something that the denied one holds.
    let held = tokio::task::spawn_blocking({
        let (ca, subject) = (Arc::clone(ca), subject(&house, "sa/shop/web"));
        move || ca.held(&subject, &[], now)
    });
    assert_eq!(held.await??.certificates, 1);
    Ok(())
}

#[tokio::test]
async fn what_a_denied_holder_still_holds_is_told_with_its_end() -> Outcome {
    let house = House::new().await?;
    let ca = &house.ca;
    ca.ledger.live().ready().await;
    for name in ["web", "web", "api"] {
        ask(&house, account(&house, name)).await;
    }
    let now = house.clock.now();
    for (text, certificates, identities) in [
        ("sa/shop/web", 2, &[WEB][..]),
        (WEB, 2, &[WEB]),
        ("node/c1/n1", 3, &[API, WEB]),
        ("node/c1/n2", 0, &[]),
        ("sa/shop/nobody", 0, &[]),
    ] {
        let (subject, ca) = (subject(&house, text), Arc::clone(ca));
        let held = tokio::task::spawn_blocking(move || {
            let holders = ca.ledger.live().holders(now, None);
            ca.held(&subject, &holders, now)
        });
        let held = held.await??;
        assert_eq!(held.certificates, certificates, "{text}");
        assert_eq!(held.identities, identities, "{text}");
        assert_eq!(held.identity_count, identities.len() as u64, "{text}");
        assert_eq!(held.ends.is_some(), certificates > 0, "{text}");
        assert!(held.ends.is_none_or(|ends| ends > now), "{text}");
    }
    Ok(())
}
