use arx_daemon::Clock;

use super::*;
use crate::state::{Phase, Rotation};
use crate::testing::{House, Outcome};

const DAY: Duration = Duration::from_secs(86_400);

fn day(days: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000) + DAY * days
}

/// An authority whose root lives for 30 days, on day 0.
async fn house(authority: &str) -> Result<House, Box<dyn std::error::Error>> {
    let authority = format!("root_ttl = \"30d\"\n{authority}");
    House::with(&authority, Clock::manual(day(0))).await
}

async fn all(house: &House) -> Result<Vec<Rotation>, Box<dyn std::error::Error>> {
    Ok(house.ca.state.rotations().await?.all)
}

fn words(refusal: Refusal) -> String {
    format!("{}: {}", refusal.code, refusal.message)
}

#[tokio::test]
async fn a_root_that_is_due_is_rotated_by_itself_and_the_rotation_says_why() -> Outcome {
    let house = house("").await?;
    house.clock.set(day(20) - Duration::from_secs(1));
    assert_eq!(house.ca.renew_root().await.map_err(words)?, Some(day(20)));
    assert!(all(&house).await?.is_empty(), "it is not due yet");
    house.clock.set(day(20));
    house.ca.renew_root().await.map_err(words)?;
    let begun = all(&house).await?;
    assert_eq!(begun.len(), 1);
    assert_eq!(begun[0].by, Initiator::Renewal);
    let ends = rfc3339(house.ca.authority.root().not_after());
    assert_eq!(begun[0].reason, format!("root ends at {ends}"));
    assert_eq!(begun[0].terms.window, Duration::from_secs(1800), "as usual");
    Ok(())
}

#[tokio::test]
async fn an_operator_says_how_long_before_its_end() -> Outcome {
    let house = house("root_renewal_lead = \"5d\"").await?;
    house.clock.set(day(24));
    assert_eq!(house.ca.renew_root().await.map_err(words)?, Some(day(25)));
    Ok(())
}

#[tokio::test]
async fn a_root_is_left_to_the_operator_where_that_is_configured() -> Outcome {
    let house = house("root_renewal = \"manual\"").await?;
    house.clock.set(day(29));
    assert_eq!(house.ca.renew_root().await.map_err(words)?, None);
    assert!(all(&house).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_falls_due_joins_the_rotation_that_is_under_way() -> Outcome {
    let house = house("").await?;
    house.clock.set(day(19));
    let terms = house.ca.terms(None, None, None);
    let begun = house.ca.rotate(terms, String::new(), Initiator::Operator);
    begun.await.map_err(words)?;
    house.clock.set(day(21));
    house.ca.renew_root().await.map_err(words)?;
    let all = all(&house).await?;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].by, Initiator::Operator);
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_was_turned_round_begins_again_when_a_quarter_of_the_rest_is_over() -> Outcome
{
    let house = house("").await?;
    let ca = &house.ca;
    house.clock.set(day(20));
    ca.renew_root().await.map_err(words)?;
    house.clock.advance(Duration::from_secs(2 * 86_400));
    ca.abort_rotation("", "not on a Friday".to_owned())
        .await
        .map_err(words)?;
    for _ in 0..20 {
        if all(&house).await?[0].phase == Phase::Aborted {
            break;
        }
        ca.look_again().await.map_err(words)?;
    }
    assert_eq!(all(&house).await?[0].phase, Phase::Aborted);
    assert_eq!(ca.renew_root().await.map_err(words)?, Some(day(24)));
    assert_eq!(all(&house).await?.len(), 1);
    house.clock.set(day(24));
    ca.renew_root().await.map_err(words)?;
    assert_eq!(all(&house).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_window_that_does_not_fit_before_the_roots_end_is_refused_and_one_that_nobody_asked_for_fits()
-> Outcome {
    let house = house("root_renewal = \"manual\"").await?;
    let ca = &house.ca;
    house
        .clock
        .set(day(30) - Duration::from_secs(32 * 3600 + 1800));
    let slowly = ca.terms(Some(Duration::from_secs(3600)), None, None);
    let refused = ca.rotate(slowly, String::new(), Initiator::Operator).await;
    assert_eq!(
        refused.err().map(|refusal| refusal.code),
        Some("ARX-ROTATION-ROOT-ENDS")
    );
    assert!(all(&house).await?.is_empty(), "nothing has begun");
    let terms = ca.terms(None, None, None);
    assert!(terms.window < Duration::from_secs(1800), "{terms:?}");
    ca.rotate(terms, String::new(), Initiator::Operator)
        .await
        .map_err(words)?;
    Ok(())
}
