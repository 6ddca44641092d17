//! Replicas that answer each other on loopback, each with a ledger of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::drain::Tasks;
use arx_identity::profile::{self, Issuer, Leaf, Validity};
use arx_identity::{CertChain, Certificate, KeyAlgorithm, PrivateKey, Serial, SpiffeId, Svid, tls};
use arx_proto::admin::v1::ExplainRequest;
use arx_proto::node::v1::issue_item::Evidence;
use arx_proto::peer::v1 as wire;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use wire::peer_client::PeerClient;

use super::{Answer, Replicas, Unanswered, Wanted};
use crate::authority::{Below, sign_leaf};
use crate::denial::Subject;
use crate::dial::authority::connect;
use crate::ledger::{Issued, Query, Record, Validity as Valid};
use crate::serve::Nodes;
use crate::store::Memory;
use crate::store::faults::{Fault, Faulty};
use crate::testing::{House, Outcome, node};

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const SERVING: &str = "spiffe://example.org/arx/ca";
const TTL: Duration = Duration::from_secs(3600);

/// Replicas that listen; they end with this.
struct Several {
    replicas: Vec<House>,
    serving: Vec<(SocketAddr, JoinSet<()>)>,
}

impl Several {
    /// `ca-1` and so on, each with these seconds at which it has issued to `web`.
    async fn start(issued: &[&[u64]]) -> Result<Self, Box<dyn std::error::Error>> {
        let first = House::new().await?;
        let mut replicas = Vec::new();
        for n in 2..=issued.len() {
            replicas.push(first.beside(&format!("ca-{n}")).await?);
        }
        replicas.insert(0, first);
        let mut this = Self {
            replicas,
            serving: Vec::new(),
        };
        for (n, seconds) in issued.iter().enumerate() {
            let house = &this.replicas[n];
            let records = seconds
                .iter()
                .map(|second| record(&house.ca.replica, *second));
            house.ca.ledger.append(records.collect()).await?;
            let serving = serve(house).await?;
            announce(house, &serving.0.to_string()).await?;
            this.serving.push(serving);
        }
        Ok(this)
    }

    async fn search(&self, n: usize, size: usize, token: &str) -> Result<Answer, &'static str> {
        search(&self.replicas[n], size, token).await
    }
}

fn record(replica: &str, second: u64) -> Record {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
    Record::new(
        time,
        Issued {
            replica: replica.to_owned(),
            spiffe_id: WEB.to_owned(),
            serial: vec![1; 16],
            validity: Valid {
                not_before: time,
                not_after: time + TTL,
            },
            ..Issued::default()
        },
    )
}

async fn serve(house: &House) -> Result<(SocketAddr, JoinSet<()>), Box<dyn std::error::Error>> {
    let ca = &house.ca;
    let svid = ca.authority.prepare_serving(house.clock.now())?;
    ca.authority.install_serving(svid.clone());
    let server = Arc::new(tls::Server::new(&svid, &ca.trust.current())?);
    let nodes = Nodes::new(Arc::clone(ca), server, Tasks::new(&ca.drain), 100);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut serving = JoinSet::new();
    serving.spawn(nodes.serve(listener, 100));
    Ok((address, serving))
}

async fn announce(house: &House, address: &str) -> Outcome {
    let ca = &house.ca;
    let replica = ca.state.replica(Some(&ca.replica), house.clock.now());
    Ok(replica.await?.announce(Some(address)).await?)
}

/// An address at which nobody listens.
async fn nowhere() -> Result<String, std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

fn wanted(size: usize, token: &str) -> Wanted {
    Wanted {
        query: Query::Identity(WEB.to_owned()),
        size,
        token: token.to_owned(),
        here: false,
    }
}

async fn search(house: &House, size: usize, token: &str) -> Result<Answer, &'static str> {
    let found = house.ca.search_all(wanted(size, token)).await;
    found.map_err(|refusal| refusal.code)
}

