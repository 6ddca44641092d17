//! The one long-lived stream each way.

use super::node::Renewed;
use super::way::Found;
use super::{CallFailure, Channel, Event, Running, SessionError, is_welcome};
use crate::{renewal, wire};
use arx_identity::{KeyId, VerifiedPeer};
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{
    AgentMessage, AuthorityMessage, RenewalHint, agent_message, authority_message::Message,
};
use std::future::{Future, pending};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

impl Running {
    /// `Ok` when this connection should be replaced by another.
    pub(super) async fn follow(
        &mut self,
        mut client: NodeClient<Channel>,
        peer: VerifiedPeer,
    ) -> Result<(), SessionError> {
        let (up, mut outgoing) = mpsc::unbounded_channel::<AgentMessage>();
        let _ = up.send(AgentMessage {
            message: Some(agent_message::Message::Hello(self.hello())),
        });
        let outgoing = futures_util::stream::poll_fn(move |cx| outgoing.poll_recv(cx));
        let authority = &self.setup.config.authority;
        // One that hangs is left soon if there is another.
        let timeout = if self.replicas.several() {
            authority
                .connect_timeout
                .get()
                .min(authority.call_timeout.get())
        } else {
            authority.call_timeout.get()
        };
        let begun = tokio::time::timeout(timeout, async {
            let mut incoming = client.follow(outgoing).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, tonic::Status>((first, incoming))
        });
        let begun = begun.await.map_err(|_| CallFailure::timeout(timeout))?;
        let (first, mut incoming) = begun.map_err(|status| self.refused(status.into()))?;
        let Some(Message::Welcome(welcome)) = first.and_then(|m| m.message) else {
            return Err(SessionError::Answer(
                "it did not begin with a welcome".to_owned(),
            ));
        };
        is_welcome(&welcome, &self.setup.ids.node)?;

        self.unwelcome = 0;
        self.client.send_replace(Some(client.clone()));
        self.setup.condition.set_ok();
        let preferred = self.at.is_none_or(|at| {
            self.replicas.is_well(at);
            self.replicas.prefers(at)
        });
        self.setup.metrics.follows(&welcome.replica_id, preferred);
        tracing::info!(
            replica = welcome.replica_id,
            preferred,
            "connected to the authority"
        );
        self.tell(Event::Following { welcome, up }).await;
        self.converse(&mut client, &peer, &mut incoming).await
    }

