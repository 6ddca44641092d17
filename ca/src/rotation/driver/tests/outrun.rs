//! What an operator wishes either happens or is refused, also when another replica takes a step
//! at the same moment.

use super::*;
use crate::caller::Node;
use crate::fleet::Session;
use crate::seal::Seal;
use crate::state::{Authorities, Passed, State};
use crate::store::faults::Fault as StoreFault;
use crate::testing::node;

/// An authority whose rotation waits in Distribute for an agent.
struct Waiting {
    house: House,
    store: Arc<Faulty>,
    _agent: Session,
}

impl Waiting {
    async fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
        let house = House::over(store.clone(), "", Clock::system()).await?;
        let agent = house.follow(&node(), 1);
        let terms = house
            .ca
            .terms(Some(Duration::ZERO), Some(Duration::ZERO), None);
        let terms = Terms {
            dwell: Duration::ZERO,
            ..terms
        };
        house
            .ca
            .rotate(terms, "a test".to_owned(), Initiator::Operator)
            .await?;
        let waiting = Self {
            house,
            store,
            _agent: agent,
        };
        waiting.settles().await?;
        assert_eq!(waiting.stored().await?.phase, Phase::Distribute);
        Ok(waiting)
    }

    /// Looks until nothing changes by looking.
    async fn settles(&self) -> Outcome {
        for _ in 0..8 {
            self.house.ca.trust.refresh().await?;
            self.house.ca.look_again().await?;
        }
        Ok(())
    }

    async fn stored(&self) -> Result<Rotation, Box<dyn std::error::Error>> {
        let mut stored = self.house.ca.state.rotations().await?;
        Ok(stored.all.pop().ok_or("there is one")?)
    }

    /// The state as another replica has it: whoever wrote something knows when a read is older.
    async fn another(&self) -> Result<State, StateError> {
        let (store, domain) = (self.store.clone(), &self.house.ca.trust_domain);
        State::open(store, Seal::plain(), domain, "another").await
    }

    /// Another replica has the prepared root sign, and the key of the one before is lost.
    async fn exchanges_roots(&self) -> Outcome {
        let state = self.another().await?;
        state
            .update(&state.key(&Authorities::KIND), |found| {
                let found: Option<Loaded<Authorities>> = found;
                let mut authorities = found.map(|found| found.value).unwrap_or_default();
                for root in &mut authorities.roots {
                    if root.state == RootState::Prepared {
                        root.state = RootState::Active;
                    } else {
                        root.state = RootState::Retiring;
                        root.key = KeyPlace::Erased;
                    }
                }
                Ok::<_, StateError>(Decision::Write(authorities, ()))
            })
            .await?;
        Ok(())
    }

    /// Another replica changes the rotation, which the next `reads` of it do not show yet.
    async fn is_outrun(&self, reads: usize, change: impl Fn(&mut Rotation)) -> Outcome {
        let state = self.another().await?;
        state
            .update(&state.key(&Rotations::KIND), |found| {
                let found: Option<Loaded<Rotations>> = found;
                let mut rotations = found.map(|found| found.value).unwrap_or_default();
                rotations.all.last_mut().map(&change);
                Ok::<_, StateError>(Decision::Write(rotations, ()))
            })
            .await?;
        for _ in 0..reads {
            self.store.next(StoreFault::StaleRead);
        }
        Ok(())
    }
}

/// A step that changes nothing of what was wished.
fn aside(rotation: &mut Rotation) {
    rotation.reason.push('!');
}

fn turned(rotation: &Rotation) -> usize {
    let turned = rotation.passed.iter();
    turned.filter(|it| it.aborted.is_some()).count()
}

#[tokio::test]
async fn an_abort_that_another_step_comes_before_is_done_after_it() -> Outcome {
    let it = Waiting::start().await?;
    it.is_outrun(1, aside).await?;
    it.house.ca.turn_round("", "a mistake".to_owned()).await?;
    assert!(it.store.is_spent());
    let stored = it.stored().await?;
    assert_eq!((stored.phase, turned(&stored)), (Phase::Withdraw, 1));
    assert!(stored.reason.ends_with('!'), "the other's step is kept");
    Ok(())
}

