use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;

fn at(seconds: u64) -> Priority {
    Priority::renewal(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn ready<F: Future<Output = Result<Permit, Refusal>>>(future: Pin<&mut F>) -> Option<Permit> {
    match poll(future) {
        Poll::Ready(Ok(permit)) => Some(permit),
        _ => None,
    }
}

#[test]
fn starting_workloads_go_before_renewals_and_the_earliest_expiry_first() {
    let queue = Queue::new(1, 10);
    let held = ready(pin!(queue.acquire(at(1)))).expect("a free permit");
    let mut late = pin!(queue.acquire(at(300)));
    let mut soon = pin!(queue.acquire(at(100)));
    let mut start = pin!(queue.acquire(Priority::START));
    for waiting in [late.as_mut(), soon.as_mut(), start.as_mut()] {
        assert!(ready(waiting).is_none());
    }
    drop(held);
    assert!(ready(late.as_mut()).is_none());
    assert!(ready(soon.as_mut()).is_none());
    let first = ready(start.as_mut()).expect("the start comes first");
    drop(first);
    assert!(ready(late.as_mut()).is_none());
    let second = ready(soon.as_mut()).expect("then what ends first");
    drop(second);
    assert!(ready(late.as_mut()).is_some());
}

#[test]
fn equal_priorities_are_served_in_order_of_arrival() {
    let queue = Queue::new(1, 10);
    let held = ready(pin!(queue.acquire(at(1)))).expect("a free permit");
    let mut first = pin!(queue.acquire(at(5)));
    let mut second = pin!(queue.acquire(at(5)));
    assert!(ready(first.as_mut()).is_none() && ready(second.as_mut()).is_none());
    drop(held);
    assert!(ready(second.as_mut()).is_none());
    assert!(ready(first.as_mut()).is_some());
}

#[test]
fn a_full_queue_turns_away_whoever_comes_last_and_says_when_to_come_back() {
    let queue = Queue::new(1, 1);
    let _held = ready(pin!(queue.acquire(at(1)))).expect("a free permit");
    let mut waiting = pin!(queue.acquire(at(100)));
    assert!(ready(waiting.as_mut()).is_none());
    let Poll::Ready(Err(refused)) = poll(pin!(queue.acquire(at(200)))) else {
        panic!("a later one must be turned away at once");
    };
    assert_eq!(refused.code, FULL);
    assert!(refused.retry_after.is_some());
    let mut start = pin!(queue.acquire(Priority::START));
    assert!(ready(start.as_mut()).is_none());
    let Poll::Ready(Err(refused)) = poll(waiting.as_mut()) else {
        panic!("the one that waited must make room for a start");
    };
    assert_eq!(refused.code, FULL);
}

#[test]
fn who_gives_up_waiting_costs_nobody_a_permit() {
    let queue = Queue::new(1, 10);
    let held = ready(pin!(queue.acquire(at(1)))).expect("a free permit");
    {
        let mut gone = pin!(queue.acquire(at(2)));
        assert!(ready(gone.as_mut()).is_none());
    }
    let mut next = pin!(queue.acquire(at(3)));
    assert!(ready(next.as_mut()).is_none());
    drop(held);
    drop(ready(next.as_mut()).expect("the permit passed over the one that left"));
    assert!(ready(pin!(queue.acquire(at(4)))).is_some());
}
