//! An authority of the tests: the admin API on a real socket, with answers that are set.

mod denials;
mod rotations;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arx_proto::admin::v1 as wire;
use futures_util::stream;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use wire::admin_server::{Admin, AdminServer};

use denials::Denials;
pub(crate) use rotations::Rotations;
use rotations::Streamed;

/// What it answers.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    pub(crate) status: wire::StatusResponse,
    pub(crate) agents: Vec<wire::Agent>,
    pub(crate) svids: Vec<wire::SvidRecord>,
    pub(crate) records: Vec<String>,
    /// How many replicas there are, and who of them does not answer.
    pub(crate) replicas: u32,
    pub(crate) unanswered: Vec<wire::Unanswered>,
    pub(crate) roots: Vec<Vec<u8>>,
    /// Subject key id of the one that signs.
    pub(crate) active_root: Vec<u8>,
    /// `None`: the ledger can't be verified.
    pub(crate) ledger: Option<wire::VerifyLedgerResponse>,
    pub(crate) rotations: Arc<Rotations>,
    pub(crate) denials: Arc<Mutex<Denials>>,
    pub(crate) explained: Vec<wire::ExplainedPod>,
    /// `None`: it is of a version that can't be asked about clusters.
    pub(crate) clusters: Option<Vec<wire::ClusterFinding>>,
    /// What it answers to a distrust; `None`: it does not know the authority.
    pub(crate) distrust: Option<wire::distrust_response::Outcome>,
}

/// It runs until it is dropped.
pub(crate) struct Authority {
    socket: PathBuf,
    _serving: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn start(answers: Answers) -> Self {
        let service = TowerToHyperService::new(AdminServer::new(answers));
        Self::serve(|listener| async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service.clone());
                connections.spawn(connection);
            }
        })
    }

    /// One that takes connections and never says a word.
    pub(crate) fn silent() -> Self {
        Self::serve(|listener| async move {
            let mut held = Vec::new();
            while let Ok(connection) = listener.accept().await {
                held.push(connection);
            }
        })
    }

    fn serve<F: Future<Output = ()> + Send + 'static>(how: impl FnOnce(UnixListener) -> F) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut serving = JoinSet::new();
        serving.spawn(how(listener));
        Self {
            socket,
            _serving: serving,
            _folder: folder,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.socket
    }
}

/// Entries of a page, whatever is asked for: clients have to follow.
const PAGE: usize = 2;