/// Whose ledger each record is in, and at which second it was written.
fn shown(answer: &Answer) -> Vec<(String, String)> {
    let shown = answer.records.iter().map(|record| {
        let record: Value = serde_json::from_str(record).expect("JSON");
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let second = text("time")["1970-01-12T13:46:".len()..][..2].to_owned();
        (text("ledger"), second)
    });
    shown.collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = of
        .iter()
        .map(|(name, second)| ((*name).to_owned(), (*second).to_owned()));
    owned.collect()
}

#[tokio::test]
async fn a_search_at_any_replica_finds_what_all_have_recorded_newest_first_and_page_by_page()
-> Outcome {
    let several = Several::start(&[&[1, 4, 6], &[2, 5], &[3]]).await?;
    // The first second is the 41st of its minute.
    let all = pairs(&[
        ("ca-1", "46"),
        ("ca-2", "45"),
        ("ca-1", "44"),
        ("ca-3", "43"),
        ("ca-2", "42"),
        ("ca-1", "41"),
    ]);
    for n in 0..3 {
        let answer = several.search(n, 10, "").await?;
        assert_eq!(shown(&answer), all);
        assert_eq!(
            (answer.replicas, answer.unanswered, answer.next),
            (3, vec![], None)
        );
    }
    // Each page at another one.
    for size in 1..=6 {
        let (mut found, mut token, mut n) = (Vec::new(), String::new(), 0);
        loop {
            let answer = several.search(n % 3, size, &token).await?;
            assert!(answer.records.len() <= size && answer.unanswered.is_empty());
            found.extend(shown(&answer));
            n += 1;
            match answer.next {
                Some(next) => token = next,
                None => break,
            }
        }
        assert_eq!((found, n), (all.clone(), 6_usize.div_ceil(size)));
    }
    assert_eq!(
        several.search(0, 10, "nonsense").await,
        Err("ARX-PAGE-TOKEN")
    );
    Ok(())
}

#[tokio::test]
async fn who_does_not_answer_is_named_with_why_and_all_others_are_heard() -> Outcome {
    let several = Several::start(&[&[1], &[2], &[3], &[4], &[]]).await?;
    let gone = nowhere().await?;
    announce(&several.replicas[1], &gone).await?;
    // Somebody else listens there.
    announce(&several.replicas[2], &several.serving[3].0.to_string()).await?;
    let silent = House::beside(&several.replicas[0], "ca-6").await?;
    let answer = several.search(0, 10, "").await?;
    assert_eq!(shown(&answer), pairs(&[("ca-4", "44"), ("ca-1", "41")]));
    assert_eq!((answer.replicas, answer.next), (6, None));
    let said: Vec<_> = answer.unanswered.iter().map(|it| &*it.replica).collect();
    assert_eq!(said, ["ca-2", "ca-3", "ca-6"]);
    let [refused, another, unknown] = &answer.unanswered[..] else {
        return Err("three have not answered".into());
    };
    assert!(
        refused
            .reason
            .starts_with(&format!("{gone} cannot be reached: ")),
        "{refused:?}"
    );
    assert!(
        another
            .reason
            .contains("ARX-PEER-ANOTHER: this is ca-4, and not"),
        "{another:?}"
    );
    assert!(unknown.reason.contains("node_api.announce"), "{unknown:?}");
    drop(silent);
    Ok(())
}

#[tokio::test]
async fn who_was_missing_on_a_page_is_missing_on_all_later_ones_and_who_goes_is_named() -> Outcome {
    let mut several = Several::start(&[&[1, 5], &[2, 6], &[3, 4]]).await?;
    let back = several.serving[1].0.to_string();
    announce(&several.replicas[1], &nowhere().await?).await?;
    let first = several.search(0, 1, "").await?;
    assert_eq!(shown(&first), pairs(&[("ca-1", "45")]));
    announce(&several.replicas[1], &back).await?;
    let (_, serving) = several.serving.pop().ok_or("it listens")?;
    drop(serving);
    let second = several
        .search(0, 10, &first.next.ok_or("there is more")?)
        .await?;
    assert_eq!(shown(&second), pairs(&[("ca-1", "41")]));
    let said: Vec<_> = second.unanswered.iter().map(|it| &*it.replica).collect();
    assert_eq!((said, second.next), (vec!["ca-2", "ca-3"], None));
    let earlier = &second.unanswered.iter().find(|it| it.replica == "ca-2");
    let earlier = &earlier.ok_or("it is named")?.reason;
    assert_eq!(earlier, "it has not answered for an earlier page");
    Ok(())
}

