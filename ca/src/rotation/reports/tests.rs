use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_proto::node::v1 as wire;
use arx_proto::node::v1::issue_item::Evidence;

use super::*;
use crate::authority::{AuthorityError, at_step};
use crate::caller::Node;
use crate::fleet::Session;
use crate::state::{Initiator, RootState, Terms};
use crate::testing::{House, Outcome, node};

/// A rotation in Distribute whose gates open as soon as nobody is in the way.
async fn begun(house: &House) -> Outcome {
    begun_with(house, Duration::ZERO).await
}

/// The same, with gates that stay shut for so long after the last that was in their way.
async fn begun_with(house: &House, dwell: Duration) -> Outcome {
    let terms = Terms {
        window: Duration::ZERO,
        dwell,
        patience: None,
    };
    house
        .ca
        .rotate(terms, "a test".to_owned(), Initiator::Operator)
        .await?;
    Ok(())
}

/// Looks until nothing changes by looking.
async fn settles(houses: &[&House]) -> Outcome {
    for _ in 0..16 {
        look(houses).await?;
    }
    Ok(())
}

/// The same for as long as a gate stays shut that rests on a word.
async fn goes_on(houses: &[&House]) -> Outcome {
    for _ in 0..16 {
        tokio::time::advance(LEAST / 4).await;
        look(houses).await?;
    }
    Ok(())
}

async fn look(houses: &[&House]) -> Outcome {
    for house in houses {
        house.ca.trust.refresh().await?;
        house.ca.denials.refresh().await?;
        house.ca.look_again().await?;
        renews(house).await?;
    }
    Ok(())
}

/// A clock that stands still unless a test has it go on.
fn clock() -> Clock {
    Clock::following_tokio(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 31))
}

/// What an authority does by itself when another root signs.
async fn renews(house: &House) -> Outcome {
    let authority = &house.ca.authority;
    let now = house.clock.now();
    let root = authority.root_key_id();
    let is_old = authority.issuing().is_none_or(|it| it.root() != root);
    if is_old || authority.serving().is_none() {
        let prepared = authority.prepare(now).await?;
        authority.install(prepared);
        let serving = authority.prepare_serving(now)?;
        authority.install_serving(serving);
    }
    Ok(())
}

fn phase(house: &House) -> Phase {
    house.ca.current_view().expect("a rotation").rotation.phase
}

/// Who is in the way there, by name and reason.
fn open(house: &House) -> Vec<(String, &'static str)> {
    let view = house.ca.current_view().expect("a rotation");
    let open = view.obstacles.iter();
    open.map(|it| (it.node.clone(), it.reason)).collect()
}

/// It says that it has stored what is published.
fn stores(house: &House, agent: &Session) {
    let bundle = house.ca.trust.current();
    agent.stored(wire::TrustPosition {
        kind: wire::TrustKind::X509Roots.into(),
        sequence: Some(crate::node_api::sequence(bundle.sequence())),
        sha256: bundle.sha256().to_vec().into(),
    });
}

/// It shows once more that it holds nothing.
fn shows_nothing(house: &House, agent: &Session, cache: u8, ordinal: u64) {
    let inventory = wire::Inventory {
        cache_id: vec![cache; 16].into(),
        ordinal,
        leaves: Vec::new(),
        complete: true,
    };
    let taken = agent.inventory(inventory, Vec::new, house.clock.now());
    taken.expect("it is whole");
}

const NODE: &str = "c1/n1";

#[tokio::test]
async fn a_gate_waits_for_whoever_another_replica_waits_for_and_for_one_that_says_nothing()
-> Outcome {
    let one = House::new().await?;
    let other = one.beside("ca-2").await?;
    let agent = other.follow(&node(), 1);
    begun(&one).await?;
    settles(&[&one]).await?;
    assert_eq!(open(&one), [("ca-2".to_owned(), "replica-behind")]);
    // It has seen the bundle, and says nothing yet.
    other.ca.trust.refresh().await?;
    settles(&[&one]).await?;
    assert_eq!(open(&one), [("ca-2".to_owned(), "replica-silent")]);
    settles(&[&other, &one]).await?;
    assert_eq!(open(&one), [(NODE.to_owned(), "agent-behind")]);
    assert_eq!(phase(&one), Phase::Distribute);
    stores(&other, &agent);
    settles(&[&other, &one]).await?;
    assert_eq!(open(&one), [(NODE.to_owned(), "not-reported")]);
    shows_nothing(&other, &agent, 1, 1);
    settles(&[&other, &one]).await?;
    assert_eq!(phase(&one), Phase::Retire);
    stores(&other, &agent);
    settles(&[&other, &one]).await?;
    assert_eq!(phase(&one), Phase::Done, "{:?}", open(&one));
    let roots = one.ca.trust.current();
    assert_eq!(roots.roots().len(), 1);
    assert_eq!(
        other.ca.authority.root_key_id(),
        one.ca.authority.root_key_id()
    );
    Ok(())
}

