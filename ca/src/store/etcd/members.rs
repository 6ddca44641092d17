//! The members of etcd: whichever answers is asked, and the next one when it does not.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint as Transport};
use tonic::{Code, ConnectError, Request, Status};

use super::super::StoreError;
use super::options::{self, Options};
use crate::dial::Dial;

/// A connection on which nothing comes back for so long is given up.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest text of etcd's that is passed on, in characters.
const SAID: usize = 200;

/// All members, and which of them to ask.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Counts up with each one that failed.
    turn: AtomicUsize,
    /// How long one of them may take, if all are to have their turn before the deadline.
    each: Duration,
    place: String,
}

#[derive(Debug)]
struct Member {
    address: String,
    channel: Channel,
}

/// A call did not succeed.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing was done, and nothing will be.
    NotDone(StoreError),
    /// It was sent, and what became of it is not known.
    Unknown(String),
    /// What was asked for begins at a revision that is forgotten.
    Compacted,
}

/// What one member's answer means.
enum Meaning {
    /// Another one may do it.
    Next(String),
    /// It has no leader to do it with.
    NoLeader(String),
    Lost(String),
    Final(StoreError),
    Compacted,
}

impl Members {
    /// Connects when it is first asked.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let files = options.files().map(Arc::new);
        let count = u32::try_from(options.endpoints.len()).unwrap_or(1).max(1);
        let each = options.deadline.get() / count;
        let members = options.endpoints.iter().map(|text| {
            let endpoint = options::endpoint(text)?;
            let tls = match (&endpoint.name, &files) {
                (Some(name), Some(files)) => Some((name.as_str().into(), Arc::clone(files))),
                (Some(_), None) => return Err(format!("{text} takes certificates")),
                (None, _) => None,
            };
            let dial = Dial {
                address: endpoint.address.as_str().into(),
                tls,
                // So that a member that accepts no connection is known not to have been asked.
                deadline: each / 2,
            };
            // The address is never looked at: the connector knows where to.
            let transport = Transport::from_static("http://etcd")
                .http2_keep_alive_interval(SILENCE)
                .keep_alive_timeout(SILENCE)
                .keep_alive_while_idle(true);
            Ok(Member {
                address: endpoint.address,
                channel: transport.connect_with_connector_lazy(dial),
            })
        });
        let members: Vec<_> = members.collect::<Result<_, String>>()?;
        let addresses: Vec<&str> = members.iter().map(|it| it.address.as_str()).collect();
        Ok(Self {
            place: format!("etcd at {}", addresses.join(", ")),
            members,
            turn: AtomicUsize::new(0),
            each,
        })
    }

    /// What it is called in messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Asks one after the other until one has done it, or may have.
    pub(super) async fn ask<R>(
        &self,
        call: impl Fn(Channel) -> BoxFuture<'static, Result<R, Status>>,
        is_write: bool,
    ) -> Result<R, Failed> {
        let mut said = Vec::new();
        let mut has_leader = true;
        for _ in 0..self.members.len().max(1) {
            let turn = self.turn.load(Ordering::Relaxed);
            let Some(member) = self.members.get(turn % self.members.len().max(1)) else {
                break;
            };
            let answer = tokio::time::timeout(self.each, call(member.channel.clone())).await;
            let meaning = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => self.meaning(&status),
                Err(_) => Meaning::Lost(format!("no answer within {} ms", self.each.as_millis())),
            };
            // If another call has moved on already, this one goes along.
            let _moved = self.turn.compare_exchange(
                turn,
                turn.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            let text = match meaning {
                Meaning::Final(error) => return Err(Failed::NotDone(error)),
                Meaning::Compacted => return Err(Failed::Compacted),
                Meaning::Lost(text) if is_write => {
                    return Err(Failed::Unknown(format!("{}: {text}", member.address)));
                }
                Meaning::NoLeader(text) => {
                    has_leader = false;
                    text
                }
                Meaning::Next(text) | Meaning::Lost(text) => text,
            };
            said.push(format!("{}: {text}", member.address));
        }
        let (place, detail) = (self.place.clone(), said.join("; "));
        Err(Failed::NotDone(if has_leader {
            StoreError::Unavailable { place, detail }
        } else {
            StoreError::NoQuorum { place, detail }
        }))
    }

    fn meaning(&self, status: &Status) -> Meaning {
        let place = self.place.clone();
        let text: String = status.message().escape_debug().take(SAID).collect();
        match status.code() {
            _ if was_never_sent(status) => Meaning::Next(innermost(status)),
            Code::OutOfRange if text.contains("compacted") => Meaning::Compacted,
            Code::ResourceExhausted if text.contains("space exceeded") => {
                Meaning::Final(StoreError::Full { place })
            }
            Code::ResourceExhausted if text.contains("too many requests") => Meaning::Next(text),
            Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
                Meaning::Final(StoreError::Refused {
                    place,
                    detail: text,
                })
            }
            Code::Unavailable if text.contains("no leader") => Meaning::NoLeader(text),
            _ => Meaning::Lost(format!("{:?} ({text})", status.code())),
        }
    }
}

/// A request that is refused by a member without a leader, instead of being kept until there is
/// one (etcd's metadata key `hasleader`).
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let yes = MetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", yes);
    request
}

/// Whether there was no connection to send it on.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What went wrong stands in the innermost cause.
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text.escape_debug().take(SAID).collect()
}
