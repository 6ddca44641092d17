//! Which of the authority's own certificates the ledger has as live.

use std::sync::Arc;

use arx_identity::KeyId;
use futures_util::FutureExt as _;

use super::*;
use crate::ca::Ca;
use crate::ledger::LiveFilter;
use crate::testing::{House, Outcome};

/// An authority that serves, as a process has it after its start.
struct Running {
    house: House,
    server: Arc<tls::Server>,
    presented: Arc<Presented>,
}

impl Running {
    async fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let house = House::new().await?;
        house.ca.ledger.live().ready().await;
        let (server, presented) = serve(&house.ca).await?;
        Ok(Self {
            house,
            server,
            presented,
        })
    }

    fn ca(&self) -> &Ca {
        &self.house.ca
    }

    async fn renew(&self) -> Result<Svid, Box<dyn std::error::Error>> {
        let next = self.ca().authority.prepare_serving(self.ca().clock.now())?;
        let made = Made::Serving(next.clone());
        took(self.ca(), &self.server, &self.presented, made).await?;
        self.ca().authority.install_serving(next.clone());
        Ok(next)
    }

    fn live(&self) -> Vec<String> {
        let now = self.ca().clock.now();
        let all = self.ca().ledger.live();
        let by_node = all.serials_by_node(&LiveFilter::default(), now);
        let serials = by_node.into_values().flatten();
        serials.map(|serial| serial.to_string()).collect()
    }
}

async fn serve(ca: &Ca) -> Result<(Arc<tls::Server>, Arc<Presented>), Box<dyn std::error::Error>> {
    let first = first_certificates(ca)
        .await
        .map_err(|error| error.message)?;
    let server = tls::Server::new(&first, &ca.trust.current())?;
    Ok((Arc::new(server), Arc::new(Presented::new(first))))
}

#[tokio::test]
async fn a_serving_certificate_is_released_when_another_is_shown() -> Outcome {
    let running = Running::start().await?;
    let first = running.presented.svid();
    release_replaced(running.ca(), &running.presented).await?;
    assert_eq!(running.live(), [first.serial().to_string()]);

    let second = running.renew().await?;
    assert_eq!(running.presented.svid().serial(), second.serial());
    for _ in 0..2 {
        release_replaced(running.ca(), &running.presented).await?;
        assert_eq!(running.live(), [second.serial().to_string()]);
    }
    let records = running.house.recorded(first.spiffe_id().as_str()).await;
    assert_eq!(records.len(), 2, "the ledger keeps both: {records:?}");
    Ok(())
}

#[tokio::test]
async fn each_replaced_one_is_released_while_the_process_runs() -> Outcome {
    let running = Running::start().await?;
    let renewals = async {
        for _ in 0..3 {
            let next = running.renew().await?;
            while running.live() != [next.serial().to_string()] {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    };
    tokio::select! {
        never = keep_released(running.ca(), &running.presented) => match never {},
        outcome = tokio::time::timeout(Duration::from_secs(60), renewals) => outcome?,
    }
}

#[tokio::test]
async fn one_of_a_process_before_is_released_and_what_others_hold_is_not() -> Outcome {
    let mut running = Running::start().await?;
    let now = running.ca().clock.now();
    let issuing = running.ca().authority.issuing().ok_or("it issues")?;
    let of_a_node = ledger::Issued {
        cluster: "c1".to_owned(),
        node: "n1".to_owned(),
        serial: vec![7],
        spiffe_id: running.presented.svid().spiffe_id().to_string(),
        ..issued_record(
            &issuing,
            running.presented.svid().chain().leaf(),
            running.ca().trust.current().sequence(),
        )
    };
    let of_another = ledger::Issued {
        serial: vec![8],
        spiffe_id: "spiffe://example.org/arx/ca/below".to_owned(),
        ..of_a_node.clone()
    };
    let records = [of_a_node, of_another].map(|record| ledger::Record::new(now, record));
    running.ca().ledger.append(records.into()).await?;

    let before = running.presented.svid();
    (running.server, running.presented) = serve(running.ca()).await?;
    let shown = running.presented.svid();
    release_replaced(running.ca(), &running.presented).await?;
    let live = running.live();
    assert!(!live.contains(&before.serial().to_string()));
    assert!(live.contains(&shown.serial().to_string()));
    assert_eq!(live.len(), 3, "{live:?}");
    Ok(())
}

#[tokio::test]
async fn after_an_exchange_of_roots_nothing_of_its_own_is_live_under_the_old_one() -> Outcome {
    let running = Running::start().await?;
    let ca = Arc::clone(&running.house.ca);
    let a = ca.authority.root_key_id();
    let count = |root: &KeyId| ca.ledger.live().count_under_root(root, ca.clock.now());
    let first = running.presented.svid();
    assert_eq!(count(&a), 1);

    let b = ca.authority.prepare_root(ca.clock.now()).await?;
    let b = b.subject_key_id().ok_or("the profile has it")?;
    let after = ca.trust.current().sequence();
    let mut roots = ca.trust.current().roots().to_vec();
    roots.push(ca.authority.prepare_root(ca.clock.now()).await?);
    ca.trust.publish(after, roots, ca.clock.now()).await?;
    running.presented.trust(&ca, &running.server).await?;
    ca.authority.activate(a, b).await?;
    assert!(ca.authority.follow_active().await?);

    let made = {
        let (ca, server, presented) = (
            Arc::clone(&ca),
            Arc::clone(&running.server),
            Arc::clone(&running.presented),
        );
        move |made| {
            let (ca, server, presented) =
                (Arc::clone(&ca), Arc::clone(&server), Arc::clone(&presented));
            async move { took(&ca, &server, &presented, made).await }.boxed()
        }
    };
    let mut shown = running.presented.shown.subscribe();
    tokio::select! {
        never = ca.authority.keep(&ca.clock, made) => match never {},
        shown = shown.wait_for(|svid| svid.serial() != first.serial()) => drop(shown?),
    }
    release_replaced(&ca, &running.presented).await?;
    assert_eq!((count(&a), count(&b)), (0, 1));
    Ok(())
}
