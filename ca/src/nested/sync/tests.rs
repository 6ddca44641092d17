use super::*;
use crate::testing::{House, Outcome};
use arx_daemon::Clock;
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey};

const NESTED: &str =
    "[[nested]]\nid = \"spiffe://example.org/ns/arx-system/sa/arx-ca\"\nname = \"west\"";

/// A house that lets one stand below, and where one does.
async fn with_one_below() -> Result<(House, Vec<Certificate>), Box<dyn std::error::Error>> {
    let house = House::with(NESTED, Clock::system()).await?;
    let chain = certify(&house, None).await?;
    Ok((house, chain))
}

async fn certify(house: &House, root: Option<KeyId>) -> Result<Vec<Certificate>, Refusal> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let asked = wire::CertifyRequest {
        csr: key.create_csr().expect("a request").into(),
        trust_domain: "example.org".to_owned(),
        path_length: 1,
        ttl_seconds: 0,
        root: root.map_or_else(Bytes::new, bytes),
    };
    let token = house.token("arx/join", "arx-system", "arx-ca", "n9");
    let ca = &house.ca;
    ca.certify(&Caller::Stranger, Some(&token), &asked).await
}

async fn says(
    house: &House,
    confirmed: Option<Sequence>,
    held: &[KeyId],
) -> Result<wire::SyncResponse, Refusal> {
    let said = wire::SyncRequest {
        confirmed: confirmed.map(|it| wire::Position {
            epoch: it.epoch,
            number: it.number,
        }),
        held: held
            .iter()
            .map(|root| wire::Held {
                root: bytes(*root),
                not_after_unix_ms: arx_daemon::clock::unix_ms(
                    house.clock.now() + Duration::from_secs(3600),
                ),
            })
            .collect(),
    };
    let token = house.token("arx/join", "arx-system", "arx-ca", "n9");
    house.ca.sync(&Caller::Stranger, Some(&token), &said).await
}

/// The roots that it is registered under.
async fn registered(house: &House) -> Result<Vec<KeyId>, Box<dyn std::error::Error>> {
    let stored = house.ca.state.authorities().await?.ok_or("a root")?.value;
    let below = stored.registrations.iter();
    let below = below.filter(|it| it.replica == "nested:west");
    Ok(below.map(|it| it.root).collect())
}

/// The active root, and one that is prepared and published.
async fn prepared(house: &House) -> Result<[KeyId; 2], Box<dyn std::error::Error>> {
    let ca = &house.ca;
    let (now, active) = (house.clock.now(), ca.authority.root());
    let next = ca.authority.prepare_root(now).await?;
    let ids = [&active, &next].map(|root| root.subject_key_id().expect("it has one"));
    let head = ca.trust.current().sequence();
    ca.trust.publish(head, vec![active, next], now).await?;
    Ok(ids)
}

#[tokio::test]
async fn who_is_below_is_counted_under_each_root_until_it_says_that_it_has_nothing_there() -> Outcome
{
    let (house, _) = with_one_below().await?;
    let [a, b] = prepared(&house).await?;
    assert_eq!(registered(&house).await?, [a]);
    let chain = certify(&house, Some(b)).await?;
    assert_eq!(chain[1].subject_key_id(), Some(b));
    assert_eq!(registered(&house).await?, [a, b]);
    // It has nothing under a root that signs or is to, and may ask for it any time.
    says(&house, None, &[]).await?;
    assert_eq!(registered(&house).await?, [a, b]);

    house.ca.authority.activate(a, b).await?;
    says(&house, None, &[a, b]).await?;
    assert_eq!(registered(&house).await?, [a, b]);
    says(&house, None, &[b]).await?;
    assert_eq!(registered(&house).await?, [b]);
    says(&house, None, &[a, b]).await?;
    assert_eq!(registered(&house).await?, [b, a], "it has gone back");
    let leaves = certify(&house, Some(a)).await;
    assert_eq!(
        leaves.err().map(|it| it.code),
        Some("ARX-AUTHORITY-ROOT-NOT-ACTIVE")
    );
    Ok(())
}

