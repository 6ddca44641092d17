//! The admin API, `arx.admin.v1`: what `arx` shows an operator, and the little that it
//! lets them do.

pub(crate) mod agents;
mod custody;
pub(crate) mod denial;
mod distrust;
mod recovery;
pub(crate) mod rotation;
pub(crate) mod status;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_daemon::clock::unix_ms;
use arx_identity::Serial;
use arx_proto::admin::v1 as wire;
use arx_proto::node::v1 as node;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::ca::Ca;
use crate::caller::NodeName;
use crate::fleet::Agent;
use crate::ledger::{self, LiveFilter, LiveLeaf, Query};
use crate::peer::Wanted;
use crate::refusal::{Fault, Refusal};
use crate::rotation::View;
use crate::state::Initiator;

pub use self::custody::{Custody, Waiting};
pub use self::recovery::Recovery;

/// Entries of a page where the caller does not say, and at most.
const PAGE: usize = 100;
const MOST: usize = 1000;
/// Longest reason of a renewal that is asked for.
const REASON: usize = 1024;

/// Answers the operator.
#[derive(Clone)]
pub struct Api(Arc<Ca>);

impl Api {
    /// Answers on behalf of `ca`.
    #[must_use]
    pub fn new(ca: Arc<Ca>) -> Self {
        Self(ca)
    }

    /// The index of valid certificates is built in the background after a start.
    async fn live(&self) -> Result<ledger::Live, Status> {
        let live = self.0.ledger.live();
        let ready = tokio::time::timeout(Duration::from_secs(10), live.ready()).await;
        ready.map_err(|_| {
            Status::from(Refusal::new(
                "ARX-INDEX-BUILDING",
                Fault::Dependency,
                "the index of valid certificates is being built: ask again",
            ))
        })?;
        Ok(live)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ca) -> Result<T, ledger::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let ca = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&ca)).await;
        let done = done.map_err(|_| Status::internal("the work was given up: see the log"))?;
        done.map_err(|error| {
            let fault = match error {
                ledger::Error::Token => Fault::Request,
                _ => Fault::Internal,
            };
            Refusal::new(error.code(), fault, error.to_string()).into()
        })
    }
}

#[tonic::async_trait]
impl wire::admin_server::Admin for Api {
    async fn status(
        &self,
        _request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        Ok(Response::new(status::status(&self.0)))
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let from = match request.page_token.split_once('/') {
            Some((cluster, node)) => Some(NodeName {
                cluster: cluster.into(),
                node: node.into(),
            }),
            None if request.page_token.is_empty() => None,
            None => return Err(bad_page_token()),
        };
        let newest = self.0.trust.current().sequence();
        let show = |agent: &Agent| agents::agent(&self.0, agent, newest);
        let (agents, next) = self
            .0
            .fleet
            .page(from.as_ref(), page_size(request.page_size), show);
        let page_token = next.map(|name| name.to_string()).unwrap_or_default();
        Ok(Response::new(wire::ListAgentsResponse {
            agents,
            page_token,
        }))
    }

