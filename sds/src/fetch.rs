//! A fetch: one question, one answer, and no word about whether it was taken.

use std::sync::Arc;

use tonic::Status;

use crate::request::Request;
use crate::response::Response;
use crate::snapshot::{Secret, Snapshot};
use crate::stream::check_type;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Fetch {
    names: Vec<String>,
}

impl Fetch {
    /// # Errors
    /// If the request can have no answer. An empty list means none, never all.
    pub(crate) fn new(request: Request) -> Result<Self, Status> {
        check_type(&request.type_url)?;
        let mut names: Vec<String> = Vec::new();
        for name in request.names {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(Status::invalid_argument(
                "the list of resource names is empty, name what to fetch",
            ));
        }
        Ok(Self { names })
    }

    /// The answer, once all that is asked for is there.
    pub(crate) fn whole(&self, snapshot: &Snapshot) -> Option<Response> {
        let secrets = self.ready(snapshot);
        (secrets.len() == self.names.len()).then(|| response(secrets))
    }

    /// The answer of whatever is there, when waiting is over.
    ///
    /// # Errors
    /// If nothing is.
    pub(crate) fn late(&self, snapshot: &Snapshot) -> Result<Response, Status> {
        match self.ready(snapshot) {
            secrets if secrets.is_empty() => Err(Status::unavailable(
                "none of these secrets is there for this caller, check the names and ask again",
            )),
            secrets => Ok(response(secrets)),
        }
    }

    fn ready(&self, snapshot: &Snapshot) -> Vec<Arc<Secret>> {
        self.names
            .iter()
            .filter_map(|name| snapshot.get(name))
            .cloned()
            .collect()
    }
}

fn response(secrets: Vec<Arc<Secret>>) -> Response {
    match <[Arc<Secret>; 1]>::try_from(secrets) {
        Ok([secret]) => Response::shared(secret),
        Err(secrets) => Response::new("1".into(), secrets),
    }
}
