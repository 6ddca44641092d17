//! Connections on which nothing is being answered: whoever is silent from the beginning goes soon,
//! and of those that have asked once the oldest gives way to whoever comes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::calls::Calls;
use crate::places::Places;

/// How long somebody may be connected before anything is asked.
const SILENT: Duration = Duration::from_secs(10);

/// Carries out the calls of a connection, and counts them. Clones are the same.
#[derive(Clone)]
pub struct Counted {
    calls: Calls,
    count: Arc<watch::Sender<Count>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ever: u64,
    open: u64,
}

/// A call, until it is over in whatever way.
struct Open(Arc<watch::Sender<Count>>);

impl Counted {
    /// Over what carries them out.
    #[must_use]
    pub fn new(calls: Calls) -> Self {
        Self {
            calls,
            count: Arc::new(watch::Sender::default()),
        }
    }

    /// Returns when the connection has been silent for too long, or has to give way.
    pub async fn idle(&self, places: &Places<()>) {
        let mut count = self.count.subscribe();
        let place = places.take(());
        tokio::select! {
            biased;
            _ = count.wait_for(|count| count.ever > 0) => {}
            () = place.lost_to_another() => return,
            () = tokio::time::sleep(SILENT) => return,
        }
        drop(place);
        loop {
            if count.wait_for(|count| count.open == 0).await.is_err() {
                return;
            }
            let place = places.take(());
            tokio::select! {
                biased;
                _ = count.wait_for(|count| count.open > 0) => {}
                () = place.lost_to_another() => return,
            }
        }
    }
}

impl<F> hyper::rt::Executor<F> for Counted
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.count.send_modify(|count| {
            count.ever += 1;
            count.open += 1;
        });
        let open = Open(Arc::clone(&self.count));
        self.calls.execute(async move {
            let _open = open;
            call.await;
        });
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.count.borrow().fmt(f)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| count.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Running;
    use hyper::rt::Executor as _;
    use std::future::{pending, poll_fn};
    use std::task::Poll;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_nothing_goes_after_a_while() {
        let places = Places::new(1);
        Counted::new(Calls::default()).idle(&places).await;
    }

    #[tokio::test]
    async fn only_a_connection_on_which_nothing_is_answered_gives_way() {
        let places = Places::new(1);
        let calls = Calls::default();
        let busy = Counted::new(calls.clone());
        let (end, ended) = oneshot::channel::<()>();
        busy.execute(async { drop(ended.await) });
        let idle = Counted::new(Calls::default());
        let idle = idle.idle(&places);
        tokio::pin!(idle);
        // Both are looked at once: one is being answered, and the other takes the only place.
        let answered = busy.idle(&places);
        tokio::pin!(answered);
        poll_fn(|context| {
            assert!(answered.as_mut().poll(context).is_pending());
            assert!(idle.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        let newer = Counted::new(Calls::default());
        let newer = newer.idle(&places);
        tokio::pin!(newer);
        tokio::select! {
            biased;
            () = &mut newer => panic!("the newest has the place"),
            () = &mut answered => panic!("it is being answered"),
            () = &mut idle => {}
        }
        // Once it is answered, it has a place like the others, and the oldest goes.
        end.send(()).expect("it is still being answered");
        let mut running = Running::default();
        let connection = std::pin::pin!(pending::<()>());
        let driving = calls.drive(connection, &mut running);
        tokio::select! {
            biased;
            () = driving => panic!("the connection goes on"),
            () = &mut answered => panic!("it is the newest now"),
            () = &mut newer => {}
        }
    }
}
