mod outrun;

use std::convert::Infallible;
use std::time::Duration;

use arx_daemon::Clock;
use futures_util::FutureExt as _;

use super::*;
use crate::state::RootState;
use crate::store::Memory;
use crate::store::faults::Faulty;
use crate::testing::{House, Outcome};

/// What goes on beside answering calls, as far as a rotation needs it.
async fn runs(house: &House) -> Infallible {
    let signs = house
        .ca
        .authority
        .keep(&house.clock, |_| async { Ok(()) }.boxed());
    let rotates = house.ca.keep_rotating();
    tokio::select! {
        never = signs => never,
        () = rotates => unreachable!("it goes on for ever"),
    }
}

/// Returns when the last rotation has ended.
async fn ends(house: &House) -> Result<Rotation, Box<dyn std::error::Error>> {
    loop {
        // A read may fail as any.
        if let Ok(rotations) = house.ca.state.rotations().await
            && let Some(last) = rotations.all.last()
            && last.phase.is_over()
        {
            return Ok(last.clone());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_comes_through_a_store_that_conflicts_fails_and_loses_answers_at_any_moment()
-> Outcome {
    for seed in 0..20 {
        let store = Arc::new(Faulty::new(Arc::new(Memory::new())));
        let clock = Clock::following_tokio(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 31));
        let house = House::over(store.clone(), "", clock).await?;
        let before = house.ca.authority.root();
        store.roll(seed, 20);
        let ended = async {
            let pace = Some(Duration::from_secs(1));
            let terms = house.ca.terms(Some(Duration::ZERO), pace, None);
            while let Err(refusal) = house
                .ca
                .rotate(terms, "a test".to_owned(), Initiator::Operator)
                .await
            {
                // Each refusal says why; one of them may have begun it all the same.
                assert!(!refusal.message.is_empty(), "seed {seed}");
                if refusal.code == "ARX-ROTATION-UNDER-WAY" {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            ends(&house).await
        };
        let ended = tokio::select! {
            ended = ended => ended?,
            never = runs(&house) => match never {},
        };
        store.heal().await;
        let phases: Vec<_> = ended.passed.iter().map(|passed| passed.phase).collect();
        let order = [
            Phase::Prepare,
            Phase::Distribute,
            Phase::Activate,
            Phase::Reissue,
            Phase::Retire,
        ];
        assert_eq!(
            (ended.phase, &phases[..]),
            (Phase::Done, &order[..]),
            "seed {seed}"
        );
        assert!(
            ended.passed.iter().all(|it| it.forced.is_none()),
            "seed {seed}"
        );
        let stored = house.ca.state.authorities().await?.ok_or("the roots")?;
        let roots: Vec<_> = stored.value.roots.iter().map(|it| &it.state).collect();
        assert_eq!(roots, [&RootState::Active], "seed {seed}");
        let root = &stored.value.roots[0].certificate;
        assert_ne!(*root, before, "seed {seed}");
        assert_eq!(
            house.ca.trust.current().roots(),
            std::slice::from_ref(root),
            "seed {seed}"
        );
        assert_eq!(
            house.ca.state.rotations().await?.all.len(),
            1,
            "seed {seed}"
        );
    }
    Ok(())
}

#[test]
fn how_long_nobody_is_in_the_way_is_counted_by_phase_and_from_the_last_who_was() {
    let rotator = Rotator::default();
    let start = Instant::now();
    let after = |seconds: u64| start + Duration::from_secs(seconds);
    let terms = Terms {
        window: Duration::ZERO,
        dwell: Duration::ZERO,
        patience: None,
    };
    let root = KeyId::from_slice(&[1; 20]).expect("20 bytes");
    let (mut all, why) = (Rotations::default(), String::new());
    let begun = begin(&mut all, root, terms, why, SystemTime::UNIX_EPOCH);
    let mut rotation = begun.expect("none is under way");
    let seconds = Duration::from_secs;
    assert_eq!(rotator.clear_for(&rotation, true, after(1)), Duration::ZERO);
    assert_eq!(rotator.clear_for(&rotation, true, after(5)), seconds(4));
    assert_eq!(
        rotator.clear_for(&rotation, false, after(6)),
        Duration::ZERO
    );
    assert_eq!(rotator.clear_for(&rotation, true, after(7)), Duration::ZERO);
    assert_eq!(rotator.clear_for(&rotation, true, after(9)), seconds(2));
    rotation.aborting = true;
    assert_eq!(
        rotator.clear_for(&rotation, true, after(10)),
        Duration::ZERO
    );
    rotation.phase = Phase::Retire;
    assert_eq!(
        rotator.clear_for(&rotation, true, after(20)),
        Duration::ZERO
    );
}