/// A certificate for something on the node, from this replica's ledger on.
async fn issue(house: &House) -> Outcome {
    let local = wire::LocalProcess {
        uid: 1000,
        ..wire::LocalProcess::default()
    };
    issue_to(house, &node(), Evidence::Local(local)).await
}

async fn issue_to(house: &House, node: &Arc<Node>, evidence: Evidence) -> Outcome {
    let items = vec![house.item(evidence)];
    let results = house.ca.issue(node, items).await;
    let outcome = results.into_iter().next().and_then(|it| it.outcome);
    let Some(wire::issue_result::Outcome::Issued(_)) = outcome else {
        return Err(format!("{outcome:?}").into());
    };
    house.ca.ledger.live().ready().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_gone_over_to_another_replica_is_well_by_the_word_of_that_one() -> Outcome {
    let one = House::with("", clock()).await?;
    let other = one.beside("ca-2").await?;
    issue(&one).await?;
    let agent = other.follow(&node(), 1);
    begun(&one).await?;
    goes_on(&[&one, &other]).await?;
    // The one misses it, the other has not heard that it has the bundle.
    let reasons: Vec<_> = open(&one).into_iter().map(|it| it.1).collect();
    assert!(reasons.contains(&"agent-behind"), "{reasons:?}");
    stores(&other, &agent);
    goes_on(&[&one, &other]).await?;
    assert_eq!(phase(&one), Phase::Reissue);
    // The ledger of the one has a certificate under the old root, and the node has to show twice
    // that it is gone.
    assert_eq!(open(&one).first().map(|it| it.0.as_str()), Some(NODE));
    shows_nothing(&other, &agent, 1, 1);
    goes_on(&[&one, &other]).await?;
    assert_eq!(phase(&one), Phase::Reissue);
    shows_nothing(&other, &agent, 1, 2);
    goes_on(&[&one, &other]).await?;
    assert!(phase(&one) > Phase::Reissue, "{:?}", open(&one));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_that_have_gone_over_to_another_replica_keep_no_gate_shut() -> Outcome {
    let one = House::with("", clock()).await?;
    let other = one.beside("ca-2").await?;
    // Which knows of them by itself.
    other.ca.leading.set(false);
    let mut agents = Vec::new();
    for number in 0..1000 {
        let name = format!(
            "ip-10-0-{}-{}.eu-central-1.compute.internal",
            number / 256,
            number % 256
        );
        let node = Arc::new(Node {
            name: NodeName {
                node: name.into(),
                ..node().name.clone()
            },
            ..Node::clone(&node())
        });
        issue_to(&one, &node, Evidence::Node(wire::NodeRenewal {})).await?;
        agents.push(other.follow(&node, 1));
    }
    begun(&one).await?;
    settles(&[&one, &other]).await?;
    assert!(open(&one).len() > 1000, "{:?}", open(&one));
    for agent in &agents {
        stores(&other, agent);
    }
    goes_on(&[&one, &other]).await?;
    assert_eq!(phase(&one), Phase::Reissue);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_word_of_where_a_node_was_before_counts_against_what_it_has_told_since() -> Outcome {
    let one = House::with("", clock()).await?;
    let (before, third) = (one.beside("ca-2").await?, one.beside("ca-3").await?);
    let all = [&before, &third, &one];
    issue(&one).await?;
    begun_with(&one, Duration::from_secs(600)).await?;
    // Its connection breaks without a word, and is not given up yet.
    let broken = before.follow(&node(), 1);
    settles(&all).await?;
    stores(&before, &broken);
    settles(&all).await?;
    assert_eq!((open(&one), open(&third)), (Vec::new(), Vec::new()));
    let agent = one.follow(&node(), 1);
    settles(&all).await?;
    assert_eq!(open(&one), [(NODE.to_owned(), "agent-behind")]);
    let came = tokio::time::Instant::now();
    drop(agent);
    tokio::time::advance(EVERY).await;
    settles(&all).await?;
    while came.elapsed() + STEP < LATELY {
        tokio::time::advance(STEP).await;
        look(&all).await?;
        for house in all {
            assert_eq!(open(house), [(NODE.to_owned(), "agent-away")]);
        }
    }
    // By then it would not count as connected there.
    tokio::time::advance(STEP).await;
    settles(&all).await?;
    for house in all {
        assert_eq!(open(house), []);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_node_tells_where_it_has_gone_counts_at_once_where_it_was() -> Outcome {
    let one = House::with("", clock()).await?;
    let (other, third) = (one.beside("ca-2").await?, one.beside("ca-3").await?);
    let all = [&other, &third, &one];
    issue(&one).await?;
    begun_with(&one, Duration::from_secs(600)).await?;
    drop(one.follow(&node(), 1));
    tokio::time::advance(STEP).await;
    let agent = other.follow(&node(), 1);
    settles(&all).await?;
    stores(&other, &agent);
    settles(&all).await?;
    assert_eq!((open(&one), open(&third)), (Vec::new(), Vec::new()));
    Ok(())
}

#[test]
fn a_report_is_read_by_the_version_before_and_one_of_that_by_this() -> Outcome {
    let asks = Report {
        away: vec![NODE.to_owned()],
        ..report(0)
    };
    let says = Report {
        well: vec![NODE.to_owned()],
        ..report(0)
    };
    let text = serde_json::to_string(&[&asks, &says])?;
    assert!(!text.contains("away_began_ms") && !text.contains("well_began_ms"));
    assert_eq!(
        serde_json::from_str::<Vec<Report>>(&text)?,
        [asks, says.clone()]
    );
    // Whoever does not say when a Follow began is not believed against one that is known.
    let well = Well::of([&says].into_iter());
    assert!(well.has(NODE, None) && !well.has(NODE, Some(i64::MIN)));
    Ok(())
}

#[test]
fn however_long_names_are_a_report_asks_for_no_more_than_so_many_bytes_of_them() {
    let named = |length: usize| {
        let obstacle = |number: usize| Obstacle {
            node: format!("{number:0length$}"),
            reason: Reason::AgentAway.as_str(),
            ..Obstacle::default()
        };
        let waiting: Vec<_> = (0..2 * AWAY / length).map(obstacle).collect();
        Away::of(&waiting, &Fleet::default(), SystemTime::UNIX_EPOCH).nodes
    };
    for length in [8, 40, 316] {
        let names = named(length);
        assert_eq!(names.len(), AWAY / length);
        assert!(names.iter().all(|name| name.len() == length));
    }
}

#[tokio::test]
async fn a_replica_that_does_not_lead_takes_no_step_and_follows_every_one() -> Outcome {
    let one = House::new().await?;
    let other = one.beside("ca-2").await?;
    begun(&one).await?;
    one.ca.leading.set(false);
    other.ca.leading.set(false);
    settles(&[&one, &other]).await?;
    let before = one.ca.state.rotations().await?;
    settles(&[&one, &other]).await?;
    assert_eq!(one.ca.state.rotations().await?, before);
    other.ca.leading.set(true);
    settles(&[&one, &other]).await?;
    assert_eq!(phase(&other), Phase::Done, "{:?}", open(&other));
    let root = other.ca.authority.root_key_id();
    assert_eq!(one.ca.authority.issuing().map(|it| it.root()), Some(root));
    Ok(())
}

#[tokio::test]
async fn a_step_that_comes_after_a_later_one_changes_nothing() -> Outcome {
    let house = House::new().await?;
    let authority = &house.ca.authority;
    let now = house.clock.now();
    let first = authority.root_key_id();
    let next = at_step(3, authority.prepare_root(now)).await?;
    let next = next.subject_key_id().ok_or("a root has one")?;
    at_step(5, authority.activate(first, next)).await?;
    let late = at_step(4, authority.activate(next, first)).await;
    assert!(matches!(late, Err(AuthorityError::Fenced)), "{late:?}");
    let stored = house.ca.state.authorities().await?.ok_or("roots")?.value;
    let active = stored.active().ok_or("one signs")?;
    assert_eq!(
        (active.key_id(), &active.state),
        (Some(next), &RootState::Active)
    );
    at_step(5, authority.activate(next, first)).await?;
    Ok(())
}

/// What a replica says at that second, of nobody.
fn report(said: u64) -> Report {
    Report {
        gate: Gate {
            rotation: "r1".to_owned(),
            phase: Phase::Distribute,
            began: SystemTime::UNIX_EPOCH,
            sequence: None,
        },
        signs_under: KeyId::from_slice(&[1; 20]).expect("20 bytes"),
        confirmed: 0,
        open: 0,
        named: Vec::new(),
        away: Vec::new(),
        away_began_ms: BTreeMap::new(),
        well: Vec::new(),
        well_began_ms: Vec::new(),
        below: Vec::new(),
        said: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(said)),
        extra: Map::new(),
    }
}

#[test]
fn those_who_are_waited_for_beyond_the_named_are_counted() {
    let waiting: Vec<Obstacle> = (0..NAMED + 7)
        .map(|number| Obstacle {
            node: format!("c1/n{number}"),
            reason: "not-acked",
            ..Obstacle::default()
        })
        .collect();
    let named = waiting.iter().take(NAMED).map(|it| Open {
        node: it.node.clone(),
        process: String::new(),
        resource: String::new(),
        reason: it.reason.to_owned(),
        began_ms: None,
        workload_count: 0,
        ends: None,
    });
    let report = Report {
        open: waiting.len() as u64,
        named: named.collect(),
        ..report(0)
    };
    let name = "ca-2".to_owned();
    let told = of_others([(&name, &&report)].into_iter(), &Well::default());
    assert_eq!(told.len(), NAMED + 1);
    let last = told.last().expect("the rest");
    assert_eq!(
        (last.reason, &*last.detail, last.count()),
        ("replica-waits", "it waits for 7 more", 7)
    );
}

#[tokio::test(start_paused = true)]
async fn the_word_of_a_replica_that_has_died_keeps_no_node_well() -> Outcome {
    let dwell = Duration::from_secs(15);
    let one = House::with("", clock()).await?;
    let other = one.beside("ca-2").await?;
    issue(&one).await?;
    let agent = other.follow(&node(), 1);
    begun_with(&one, dwell).await?;
    settles(&[&one, &other]).await?;
    stores(&other, &agent);
    settles(&[&one, &other]).await?;
    assert_eq!(open(&one), [], "it is well by the word of the other");
    // As long as that is alive, it says so again and again.
    for _ in 0..3 {
        tokio::time::advance(BEAT).await;
        other.ca.look_again().await?;
        one.ca.look_again().await?;
        assert_eq!(open(&one), []);
    }
    tokio::time::advance(BELIEVED).await;
    one.ca.look_again().await?;
    assert_eq!(open(&one), [(NODE.to_owned(), "agent-away")]);
    assert_eq!(phase(&one), Phase::Distribute);
    other.ca.look_again().await?;
    one.ca.look_again().await?;
    assert_eq!(open(&one), []);
    Ok(())
}

/// One waits for a node that is well by the word of the other, by now.
async fn resting_on_a_word(
    dwell: Duration,
) -> Result<(House, House, Session), Box<dyn std::error::Error>> {
    let one = House::with("", clock()).await?;
    let other = one.beside("ca-2").await?;
    // Which knows of the node by itself.
    other.ca.leading.set(false);
    issue(&one).await?;
    let agent = other.follow(&node(), 1);
    begun_with(&one, dwell).await?;
    settles(&[&one, &other]).await?;
    stores(&other, &agent);
    settles(&[&one, &other]).await?;
    assert_eq!((phase(&one), open(&one)), (Phase::Distribute, Vec::new()));
    Ok((one, other, agent))
}

/// Between looks in these tests.
const STEP: Duration = Duration::from_millis(250);

#[tokio::test(start_paused = true)]
async fn however_short_its_dwell_a_gate_opens_by_no_word_that_is_older_than_the_last_in_its_way()
-> Outcome {
    for dwell in [0, 300, 1000, 5000] {
        let (one, _dead, _agent) = resting_on_a_word(Duration::from_millis(dwell)).await?;
        for _ in 0..80 {
            tokio::time::advance(STEP).await;
            one.ca.look_again().await?;
        }
        let left = (phase(&one), open(&one));
        let waits = vec![(NODE.to_owned(), "agent-away")];
        assert_eq!(left, (Phase::Distribute, waits), "after {dwell} ms");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_gate_of_any_dwell_opens_by_a_word_that_is_said_again() -> Outcome {
    for dwell in [0, 300, 1000, 5000] {
        let (one, other, _agent) = resting_on_a_word(Duration::from_millis(dwell)).await?;
        let began = tokio::time::Instant::now();
        while phase(&one) == Phase::Distribute {
            tokio::time::advance(STEP).await;
            other.ca.look_again().await?;
            one.ca.look_again().await?;
            assert!(began.elapsed() < Duration::from_secs(60), "{dwell} ms");
        }
        assert!(began.elapsed() >= Duration::from_millis(dwell));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_one_replica_believes_of_another_is_believed_by_a_third_only_as_long_as_it_is_said()
-> Outcome {
    let one = House::with("", clock()).await?;
    let (misses, has) = (one.beside("ca-2").await?, one.beside("ca-3").await?);
    issue(&misses).await?;
    let agent = has.follow(&node(), 1);
    begun_with(&one, Duration::from_secs(15)).await?;
    settles(&[&one, &misses, &has]).await?;
    stores(&has, &agent);
    settles(&[&one, &misses, &has]).await?;
    assert_eq!((phase(&one), open(&one)), (Phase::Distribute, Vec::new()));
    // Both die, and with them what the one has said because of the other.
    tokio::time::advance(Duration::from_secs(13)).await;
    one.ca.look_again().await?;
    assert_eq!(open(&one), [(NODE.to_owned(), "agent-away")]);
    has.ca.look_again().await?;
    one.ca.look_again().await?;
    assert_eq!(open(&one), []);
    Ok(())
}

#[test]
fn a_report_that_was_there_before_anybody_looked_counts_when_it_is_said_again() {
    let well = |said: u64| Report {
        well: vec![NODE.to_owned()],
        ..report(said)
    };
    let (mut heard, name, start) = (None, "ca-2".to_owned(), Instant::now());
    let mut hears = |said: u64, second: u64| {
        let report = well(said);
        let now = start + Duration::from_secs(second);
        let dwell = Duration::from_secs(15);
        let alive = alive(&mut heard, [(&name, &report)].into_iter(), dwell, now);
        !alive.is_empty()
    };
    assert!(!hears(100, 0), "nobody knows how old it is");
    assert!(!hears(100, 4));
    assert!(hears(104, 5));
    assert!(hears(104, 14));
    assert!(!hears(104, 15));
    // By whatever clock.
    assert!(hears(3, 19));
}

#[test]
fn a_report_by_which_nobody_is_well_is_not_said_again() {
    let start = Instant::now();
    let later = start + 100 * BEAT;
    let (told, again) = (report(0), report(9));
    let told = Told::new(told, start);
    assert!(!Told::is_out_of_date(Some(&told), &again, BEAT, later));
}

#[test]
fn that_somebody_is_in_the_way_of_a_clear_gate_is_said_at_once() {
    let start = Instant::now();
    let clear = Told::new(report(0), start);
    let shut = Report {
        open: 1,
        ..report(0)
    };
    assert!(Told::is_out_of_date(Some(&clear), &shut, BEAT, start));
    // Another one who is in the way, too, may wait.
    let more = Report {
        open: 2,
        ..report(0)
    };
    let shut = Told::new(shut, start);
    assert!(!Told::is_out_of_date(Some(&shut), &more, BEAT, start));
    assert!(Told::is_out_of_date(
        Some(&shut),
        &more,
        BEAT,
        start + EVERY
    ));
}

#[test]
fn a_word_is_said_in_time_to_be_believed_and_believed_for_less_than_a_gate_stays_shut() {
    const LOOK: Duration = Duration::from_secs(1);
    for own in [0, 1, 500, 1000, 2000, 15_000, 3_600_000].map(Duration::from_millis) {
        let (beat, believed, dwell) = (beat(own), believed(own), dwell(own));
        assert!(dwell >= own);
        assert!(2 * beat < believed, "{own:?}");
        // It is seen at a look after it was said.
        assert!(believed + beat.min(LOOK) < dwell, "{own:?}");
    }
}
