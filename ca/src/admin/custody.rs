//! Certificates from outside, in the words of the admin API.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_daemon::clock::rfc3339;
use arx_proto::admin::v1 as wire;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::authority::{
    self, Asked, AuthorityError, Installed, Options, PATH_LENGTH, upper_renewal_at,
};
use crate::ca::Ca;
use crate::ledger::{self, Ledger};
use crate::node_api::unix_ms;
use crate::refusal::{Fault, Refusal};
use crate::run::installed_record;
use crate::state::{Authorities, Initiator, Replica, State};

/// What there is before anything can be issued.
#[derive(Debug)]
pub struct Waiting {
    /// Where the key and the chain go.
    pub state: State,
    /// Who puts them there.
    pub replica: Replica,
    /// What a chain is held against.
    pub options: Options,
    /// Remembers.
    pub ledger: Ledger,
    /// The one wall clock.
    pub clock: Clock,
    /// Becomes true when a chain is there.
    pub installed: watch::Sender<bool>,
}

/// Answers the operator of an authority whose root is with a CA outside.
#[derive(Clone)]
pub struct Custody(Inner);

#[derive(Clone)]
enum Inner {
    Waiting(Arc<Waiting>),
    Running(Arc<Ca>),
}

impl Custody {
    /// Answers before anything can be issued.
    #[must_use]
    pub fn waiting(waiting: Waiting) -> Self {
        Self(Inner::Waiting(Arc::new(waiting)))
    }

    /// Answers on behalf of `ca`.
    #[must_use]
    pub fn of(ca: Arc<Ca>) -> Self {
        Self(Inner::Running(ca))
    }

    fn now(&self) -> SystemTime {
        match &self.0 {
            Inner::Waiting(waiting) => waiting.clock.now(),
            Inner::Running(ca) => ca.clock.now(),
        }
    }

    fn options(&self) -> &Options {
        match &self.0 {
            Inner::Waiting(waiting) => &waiting.options,
            Inner::Running(ca) => ca.authority.options(),
        }
    }

    fn ledger(&self) -> &Ledger {
        match &self.0 {
            Inner::Waiting(waiting) => &waiting.ledger,
            Inner::Running(ca) => &ca.ledger,
        }
    }

    async fn ask(&self) -> Result<Asked, AuthorityError> {
        let now = self.now();
        match &self.0 {
            Inner::Waiting(waiting) => {
                authority::by_hand(&waiting.options)?;
                authority::request(&waiting.state, &waiting.replica, now).await
            }
            Inner::Running(ca) => ca.authority.ask_outside(now).await,
        }
    }

    async fn install(&self, chain: &str, dry_run: bool) -> Result<Installed, AuthorityError> {
        let now = self.now();
        match &self.0 {
            Inner::Waiting(it) => {
                authority::by_hand(&it.options)?;
                authority::install(&it.state, &it.replica, &it.options, chain, dry_run, now).await
            }
            Inner::Running(ca) => ca.authority.install_chain(chain, dry_run, now).await,
        }
    }

    /// The active root, and when the first of the chain up to it ends.
    async fn stands(&self) -> Result<Option<(String, SystemTime)>, AuthorityError> {
        let state = match &self.0 {
            Inner::Waiting(waiting) => &waiting.state,
            Inner::Running(ca) => &ca.state,
        };
        let stored = state.authorities().await?;
        let active = stored.as_ref().map(|stored| &stored.value);
        Ok(active.and_then(Authorities::active).map(|root| {
            let above = root.above.iter().map(|one| one.not_after());
            let ends = above.fold(root.certificate.not_after(), SystemTime::min);
            (root.certificate.subject().to_owned(), ends)
        }))
    }
}

