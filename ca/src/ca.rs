//! The authority as a whole: its parts, shared by everything that answers calls.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::drain::Drain;
use arx_daemon::ops::Readiness;
use arx_identity::{Sequence, Serial, SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::answers::Answers;
use crate::authority::Authority;
use crate::caller::{Node, NodeName};
use crate::denial;
use crate::fleet::{Fleet, Released, Superseded};
use crate::lease::Leading;
use crate::ledger::{self, Ledger};
use crate::metrics::Metrics;
use crate::nested;
use crate::overview::Overview;
use crate::peer::Replicas;
use crate::policy::Policy;
use crate::publish::Publishers;
use crate::queue::Queue;
use crate::recent::Recent;
use crate::refusal::{Peer, Refusal, Told};
use crate::restore;
use crate::rotation::{self, Rotator};
use crate::share::Shares;
use crate::sink::Sink;
use crate::state::State;
use crate::store;
use crate::token::Tokens;
use crate::trust::{Standing, Trust};

/// What may change when the configuration is read again.
#[derive(Debug)]
pub struct Rules {
    /// Grows with each configuration that was taken; begins with 1.
    pub generation: u64,
    /// Who gets which identity.
    pub policy: Policy,
    /// Whose tokens count.
    pub tokens: Tokens,
    /// How long records of certificates that have ended are kept.
    pub retention: Duration,
    /// Who may stand below.
    pub nested: nested::Allowed,
    /// How a rotation goes where nobody says otherwise.
    pub rotation: rotation::Defaults,
}

/// The parts of a running authority.
pub struct Ca {
    /// Whose authority it is.
    pub trust_domain: TrustDomain,
    /// What this replica is called.
    pub replica: Arc<str>,
    /// Whether there may be others.
    pub replicas: Replicas,
    /// Version of the program.
    pub software: &'static str,
    /// When the process was started.
    pub started: SystemTime,
    /// The one wall clock.
    pub clock: Clock,
    /// What is stored.
    pub state: State,
    /// Where that is.
    pub place: store::Place,
    /// Where keys are that are in the state, in words.
    pub custody: String,
    /// Signs.
    pub authority: Arc<Authority>,
    /// Publishes the bundle.
    pub trust: Arc<Trust>,
    /// Writes the roots into clusters.
    pub publishers: Publishers,
    /// Whether this replica leads.
    pub leading: Leading,
    /// Changes the root.
    pub rotator: Rotator,
    /// The roots, for whoever must not wait.
    pub overview: Overview,
    /// Who gets nothing new.
    pub denials: denial::Current,
    /// Whether this state was put back, and is shut.
    pub restore: restore::Current,
    /// Remembers.
    pub ledger: Ledger,
    /// Writes that to where it is gathered, if it is.
    pub sink: Option<Arc<Sink>>,
    /// The agents.
    pub fleet: Fleet,
    /// How much one node may take.
    pub shares: Shares,
    /// What authorities below have confirmed.
    pub confirmed_below: nested::Confirmed,
    /// What is known of the authority above.
    pub above: rotation::Above,
    /// How often authorities below have asked.
    pub nested: nested::Rate,
    /// Who is served first.
    pub queue: Queue,
    /// Answers that may be asked for again.
    pub answers: Answers,
    /// What was last asked for pods.
    pub recent: Recent,
    /// Counts.
    pub metrics: Metrics,
    /// What the log has said of refusals.
    pub told: Told,
    /// The end of the process.
    pub drain: Drain,
    /// What was last said by an agent that holds what was never published here. Told to
    /// the operator, and no reason to be unready: one agent's word must not stop a fleet.
    pub fleet_ahead: Mutex<Option<String>>,
    /// What may change at run time.
    pub rules: CurrentRules,
    /// Whether it is ready, and why not.
    pub readiness: Readiness,
}

/// The rules of the moment.
#[derive(Debug)]
pub struct CurrentRules(watch::Sender<Arc<Rules>>);

impl CurrentRules {
    /// Begins with `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self(watch::Sender::new(Arc::new(rules)))
    }

    /// The rules of the moment.
    #[must_use]
    pub fn get(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow())
    }

    /// Tells of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Rules>> {
        self.0.subscribe()
    }

    /// Takes other rules for all that comes after.
    pub fn set(&self, rules: Rules) {
        self.0.send_replace(Arc::new(rules));
    }
}