#[tokio::test]
async fn a_search_here_and_one_of_an_authority_with_its_state_for_itself_ask_nobody_else() -> Outcome
{
    let several = Several::start(&[&[1], &[2]]).await?;
    let here = Wanted {
        here: true,
        ..wanted(10, "")
    };
    let answer = several.replicas[0].ca.search_all(here).await?;
    let own = pairs(&[("ca-1", "41")]);
    assert_eq!((shown(&answer), answer.replicas), (own, 1));
    let of_another = Wanted {
        here: true,
        ..wanted(10, "ca-2=1.7")
    };
    let refused = several.replicas[0].ca.search_all(of_another).await;
    assert_eq!(refused.expect_err("a token").code, "ARX-PAGE-TOKEN");
    // Whatever is left of others in its state.
    let mut alone = several.replicas[0].beside("ca-3").await?;
    alone.ca.ledger.append(vec![record("ca-3", 3)]).await?;
    let ca = Arc::get_mut(&mut alone.ca).ok_or("it is held")?;
    ca.replicas = Replicas::One;
    let answer = search(&alone, 10, "").await?;
    let own = pairs(&[("ca-3", "43")]);
    assert_eq!((shown(&answer), answer.replicas), (own, 1));
    assert_eq!(answer.unanswered, []);
    Ok(())
}

