//! Until a CA outside has certified what signs here: the process runs and says what it waits
//! for, the operator can bring the chain, or the upstream CA is asked for it. Nothing is issued.

use arx_proto::admin::v1::custody_server::CustodyServer;
use tokio::sync::watch;

use super::door::Door;
use super::open::{Start, StartError};
use super::own::installed_record;
use crate::admin::{Custody, Waiting};
use crate::authority::{AuthorityError, Certifier, Options, first_chain};
use crate::ledger::{self, Ledger};
use crate::serve::Answers;
use crate::state::{Replica, State};

/// What is there while nothing can be issued.
pub(super) struct Room {
    pub(super) state: State,
    pub(super) replica: Replica,
    pub(super) options: Options,
    pub(super) ledger: Ledger,
}

impl Room {
    /// Waits until there is something to issue by; false if the end of the process was asked
    /// for before.
    pub(super) async fn wait(
        self,
        reason: String,
        start: Start<'_>,
        door: &mut Door,
    ) -> Result<bool, StartError> {
        let condition = &start.conditions.authority;
        let awaiting = AuthorityError::Awaiting(reason.clone());
        match &self.options.certifier {
            Some(Certifier::Upstream(_)) => condition.set_failing(
                "ARX-AUTHORITY-AWAITING",
                format!("the upstream CA is being asked for a certificate ({reason})"),
            ),
            _ => {
                condition.set_failing(awaiting.code(), awaiting.to_string());
                tracing::warn!(code = awaiting.code(), "{awaiting}");
            }
        }
        let (installed, mut is_installed) = watch::channel(false);
        let waiting = Waiting {
            state: self.state.clone(),
            replica: self.replica.clone(),
            options: self.options.clone(),
            ledger: self.ledger.clone(),
            clock: start.clock.clone(),
            installed,
        };
        door.open()?;
        let api = Custody::waiting(waiting);
        door.answer(Answers::Waiting(CustodyServer::new(api)));
        let told = |error: &AuthorityError| {
            tracing::error!(
                code = error.code(),
                "the upstream CA gave nothing to issue by, and is asked again: {error}"
            );
            let message = format!("the upstream CA gives nothing to issue by: {error}");
            condition.set_failing(error.code(), message);
        };
        let came = tokio::select! {
            chain = first_chain(&self.state, &self.replica, &self.options, start.clock, told) => {
                let now = start.clock.now();
                let record = installed_record("upstream CA", chain.certificate());
                self.ledger.append(vec![ledger::Record::new(now, record)]).await?;
                true
            }
            Ok(_) = is_installed.wait_for(|it| *it) => true,
            () = start.drain.requested() => false,
        };
        // Nothing may hold the state but what comes next.
        door.answer(Answers::Nothing);
        Ok(came)
    }
}
