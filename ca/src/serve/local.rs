//! The admin socket: for root and the authority's own user, by the kernel's word.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use arx_daemon::calls::Calls;
use arx_daemon::drain::{Drain, OnPanic, Tasks};
use arx_daemon::idle::Counted;
use arx_daemon::places::Places;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::operator::Operator;
use super::{accept, protocol, run};
use crate::refusal::{COUNTED, Peer, Told};

/// Connections of operators at a time, and those of them on which nothing is being answered, of which
/// the oldest goes first: they keep nobody out.
const OPERATORS: usize = 64;
const IDLE_OPERATORS: usize = 32;
/// Calls at a time on a connection.
const STREAMS_OF_OPERATOR: u32 = 256;

/// Serves the admin API to the CA's own user and to root.
pub async fn serve_admin(listener: UnixListener, operator: Operator, tasks: Tasks, drain: Drain) {
    let connections = Arc::new(Semaphore::new(OPERATORS + IDLE_OPERATORS));
    let idle = Arc::new(Places::new(IDLE_OPERATORS));
    let guard = Guard::new(rustix::process::geteuid().as_raw());
    let mut minutes = interval(COUNTED);
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.requested() => return,
            _ = minutes.tick() => {
                guard.told.tell_due(monotonic());
                continue;
            }
            accepted = accept(&connections, || listener.accept()) => accepted,
        };
        let Some((place, (stream, _address))) = accepted else {
            continue;
        };
        let peer = stream.peer_cred().map(|peer| peer.uid());
        if !guard.lets_in(peer, monotonic()) {
            continue;
        }
        let service = operator.clone();
        let (until, idle) = (drain.clone(), Arc::clone(&idle));
        tasks.spawn("admin connection", OnPanic::Continue, async move {
            let calls = Calls::default();
            let counted = Counted::new(calls.clone());
            let connection = protocol(&counted, STREAMS_OF_OPERATOR)
                .serve_connection(TokioIo::new(stream), service);
            let connection = std::pin::pin!(connection);
            tokio::select! {
                () = run(connection, &calls, std::future::pending(), &until) => {}
                // Nothing is being answered: there is nothing to end in good order.
                () = counted.idle(&idle) => {}
            }
            drop(place);
        });
    }
}

fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Who may administer, and what was told of others: whoever may connect to the socket must not be able
/// to fill the log.
struct Guard {
    own: u32,
    told: Told,
}

impl Guard {
    fn new(own: u32) -> Self {
        let told = Told::default();
        Self { own, told }
    }

    /// Whether it is root or the own user; tells of it if not, unless it is one of many.
    fn lets_in(&self, peer: io::Result<u32>, now: Instant) -> bool {
        const CODE: &str = "ARX-ADMIN-REFUSED";
        match peer {
            Ok(uid) if uid == 0 || uid == self.own => return true,
            Ok(uid) => {
                let peer = Peer::User(uid);
                if self.told.now(CODE, &peer, now) {
                    tracing::warn!(
                        code = CODE,
                        %peer,
                        "only root and the authority's own user may administer it"
                    );
                }
            }
            Err(error) => {
                if self.told.now(CODE, &Peer::Other, now) {
                    tracing::warn!(code = CODE, %error, "who asks could not be found out");
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Repeated;

    #[test]
    fn only_root_and_the_own_user_are_let_in_and_of_each_other_one_is_told_in_a_minute() {
        let (guard, begin) = (Guard::new(990), monotonic());
        assert!(guard.lets_in(Ok(0), begin));
        assert!(guard.lets_in(Ok(990), begin));
        for _ in 0..=1000 {
            assert!(!guard.lets_in(Ok(65_534), begin));
            assert!(!guard.lets_in(Err(io::ErrorKind::Other.into()), begin));
        }
        let mut due = guard.told.due(begin + COUNTED);
        due.sort_by_key(|repeated| repeated.peer == Peer::Other);
        let repeated = |peer| Repeated {
            code: "ARX-ADMIN-REFUSED",
            peer,
            times: 1000,
        };
        assert_eq!(due, [Peer::User(65_534), Peer::Other].map(repeated));
    }
}
