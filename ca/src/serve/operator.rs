//! Who answers on the admin socket: little while the authority waits for its certificate from
//! outside, everything once it can issue.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use arx_proto::admin::v1::admin_server::AdminServer;
use arx_proto::admin::v1::custody_server::CustodyServer;
use arx_proto::admin::v1::recovery_server::RecoveryServer;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tower_service::Service as _;

use crate::admin::{Api as AdminApi, Custody, Recovery};
use crate::refusal::{Fault, Refusal};

/// Who answers an operator, which changes while a process starts. Clones are the same.
#[derive(Clone, Debug)]
pub struct Operator(Arc<watch::Sender<Answers>>);

/// What can be answered.
#[derive(Clone)]
pub enum Answers {
    /// Nothing yet.
    Nothing,
    /// Only what brings the authority its certificate from outside, which it waits for.
    Waiting(CustodyServer<Custody>),
    /// Everything.
    Everything(
        AdminServer<AdminApi>,
        CustodyServer<Custody>,
        RecoveryServer<Recovery>,
    ),
}

impl Default for Operator {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Answers::Nothing)))
    }
}

impl Operator {
    /// From now on, this is answered; also on connections that are open.
    pub fn answer(&self, answers: Answers) {
        self.0.send_replace(answers);
    }
}

/// Paths of the smaller services begin so.
const CUSTODY: &str = "/arx.admin.v1.Custody/";
const RECOVERY: &str = "/arx.admin.v1.Recovery/";

impl hyper::service::Service<Request<Incoming>> for Operator {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let (custody, recovery) = (path.starts_with(CUSTODY), path.starts_with(RECOVERY));
        let refusal = match self.0.borrow().clone() {
            Answers::Everything(_, mut api, _) | Answers::Waiting(mut api) if custody => {
                return api.call(request);
            }
            Answers::Everything(_, _, mut api) if recovery => return api.call(request),
            Answers::Everything(mut admin, ..) => return admin.call(request),
            Answers::Waiting(_) => Refusal::new(
                "ARX-AUTHORITY-AWAITING",
                Fault::Dependency,
                "the authority waits for its certificate from outside, and can do nothing else: \
                 see /readyz, `arx authority csr` and `arx authority install`",
            ),
            Answers::Nothing => Refusal::new(
                "ARX-STARTING",
                Fault::Dependency,
                "the authority is starting: ask again, and see /readyz if that does not end",
            ),
        };
        Box::pin(async { Ok(Status::from(refusal).into_http()) })
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Waiting(_) => "Waiting",
            Self::Everything(..) => "Everything",
        })
    }
}
