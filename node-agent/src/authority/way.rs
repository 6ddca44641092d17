//! The way to a replica: what a connection is made with, and the way back to where the node
//! belongs, which is looked for while another replica is followed.

use super::connect::{ConnectError, Connection, Dial};
use super::spread::{self, Target};
use super::{NodeId, SessionError};
use crate::config::Config;
use arx_identity::{Svid, TrustBundle};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What every connection is made with.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) config: Arc<Config>,
    pub(super) ids: NodeId,
    pub(super) trust: watch::Receiver<Option<TrustBundle>>,
}

/// What was found on the way back.
pub(super) struct Found {
    /// The replicas as they were looked up now.
    pub(super) known: Vec<Target>,
    /// Where the node belongs, if it is not there, and what came of going there.
    pub(super) own: Option<(Target, Result<Connection, SessionError>)>,
}

impl Way {
    /// The replicas in this node's order.
    pub(super) async fn look_up(&self) -> Result<Vec<Target>, SessionError> {
        let found = spread::look_up(&self.config.node, &self.config.authority).await;
        found.map_err(|(address, error)| ConnectError::Unreachable { address, error }.into())
    }

    pub(super) async fn dial(
        &self,
        target: &Target,
        svid: Option<&Svid>,
    ) -> Result<Connection, SessionError> {
        let anchors = self.anchors()?;
        let dial = Dial {
            name: &target.name,
            address: target.address,
            anchors: &anchors,
            svid,
            expected: &self.ids.authority,
            timeout: self.config.authority.connect_timeout.get(),
        };
        Ok(dial.connect().await?)
    }

    /// After `wait`, connects to where the node belongs unless that is `at`.
    pub(super) async fn back(
        self,
        wait: Duration,
        svid: Option<Svid>,
        at: Option<SocketAddr>,
    ) -> Result<Found, SessionError> {
        tokio::time::sleep(wait).await;
        let known = self.look_up().await?;
        let own = match known.first().filter(|it| Some(it.address) != at) {
            Some(target) => {
                let answer = self.dial(target, svid.as_ref()).await;
                Some((target.clone(), answer))
            }
            None => None,
        };
        Ok(Found { known, own })
    }

    /// The bootstrap file as it is now, and what is held durably.
    pub(super) fn anchors(&self) -> Result<Vec<TrustBundle>, SessionError> {
        let mut anchors: Vec<_> = self.trust.borrow().iter().cloned().collect();
        match self.config.bootstrap_bundle() {
            Ok(bundle) => anchors.push(bundle),
            Err(reason) if anchors.is_empty() => return Err(SessionError::NoAnchors(reason)),
            Err(reason) => tracing::warn!(
                code = "ARX-AGENT-BUNDLE-FILE",
                reason,
                "authority.bundle_file cannot be read: going on with the roots in the cache"
            ),
        }
        Ok(anchors)
    }
}