    async fn list_svids(
        &self,
        request: Request<wire::ListSvidsRequest>,
    ) -> Result<Response<wire::ListSvidsResponse>, Status> {
        let request = request.into_inner();
        let live = self.live().await?;
        let filter = LiveFilter {
            identity: (!request.identity.is_empty()).then_some(request.identity),
            node: one_node(&live, request.node)?,
            serial: serial(&request.serial)?,
        };
        let (size, now) = (page_size(request.page_size), self.0.clock.now());
        let page = self
            .blocking(move |_| live.page(&filter, &request.page_token, size, now))
            .await?;
        let svids = page.leaves.into_iter().map(svid).collect();
        Ok(Response::new(wire::ListSvidsResponse {
            svids,
            page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn get_bundle(
        &self,
        _request: Request<wire::GetBundleRequest>,
    ) -> Result<Response<wire::GetBundleResponse>, Status> {
        let bundle = self.0.trust.current();
        Ok(Response::new(wire::GetBundleResponse {
            trust_domain: bundle.trust_domain().as_str().to_owned(),
            epoch: bundle.sequence().epoch,
            number: bundle.sequence().number,
            active_key_id: Bytes::copy_from_slice(self.0.authority.root_key_id().as_bytes()),
            roots: bundle
                .roots()
                .iter()
                .map(|root| Bytes::copy_from_slice(root.der()))
                .collect(),
        }))
    }

    async fn search_ledger(
        &self,
        request: Request<wire::SearchLedgerRequest>,
    ) -> Result<Response<wire::SearchLedgerResponse>, Status> {
        let request = request.into_inner();
        let query = match (serial(&request.serial_hex)?, request.identity.is_empty()) {
            (Some(serial), true) => Query::Serial(serial.as_bytes().to_vec()),
            (None, false) => Query::Identity(request.identity),
            _ => {
                return Err(Refusal::new(
                    "ARX-REQUEST-MALFORMED",
                    Fault::Request,
                    "give either a serial number or an identity",
                )
                .into());
            }
        };
        let wanted = Wanted {
            query,
            size: page_size(request.page_size),
            token: request.page_token,
            here: request.here,
        };
        let found = self.0.search_all(wanted).await?;
        Ok(Response::new(wire::SearchLedgerResponse {
            records: found.records,
            page_token: found.next.unwrap_or_default(),
            replicas: count(found.replicas),
            unanswered: found.unanswered.into_iter().map(Into::into).collect(),
        }))
    }

    type ExportLedgerStream =
        Pin<Box<dyn Stream<Item = Result<wire::ExportLedgerResponse, Status>> + Send>>;

    async fn export_ledger(
        &self,
        request: Request<wire::ExportLedgerRequest>,
    ) -> Result<Response<Self::ExportLedgerStream>, Status> {
        let request = request.into_inner();
        let since = time(request.since_unix_ms).unwrap_or(UNIX_EPOCH);
        let until = time(request.until_unix_ms).unwrap_or_else(|| self.0.clock.now());
        let export = self
            .blocking(move |ca| ca.ledger.export(since, until))
            .await?;
        // Read a chunk when the last one was taken, off the threads that answer calls.
        let chunks = futures_util::stream::unfold(Some(export), |export| async {
            let mut export = export?;
            let read = tokio::task::spawn_blocking(move || (export.next_chunk(), export)).await;
            let (chunk, export) = read.ok()?;
            match chunk {
                Ok(Some(lines)) => Some((
                    Ok(wire::ExportLedgerResponse {
                        lines: lines.into(),
                    }),
                    Some(export),
                )),
                Ok(None) => None,
                Err(error) => {
                    let refusal = Refusal::new(error.code(), Fault::Internal, error.to_string());
                    Some((Err(Status::from(refusal)), None))
                }
            }
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn verify_ledger(
        &self,
        _request: Request<wire::VerifyLedgerRequest>,
    ) -> Result<Response<wire::VerifyLedgerResponse>, Status> {
        let report = self.blocking(|ca| ca.ledger.verify()).await?;
        Ok(Response::new(wire::VerifyLedgerResponse {
            records: report.records,
            segments: report.segments.into(),
            head_sha256: Bytes::copy_from_slice(&report.head),
            problems: report.problems.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn request_renewal(
        &self,
        request: Request<wire::RequestRenewalRequest>,
    ) -> Result<Response<wire::RequestRenewalResponse>, Status> {
        let request = request.into_inner();
        if request.reason.len() > REASON {
            let reason = format!("a reason has {REASON} bytes at most");
            return Err(Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, reason).into());
        }
        let answer = self.0.request_renewal(request, &self.live().await?).await?;
        Ok(Response::new(answer))
    }

    async fn rotate_root(
        &self,
        request: Request<wire::RotateRootRequest>,
    ) -> Result<Response<wire::RotateRootResponse>, Status> {
        use wire::rotate_root_response::Outcome;
        let request = request.into_inner();
        let ca = &self.0;
        // Nobody could say who has to confirm.
        self.live().await?;
        let terms = rotation::terms(ca, &request);
        let outcome = if request.dry_run {
            Outcome::Plan(rotation::plan(ca, &terms, ca.clock.now()).await)
        } else {
            let reason = rotation::reason(request.reason)?;
            let view = ca.rotate(terms, reason, Initiator::Operator).await?;
            Outcome::Rotation(rotation::rotation(ca, &view, 0))
        };
        Ok(Response::new(wire::RotateRootResponse {
            outcome: Some(outcome),
        }))
    }

    async fn rotation_status(
        &self,
        request: Request<wire::RotationStatusRequest>,
    ) -> Result<Response<wire::RotationStatusResponse>, Status> {
        let request = request.into_inner();
        let view = rotation::named(&self.0, &request.id).await?;
        let limit = request.unconfirmed_limit;
        Ok(Response::new(wire::RotationStatusResponse {
            rotation: view.map(|view| rotation::rotation(&self.0, &view, limit)),
        }))
    }

    type WatchRotationStream =
        Pin<Box<dyn Stream<Item = Result<wire::WatchRotationResponse, Status>> + Send>>;

    async fn watch_rotation(
        &self,
        request: Request<wire::WatchRotationRequest>,
    ) -> Result<Response<Self::WatchRotationStream>, Status> {
        let request = request.into_inner();
        let views = self.0.rotator.watch();
        let Some(first) = rotation::named(&self.0, &request.id).await? else {
            return Err(rotation::unknown(&request.id).into());
        };
        let watching = rotation::Watching::new(Arc::clone(&self.0), views, first);
        let limit = request.unconfirmed_limit;
        let messages = futures_util::stream::unfold(watching, move |mut watching| async move {
            let rotation = watching.next(limit).await?;
            let message = wire::WatchRotationResponse {
                rotation: Some(rotation),
            };
            Some((Ok(message), watching))
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn abort_rotation(
        &self,
        request: Request<wire::AbortRotationRequest>,
    ) -> Result<Response<wire::AbortRotationResponse>, Status> {
        let request = request.into_inner();
        let reason = rotation::reason(request.reason)?;
        let view = self.0.abort_rotation(&request.id, reason).await?;
        Ok(Response::new(wire::AbortRotationResponse {
            rotation: self.shown(&view),
        }))
    }

    async fn continue_rotation(
        &self,
        request: Request<wire::ContinueRotationRequest>,
    ) -> Result<Response<wire::ContinueRotationResponse>, Status> {
        let request = request.into_inner();
        let reason = rotation::reason(request.reason)?;
        let force = request.force.then_some((reason, &request.digest[..]));
        let view = self.0.continue_rotation(&request.id, force).await?;
        Ok(Response::new(wire::ContinueRotationResponse {
            rotation: self.shown(&view),
        }))
    }

    async fn list_rotations(
        &self,
        request: Request<wire::ListRotationsRequest>,
    ) -> Result<Response<wire::ListRotationsResponse>, Status> {
        let request = request.into_inner();
        let all = rotation::all(&self.0).await?;
        let start = match request.page_token.as_str() {
            "" => 0,
            last => all
                .iter()
                .position(|rotation| rotation.id == last)
                .map(|last| last + 1)
                .ok_or_else(bad_page_token)?,
        };
        let page = &all[start..all.len().min(start + page_size(request.page_size))];
        let more = start + page.len() < all.len();
        let last = page.last().filter(|_| more);
        Ok(Response::new(wire::ListRotationsResponse {
            rotations: page
                .iter()
                .map(|rotation| rotation::stored(&self.0, rotation))
                .collect(),
            page_token: last.map(|last| last.id.clone()).unwrap_or_default(),
        }))
    }

    type RotationReportStream =
        Pin<Box<dyn Stream<Item = Result<wire::RotationReportResponse, Status>> + Send>>;

    async fn rotation_report(
        &self,
        request: Request<wire::RotationReportRequest>,
    ) -> Result<Response<Self::RotationReportStream>, Status> {
        /// Of one message.
        const CHUNK: usize = 1024 * 1024;
        let id = request.into_inner().id;
        let Some(view) = rotation::named(&self.0, &id).await? else {
            return Err(rotation::unknown(&id).into());
        };
        let report = rotation::report(&self.0, &view.rotation).to_string();
        let chunks: Vec<_> = report
            .as_bytes()
            .chunks(CHUNK)
            .map(|chunk| {
                Ok(wire::RotationReportResponse {
                    json: Bytes::copy_from_slice(chunk),
                })
            })
            .collect();
        Ok(Response::new(futures_util::stream::iter(chunks).boxed()))
    }

    async fn distrust(
        &self,
        request: Request<wire::DistrustRequest>,
    ) -> Result<Response<wire::DistrustResponse>, Status> {
        // Nobody could say who fails.
        self.live().await?;
        let outcome = distrust::distrust(&self.0, request.into_inner()).await?;
        Ok(Response::new(wire::DistrustResponse {
            outcome: Some(outcome),
        }))
    }

    async fn deny(
        &self,
        request: Request<wire::DenyRequest>,
    ) -> Result<Response<wire::DenyResponse>, Status> {
        let answer = denial::deny(&self.0, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn allow(
        &self,
        request: Request<wire::AllowRequest>,
    ) -> Result<Response<wire::AllowResponse>, Status> {
        let answer = denial::allow(&self.0, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let answer = self.0.explain(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn check_clusters(
        &self,
        _request: Request<wire::CheckClustersRequest>,
    ) -> Result<Response<wire::CheckClustersResponse>, Status> {
        let findings = self.0.examine().await.into_iter();
        let findings = findings.map(|found| wire::ClusterFinding {
            cluster: found.cluster.to_string(),
            test: found.test,
            wrong: found.wrong.unwrap_or_default(),
            warning: found.is_warning,
        });
        Ok(Response::new(wire::CheckClustersResponse {
            findings: findings.collect(),
        }))
    }

    async fn list_denials(
        &self,
        request: Request<wire::ListDenialsRequest>,
    ) -> Result<Response<wire::ListDenialsResponse>, Status> {
        self.live().await?;
        let request = request.into_inner();
        let size = page_size(request.page_size);
        let answer = denial::list(&self.0, request.page_token, size).await?;
        Ok(Response::new(answer))
    }
}

impl Api {
    /// How it stands now, as the answer to a wish.
    fn shown(&self, view: &View) -> Option<wire::Rotation> {
        Some(rotation::rotation(&self.0, view, 0))
    }
}

impl Ca {
    /// Tells agents to renew early what the request is about.
    async fn request_renewal(
        &self,
        request: wire::RequestRenewalRequest,
        live: &ledger::Live,
    ) -> Result<wire::RequestRenewalResponse, Status> {
        // They would ask, and get nothing.
        self.restore.is_open()?;
        let now = self.clock.now();
        let nothing =
            request.identity.is_empty() && request.node.is_empty() && request.serial.is_empty();
        if request.all != nothing {
            let reason = "say which certificates: an identity, a node or a serial number, or all";
            return Err(Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, reason).into());
        }
        let filter = LiveFilter {
            identity: (!request.identity.is_empty()).then(|| request.identity.clone()),
            node: one_node(live, request.node.clone())?,
            serial: serial(&request.serial)?,
        };
        let hint = |serials| {
            let renew_by = now + Duration::from_millis(request.window_ms);
            Arc::new(node::AuthorityMessage {
                message: Some(node::authority_message::Message::Renew(node::RenewalHint {
                    issuer_key_id: Bytes::new(),
                    serials,
                    renew_by_unix_ms: unix_ms(renew_by),
                    reason: request.reason.clone(),
                })),
            })
        };
        // Without what was replaced and is only not yet over, and what the authority has made for
        // itself.
        let of_nodes = live.serials_by_node(&filter, now);
        let served = of_nodes.iter().map(|((cluster, node), serials)| {
            let name = NodeName {
                cluster: Arc::clone(cluster),
                node: Arc::clone(node),
            };
            let served = serials.iter().filter(|it| self.fleet.serves(&name, it));
            served.count() as u64
        });
        let certificates = served.sum();
        let (agents, certificates) = if request.all {
            (self.fleet.tell(&hint(Vec::new()), |_| true), certificates)
        } else {
            let told = of_nodes.into_iter().map(|((cluster, node), serials)| {
                let serials = serials
                    .iter()
                    .map(|serial| Bytes::copy_from_slice(serial.as_bytes()))
                    .collect();
                let name = NodeName { cluster, node };
                self.fleet.tell(&hint(serials), |other| *other == name)
            });
            (told.sum(), certificates)
        };
        let record = ledger::Operator {
            who: "admin socket".to_owned(),
            action: "request renewal".to_owned(),
            detail: format!(
                "identity {:?}, node {:?}, serial {:?}: {}",
                request.identity, request.node, request.serial, request.reason
            ),
        };
        self.ledger
            .append(vec![ledger::Record::new(now, record)])
            .await
            .map_err(|error| {
                Status::from(Refusal::new(
                    error.code(),
                    Fault::Dependency,
                    error.to_string(),
                ))
            })?;
        tracing::info!(agents, certificates, reason = %request.reason, "an operator asked for renewal");
        Ok(wire::RequestRenewalResponse {
            agents,
            certificates,
        })
    }
}

fn svid(leaf: LiveLeaf) -> wire::SvidRecord {
    wire::SvidRecord {
        spiffe_id: leaf.spiffe_id.to_string(),
        serial: Bytes::copy_from_slice(leaf.serial.as_bytes()),
        not_before_unix_ms: unix_ms(leaf.not_before),
        not_after_unix_ms: unix_ms(leaf.not_after),
        issuer_key_id: Bytes::copy_from_slice(&leaf.issuer_key_id),
        root_key_id: Bytes::copy_from_slice(&leaf.root_key_id),
        cluster: leaf.cluster.to_string(),
        node: leaf.node.to_string(),
        evidence: leaf.evidence.to_string(),
        key_id: Bytes::copy_from_slice(&leaf.subject_key_id),
        replaces_serial: Bytes::copy_from_slice(&leaf.replaces),
        issued_unix_ms: unix_ms(leaf.issued),
    }
}

fn serial(hex: &str) -> Result<Option<Serial>, Status> {
    if hex.is_empty() {
        return Ok(None);
    }
    let serial = hex.replace(':', "").parse().map_err(|_| {
        Status::from(Refusal::new(
            "ARX-REQUEST-MALFORMED",
            Fault::Request,
            "a serial number is written in hex, is not 0 and has at most 20 bytes: take it from `arx svid list`",
        ))
    })?;
    Ok(Some(serial))
}

/// The node that is meant, by its name or as `<cluster>/<node>`; nothing where none is named.
pub(crate) fn one_node(live: &ledger::Live, called: String) -> Result<Option<String>, Status> {
    if called.is_empty() {
        return Ok(None);
    }
    let nodes = live.nodes_called(&called);
    if nodes.len() > 1 {
        let message = format!(
            "{} nodes are called {called:?}: say which, {}",
            nodes.len(),
            nodes.join(" or ")
        );
        return Err(Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, message).into());
    }
    Ok(Some(called))
}

fn bad_page_token() -> Status {
    Refusal::new(
        "ARX-PAGE-TOKEN",
        Fault::Request,
        "the page token does not belong to this list: start again without one",
    )
    .into()
}

fn page_size(asked: u32) -> usize {
    match asked as usize {
        0 => PAGE,
        asked => asked.min(MOST),
    }
}

fn time(unix_ms: i64) -> Option<SystemTime> {
    let millis = u64::try_from(unix_ms).ok().filter(|millis| *millis > 0)?;
    Some(UNIX_EPOCH + Duration::from_millis(millis))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}
