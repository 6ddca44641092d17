//! The loop that renews, on a clock that goes with tokio's paused time.

use std::sync::Mutex as StdMutex;

use arx_daemon::Clock;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::*;

pub(super) fn short() -> Options {
    Options {
        root_ttl: DAY,
        intermediate_ttl: 10 * HOUR,
        serving_ttl: HOUR,
        serving_names: Vec::new(),
        longest_leaf: HOUR,
        ..options()
    }
}

pub(super) type Recorder = Box<dyn FnMut(Made) -> BoxFuture<'static, Result<(), String>> + Send>;

/// Records everything, and tells what it was.
pub(super) fn recorder() -> (Recorder, mpsc::UnboundedReceiver<Made>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let record = move |made: Made| {
        let taken = sender.send(made).map_err(|_| "nobody listens".to_owned());
        async move { taken }.boxed()
    };
    (Box::new(record), receiver)
}

async fn next_of(made: &mut mpsc::UnboundedReceiver<Made>, wanted: fn(&Made) -> bool) -> Made {
    loop {
        let one = made.recv().await.expect("the loop runs");
        if wanted(&one) {
            return one;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn both_certificates_are_made_at_once_and_renewed_in_time_for_ever() {
    let clock = Clock::following_tokio(now());
    let authority = open(&memory(), short()).await.expect("it starts");
    let (record, mut made) = recorder();
    let test = async {
        assert!(matches!(made.recv().await, Some(Made::Intermediate(_))));
        assert!(matches!(made.recv().await, Some(Made::Serving(_))));
        let mut last = authority.issuing().expect("it is installed").intermediate();
        // The root ends after a day; until shortly before, there is always enough left.
        for _ in 0..2 {
            let renewed = next_of(&mut made, |made| matches!(made, Made::Intermediate(_))).await;
            let Made::Intermediate(renewed) = renewed else {
                unreachable!("just matched")
            };
            let left = authority
                .issuing()
                .expect("the one before still signs")
                .not_after();
            assert!(
                left >= clock.now() + short().longest(),
                "a whole leaf still fits"
            );
            let id = renewed
                .certificate
                .subject_key_id()
                .expect("the profile has it");
            assert_ne!(id, last);
            last = id;
        }
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_serving_certificate_is_renewed_at_half_of_its_life() {
    let clock = Clock::following_tokio(now());
    let authority = open(&memory(), short()).await.expect("it starts");
    let (record, mut made) = recorder();
    let test = async {
        for _ in 0..5 {
            let Made::Serving(svid) =
                next_of(&mut made, |made| matches!(made, Made::Serving(_))).await
            else {
                unreachable!("just matched")
            };
            let known = clock.now();
            let next = next_of(&mut made, |made| matches!(made, Made::Serving(_))).await;
            let Made::Serving(next) = next else {
                unreachable!("just matched")
            };
            assert_ne!(next.serial(), svid.serial());
            let half = serving_at(svid.not_before(), svid.not_after());
            assert!(clock.now() >= half && clock.now() < half + Duration::from_secs(61));
            assert!(clock.now() > known);
        }
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_loop_runs_as_a_task_of_its_own() {
    let clock = Clock::following_tokio(now());
    let authority = Arc::new(open(&memory(), short()).await.expect("it starts"));
    let (record, mut made) = recorder();
    let mut tasks = tokio::task::JoinSet::new();
    let kept = authority.clone();
    tasks.spawn(async move { kept.keep(&clock, record).await });
    let mut issuing = authority.watch();
    issuing.wait_for(Option::is_some).await.expect("it is open");
    assert!(matches!(made.recv().await, Some(Made::Intermediate(_))));
    tasks.shutdown().await;
    assert!(
        authority.issuing().is_some(),
        "what signs goes on signing while the process drains"
    );
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_recorded_is_not_used_and_made_again() {
    let clock = Clock::following_tokio(now());
    let authority = open(&memory(), short()).await.expect("it starts");
    let mut health = authority.health();
    let refuse = Arc::new(StdMutex::new(true));
    let record = {
        let refuse = refuse.clone();
        move |_| {
            let full = *refuse.lock().expect("nobody panics");
            async move {
                if full {
                    Err("the ledger's disk is full".to_owned())
                } else {
                    Ok(())
                }
            }
            .boxed()
        }
    };
    let test = async {
        health.changed().await.expect("it is open");
        let told = health.borrow_and_update().clone();
        assert!(!told.can_issue);
        let (code, message) = told.trouble.expect("it is told");
        assert_eq!(code, "ARX-AUTHORITY-NOT-RECORDED");
        assert!(message.contains("the ledger's disk is full"), "{message}");
        assert!(authority.issuing().is_none() && authority.serving().is_none());

        *refuse.lock().expect("nobody panics") = false;
        health.changed().await.expect("it is open");
        let told = health.borrow_and_update().clone();
        assert!(told.can_issue && told.trouble.is_none(), "{told:?}");
        assert_eq!(
            told.until,
            authority.issuing().map(|issuing| issuing.not_after())
        );
        assert!(authority.serving().is_some());
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_a_day_is_followed_at_once_and_without_a_storm() {
    let clock = Clock::manual(now());
    let options = Options {
        root_ttl: 30 * DAY,
        ..short()
    };
    let authority = open(&memory(), options).await.expect("it starts");
    let (record, mut made) = recorder();
    let test = async {
        assert!(matches!(made.recv().await, Some(Made::Intermediate(_))));
        assert!(matches!(made.recv().await, Some(Made::Serving(_))));
        // Until the loop sleeps; it looks at the clock only then.
        tokio::time::sleep(Duration::from_millis(1)).await;
        for at in [now() + DAY, now()] {
            clock.set(at);
            clock.observe().expect("that is a jump");
            assert!(matches!(made.recv().await, Some(Made::Intermediate(_))));
            assert!(matches!(made.recv().await, Some(Made::Serving(_))));
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert!(made.try_recv().is_err(), "once is enough");
            assert!(authority.issuing().expect("it is installed").not_after() > at);
        }
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_cannot_be_extended_says_so_before_it_ends() {
    let clock = Clock::following_tokio(now());
    let store = memory();
    let authority = open(&store, short()).await.expect("it starts");
    let mut health = authority.health();
    let (record, mut made) = recorder();
    let test = async {
        let ending = health
            .wait_for(|health| health.trouble.is_some() && health.until.is_some())
            .await
            .expect("it is open")
            .clone();
        let (code, _) = ending.trouble.expect("just seen");
        assert_eq!(code, "ARX-AUTHORITY-ENDING");
        assert!(ending.can_issue, "it is no reason not to be ready yet");
        assert_eq!(ending.until, Some(authority.root().not_after()));
        health
            .wait_for(|health| !health.can_issue)
            .await
            .expect("it is open");
        assert!(clock.now() >= authority.root().not_after());
        made.close();
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
    let stored = state(&store).await.intermediates().await.expect("it reads");
    assert!(
        stored.len() < 10,
        "it did not renew without end: {}",
        stored.len()
    );
}

/// The active root of `store` becomes another, which the answer is; nobody is told.
async fn exchange(store: &Shared, authority: &Authority) -> KeyId {
    let from = authority.root_key_id();
    let to = authority.prepare_root(now()).await.expect("it is made");
    let to = to.subject_key_id().expect("the profile has it");
    let steering = start(store).await;
    steering.activate(from, to).await.expect("it is done");
    to
}

#[tokio::test(start_paused = true)]
async fn another_active_root_gets_an_intermediate_and_a_serving_certificate_at_once() {
    let clock = Clock::following_tokio(now());
    let store = memory();
    let authority = open(&store, short()).await.expect("it starts");
    let a = authority.root_key_id();
    let (mut recorded, mut made) = recorder();
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    // Each is answered only when the test has looked.
    let record = move |made: Made| {
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        ask.send(answer).expect("the test listens");
        let recorded = recorded(made);
        async move {
            answered.await.map_err(|_| "nobody answers".to_owned())?;
            recorded.await
        }
        .boxed()
    };
    let test = async {
        for _ in 0..2 {
            let answer = asked.recv().await.expect("the loop runs");
            answer.send(()).expect("it waits");
            made.recv().await.expect("it was made");
        }
        let mut issuing = authority.watch();
        issuing
            .wait_for(|it| it.as_ref().is_some_and(|it| it.root() == a))
            .await
            .expect("it is open");
        // Until the loop sleeps.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let serving = authority.serving().expect("it is installed");

        let b = exchange(&store, &authority).await;
        let began = tokio::time::Instant::now();
        assert!(authority.follow_active().await.expect("it reads"));
        let answer = asked.recv().await.expect("the loop runs");
        let issuing = authority.issuing().expect("it goes on");
        assert_eq!(issuing.root(), a, "until the next one is recorded");
        answer.send(()).expect("it waits");
        let Some(Made::Intermediate(intermediate)) = made.recv().await else {
            panic!("an intermediate comes first")
        };
        assert_eq!(intermediate.root, b);

        let answer = asked.recv().await.expect("the loop runs");
        assert_eq!(authority.issuing().expect("it is installed").root(), b);
        let still = authority.serving().expect("it goes on");
        assert_eq!(still.serial(), serving.serial());
        answer.send(()).expect("it waits");
        let Some(Made::Serving(svid)) = made.recv().await else {
            panic!("then a serving certificate")
        };
        let peer = verify(svid.chain(), &bundle(&authority), clock.now());
        assert_eq!(peer.expect("it verifies").issuers[1], b);
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody had to wait");
        assert!(!authority.follow_active().await.expect("it reads"));

        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(asked.try_recv().is_err(), "once is enough");
        assert_eq!(
            authority.serving().map(|it| it.serial().clone()),
            Some(svid.serial().clone())
        );
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_signs_stays_while_nothing_under_the_next_root_can_be_recorded() {
    let clock = Clock::following_tokio(now());
    let store = memory();
    let authority = open(&store, short()).await.expect("it starts");
    let a = authority.root_key_id();
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let record = {
        let full = full.clone();
        move |_| {
            let full = full.load(std::sync::atomic::Ordering::SeqCst);
            async move { if full { Err("full".to_owned()) } else { Ok(()) } }.boxed()
        }
    };
    let test = async {
        let mut issuing = authority.watch();
        issuing.wait_for(Option::is_some).await.expect("it is open");
        full.store(true, std::sync::atomic::Ordering::SeqCst);
        let b = exchange(&store, &authority).await;
        authority.follow_active().await.expect("it reads");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(authority.issuing().expect("it goes on").root(), a);
        assert!(authority.health().borrow().can_issue);

        full.store(false, std::sync::atomic::Ordering::SeqCst);
        issuing
            .wait_for(|it| it.as_ref().is_some_and(|it| it.root() == b))
            .await
            .expect("it is open");
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_was_not_told_of_another_root_finds_it_at_its_next_renewal() {
    let clock = Clock::following_tokio(now());
    let store = memory();
    let authority = open(&store, short()).await.expect("it starts");
    let (record, mut made) = recorder();
    let test = async {
        next_of(&mut made, |made| matches!(made, Made::Serving(_))).await;
        let b = exchange(&store, &authority).await;
        let renewed = next_of(&mut made, |made| matches!(made, Made::Intermediate(_))).await;
        let Made::Intermediate(renewed) = renewed else {
            unreachable!("just matched")
        };
        assert_eq!(renewed.root, b);
        assert_eq!(authority.root_key_id(), b);
        let serving = next_of(&mut made, |made| matches!(made, Made::Serving(_))).await;
        let Made::Serving(svid) = serving else {
            unreachable!("just matched")
        };
        verify(svid.chain(), &bundle(&authority), clock.now()).expect("it verifies");
    };
    tokio::select! {
        never = authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}
