//! The tasks of a process, none of which can die unseen or be forgotten at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use super::{Cause, Drain};
use crate::log::panic_reason;
use crate::ops::Condition;

/// A set of tasks that ends with the process. Clones are the same set.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    drain: Drain,
    counts: Mutex<Counts>,
    /// Told when the last task has ended.
    empty: Notify,
}

#[derive(Default)]
struct Counts {
    running: BTreeMap<&'static str, usize>,
    panics: BTreeMap<&'static str, u64>,
}

/// What a panic in a task means for the process. In each case it is logged and counted.
#[derive(Clone, Debug)]
pub enum OnPanic {
    /// Nothing: the task was one of many, such as a connection.
    Continue,
    /// This condition fails from then on, so that the process is no longer ready.
    Unready(Condition),
    /// The process ends: nobody else can do what the task did.
    End,
}

/// Tasks that had not ended when the grace period was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The name they were spawned under.
    pub task: &'static str,
    /// How many of them.
    pub count: usize,
}

impl Tasks {
    /// An empty set that ends with `drain`.
    pub fn new(drain: &Drain) -> Self {
        let counts = Mutex::new(Counts::default());
        Self {
            inner: Arc::new(Inner {
                drain: drain.clone(),
                counts,
                empty: Notify::new(),
            }),
        }
    }

    /// Runs `future` as a task of this set. It is not stopped by [`Drain`]: it should watch for it. `name` says what the
    /// task is, for logs and metrics; many tasks may share one.
    pub fn spawn<F>(&self, name: &'static str, on_panic: OnPanic, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = Running::enter(self.inner.clone(), name);
        // An async block keeps what it captures beside what it moves that to: a large future would be there twice.
        let mut future = Box::pin(future);
        let task = async move {
            let ended = std::future::poll_fn(|context| {
                // What the future shares with others is guarded by locks or channels, which notice a panic.
                match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
                    Err(payload) => Poll::Ready(Err(payload)),
                }
            })
            .await;
            if let Err(payload) = ended {
                running.panicked(panic_reason(payload.as_ref()), on_panic);
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that tracks what it spawns"
        )]
        tokio::spawn(task);
    }

    /// Waits until the end has been asked for and all tasks have ended, or the grace period is over. Returns the tasks
    /// that were still running then, and logs them; they end with the runtime.
    pub async fn finish(&self) -> Vec<Unfinished> {
        self.inner.drain.requested().await;
        tokio::select! {
            biased;
            () = self.ended() => return Vec::new(),
            () = self.inner.drain.expired() => {}
        }
        let unfinished: Vec<_> = self
            .inner
            .counts()
            .running
            .iter()
            .map(|(task, count)| Unfinished {
                task,
                count: *count,
            })
            .collect();
        for Unfinished { task, count } in &unfinished {
            tracing::warn!(
                code = "ARX-DRAIN-CUT",
                task,
                count,
                "still running when the grace period was over: cut off"
            );
        }
        unfinished
    }

    /// Returns when no task of the set is running.
    pub async fn ended(&self) {
        loop {
            let mut emptied = pin!(self.inner.empty.notified());
            // Registered before looking, so that an end in between is not missed.
            emptied.as_mut().enable();
            if self.inner.counts().running.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// How many tasks of each name are running.
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        self.inner.counts().running.clone()
    }

    /// How many tasks of each name have panicked.
    pub fn panics(&self) -> BTreeMap<&'static str, u64> {
        self.inner.counts().panics.clone()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tasks")
            .field(&self.inner.counts().running)
            .finish()
    }
}

impl Inner {
    /// Counters are right after each statement, so a poisoned lock is taken all the same.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task's place in the set, given back when the task ends or is dropped with its runtime.
struct Running {
    inner: Arc<Inner>,
    name: &'static str,
}

impl Running {
    fn enter(inner: Arc<Inner>, name: &'static str) -> Self {
        *inner.counts().running.entry(name).or_default() += 1;
        Self { inner, name }
    }