#[tokio::test]
async fn what_another_has_turned_round_at_the_same_moment_is_not_turned_back() -> Outcome {
    let it = Waiting::start().await?;
    it.is_outrun(1, |rotation| {
        rotation.passed.push(Passed {
            phase: rotation.phase,
            began: rotation.phase_began,
            ended: rotation.phase_began,
            sequence: None,
            confirmed: 0,
            forced: None,
            aborted: Some("by another".to_owned()),
            denied: None,
        });
        rotation.phase = Phase::Held;
    })
    .await?;
    let refused = it.house.ca.turn_round("", "a mistake".to_owned()).await;
    assert!(it.store.is_spent());
    let refused = refused.expect_err("it was turned round already");
    assert_eq!(refused.code, "ARX-ROTATION-OUTRUN");
    assert_eq!(it.stored().await?.phase, Phase::Held);
    Ok(())
}

#[tokio::test]
async fn an_abort_that_another_step_leaves_no_way_back_for_is_refused() -> Outcome {
    let it = Waiting::start().await?;
    it.exchanges_roots().await?;
    it.is_outrun(3, |rotation| rotation.phase = Phase::Reissue)
        .await?;
    let refused = it.house.ca.turn_round("", "a mistake".to_owned()).await;
    assert!(it.store.is_spent());
    let refused = refused.expect_err("the root that would sign again cannot");
    assert_eq!(refused.code, "ARX-ROTATION-NO-WAY-BACK");
    let stored = it.stored().await?;
    assert_eq!((stored.phase, turned(&stored)), (Phase::Reissue, 0));
    Ok(())
}

#[tokio::test]
async fn a_rotation_that_is_held_goes_on_though_another_step_came_before() -> Outcome {
    let it = Waiting::start().await?;
    it.is_outrun(0, |rotation| rotation.phase = Phase::Held)
        .await?;
    it.is_outrun(1, aside).await?;
    it.house.ca.continue_rotation("", None).await?;
    assert!(it.store.is_spent());
    assert_eq!(it.stored().await?.phase, Phase::Retire);
    Ok(())
}

#[tokio::test]
async fn a_gate_is_forced_though_another_step_came_before() -> Outcome {
    let it = Waiting::start().await?;
    let shown = it
        .house
        .ca
        .current_view()?
        .digest()
        .ok_or("one is waited for")?;
    it.is_outrun(1, aside).await?;
    let why = || "a test".to_owned();
    let forced = it.house.ca.continue_rotation("", Some((why(), &shown)));
    forced.await?;
    assert!(it.store.is_spent());
    let stored = it.stored().await?;
    assert_eq!(stored.phase, Phase::Activate);
    let passed = stored.passed.last().ok_or("it was passed")?;
    assert!(passed.forced.is_some());
    // The next gate is another one.
    let again = it.house.ca.continue_rotation("", Some((why(), &shown)));
    let again = again.await.expect_err("it was not shown");
    assert_eq!(again.code, "ARX-ROTATION-LIST-CHANGED");
    Ok(())
}

#[tokio::test]
async fn who_came_after_the_list_was_shown_is_not_left_behind() -> Outcome {
    let it = Waiting::start().await?;
    let shown = it
        .house
        .ca
        .current_view()?
        .digest()
        .ok_or("one is waited for")?;
    let mut new = Node::clone(&node());
    new.name.node = "n2".into();
    let _agent = it.house.follow(&new, 2);
    let force = || {
        it.house
            .ca
            .continue_rotation("", Some(("a test".to_owned(), &shown)))
    };
    let refused = force().await.expect_err("nobody has looked since");
    assert_eq!(refused.code, "ARX-ROTATION-LIST-CHANGED");
    assert_eq!(it.stored().await?.phase, Phase::Distribute);
    Ok(())
}

#[tokio::test]
async fn a_distrust_that_another_step_comes_before_is_begun_after_it() -> Outcome {
    let it = Waiting::start().await?;
    let before = it.stored().await?;
    it.is_outrun(2, aside).await?;
    let terms = before.terms;
    let distrust = it
        .house
        .ca
        .distrust(before.from, terms, "stolen".to_owned(), false);
    distrust.await?;
    assert!(it.store.is_spent());
    assert_eq!(it.stored().await?.kind, Kind::Distrust);
    Ok(())
}
