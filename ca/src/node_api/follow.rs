//! Follow: one long-lived stream each way.
//!
//! Trust is not queued. A stream sends the newest bundle whenever it differs from what it
//! sent last, so a slow agent misses steps in between and nothing piles up.

use std::sync::Arc;
use std::time::Duration;

use arx_identity::{Sequence, TrustBundle};
use arx_proto::node::v1 as wire;
use arx_proto::node::v1::agent_message::Message as Up;
use arx_proto::node::v1::authority_message::Message as DownMessage;
use futures_util::stream;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::{malformed, trust_update, welcome};
use crate::ca::Ca;
use crate::caller::Node;
use crate::fleet::{Down, LONGEST_TEXT, Session};
use crate::refusal::{Fault, Peer, Refusal};
use crate::restore::Said;
use crate::trust::{Standing, standing};

/// The first message has to come within this.
const HELLO: Duration = Duration::from_secs(10);
/// An agent that is told to go away should reconnect after this.
const RECONNECT: Duration = Duration::from_millis(500);

/// What the service answers a Follow with.
type Messages = <super::Api as wire::node_server::Node>::FollowStream;

/// Opens the stream: waits for the Hello, and answers it with a Welcome and, where the
/// agent lacks it, the newest trust. The status is of a Follow that ended before its Hello.
pub(super) async fn open(
    ca: Arc<Ca>,
    node: &Node,
    mut inbound: Streaming<wire::AgentMessage>,
) -> Result<Result<Messages, Status>, Refusal> {
    let first = tokio::time::timeout(HELLO, inbound.message()).await;
    let first = first.map_err(|_| malformed("no Hello came within 10 s of opening a Follow"))?;
    let hello = match first.map(|first| first.and_then(|message| message.message)) {
        Ok(Some(Up::Hello(hello))) => hello,
        Ok(_) => return Err(malformed("a Follow begins with a Hello")),
        // Told of, if it was a refusal, by whoever reads the bytes.
        Err(status) => return Ok(Err(status)),
    };
    let welcome = welcome(&ca, &hello)?;
    let mut trust = ca.trust.watch();
    let newest = Arc::clone(&trust.borrow_and_update());
    let session = ca.fleet.follow(node, &hello, ca.clock.now())?;
    if let Some(said) = Said::of(&hello) {
        ca.restore.note(&node.name, said);
    }
    let known = hello
        .trust
        .iter()
        .any(|position| compare(&ca, &newest, node, position));
    let software: String = hello.software.chars().take(LONGEST_TEXT).collect();
    tracing::info!(node = %node.name, software, "agent follows");
    let stream = Follow {
        first: Some(Box::new(welcome)),
        trust_due: !known,
        trust,
        inbound,
        session,
        ca,
        draining: false,
    };
    Ok(Ok(Box::pin(stream::unfold(
        stream,
        |mut stream| async move {
            let message = stream.next().await?;
            Some((
                Ok::<_, Status>(wire::AuthorityMessage {
                    message: Some(message),
                }),
                stream,
            ))
        },
    ))))
}

/// Whether an agent holds exactly `newest`. What it should not be able to hold is told to
/// the operator.
fn compare(ca: &Ca, newest: &TrustBundle, node: &Node, position: &wire::TrustPosition) -> bool {
    let (Some(sequence), Ok(hash)) = (
        &position.sequence,
        <[u8; 32]>::try_from(&position.sha256[..]),
    ) else {
        return false;
    };
    if position.kind != wire::TrustKind::X509Roots as i32 {
        return false;
    }
    let holds = Sequence {
        epoch: sequence.epoch,
        number: sequence.number,
    };
    match standing(newest, holds, &hash) {
        Standing::Same => true,
        Standing::Behind => false,
        found @ (Standing::Ahead | Standing::Different) => {
            ca.fleet_is_ahead(&node.name, holds, found);
            false
        }
    }
}

struct Follow {
    first: Option<Box<wire::Welcome>>,
    trust_due: bool,
    trust: watch::Receiver<Arc<TrustBundle>>,
    inbound: Streaming<wire::AgentMessage>,
    session: Session,
    ca: Arc<Ca>,
    draining: bool,
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.session.lost(self.ca.clock.now());
    }
}

impl Follow {
    /// The next message to go down; `None` ends the stream.
    async fn next(&mut self) -> Option<DownMessage> {
        if let Some(welcome) = self.first.take() {
            return Some(DownMessage::Welcome(*welcome));
        }
        if std::mem::take(&mut self.trust_due) {
            let bundle = Arc::clone(&self.trust.borrow_and_update());
            return Some(DownMessage::Trust(trust_update(&bundle)));
        }
        if self.draining {
            return None;
        }
        loop {
            tokio::select! {
                changed = self.trust.changed() => {
                    changed.ok()?;
                    let bundle = Arc::clone(&self.trust.borrow_and_update());
                    return Some(DownMessage::Trust(trust_update(&bundle)));
                }
                down = self.session.next() => match down? {
                    Down::Message(message) => return message.message.clone(),
                    Down::Replaced => return None,
                    Down::Superseded => return None,
                },
                up = self.inbound.message() => match up {
                    Ok(Some(message)) => match self.take(message).await {
                        Ok(Some(answer)) => return Some(answer),
                        Ok(None) => {}
                        Err(refusal) => {
                            let peer = Peer::Node(self.session.name().clone());
                            self.ca.refused(&refusal, &peer, "report refused");
                            return None;
                        }
                    },
                    // The agent closed its half or is gone.
                    Ok(None) | Err(_) => return None,
                },
                () = self.ca.drain.requested() => {
                    self.draining = true;
                    let after = u32::try_from(RECONNECT.as_millis()).unwrap_or(u32::MAX);
                    return Some(DownMessage::DrainAfterMs(after));
                }
            }
        }
    }

    async fn take(&mut self, message: wire::AgentMessage) -> Result<Option<DownMessage>, Refusal> {
        match message.message {
            Some(Up::Inventory(inventory)) => {
                let (ca, name) = (&self.ca, self.session.name());
                let released =
                    self.session
                        .inventory(inventory, || ca.leaves_of(name), ca.clock.now())?;
                ca.release(name, released).await;
                Ok(None)
            }
            Some(Up::Subscribers(report)) => {
                let ordinal = report.ordinal;
                self.session.subscribers(report, self.ca.clock.now())?;
                Ok(Some(DownMessage::ReportSeen(ordinal)))
            }
            Some(Up::Stored(position)) => {
                self.session.stored(position);
                Ok(None)
            }
            Some(Up::Hello(_)) => Err(Refusal::new(
                "ARX-REQUEST-MALFORMED",
                Fault::Request,
                "a Follow has one Hello",
            )),
            // A newer agent's message: nothing that this version could act on.
            None => Ok(None),
        }
    }
}
