//! What all replicas know of a pod, from one of them: each has agents of its own, a ledger of its own,
//! and was shown tokens of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arx_proto::admin::v1 as wire;
use futures_util::future::join_all;

use super::Unanswered;
use crate::ca::Ca;
use crate::explain;
use crate::refusal::{Fault, Refusal};

impl Ca {
    /// The pod in each cluster that is asked for. What is decided is this replica's word, if it
    /// knows the pod; what was last asked for it, whoever was asked.
    ///
    /// # Errors
    /// If no such pod is known, or its name cannot be looked up.
    pub async fn explain(
        self: &Arc<Self>,
        request: wire::ExplainRequest,
    ) -> Result<wire::ExplainResponse, Refusal> {
        let mut pods = explain::here(self, &request).await?;
        // Whatever bears this name elsewhere, it is this pod that is asked for.
        let known = pods.iter().map(|pod| wire::ExplainRequest {
            pod: pod.uid.clone(),
            cluster: pod.cluster.clone(),
        });
        let asked: Vec<_> = match pods.is_empty() {
            true => vec![request.clone()],
            false => known.collect(),
        };
        let mut unanswered = Vec::new();
        let others = self.others_in_time().await.unwrap_or_else(|reason| {
            unanswered.push(Unanswered::new("", &reason));
            BTreeMap::new()
        });
        let asking = others
            .iter()
            .map(|(name, address)| self.ask_of_pods(name, address.as_deref(), &asked));
        for (name, answered) in others.keys().zip(join_all(asking).await) {
            match answered {
                Ok(theirs) => theirs.into_iter().for_each(|pod| merge(&mut pods, pod)),
                Err(reason) => {
                    tracing::warn!(code = "ARX-PEER-UNANSWERED", replica = %name, %reason, "a pod is explained without the word of another replica");
                    unanswered.push(Unanswered::new(name, &reason));
                }
            }
        }
        if pods.is_empty() {
            return Err(unknown(&request.pod, &unanswered));
        }
        Ok(wire::ExplainResponse {
            pods,
            replicas: u32::try_from(others.len() + 1).unwrap_or(u32::MAX),
            unanswered: unanswered.into_iter().map(Into::into).collect(),
        })
    }
}

/// Of each of the things that happen to a pod the newest counts.
fn merge(pods: &mut Vec<wire::ExplainedPod>, theirs: wire::ExplainedPod) {
    let mut same = pods.iter_mut();
    let same = same.find(|pod| (&pod.cluster, &pod.uid) == (&theirs.cluster, &theirs.uid));
    let Some(pod) = same else {
        pods.push(theirs);
        return;
    };
    newest(&mut pod.token, theirs.token, |it| it.seen_unix_ms);
    newest(&mut pod.agent, theirs.agent, |it| {
        (it.connected, it.since_unix_ms)
    });
    newest(&mut pod.certificate, theirs.certificate, |it| {
        it.issued_unix_ms
    });
    newest(&mut pod.refusal, theirs.refusal, |it| it.at_unix_ms);
}

fn newest<T, K: Ord>(ours: &mut Option<T>, theirs: Option<T>, key: impl Fn(&T) -> K) {
    if theirs.as_ref().map(&key) > ours.as_ref().map(&key) {
        *ours = theirs;
    }
}

fn unknown(pod: &str, unanswered: &[Unanswered]) -> Refusal {
    let missing = unanswered.iter().map(|it| match &*it.replica {
        "" => format!(
            "; which other replicas there are is not known: {}",
            it.reason
        ),
        replica => format!("; {replica} has not answered: {}", it.reason),
    });
    let message = format!(
        "no pod {pod:?} is known, nor was one asked for since the authority was started: name it as NAMESPACE/NAME or by its UID{}",
        missing.collect::<String>()
    );
    Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, message)
}
