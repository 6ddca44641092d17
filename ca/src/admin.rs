//! The admin API, `arx.admin.v1`: what `arx` shows an operator, and the little that it
//! lets them do.

mod denial;
mod rotation;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_daemon::clock::rfc3339;
use arx_identity::{Certificate, Serial};
use arx_proto::admin::v1 as wire;
use arx_proto::node::v1 as node;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::authority::{renewal_at, serving_at};
use crate::ca::Ca;
use crate::caller::NodeName;
use crate::fleet::Agent;
use crate::ledger::{self, LiveFilter, LiveLeaf, Query};
use crate::node_api::unix_ms;
use crate::overview::Remaining;
use crate::refusal::{Fault, Refusal};
use crate::rotation::View;

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
        let ca = &self.0;
        let now = ca.clock.now();
        let (agents_connected, agents_known) = ca.fleet.size();
        let live = ca.ledger.live();
        let soonest = live.is_ready().then(|| live.soonest(now)).flatten();
        let sequence = ca.trust.current().sequence();
        let (issued_total, refused_total) = ca.metrics.totals();
        Ok(Response::new(wire::StatusResponse {
            trust_domain: ca.trust_domain.as_str().to_owned(),
            version: ca.software.to_owned(),
            replica_id: ca.replica.to_string(),
            started_unix_ms: unix_ms(ca.started),
            clock_unix_ms: unix_ms(now),
            configuration_generation: ca.rules.get().generation,
            authorities: authorities(ca, now),
            bundle_epoch: sequence.epoch,
            bundle_number: sequence.number,
            agents_connected: count(agents_connected),
            agents_known: count(agents_known),
            live_certificates: if live.is_ready() { live.count(now) } else { 0 },
            soonest_expiry_unix_ms: soonest.as_ref().map_or(0, |(end, _)| unix_ms(*end)),
            soonest_expiry_identity: soonest
                .map(|(_, identity)| identity.to_string())
                .unwrap_or_default(),
            index_ready: live.is_ready(),
            issued_total,
            refused_total,
            health: health(ca, now),
            rotation: rotation::running(ca),
        }))
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
        let show = |agent: &Agent| {
            let name = agent.name();
            let counts = agent.counts(newest);
            let trust = agent.trust().unwrap_or_default();
            wire::Agent {
                spiffe_id: self
                    .0
                    .node_id(name)
                    .map(|id| id.as_str().to_owned())
                    .unwrap_or_default(),
                cluster: name.cluster.to_string(),
                node: name.node.to_string(),
                connected: agent.is_connected(),
                since_unix_ms: agent.since().map_or(0, unix_ms),
                software: agent.software().to_owned(),
                instance_id: Bytes::copy_from_slice(agent.instance_id()),
                clock_offset_ms: agent.clock_offset_ms(),
                trust_epoch: trust.epoch,
                trust_number: trust.number,
                leaves: counts.leaves,
                subscribers: counts.subscribers,
                subscribers_confirmed: counts.confirmed,
                nacks: counts.nacks,
                certificate_not_after_unix_ms: agent.node_not_after().map_or(0, unix_ms),
            }
        };
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
            node: (!request.node.is_empty()).then_some(request.node),
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
        let size = page_size(request.page_size);
        let page = self
            .blocking(move |ca| ca.ledger.search(&query, size, &request.page_token))
            .await?;
        let records = page.records.iter().map(ledger::Entry::to_json).collect();
        Ok(Response::new(wire::SearchLedgerResponse {
            records,
            page_token: page.next.unwrap_or_default(),
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
            let view = ca.rotate(terms, reason).await?;
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
        let now = self.clock.now();
        let nothing =
            request.identity.is_empty() && request.node.is_empty() && request.serial.is_empty();
        if request.all != nothing {
            let reason = "say which certificates: an identity, a node or a serial number, or all";
            return Err(Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, reason).into());
        }
        let filter = LiveFilter {
            identity: (!request.identity.is_empty()).then(|| request.identity.clone()),
            node: (!request.node.is_empty()).then(|| request.node.clone()),
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
        let (agents, certificates) = if request.all {
            (
                self.fleet.tell(&hint(Vec::new()), |_| true),
                live.count(now),
            )
        } else {
            let of_nodes = live.serials_by_node(&filter, now);
            let certificates = of_nodes.values().map(|serials| serials.len() as u64).sum();
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

fn authorities(ca: &Ca, now: SystemTime) -> Vec<wire::Authority> {
    let live = ca.ledger.live();
    let ready = live.is_ready();
    let root = &ca.authority.root();
    let under_root = if ready {
        live.count_under_root(&ca.authority.root_key_id(), now)
    } else {
        0
    };
    let mut all = vec![authority(
        "root", "active", root, ca.custody, under_root, None,
    )];
    let active = ca.authority.root_key_id();
    let roots = ca.overview.roots();
    all.extend(
        roots
            .iter()
            .filter(|root| root.key_id != active)
            .map(|root| {
                let under_it = if ready {
                    live.count_under_root(&root.key_id, now)
                } else {
                    0
                };
                authority(
                    "root",
                    &root.state,
                    &root.certificate,
                    root.custody,
                    under_it,
                    None,
                )
            }),
    );
    if let Some(issuing) = ca.authority.issuing() {
        let own = issuing.issuer().certificate();
        let renews = renewal_at(issuing.term(), ca.authority.longest_leaf());
        let count = if ready {
            live.count_under_issuer(&issuing.intermediate(), now)
        } else {
            0
        };
        all.push(authority(
            "intermediate",
            "active",
            own,
            "memory",
            count,
            renews,
        ));
    }
    if let Some(svid) = ca.authority.serving() {
        let own = svid.chain().leaf();
        let renews = serving_at(own.not_before(), own.not_after());
        all.push(authority(
            "serving",
            "active",
            own,
            "memory",
            0,
            Some(renews),
        ));
    }
    all
}

fn authority(
    role: &str,
    state: &str,
    certificate: &Certificate,
    custody: &str,
    live_certificates: u64,
    renews: Option<SystemTime>,
) -> wire::Authority {
    wire::Authority {
        role: role.to_owned(),
        state: state.to_owned(),
        subject: certificate.subject().to_owned(),
        key_id: Bytes::copy_from_slice(certificate.public_key().key_id().as_bytes()),
        serial: Bytes::copy_from_slice(certificate.serial().as_bytes()),
        key_algorithm: certificate.public_key().algorithm().to_string(),
        custody: custody.to_owned(),
        not_before_unix_ms: unix_ms(certificate.not_before()),
        not_after_unix_ms: unix_ms(certificate.not_after()),
        renews_unix_ms: renews.map_or(0, unix_ms),
        live_certificates,
        certificate: Bytes::copy_from_slice(certificate.der()),
    }
}

fn health(ca: &Ca, now: SystemTime) -> Vec<wire::Health> {
    let failing = ca.readiness.failing();
    let mut health: Vec<_> = ["authority", "ledger", "store"]
        .into_iter()
        .map(|component| {
            let found = failing.iter().find(|failing| failing.name == component);
            wire::Health {
                component: component.to_owned(),
                ok: found.is_none(),
                code: found
                    .map(|failing| failing.code.to_owned())
                    .unwrap_or_default(),
                message: found
                    .map(|failing| failing.message.clone())
                    .unwrap_or_default(),
                warning: false,
            }
        })
        .collect();
    let ahead = ca
        .fleet_ahead
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    health.push(wire::Health {
        component: "fleet".to_owned(),
        ok: ahead.is_none(),
        code: ahead
            .as_ref()
            .map(|_| "ARX-FLEET-AHEAD".to_owned())
            .unwrap_or_default(),
        message: ahead.unwrap_or_default(),
        warning: false,
    });
    health.push(root_health(ca, now));
    health.extend(
        ca.rules
            .get()
            .tokens
            .health()
            .into_iter()
            .map(|cluster| wire::Health {
                component: format!("cluster {}", cluster.cluster),
                ok: cluster.code.is_none(),
                code: cluster.code.unwrap_or_default().to_owned(),
                message: cluster.message,
                warning: false,
            }),
    );
    health
}

/// Whether the active root lives long enough for its rotation to be planned at leisure.
fn root_health(ca: &Ca, now: SystemTime) -> wire::Health {
    let root = ca.authority.root();
    let advice = Remaining::of(root.not_after(), now).advice();
    let view = ca.rotator.watch().borrow().clone();
    let leaving = view.filter(|view| !view.rotation.phase.is_over());
    let message = match (advice, leaving) {
        (Some(_), Some(view)) => format!(
            "a root ends at {}, and rotation {} is under way: see `arx rotate status`",
            rfc3339(root.not_after()),
            view.rotation.id
        ),
        (Some(advice), None) => advice.to_owned(),
        (None, _) => String::new(),
    };
    wire::Health {
        component: "root".to_owned(),
        ok: true,
        code: advice
            .map(|_| "ARX-ROOT-ENDING")
            .unwrap_or_default()
            .to_owned(),
        message,
        warning: advice.is_some(),
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
            "a serial number is given in hex",
        ))
    })?;
    Ok(Some(serial))
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