#[tokio::test]
async fn without_the_state_the_own_ledger_is_searched_and_it_is_said_that_others_are_not_known()
-> Outcome {
    let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let house = House::over(store.clone(), "", arx_daemon::Clock::system()).await?;
    house.ca.ledger.append(vec![record("ca-1", 1)]).await?;
    store.cut_after(0, Fault::Unavailable);
    let replica = house.ca.state.replica(Some("ca-1"), house.clock.now());
    replica.await.expect_err("the state is away from here on");
    let answer = search(&house, 10, "").await?;
    assert_eq!(shown(&answer), pairs(&[("ca-1", "41")]));
    let [Unanswered { replica, reason }] = &answer.unanswered[..] else {
        return Err("it is said once".into());
    };
    assert_eq!(replica, "");
    assert!(reason.contains("a fault"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn a_replica_that_left_before_it_could_be_asked_and_signs_nothing_more_is_not_named()
-> Outcome {
    let house = House::new().await?;
    let gone = house
        .ca
        .state
        .replica(Some("ca-0"), house.clock.now())
        .await?;
    let answer = search(&house, 10, "").await?;
    assert_eq!(
        (answer.replicas, answer.unanswered),
        (1, vec![]),
        "{gone:?}"
    );
    Ok(())
}

/// What somebody with this certificate, or none, is told by a replica.
async fn told(house: &House, at: SocketAddr, svid: Option<&Svid>) -> Result<usize, Status> {
    let bundle = house.ca.trust.current();
    let expected = SpiffeId::parse(SERVING).expect("an id");
    let connected = connect(
        &at.to_string(),
        std::slice::from_ref(&*bundle),
        svid,
        expected,
    )
    .await;
    let (channel, _) = connected.expect("a connection");
    let request = wire::SearchLedgerRequest {
        replica: house.ca.replica.to_string(),
        identity: WEB.to_owned(),
        page_size: 10,
        ..wire::SearchLedgerRequest::default()
    };
    let answered = PeerClient::new(channel).search_ledger(request).await?;
    Ok(answered.into_inner().found.len())
}

/// A certificate for `id`, by the replica itself.
fn issued(house: &House, id: &str) -> Result<Svid, Box<dyn std::error::Error>> {
    let issuing = house.ca.authority.issuing().ok_or("it issues")?;
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
    let leaf = Leaf {
        public_key: key.public_key(),
        id: &SpiffeId::parse(id)?,
        dns_names: &[],
        validity: Validity::leaf(issuing.issuer(), house.clock.now(), TTL),
        revocable: false,
    };
    let mut chain = vec![sign_leaf(&issuing, &leaf)?];
    chain.extend(issuing.chain().iter().cloned());
    Ok(Svid::new(CertChain::new(chain)?, key)?)
}

/// What an authority below has made for itself: it can name itself anybody.
async fn forged(house: &House) -> Result<Svid, Box<dyn std::error::Error>> {
    let now = house.clock.now();
    let signer = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let below = Below {
        key: signer.public_key(),
        name: "nested:west",
        ttl: TTL,
        path_length: 1,
        root: None,
    };
    let mut chain = house.ca.authority.certify_below(&below, now).await?;
    chain.pop();
    let issuer = Issuer::new(&chain[0])?;
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
    let unsigned = profile::leaf(
        &issuer,
        &Leaf {
            public_key: key.public_key(),
            id: &SpiffeId::parse(SERVING)?,
            dns_names: &[],
            validity: Validity::leaf(&issuer, now, TTL),
            revocable: false,
        },
    )?;
    let signature = signer.sign(unsigned.to_be_signed())?;
    let leaf: Certificate = unsigned.complete(&signature)?;
    chain.insert(0, leaf);
    Ok(Svid::new(CertChain::new(chain)?, key)?)
}

#[tokio::test]
async fn nobody_but_a_replica_of_the_authority_is_answered() -> Outcome {
    let several = Several::start(&[&[1], &[2]]).await?;
    let (house, at) = (&several.replicas[0], several.serving[0].0);
    let code = |status: &Status| {
        let code = status.metadata().get("arx-code");
        let code = code.and_then(|code| code.to_str().ok());
        (code.unwrap_or_default().to_owned(), status.code())
    };
    let own = several.replicas[1]
        .ca
        .authority
        .serving()
        .ok_or("it serves")?;
    assert_eq!(told(house, at, Some(&own)).await?, 1);
    let none = told(house, at, None).await.expect_err("no certificate");
    assert_eq!(
        code(&none),
        ("ARX-CALLER-UNKNOWN".to_owned(), Code::Unauthenticated)
    );
    let forbidden = ("ARX-PEER-NOT-REPLICA".to_owned(), Code::PermissionDenied);
    for (who, svid) in [
        (
            "an agent",
            issued(house, "spiffe://example.org/arx/node/c1/n1")?,
        ),
        ("a workload", issued(house, WEB)?),
        ("an authority below", forged(house).await?),
    ] {
        let refused = told(house, at, Some(&svid)).await.expect_err(who);
        assert_eq!(code(&refused), forbidden, "{who}");
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_below_that_listens_in_the_place_of_a_replica_is_not_believed() -> Outcome {
    let several = Several::start(&[&[1], &[2]]).await?;
    let house = &several.replicas[0];
    let server = tls::Server::new(&forged(house).await?, &house.ca.trust.current())?;
    let nodes = Nodes::new(
        Arc::clone(&several.replicas[1].ca),
        Arc::new(server),
        Tasks::new(&house.ca.drain),
        100,
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(&several.replicas[1], &listener.local_addr()?.to_string()).await?;
    let mut serving = JoinSet::new();
    serving.spawn(nodes.serve(listener, 100));
    let answer = several.search(0, 10, "").await?;
    assert_eq!(shown(&answer), pairs(&[("ca-1", "41")]));
    let reason = &answer.unanswered.first().ok_or("it is named")?.reason;
    assert!(reason.contains("none of its replicas"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn a_serial_number_is_searched_for_at_all_replicas_too() -> Outcome {
    let several = Several::start(&[&[1], &[2]]).await?;
    let serial = Serial::from_bytes(&[1; 16]).ok_or("a serial")?;
    let by_serial = Wanted {
        query: Query::Serial(serial.as_bytes().to_vec()),
        ..wanted(10, "")
    };
    let answer = several.replicas[0].ca.search_all(by_serial).await?;
    assert_eq!(shown(&answer), pairs(&[("ca-2", "42"), ("ca-1", "41")]));
    Ok(())
}

async fn issue(house: &House) {
    let token = house.token("arx", "shop", "web", "n1");
    let item = house.item(Evidence::ServiceAccountToken(token));
    house.ca.issue(&node(), vec![item]).await;
}

fn pod(name: &str) -> ExplainRequest {
    ExplainRequest {
        pod: name.to_owned(),
        cluster: String::new(),
    }
}

#[tokio::test]
async fn a_pod_is_explained_at_any_replica_by_what_was_issued_and_refused_at_others() -> Outcome {
    let mut several = Several::start(&[&[], &[], &[]]).await?;
    let [asked, other, another] = &several.replicas[..] else {
        return Err("three".into());
    };
    let nobody = asked.ca.explain(pod("shop/pod")).await;
    let nobody = nobody.expect_err("it has not asked");
    assert_eq!(nobody.code, "ARX-REQUEST-MALFORMED");
    let _following = other.follow(&node(), 1);
    issue(other).await;
    let subject = Subject::parse("sa/shop/web", &asked.ca.trust_domain)?;
    another.ca.deny(&subject, None, "a test".to_owned()).await?;
    issue(another).await;
    for house in &several.replicas {
        for name in ["shop/pod", "pod-uid"] {
            let answer = house.ca.explain(pod(name)).await?;
            assert_eq!((answer.replicas, answer.unanswered.len()), (3, 0));
            let [pod] = &answer.pods[..] else {
                return Err("one pod".into());
            };
            let certificate = pod.certificate.as_ref().ok_or("it was issued")?;
            assert_eq!(certificate.replica, "ca-2");
            let refusal = pod.refusal.as_ref().ok_or("it was refused")?;
            assert_eq!(refusal.code, "ARX-DENIED");
            let agent = pod.agent.as_ref().ok_or("its agent is there")?;
            assert_eq!((&*agent.replica, agent.connected), ("ca-2", true));
            let token = pod.token.as_ref().ok_or("it was shown")?;
            assert_eq!(token.id, last_token(another).await?, "the one shown last");
        }
    }
    several.serving.truncate(2);
    let answer = several.replicas[0].ca.explain(pod("pod-uid")).await?;
    assert!(answer.pods[0].certificate.is_some() && answer.pods[0].refusal.is_none());
    assert_eq!(answer.unanswered[0].replica, "ca-3");
    let nobody = several.replicas[0].ca.explain(pod("no-uid")).await;
    let message = nobody.expect_err("it is not known").message;
    assert!(message.contains("; ca-3 has not answered: "), "{message}");
    Ok(())
}

/// The token that a replica was shown last.
async fn last_token(house: &House) -> Result<String, Box<dyn std::error::Error>> {
    let pods = crate::explain::here(&house.ca, &pod("pod-uid")).await?;
    let token = pods.first().and_then(|pod| pod.token.clone());
    Ok(token.ok_or("it was shown one")?.id)
}

#[tokio::test]
async fn nobody_but_a_replica_is_told_of_pods() -> Outcome {
    let several = Several::start(&[&[], &[]]).await?;
    let (house, at) = (&several.replicas[0], several.serving[0].0);
    let bundle = house.ca.trust.current();
    let request = wire::ExplainPodsRequest {
        replica: house.ca.replica.to_string(),
        pods: vec![pod("shop/pod")],
    };
    let agent = issued(house, "spiffe://example.org/arx/node/c1/n1")?;
    let own = several.replicas[1].ca.authority.serving();
    for (svid, is_told) in [(own.as_ref(), true), (Some(&agent), false), (None, false)] {
        let expected = SpiffeId::parse(SERVING)?;
        let anchors = std::slice::from_ref(&*bundle);
        let connected = connect(&at.to_string(), anchors, svid, expected).await;
        let (channel, _) = connected.map_err(|why| format!("{why:?}"))?;
        let told = PeerClient::new(channel).explain_pods(request.clone()).await;
        assert_eq!(told.is_ok(), is_told, "{told:?}");
    }
    Ok(())
}