    async fn converse(
        &mut self,
        client: &mut NodeClient<Channel>,
        peer: &VerifiedPeer,
        incoming: &mut Streaming<AuthorityMessage>,
    ) -> Result<(), SessionError> {
        let mut jumps = self.setup.clock.jumps();
        let mut trust = self.setup.trust.clone();
        let rejoin = std::sync::Arc::clone(&self.rejoin);
        let unable = std::sync::Arc::clone(&self.unable);
        unable.forget();
        let mut leave_at: Option<Instant> = None;
        let mut renew_at = Instant::now() + self.until_renewal();
        let mut back = Box::pin(self.way_back());
        loop {
            tokio::select! {
                found = &mut back => {
                    if self.comes_back(found) {
                        return Ok(());
                    }
                    back = Box::pin(self.way_back());
                }
                message = incoming.message() => match message {
                    Ok(Some(AuthorityMessage { message })) => match message {
                        Some(Message::Trust(update)) => self.tell(Event::Trust(update)).await,
                        Some(Message::ReportSeen(ordinal)) => {
                            self.tell(Event::ReportSeen(ordinal)).await;
                        }
                        Some(Message::Renew(hint)) => {
                            if let Some(hint) = self.is_for_the_node(&hint) {
                                self.renewal.hint(hint);
                                renew_at = Instant::now() + self.until_renewal();
                            }
                            self.tell(Event::Renew(hint)).await;
                        }
                        Some(Message::DrainAfterMs(ms)) => {
                            let at = Instant::now() + Duration::from_millis(ms.into());
                            leave_at = Some(leave_at.map_or(at, |other| other.min(at)));
                        }
                        // A second welcome, or what a newer authority says.
                        Some(Message::Welcome(_)) | None => {}
                    },
                    Ok(None) if leave_at.is_some() => return self.leaves(),
                    Ok(None) => return Err(SessionError::Lost("it ended the stream".to_owned())),
                    Err(status) => return Err(self.refused(status.into())),
                },
                () = sleep_until(renew_at) => {
                    match self.renew(client).await {
                        // The next connection shows the new certificate.
                        Renewed::Yes => return Ok(()),
                        Renewed::Refused => {
                            self.is_believed_no_more();
                            return Ok(());
                        }
                        // Too late: only joining helps now.
                        Renewed::NotYet if self.has_expired() => return Ok(()),
                        Renewed::NotYet => renew_at = Instant::now() + self.until_renewal(),
                    }
                }
                () = until(leave_at) => return self.leaves(),
                () = unable.told() => {
                    if self.replicas.has_another_than(self.at) {
                        return Err(SessionError::Unable);
                    }
                }
                () = rejoin.notified() => {
                    self.is_believed_no_more();
                    return Ok(());
                }
                changed = trust.changed() => {
                    if changed.is_err() {
                        // The owner is gone: the process ends.
                        pending::<()>().await;
                    }
                    if !self.still_vouched(peer) {
                        tracing::warn!(
                            code = "ARX-AGENT-ISSUER-GONE",
                            "the root that vouched for this connection is not trusted any more: reconnecting"
                        );
                        return Ok(());
                    }
                }
                Ok(()) = jumps.changed() => {
                    if self.has_expired() {
                        return Ok(());
                    }
                    renew_at = Instant::now() + self.until_renewal();
                }
            }
        }
    }

    /// To where the node belongs, at a moment of its own. It does not borrow the session, which
    /// goes on hearing its replica meanwhile.
    pub(super) fn way_back(
        &self,
    ) -> impl Future<Output = Result<Found, SessionError>> + Send + use<> {
        let least = self.setup.config.authority.rebalance.get();
        let wait = least + self.within(least);
        let wait = wait.max(self.replicas.until_own());
        let svid = self.setup.svid.clone();
        self.way.clone().back(wait, svid, self.at)
    }

    /// The replica goes away, which is no failure of it: the next connection is to another, if
    /// there is one.
    fn leaves(&mut self) -> Result<(), SessionError> {
        self.drained = true;
        if let Some(at) = self.at {
            self.replicas.failed(at, Duration::ZERO);
        }
        Ok(())
    }

    fn refused(&mut self, failure: CallFailure) -> SessionError {
        if failure.refuses_the_node() {
            self.is_believed_no_more();
            return SessionError::Call(failure);
        }
        match failure.code {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
                if failure.retry_after.is_zero() =>
            {
                SessionError::Lost(failure.message)
            }
            _ => SessionError::Call(failure),
        }
    }

    /// Whether the root that this connection's server was verified by is still trusted.
    fn still_vouched(&self, peer: &VerifiedPeer) -> bool {
        let Some(root) = peer.issuers.last() else {
            return false;
        };
        let Ok(anchors) = self.anchors() else {
            return true;
        };
        anchors.iter().any(|bundle| bundle.root(root).is_some())
    }

    fn is_for_the_node(&self, hint: &RenewalHint) -> Option<renewal::Hint> {
        let svid = self.setup.svid.as_ref()?;
        let chain = svid.chain();
        let anchors = self.anchors().unwrap_or_default();
        let is_root = |id: &KeyId| anchors.iter().any(|bundle| bundle.root(id).is_some());
        let root = chain.authorities().find(is_root);
        let root = root.or_else(|| chain.authorities().last())?;
        renewal::is_meant(hint, svid, root).then(|| renewal::Hint {
            received: self.setup.clock.now(),
            renew_by: wire::time(hint.renew_by_unix_ms),
        })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