#[tonic::async_trait]
impl wire::custody_server::Custody for Custody {
    async fn authority_request(
        &self,
        _request: Request<wire::AuthorityRequestRequest>,
    ) -> Result<Response<wire::AuthorityRequestResponse>, Status> {
        let asked = self.ask().await.map_err(refusal)?;
        let root = self.stands().await.map_err(refusal)?;
        let options = self.options();
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(wire::AuthorityRequestResponse {
            request: asked.request,
            made_unix_ms: unix_ms(asked.made),
            path_length: PATH_LENGTH.into(),
            longest_leaf_ms: ms(options.longest()),
            intermediate_ms: ms(options.intermediate_ttl),
            root: root.map(|(subject, _)| subject).unwrap_or_default(),
        }))
    }

    async fn install_authority(
        &self,
        request: Request<wire::InstallAuthorityRequest>,
    ) -> Result<Response<wire::InstallAuthorityResponse>, Status> {
        let wire::InstallAuthorityRequest { chain, dry_run } = request.into_inner();
        let installed = match self.install(&chain, dry_run).await {
            Ok(installed) => installed,
            Err(AuthorityError::Problems(problems)) => {
                let problems = problems.into_iter().map(|problem| wire::Problem {
                    code: problem.code.to_owned(),
                    message: problem.message,
                });
                return Ok(Response::new(wire::InstallAuthorityResponse {
                    problems: problems.collect(),
                    ..wire::InstallAuthorityResponse::default()
                }));
            }
            Err(error) => return Err(refusal(error).into()),
        };
        let certificate = installed.certificate();
        let outcome = match (&installed, &self.0) {
            (Installed::First(_), Inner::Waiting(_)) => "first",
            // One that has had a root, which was cut off.
            (Installed::First(_), Inner::Running(_)) => "restart",
            (Installed::Renewed(_), _) => "renewed",
            (Installed::Already(_), _) => "already",
            (Installed::Follows(_), _) => "follows",
        };
        if !dry_run && !matches!(installed, Installed::Already(_)) {
            tracing::info!(
                subject = certificate.subject(),
                until = rfc3339(certificate.not_after()),
                "an operator has installed a certificate from outside"
            );
            let record = installed_record("admin socket", certificate);
            let recorded = self
                .ledger()
                .append(vec![ledger::Record::new(self.now(), record)]);
            if let Err(error) = recorded.await {
                tracing::warn!(code = error.code(), %error, "what an operator has installed was not recorded");
            }
        }
        if let Inner::Waiting(waiting) = &self.0 {
            waiting.installed.send_if_modified(|installed| {
                let now = !dry_run && !*installed;
                *installed |= now;
                now
            });
        }
        let stands = self.stands().await.map_err(refusal)?;
        let ends = match (stands, &installed) {
            (
                Some((_, ends)),
                Installed::First(_) | Installed::Renewed(_) | Installed::Already(_),
            ) if !dry_run => ends,
            _ => certificate.not_after(),
        };
        let (mut rotation, mut plan) = (String::new(), None);
        if let (Installed::Follows(_), Inner::Running(ca)) = (&installed, &self.0) {
            if dry_run {
                let terms = ca.terms(None, None, None);
                plan = Some(super::rotation::plan_to_another(ca, &terms, self.now()).await);
            } else {
                ca.follow_outside(Initiator::Operator).await?;
                let running = ca.state.rotations().await;
                let running = running.map_err(|error| refusal(error.into()))?;
                rotation = running
                    .running()
                    .map(|it| it.id.clone())
                    .unwrap_or_default();
            }
        }
        Ok(Response::new(wire::InstallAuthorityResponse {
            problems: Vec::new(),
            outcome: outcome.to_owned(),
            subject: certificate.subject().to_owned(),
            not_after_unix_ms: unix_ms(ends),
            renewal_unix_ms: unix_ms(upper_renewal_at(certificate, ends)),
            rotation,
            plan,
        }))
    }
}

impl fmt::Debug for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custody")
    }
}

fn refusal(error: AuthorityError) -> Refusal {
    let fault = match &error {
        AuthorityError::Problems(_) => Fault::Request,
        error if error.passes() => Fault::Dependency,
        _ => Fault::Internal,
    };
    Refusal::new(error.code(), fault, error.to_string())
}
