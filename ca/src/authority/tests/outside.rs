//! A root whose key is elsewhere: the request, the chain for it, and its renewal.

use arx_identity::profile::Issuer;

use super::operator::{Made, below, finish, root, root_of};
use super::*;
use crate::authority::outside::Urgency;

fn offline() -> Options {
    Options {
        certifier: Some(Certifier::Offline),
        ..options()
    }
}

/// The store, and what stands in it.
struct Place {
    store: Shared,
}

impl Place {
    fn new() -> Self {
        Self { store: memory() }
    }

    async fn replica(&self) -> (State, Replica) {
        let state = state(&self.store).await;
        let replica = state.replica(Some("ca-1"), now()).await.expect("a name");
        (state, replica)
    }

    async fn asked(&self) -> Asked {
        let (state, replica) = self.replica().await;
        request(&state, &replica, now()).await.expect("a request")
    }

    async fn install_at(&self, chain: &str, now: SystemTime) -> Result<Installed, AuthorityError> {
        let (state, replica) = self.replica().await;
        super::super::install(&state, &replica, &offline(), chain, false, now).await
    }

    async fn install(&self, chain: &str) -> Result<Installed, AuthorityError> {
        self.install_at(chain, now()).await
    }

    /// The codes of what is wrong with a chain, of which nothing must be stored.
    async fn refused(&self, chain: &str) -> Vec<&'static str> {
        let (state, replica) = self.replica().await;
        let before = dump(&self.store).await;
        let refused =
            super::super::install(&state, &replica, &offline(), chain, false, now()).await;
        assert_eq!(dump(&self.store).await, before, "nothing is written");
        match refused {
            Err(AuthorityError::Problems(problems)) => {
                problems.iter().map(|problem| problem.code).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What the CA makes of a request.
struct Signing {
    path_len: u8,
    lifetime: Duration,
    trust_domain: &'static str,
}

const USUAL: Signing = Signing {
    path_len: 1,
    lifetime: Duration::from_secs(300 * 86_400),
    trust_domain: "example.org",
};

fn sign(asked: &Asked, issuer: &Made, signing: &Signing) -> Certificate {
    let der = pem_der(&asked.request);
    let csr = arx_identity::VerifiedCsr::verify(&der, &arx_identity::KeyPolicy::default())
        .expect("a request in order");
    assert_eq!(csr.claimed_names(), ["spiffe://example.org"]);
    let unsigned = profile::intermediate(
        &Issuer::new(&issuer.certificate).expect("it issues"),
        csr.public_key(),
        &TrustDomain::parse(signing.trust_domain).expect("a trust domain"),
        "offline",
        Validity::authority(now(), signing.lifetime),
        signing.path_len,
    )
    .expect("the profile has it");
    finish(unsigned, &issuer.key)
}

fn pem_der(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    base64::engine::general_purpose::STANDARD
        .decode(lines.collect::<String>())
        .expect("Base64")
}

fn chain(first: &Certificate, above: &[&Made]) -> String {
    let above = above.iter().map(|made| made.certificate.pem());
    first.pem() + &above.collect::<String>()
}

#[tokio::test]
async fn an_authority_waits_for_its_chain_and_issues_under_it() {
    let (place, root) = (Place::new(), root());
    let waits = open(&place.store, offline()).await.expect_err("it waits");
    assert_eq!(waits.code(), "ARX-AUTHORITY-AWAITING");
    assert!(waits.passes());

    let asked = place.asked().await;
    assert_eq!(place.asked().await, asked, "the same until it was used");
    let upper = sign(&asked, &root, &USUAL);
    let pem = chain(&upper, &[&root]);
    let installed = place.install(&pem).await.expect("it is in order");
    assert_eq!(installed, Installed::First(upper.clone()));
    assert_eq!(
        place.install(&pem).await.expect("it stands there"),
        Installed::Already(upper.clone())
    );

    let authority = open(&place.store, offline()).await.expect("it starts");
    assert_eq!(authority.root(), root.certificate);
    let issuing = authority.install(authority.prepare(now()).await.expect("it is made"));
    assert_eq!(issuing.chain()[1..], [upper]);
    let leaf = leaf_at(&issuing, now(), HOUR).expect("it is signed");
    verify(&leaf, &bundle(&authority), now()).expect("it verifies");
}

#[tokio::test]
async fn the_key_is_in_the_store_sealed_and_nowhere_else() {
    let (place, root) = (Place::new(), root());
    let asked = place.asked().await;
    let pkcs8 = |entries: Vec<Entry>| {
        let mut all = entries.iter();
        all.any(|entry| entry.value.windows(8).any(|it| it == b"-----BEG"))
    };
    assert!(
        !pkcs8(dump(&place.store).await),
        "not even the request is readable"
    );
    place
        .install(&chain(&sign(&asked, &root, &USUAL), &[&root]))
        .await
        .expect("it is in order");
    let stored = authorities(&place.store).await;
    assert!(stored.pending.is_none());
    let KeyPlace::Stored(key) = &stored.roots[0].key else {
        panic!("it is stored");
    };
    let key = key.key().expect("a key");
    assert_eq!(key.public_key(), stored.roots[0].signer().public_key());
    let shown = format!("{stored:?}{asked:?}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn every_defect_of_a_chain_is_named_and_nothing_is_stored() {
    let (place, root) = (Place::new(), root());
    let asked = place.asked().await;
    let with = |signing: Signing| chain(&sign(&asked, &root, &signing), &[&root]);

    let other = below(&root, 1, 300 * DAY);
    let other = chain(&other.certificate, &[&root]);
    assert_eq!(place.refused(&other).await, ["ARX-AUTHORITY-KEY-MISMATCH"]);
    let no_room = with(Signing {
        path_len: 0,
        ..USUAL
    });
    assert_eq!(place.refused(&no_room).await, ["ARX-AUTHORITY-PATH-LENGTH"]);
    let short = with(Signing {
        lifetime: HOUR,
        ..USUAL
    });
    assert_eq!(place.refused(&short).await, ["ARX-AUTHORITY-LIFETIME"]);
    let elsewhere = with(Signing {
        trust_domain: "example.com",
        ..USUAL
    });
    assert_eq!(
        place.refused(&elsewhere).await,
        ["ARX-AUTHORITY-TRUST-DOMAIN"]
    );
    let half = sign(&asked, &root, &USUAL).pem();
    assert_eq!(place.refused(&half).await, ["ARX-AUTHORITY-CHAIN"]);
    let upper = below(&root, 2, 300 * DAY);
    let gap = chain(&sign(&asked, &upper, &USUAL), &[&root]);
    assert_eq!(place.refused(&gap).await, ["ARX-AUTHORITY-CHAIN"]);
    for garbage in ["", "no PEM", &asked.request, &"x".repeat(300 * 1024)] {
        let refused = place.refused(garbage).await;
        assert_eq!(refused, ["ARX-AUTHORITY-CERTIFICATE-FILE"]);
    }
    let both = with(Signing {
        path_len: 0,
        trust_domain: "example.com",
        ..USUAL
    });
    let both = place.refused(&both).await;
    assert_eq!(
        both,
        ["ARX-AUTHORITY-TRUST-DOMAIN", "ARX-AUTHORITY-PATH-LENGTH"]
    );

    let expired = with(Signing {
        lifetime: 2 * DAY,
        ..USUAL
    });
    match place.install_at(&expired, now() + 3 * DAY).await {
        Err(AuthorityError::Problems(problems)) => {
            assert_eq!(problems[0].code, "ARX-AUTHORITY-EXPIRED");
        }
        other => panic!("{other:?}"),
    }
    // What was wrong before does not keep what is right from being taken.
    place.install(&with(USUAL)).await.expect("it is in order");
}

#[tokio::test]
async fn a_leaf_of_the_offline_ca_is_no_authority() {
    let (place, root) = (Place::new(), root());
    let asked = place.asked().await;
    let der = pem_der(&asked.request);
    let csr = arx_identity::VerifiedCsr::verify(&der, &arx_identity::KeyPolicy::default())
        .expect("a request in order");
    let id = SpiffeId::new(&trust_domain(), "/ns/a/sa/b").expect("an id");
    let issuer = Issuer::new(&root.certificate).expect("it issues");
    let unsigned = profile::leaf(
        &issuer,
        &Leaf {
            public_key: csr.public_key(),
            id: &id,
            dns_names: &[],
            validity: Validity::leaf(&issuer, now(), 300 * DAY),
            revocable: false,
        },
    );
    let leaf = finish(unsigned.expect("the profile has it"), &root.key);
    let refused = place.refused(&chain(&leaf, &[&root])).await;
    assert!(refused.contains(&"ARX-AUTHORITY-PROFILE"), "{refused:?}");
}

#[tokio::test]
async fn without_a_request_no_chain_is_taken() {
    let (place, root) = (Place::new(), root());
    let made = below(&root, 1, 300 * DAY);
    let refused = place.refused(&chain(&made.certificate, &[&root])).await;
    assert_eq!(refused, ["ARX-AUTHORITY-NO-REQUEST"]);
}

/// An authority with its first chain.
async fn started(place: &Place, root: &Made) -> Authority {
    let upper = sign(&place.asked().await, root, &USUAL);
    place
        .install(&chain(&upper, &[root]))
        .await
        .expect("it is in order");
    open(&place.store, offline()).await.expect("it starts")
}

#[tokio::test]
async fn a_renewal_under_the_same_root_takes_effect_at_once_and_by_another_key() {
    let (place, root) = (Place::new(), root());
    let authority = started(&place, &root).await;
    let before = authority.install(authority.prepare(now()).await.expect("it is made"));
    let asked = authority.ask_outside(now()).await.expect("a request");
    let upper = sign(&asked, &root, &USUAL);
    let pem = chain(&upper, &[&root]);
    let installed = authority.install_chain(&pem, false, now()).await;
    assert_eq!(
        installed.expect("it is in order"),
        Installed::Renewed(upper.clone())
    );
    let after = authority.install(authority.prepare(now()).await.expect("it is made"));
    assert_eq!(after.chain()[1], upper);
    assert_ne!(
        before.chain()[1].public_key(),
        upper.public_key(),
        "each request has a key of its own"
    );
    assert_eq!(
        after.root(),
        before.root(),
        "nobody has to trust anything else"
    );
    for issuing in [before, after] {
        let leaf = leaf_at(&issuing, now(), HOUR).expect("it is signed");
        verify(&leaf, &bundle(&authority), now()).expect("it verifies");
    }
}

#[tokio::test]
async fn a_chain_under_another_root_is_refused_because_nobody_trusts_it() {
    let (place, first) = (Place::new(), root());
    let authority = started(&place, &first).await;
    let asked = authority.ask_outside(now()).await.expect("a request");
    let other = root();
    let pem = chain(&sign(&asked, &other, &USUAL), &[&other]);
    assert_eq!(place.refused(&pem).await, ["ARX-AUTHORITY-ROOT-CHANGED"]);
    let right = chain(&sign(&asked, &first, &USUAL), &[&first]);
    place
        .install(&right)
        .await
        .expect("the request still waits");
}

#[tokio::test]
async fn a_chain_under_another_root_is_prepared_while_the_authority_runs_and_changes_nothing_else()
{
    let (place, first) = (Place::new(), root());
    let authority = started(&place, &first).await;
    let asked = authority.ask_outside(now()).await.expect("a request");
    let other = root();
    let pem = chain(&sign(&asked, &other, &USUAL), &[&other]);
    let before = dump(&place.store).await;
    let tried = authority.install_chain(&pem, true, now()).await;
    assert!(matches!(tried, Ok(Installed::Follows(_))), "{tried:?}");
    assert_eq!(dump(&place.store).await, before, "nothing is written");
    for _ in 0..2 {
        let taken = authority.install_chain(&pem, false, now()).await;
        assert!(matches!(taken, Ok(Installed::Follows(_))), "{taken:?}");
    }
    assert_eq!(authority.root(), first.certificate);
    let next = authority.successor().await.expect("it is there");
    assert_eq!(next, Some(other.certificate.clone()));
    // Yet another one has to wait, and one that cannot be told from a known one is refused.
    let asked = authority.ask_outside(now()).await.expect("a request");
    let third = root();
    let pem = chain(&sign(&asked, &third, &USUAL), &[&third]);
    let refused = authority.install_chain(&pem, false, now()).await;
    let refused = refused.expect_err("one at a time");
    assert_eq!(refused.code(), "ARX-AUTHORITY-ROOT-STATE");
    // A rotation leads there.
    let id = |made: &Made| made.certificate.subject_key_id().expect("it has one");
    authority
        .prepare_root(now())
        .await
        .expect("what is prepared signs for trial");
    authority
        .activate(id(&first), id(&other))
        .await
        .expect("they are exchanged");
    authority.follow_active().await.expect("it follows");
    assert_eq!(authority.root(), other.certificate);
}

#[tokio::test]
async fn an_upper_intermediate_that_has_expired_is_waited_for_again() {
    let (place, root) = (Place::new(), root());
    started(&place, &root).await;
    let late = now() + 301 * DAY;
    let waits = open_at(&place.store, offline(), late).await;
    let waits = waits.expect_err("it waits");
    assert_eq!(waits.code(), "ARX-AUTHORITY-AWAITING");
    let asked = place.asked().await;
    let long = Signing {
        lifetime: 900 * DAY,
        ..USUAL
    };
    let pem = chain(&sign(&asked, &root, &long), &[&root]);
    place.install_at(&pem, late).await.expect("it is in order");
    open_at(&place.store, offline(), late)
        .await
        .expect("it starts");
}

#[tokio::test]
async fn what_is_configured_and_what_is_stored_have_to_fit() {
    let made = memory();
    start(&made).await;
    assert_eq!(
        codes(open(&made, offline()).await),
        ["ARX-AUTHORITY-KEY-ELSEWHERE"]
    );
    let (place, root) = (Place::new(), root_of("example.org", 3650 * DAY));
    started(&place, &root).await;
    assert_eq!(
        codes(open(&place.store, options()).await),
        ["ARX-AUTHORITY-OUTSIDE-GONE"]
    );
    let authority = start(&memory()).await;
    let refused = authority
        .ask_outside(now())
        .await
        .expect_err("it has a root");
    assert_eq!(refused.code(), "ARX-AUTHORITY-NOT-OFFLINE");
}

#[tokio::test]
async fn renewal_is_announced_when_a_third_of_the_life_is_left_and_again_at_30_and_7_days() {
    let (place, root) = (Place::new(), root());
    let authority = started(&place, &root).await;
    let upper = authority.upper().expect("there is one");
    assert_eq!(upper.ends, now() + 300 * DAY);
    let at = |days: u32| upper.urgency(upper.ends - days * DAY);
    assert_eq!(at(101), None);
    assert_eq!(at(99), Some(Urgency::Third));
    assert_eq!(at(29), Some(Urgency::Month));
    assert_eq!(at(6), Some(Urgency::Week));
    assert_eq!(upper.urgency(upper.ends + DAY), Some(Urgency::Over));
    let (code, advice) = upper.notice(upper.ends - 6 * DAY).expect("it is urgent");
    assert_eq!(code, "ARX-AUTHORITY-UPPER-ENDING");
    assert!(
        advice.contains("within 7 days") && advice.contains("arx authority csr"),
        "{advice}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_intermediate_and_serving_certificate_are_made_as_soon_as_a_chain_is_installed() {
    let clock = arx_daemon::Clock::following_tokio(now());
    let (place, root) = (Place::new(), root());
    let authority = started(&place, &root).await;
    let mut issuing = authority.watch();
    let test = async {
        let has = |issuing: &Option<Arc<Issuing>>| issuing.is_some();
        issuing.wait_for(has).await.expect("the loop runs");
        let asked = authority.ask_outside(now()).await.expect("a request");
        let upper = sign(&asked, &root, &USUAL);
        let pem = chain(&upper, &[&root]);
        let installed = authority.install_chain(&pem, false, now()).await;
        installed.expect("it is in order");
        issuing
            .wait_for(|it| it.as_ref().is_some_and(|it| it.chain()[1] == upper))
            .await
            .expect("the loop runs");
    };
    let made = |_| -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    };
    tokio::select! {
        never = authority.keep(&clock, made) => match never {},
        () = test => {}
    }
}