fn page<T: Clone>(all: &[T], token: &str) -> Result<(Vec<T>, String), Status> {
    let from: usize = match token {
        "" => 0,
        token => token
            .parse()
            .map_err(|_| Status::invalid_argument("no such page"))?,
    };
    let to = (from + PAGE).min(all.len());
    let next = if to < all.len() {
        to.to_string()
    } else {
        String::new()
    };
    Ok((all[from..to].to_vec(), next))
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for Answers {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        Ok(Response::new(self.status.clone()))
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Answer<wire::ListAgentsResponse> {
        let (agents, page_token) = page(&self.agents, &request.get_ref().page_token)?;
        Ok(Response::new(wire::ListAgentsResponse {
            agents,
            page_token,
        }))
    }

    async fn list_svids(
        &self,
        request: Request<wire::ListSvidsRequest>,
    ) -> Answer<wire::ListSvidsResponse> {
        let (svids, page_token) = page(&self.svids, &request.get_ref().page_token)?;
        Ok(Response::new(wire::ListSvidsResponse { svids, page_token }))
    }

    async fn get_bundle(
        &self,
        _: Request<wire::GetBundleRequest>,
    ) -> Answer<wire::GetBundleResponse> {
        Ok(Response::new(wire::GetBundleResponse {
            trust_domain: "example.org".to_owned(),
            epoch: 1,
            number: 7,
            active_key_id: self.active_root.clone().into(),
            roots: self.roots.iter().map(|root| root.clone().into()).collect(),
        }))
    }

    async fn search_ledger(
        &self,
        request: Request<wire::SearchLedgerRequest>,
    ) -> Answer<wire::SearchLedgerResponse> {
        let (records, page_token) = page(&self.records, &request.get_ref().page_token)?;
        let (replicas, unanswered) = match request.get_ref().here {
            true => (1, Vec::new()),
            false => (self.replicas, self.unanswered.clone()),
        };
        Ok(Response::new(wire::SearchLedgerResponse {
            records,
            page_token,
            replicas,
            unanswered,
        }))
    }

    type ExportLedgerStream = Streamed<wire::ExportLedgerResponse>;

    async fn export_ledger(
        &self,
        _: Request<wire::ExportLedgerRequest>,
    ) -> Answer<Self::ExportLedgerStream> {
        let lines: Vec<_> = self
            .records
            .iter()
            .map(|record| {
                Ok(wire::ExportLedgerResponse {
                    lines: format!("{record}\n").into(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(lines))))
    }

    async fn verify_ledger(
        &self,
        _: Request<wire::VerifyLedgerRequest>,
    ) -> Answer<wire::VerifyLedgerResponse> {
        let report = self.ledger.clone();
        report
            .map(Response::new)
            .ok_or_else(|| Status::internal("the ledger's folder can't be read"))
    }

    async fn request_renewal(
        &self,
        _: Request<wire::RequestRenewalRequest>,
    ) -> Answer<wire::RequestRenewalResponse> {
        Ok(Response::new(wire::RequestRenewalResponse::default()))
    }

    async fn rotate_root(
        &self,
        request: Request<wire::RotateRootRequest>,
    ) -> Answer<wire::RotateRootResponse> {
        self.rotations.start(request.get_ref())
    }

    async fn rotation_status(
        &self,
        _: Request<wire::RotationStatusRequest>,
    ) -> Answer<wire::RotationStatusResponse> {
        self.rotations.status()
    }

    type WatchRotationStream = Streamed<wire::WatchRotationResponse>;

    async fn watch_rotation(
        &self,
        request: Request<wire::WatchRotationRequest>,
    ) -> Answer<Self::WatchRotationStream> {
        self.rotations.watch(&request.get_ref().id)
    }

    async fn abort_rotation(
        &self,
        request: Request<wire::AbortRotationRequest>,
    ) -> Answer<wire::AbortRotationResponse> {
        self.rotations.abort(request.get_ref())
    }

    async fn continue_rotation(
        &self,
        request: Request<wire::ContinueRotationRequest>,
    ) -> Answer<wire::ContinueRotationResponse> {
        self.rotations.go_on(request.get_ref())
    }

    async fn list_rotations(
        &self,
        request: Request<wire::ListRotationsRequest>,
    ) -> Answer<wire::ListRotationsResponse> {
        self.rotations.list(&request.get_ref().page_token)
    }

    async fn distrust(&self, _: Request<wire::DistrustRequest>) -> Answer<wire::DistrustResponse> {
        match &self.distrust {
            Some(outcome) => Ok(Response::new(wire::DistrustResponse {
                outcome: Some(outcome.clone()),
            })),
            None => Err(Status::invalid_argument("no authority is called so")),
        }
    }

    async fn deny(&self, request: Request<wire::DenyRequest>) -> Answer<wire::DenyResponse> {
        let mut denials = self.denials.lock().expect("no panic");
        Ok(Response::new(denials.deny(request.get_ref())))
    }

    async fn allow(&self, request: Request<wire::AllowRequest>) -> Answer<wire::AllowResponse> {
        let mut denials = self.denials.lock().expect("no panic");
        Ok(Response::new(denials.allow(request.get_ref())))
    }

    async fn explain(&self, _: Request<wire::ExplainRequest>) -> Answer<wire::ExplainResponse> {
        Ok(Response::new(wire::ExplainResponse {
            pods: self.explained.clone(),
            replicas: self.replicas,
            unanswered: self.unanswered.clone(),
        }))
    }

    async fn check_clusters(
        &self,
        _: Request<wire::CheckClustersRequest>,
    ) -> Answer<wire::CheckClustersResponse> {
        match self.clusters.clone() {
            Some(findings) => Ok(Response::new(wire::CheckClustersResponse { findings })),
            None => Err(Status::unimplemented("")),
        }
    }

    async fn list_denials(
        &self,
        request: Request<wire::ListDenialsRequest>,
    ) -> Answer<wire::ListDenialsResponse> {
        let all = &self.denials.lock().expect("no panic").all;
        let (denials, page_token) = page(all, &request.get_ref().page_token)?;
        Ok(Response::new(wire::ListDenialsResponse {
            denials,
            page_token,
        }))
    }

    type RotationReportStream = Streamed<wire::RotationReportResponse>;

    async fn rotation_report(
        &self,
        _: Request<wire::RotationReportRequest>,
    ) -> Answer<Self::RotationReportStream> {
        self.rotations.report()
    }
}
