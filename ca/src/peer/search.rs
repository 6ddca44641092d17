//! A search of the ledgers of all replicas, from one of them: everybody is asked at once, and who
//! has not answered in time is named.

use std::collections::BTreeMap;
use std::sync::Arc;

use arx_proto::admin::v1 as wire;
use futures_util::future::join_all;

use super::ask::{Others, Question};
use super::merge::{Piece, Position, Positions, merge};
use crate::ca::Ca;
use crate::ledger::{self, Place, Query};
use crate::refusal::{Fault, Refusal};

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// This.
    pub query: Query,
    /// At most so many records.
    pub size: usize,
    /// Where the search goes on; empty at its beginning.
    pub token: String,
    /// Only in the ledger of this replica.
    pub here: bool,
}

/// A page of what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// One JSON object each, newest first.
    pub records: Vec<String>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<String>,
    /// How many replicas there are to search, as far as that is known.
    pub replicas: usize,
    /// Whose records are missing.
    pub unanswered: Vec<Unanswered>,
}

/// A replica that has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Its name; empty if it is not known who there is.
    pub replica: String,
    /// Why, for people.
    pub reason: String,
}

impl Ca {
    /// A page of what all replicas have recorded, or this one alone.
    ///
    /// # Errors
    /// If the token is none of a search, or this replica's own ledger cannot be read.
    pub async fn search_all(self: &Arc<Self>, wanted: Wanted) -> Result<Answer, Refusal> {
        let others = match wanted.here {
            true => Ok(BTreeMap::new()),
            false => self.others_in_time().await,
        };
        let mut answer = Answer::default();
        let mut positions = match &*wanted.token {
            "" => {
                let known = others.as_ref().ok().into_iter().flat_map(BTreeMap::keys);
                let names = known.cloned().chain([self.replica.to_string()]);
                if let Err(reason) = &others {
                    answer.misses("", reason);
                }
                Positions(names.map(|name| (name, Position::Begin)).collect())
            }
            token => Positions::parse(token).map_err(refusal)?,
        };
        if wanted.here {
            positions.0.retain(|name, _| **name == *self.replica);
        }
        if positions.0.is_empty() {
            // It was a search of others.
            return Err(refusal(ledger::Error::Token));
        }
        answer.replicas = positions.0.len();
        let pieces = self
            .pieces(&wanted, &others, &mut positions, &mut answer)
            .await?;
        answer.records = merge(pieces, &mut positions, wanted.size.max(1));
        answer.next = positions.token();
        Ok(answer)
    }

    /// What those have who have something left, and answer.
    async fn pieces(
        self: &Arc<Self>,
        wanted: &Wanted,
        others: &Others,
        positions: &mut Positions,
        answer: &mut Answer,
    ) -> Result<BTreeMap<String, Piece>, Refusal> {
        let mut own = None;
        let mut asked = Vec::new();
        for (name, position) in &positions.0 {
            let after = match position {
                Position::Begin => None,
                Position::After(place) => Some(*place),
                Position::Over => continue,
                Position::Missing => {
                    answer.misses(name, "it has not answered for an earlier page");
                    continue;
                }
            };
            let question = Question {
                query: &wanted.query,
                size: wanted.size,
                after,
            };
            match **name == *self.replica {
                true => own = Some(question),
                false => asked.push(self.ask_known(name, others, question)),
            }
        }
        let searching = async {
            let Some(question) = own else {
                return Ok::<_, Refusal>(BTreeMap::new());
            };
            let query = question.query.clone();
            let piece = self.search_own(query, question.size, question.after);
            Ok(BTreeMap::from([(self.replica.to_string(), piece.await?)]))
        };
        let (own, answered) = tokio::join!(searching, join_all(asked));
        let mut pieces = own?;
        for (name, piece) in answered {
            match piece {
                Ok(piece) => {
                    pieces.insert(name, piece);
                }
                Err(reason) => {
                    tracing::warn!(code = "ARX-PEER-UNANSWERED", replica = %name, %reason, "a search goes on without the ledger of another replica");
                    answer.misses(&name, &reason);
                    positions.0.insert(name, Position::Missing);
                }
            }
        }
        Ok(pieces)
    }

    /// What one of `others` has, if it is among them.
    async fn ask_known(
        &self,
        name: &str,
        others: &Others,
        question: Question<'_>,
    ) -> (String, Result<Piece, String>) {
        let piece = match others {
            Ok(others) => match others.get(name) {
                Some(address) => self.ask(name, address.as_deref(), question).await,
                None => Err("it is none of the replicas any more".to_owned()),
            },
            Err(reason) => Err(reason.clone()),
        };
        (name.to_owned(), piece)
    }

    /// What this replica's own ledger has.
    pub(super) async fn search_own(
        self: &Arc<Self>,
        query: Query,
        size: usize,
        after: Option<Place>,
    ) -> Result<Piece, Refusal> {
        let ca = Arc::clone(self);
        let searched = tokio::task::spawn_blocking(move || {
            let found = ca.ledger.find(&query, size, after)?;
            Ok(Piece::of(found, &ca.replica))
        });
        let searched = searched.await.map_err(|_| {
            let message = "the ledger could not be searched: see the log";
            Refusal::new("ARX-LEDGER-INDEX", Fault::Internal, message)
        })?;
        searched.map_err(refusal)
    }
}

impl Answer {
    fn misses(&mut self, replica: &str, reason: &str) {
        self.unanswered.push(Unanswered::new(replica, reason));
    }
}

impl Unanswered {
    pub(super) fn new(replica: &str, reason: &str) -> Self {
        Self {
            replica: replica.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

impl From<Unanswered> for wire::Unanswered {
    fn from(unanswered: Unanswered) -> Self {
        let Unanswered { replica, reason } = unanswered;
        Self { replica, reason }
    }
}

fn refusal(error: ledger::Error) -> Refusal {
    let fault = match error {
        ledger::Error::Token => Fault::Request,
        _ => Fault::Internal,
    };
    Refusal::new(error.code(), fault, error.to_string())
}