#[tokio::test]
async fn who_is_below_is_told_what_is_trusted_and_what_comes_and_what_must_never_be() -> Outcome {
    let (house, _) = with_one_below().await?;
    let heard = says(&house, None, &[]).await?;
    assert_eq!((heard.roots.len(), heard.next.len()), (1, 0));
    let [a, b] = prepared(&house).await?;
    let heard = says(&house, None, &[]).await?;
    assert_eq!(heard.roots.len(), 2);
    assert_eq!((heard.active, heard.next), (bytes(a), bytes(b)));

    house.ca.authority.activate(a, b).await?;
    house.ca.authority.follow_active().await?;
    let own = house.ca.authority.prepare(house.clock.now()).await?;
    house.ca.authority.install(own);
    house.ca.authority.distrust(a).await?;
    let heard = says(&house, None, &[]).await?;
    assert_eq!(heard.distrusted, [bytes(a)]);
    assert_eq!((heard.active, heard.next.len()), (bytes(b), 0));
    Ok(())
}

#[tokio::test]
async fn nobody_below_confirms_what_was_never_published_and_what_it_takes_back_does_not_count()
-> Outcome {
    let (house, _) = with_one_below().await?;
    let confirmed = || house.ca.confirmed_below.all();
    let now = house.ca.trust.current().sequence();
    let later = Sequence {
        number: now.number + 1,
        ..now
    };
    says(&house, Some(later), &[]).await?;
    assert_eq!(confirmed(), []);
    says(&house, Some(now), &[]).await?;
    assert_eq!(confirmed(), [("nested:west".to_owned(), now)]);
    says(&house, None, &[]).await?;
    assert_eq!(confirmed(), []);
    Ok(())
}

#[tokio::test]
async fn an_authority_that_is_new_begins_when_no_root_is_about_to_leave() -> Outcome {
    let house = House::with(NESTED, Clock::system()).await?;
    let [a, b] = prepared(&house).await?;
    house.ca.authority.activate(a, b).await?;
    let refused = certify(&house, None).await;
    assert_eq!(refused.err().map(|it| it.code), Some("ARX-NESTED-ROTATION"));
    assert_eq!(registered(&house).await?, []);
    Ok(())
}

#[tokio::test]
async fn who_is_below_a_restored_authority_is_a_witness_and_is_told_nothing_while_it_is_shut()
-> Outcome {
    let (house, _) = with_one_below().await?;
    let ca = &house.ca;
    crate::restore::tests::shut(&house, 1).await?;
    let active = ca.authority.root_key_id();
    let refused = says(&house, None, &[active]).await;
    assert_eq!(refused.err().map(|it| it.code), Some("ARX-RESTORE-SHUT"));
    let open = || {
        ca.open_restored(crate::restore::Word::Operator {
            reason: "a test".to_owned(),
            although_ahead: false,
        })
    };
    let stranger = KeyId::from_slice(&[9; 20]).ok_or("20 bytes")?;
    let later = Sequence {
        epoch: 1,
        number: 7,
    };
    assert!(says(&house, Some(later), &[stranger]).await.is_err());
    let refused = open().await.err().map(|it| it.code);
    assert_eq!(refused, Some("ARX-RESTORE-AHEAD"));
    let restored = ca.restore.get().ok_or("it was put back")?;
    let ahead = restored.ahead();
    assert_eq!(ahead[0].nodes, ["nested:west"]);
    assert_eq!(ahead[0].missing, [stranger]);
    // It has come back.
    assert!(says(&house, Some(later), &[active]).await.is_err());
    open().await?;
    assert!(says(&house, None, &[active]).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn while_a_root_of_the_fleets_is_adopted_those_below_can_follow_before_anything_is_issued()
-> Outcome {
    let house = House::with(NESTED, Clock::system()).await?;
    crate::restore::tests::shut(&house, 1).await?;
    let refused = certify(&house, None).await.err().map(|it| it.code);
    assert_eq!(refused, Some("ARX-RESTORE-SHUT"));
    let adopts = crate::state::Adopts {
        root: KeyId::from_slice(&[9; 20]).ok_or("20 bytes")?,
        rotation: "r1".to_owned(),
        reason: "a test".to_owned(),
        has_begun: true,
    };
    crate::restore::tests::change(&house, |it| it.adopts = Some(adopts.clone())).await?;
    assert!(house.ca.restore.is_open().is_err());
    certify(&house, None).await?;
    says(&house, None, &[house.ca.authority.root_key_id()]).await?;
    Ok(())
}
