//! The calls of an HTTP/2 connection, carried out in the connection's own task.
//!
//! In tasks of their own, each answer that is ready wakes the connection, which writes it
//! alone; and whatever the connection has read of a request's body waits in memory until
//! that task's turn comes, which with hundreds of connections is a lot. Here all calls
//! that can go on are polled first, so that one write carries their answers, and what was
//! read is taken before more is.

use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes the calls that a connection opens. Clones are the same.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl<F> hyper::rt::Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        // A call that panics ends by itself, and no other on its connection with it.
        let call = AssertUnwindSafe(call).catch_unwind().map(|_panicked| ());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::pin(call));
    }
}

impl Calls {
    /// Polls `connection`, whose executor this is, with everything that it opens, until it
    /// ends. Calls that are not over then are dropped with it: nobody would hear of them.
    pub async fn drive<C>(self, mut connection: Pin<&mut C>, running: &mut Running) -> C::Output
    where
        C: Future,
    {
        poll_fn(|context| {
            loop {
                while let Poll::Ready(Some(())) = running.0.poll_next_unpin(context) {}
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                let opened =
                    std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
                if opened.is_empty() {
                    // What was read just now is taken before other connections read more.
                    // Whatever it leads to wakes this task again.
                    while let Poll::Ready(Some(())) = running.0.poll_next_unpin(context) {}
                    return Poll::Pending;
                }
                running.0.extend(opened);
            }
        })
        .await
    }
}

/// Calls that are being carried out.
#[derive(Default)]
pub struct Running(FuturesUnordered<Call>);

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({})", self.0.len())
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calls")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_call_that_panics_ends_alone() {
        let calls = Calls::default();
        let answered = Arc::new(AtomicUsize::new(0));
        let mut polls = 0;
        let connection = poll_fn(|context| {
            polls += 1;
            if polls == 1 {
                calls.execute(async { panic!("a defect") });
                let answered = Arc::clone(&answered);
                calls.execute(async move {
                    answered.fetch_add(1, Ordering::Relaxed);
                });
            }
            if answered.load(Ordering::Relaxed) == 1 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let connection = std::pin::pin!(connection);
        calls
            .clone()
            .drive(connection, &mut Running::default())
            .await;
        assert_eq!(answered.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn every_answer_is_ready_before_the_connection_is_polled_again() {
        let calls = Calls::default();
        let (answers, seen) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let mut opened = false;
        let connection = poll_fn(|_| {
            if !opened {
                opened = true;
                for _ in 0..3 {
                    let answers = Arc::clone(&answers);
                    calls.execute(async move {
                        tokio::task::yield_now().await;
                        answers.fetch_add(1, Ordering::Relaxed);
                    });
                }
                return Poll::Pending;
            }
            let ready = answers.load(Ordering::Relaxed);
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(ready);
            if ready == 3 {
                Poll::Ready("ended")
            } else {
                Poll::Pending
            }
        });
        let connection = std::pin::pin!(connection);
        let mut running = Running::default();
        assert_eq!(calls.clone().drive(connection, &mut running).await, "ended");
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(seen.last(), Some(&3));
        assert!(!seen.contains(&1) && !seen.contains(&2), "{seen:?}");
    }
}