impl Ca {
    /// The id of a node's agent.
    #[must_use]
    pub fn node_id(&self, name: &NodeName) -> Option<SpiffeId> {
        SpiffeId::new(&self.trust_domain, &format!("/arx/node/{name}")).ok()
    }

    /// The certificates that count as valid by the ledger, of this node and its workloads,
    /// with the time of issue.
    #[must_use]
    pub fn leaves_of(&self, name: &NodeName) -> Vec<(Serial, SystemTime)> {
        self.ledger
            .live()
            .held_on(&name.cluster, &name.node, self.clock.now())
    }

    /// Whether a node's certificate counts: see [`Fleet::admit`].
    ///
    /// # Errors
    /// `ARX-NODE-SUPERSEDED` if a later join has cut it off.
    pub fn admit_node(&self, node: &Node) -> Result<(), Refusal> {
        if let Some(superseded) = self.fleet.admit(node)? {
            self.superseded(superseded, &node.name, &node.serial);
        }
        Ok(())
    }

    /// Counts and tells that a connected agent was cut off by the certificate `serial`.
    pub(crate) fn superseded(&self, Superseded: Superseded, name: &NodeName, serial: &Serial) {
        self.metrics.superseded();
        tracing::warn!(
            code = "ARX-NODE-SUPERSEDED",
            node = %name,
            %serial,
            "a connected agent was cut off by a later join: if it was not restarted just now, somebody else holds its token"
        );
    }

    /// Counts a refusal, and tells of it unless it is one of many.
    pub fn refused(&self, refusal: &Refusal, peer: &Peer, what: &str) {
        self.metrics.refused(refusal.code);
        self.tell(refusal, peer, what);
    }

    /// Tells of a refusal that is counted elsewhere, unless it is one of many.
    pub fn tell(&self, refusal: &Refusal, peer: &Peer, what: &str) {
        if self.told.now(refusal.code, peer, self.clock.monotonic()) {
            tracing::info!(code = refusal.code, %peer, reason = %refusal.message, "{what}");
        }
    }

    /// Records that an agent neither holds nor serves these any more.
    pub async fn release(&self, name: &NodeName, Released(serials): Released) {
        if serials.is_empty() {
            return;
        }
        let now = self.clock.now();
        let live = self.ledger.live();
        let records = serials.iter().filter_map(|serial| {
            let not_after = live.not_after(serial)?;
            let released = ledger::Released {
                serial: serial.as_bytes().to_vec(),
                not_after,
                reason: format!("missing from two inventories of {name}"),
            };
            Some(ledger::Record::new(now, released))
        });
        // They only end the wait for certificates that are gone; the next inventory says so
        // again.
        match self.ledger.append(records.collect()).await {
            Ok(_receipt) => self.fleet.touch(),
            Err(error) => {
                tracing::warn!(code = error.code(), node = %name, %error, "released certificates were not recorded");
            }
        }
    }

    /// An agent holds a bundle that this state has never published: the state was restored
    /// from a backup, or the agent serves another authority. Nothing is taken back.
    pub fn fleet_is_ahead(&self, name: &NodeName, holds: Sequence, found: Standing) {
        let newest = self.trust.current().sequence();
        let message = match found {
            Standing::Ahead => format!(
                "the agent of {name} holds bundle {holds}, and the newest here is {newest}: this state is older than the fleet, restore a newer one"
            ),
            _ => format!(
                "the agent of {name} holds another bundle {holds} than was published here: find out which authority it came from"
            ),
        };
        tracing::error!(code = "ARX-FLEET-AHEAD", node = %name, %holds, %newest, "{message}");
        *self
            .fleet_ahead
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca of {}", self.trust_domain)
    }
}