    fn panicked(&self, reason: &str, on_panic: OnPanic) {
        let task = self.name;
        *self.inner.counts().panics.entry(task).or_default() += 1;
        tracing::error!(
            code = "ARX-TASK-PANIC",
            task,
            reason,
            "a task panicked; please report this"
        );
        match on_panic {
            OnPanic::Continue => {}
            OnPanic::Unready(condition) => {
                condition.set_failing(
                    "ARX-TASK-PANIC",
                    format!("task {task} panicked; restart this process"),
                );
            }
            OnPanic::End => self
                .inner
                .drain
                .request(Cause::Failed(format!("task {task} panicked: {reason}"))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut counts = self.inner.counts();
        if let Some(count) = counts.running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                counts.running.remove(self.name);
            }
        }
        if counts.running.is_empty() {
            self.inner.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::exit;
    use crate::ops::Readiness;

    fn set() -> (Drain, Tasks) {
        let drain = Drain::new(Duration::from_secs(20));
        let tasks = Tasks::new(&drain);
        (drain, tasks)
    }

    #[tokio::test]
    async fn finishing_waits_for_tasks_that_are_at_work() {
        let (drain, tasks) = set();
        let (done, wait) = oneshot::channel::<()>();
        tasks.spawn("worker", OnPanic::Continue, async move {
            let _ = wait.await;
        });
        assert_eq!(tasks.running(), [("worker", 1)].into());
        drain.request(Cause::Finished);
        let mut finish = pin!(tasks.finish());
        assert!(
            polled_once(finish.as_mut()).await.is_none(),
            "the worker is at work"
        );
        drop(done);
        assert_eq!(finish.await, []);
        assert!(tasks.running().is_empty());
    }

    #[tokio::test]
    async fn nothing_ends_before_it_is_asked_to() {
        let (drain, tasks) = set();
        let mut finish = pin!(tasks.finish());
        assert!(polled_once(finish.as_mut()).await.is_none());
        drain.request(Cause::Finished);
        assert_eq!(finish.await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_end_in_time_are_named() {
        let (drain, tasks) = set();
        for _ in 0..3 {
            tasks.spawn("stuck", OnPanic::Continue, std::future::pending());
        }
        tasks.spawn("quick", OnPanic::Continue, async {});
        drain.request(Cause::Finished);
        assert_eq!(
            tasks.finish().await,
            [Unfinished {
                task: "stuck",
                count: 3
            }]
        );
    }

    #[tokio::test]
    async fn a_panic_in_one_of_many_is_counted_and_the_process_goes_on() {
        let (drain, tasks) = set();
        tasks.spawn("connection", OnPanic::Continue, async {
            panic!("on purpose")
        });
        tasks.ended().await;
        assert_eq!(tasks.panics(), [("connection", 1)].into());
        assert!(!drain.is_requested());
    }

    #[tokio::test]
    async fn a_panic_in_a_task_that_readiness_stands_on_makes_the_process_unready() {
        let (_drain, tasks) = set();
        let readiness = Readiness::new();
        let condition = readiness.condition("follow");
        condition.set_ok();
        tasks.spawn("follow", OnPanic::Unready(condition), async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        });
        tasks.ended().await;
        assert!(!readiness.is_ready());
        assert_eq!(readiness.failing()[0].code, "ARX-TASK-PANIC");
    }

    #[tokio::test]
    async fn a_panic_in_a_vital_task_ends_the_process_as_failed() {
        let (drain, tasks) = set();
        tasks.spawn("ledger", OnPanic::End, async {
            panic!("{} {}", "on", "purpose")
        });
        drain.requested().await;
        assert_eq!(
            drain.cause(),
            Some(Cause::Failed("task ledger panicked: on purpose".to_owned()))
        );
        assert_eq!(drain.exit_code(), exit::RUNTIME);
        assert_eq!(tasks.finish().await, []);
    }

    #[tokio::test]
    async fn a_runtime_that_goes_takes_its_tasks_out_of_the_set() {
        let (_drain, tasks) = set();
        let inner = tasks.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                inner.spawn("stuck", OnPanic::Continue, std::future::pending())
            });
        })
        .join()
        .expect("no panic");
        tasks.ended().await;
    }

    /// Polls once: `None` if it is not ready.
    async fn polled_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
