//! Refusals as Events on the pods that they are about (events.k8s.io/v1), where those who own the
//! pods look first. Never waited for, and few: what is one of many is dropped and counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::crypto::sha256;
use http::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Found;
use crate::hex::Hex;
use crate::kubernetes::in_short;
use crate::refusal::Refusal;

/// Events that wait to be written.
const QUEUE: usize = 256;
/// The same reason is told of a pod once in this time.
const AGAIN: Duration = Duration::from_secs(600);
/// Reasons that are told of one pod in that time.
const REASONS: usize = 4;
/// Pods that are told apart.
const PODS: usize = 4096;
/// Events that may be written at once, and how long until there may be one more.
const BURST: u32 = 20;
const EACH: Duration = Duration::from_secs(1);
/// After the API server has refused one, nothing is tried for so long.
const FORBIDDEN: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest note, in bytes, as the API server has it.
const LONGEST: usize = 1024;

/// What becomes of Events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written,
    /// One of too many.
    Dropped,
    /// The API server does not allow it.
    Forbidden,
    Failed,
}

impl Outcome {
    pub(crate) const NAMES: [&'static str; 4] = ["written", "dropped", "forbidden", "failed"];
}

/// Writes Events of one cluster.
pub(super) struct Events {
    tell: mpsc::Sender<Notice>,
    told: tokio::sync::Mutex<mpsc::Receiver<Notice>>,
    limits: Mutex<Limits>,
    counted: [AtomicU64; 4],
}

/// A refusal, and the pod that it is about.
struct Notice {
    pod: Found,
    code: &'static str,
    message: String,
    at: SystemTime,
}

#[derive(Default)]
struct Limits {
    pods: HashMap<String, (Instant, Vec<&'static str>)>,
    /// When as many as can be were to be had again.
    full_at: Option<Instant>,
}

impl Default for Events {
    fn default() -> Self {
        let (tell, told) = mpsc::channel(QUEUE);
        Self {
            tell,
            told: tokio::sync::Mutex::new(told),
            limits: Mutex::default(),
            counted: Default::default(),
        }
    }
}

impl Events {
    /// Has a refusal told, if it is not one of many. Waits for nothing.
    pub(super) fn tell(&self, pod: &Found, refusal: &Refusal, at: SystemTime, now: Instant) {
        let limits = self.limits.lock();
        let allowed =
            limits
                .unwrap_or_else(PoisonError::into_inner)
                .allow(&pod.uid, refusal.code, now);
        match allowed {
            // It was told.
            None => {}
            Some(false) => self.count(Outcome::Dropped),
            Some(true) => {
                let notice = Notice {
                    pod: pod.clone(),
                    code: refusal.code,
                    message: refusal.message.clone(),
                    at,
                };
                if self.tell.try_send(notice).is_err() {
                    self.count(Outcome::Dropped);
                }
            }
        }
    }

    /// Writes what is to be told, for ever.
    pub(super) async fn keep(&self, client: &kube::Client) {
        let mut told = self.told.lock().await;
        let mut forbidden: Option<tokio::time::Instant> = None;
        while let Some(notice) = told.recv().await {
            let now = tokio::time::Instant::now();
            if forbidden.is_some_and(|until| now < until) {
                self.count(Outcome::Forbidden);
                continue;
            }
            let outcome = write(client, &notice).await;
            if outcome == Outcome::Forbidden {
                forbidden = Some(now + FORBIDDEN);
                tracing::info!(
                    code = "ARX-EVENTS-FORBIDDEN",
                    cluster = &*notice.pod.cluster,
                    "refusals are not told as Events: the authority may not create them there"
                );
            }
            self.count(outcome);
        }
    }

    pub(super) fn counts(&self) -> [u64; 4] {
        std::array::from_fn(|n| self.counted[n].load(Ordering::Relaxed))
    }

    fn count(&self, outcome: Outcome) {
        self.counted[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Limits {
    /// Whether a reason may be told of a pod; nothing if it was.
    fn allow(&mut self, uid: &str, code: &'static str, now: Instant) -> Option<bool> {
        let recent = |since: Instant| now.saturating_duration_since(since) < AGAIN;
        if let Some((since, codes)) = self.pods.get(uid).filter(|(since, _)| recent(*since)) {
            let _ = since;
            if codes.contains(&code) {
                return None;
            }
            if codes.len() >= REASONS {
                return Some(false);
            }
        } else {
            self.pods.remove(uid);
            if self.pods.len() >= PODS {
                self.pods.retain(|_, (since, _)| recent(*since));
            }
            if self.pods.len() >= PODS {
                return Some(false);
            }
        }
        // A bucket that fills again: it is full at this time.
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + EACH;
        if full_at > now + EACH * BURST {
            return Some(false);
        }
        self.full_at = Some(full_at);
        let (_, codes) = self
            .pods
            .entry(uid.to_owned())
            .or_insert_with(|| (now, Vec::new()));
        codes.push(code);
        Some(true)
    }
}

async fn write(client: &kube::Client, notice: &Notice) -> Outcome {
    let path = format!(
        "/apis/events.k8s.io/v1/namespaces/{}/events",
        notice.pod.namespace
    );
    let request = Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(event(notice).to_string().into_bytes());
    let Ok(request) = request else {
        return Outcome::Failed;
    };
    match timeout(DEADLINE, client.request::<Value>(request)).await {
        Ok(Ok(_)) => Outcome::Written,
        // Another replica has told it.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Outcome::Written,
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => Outcome::Forbidden,
        Ok(Err(error)) => {
            tracing::debug!("an Event was not written: {}", in_short(&error));
            Outcome::Failed
        }
        Err(_) => Outcome::Failed,
    }
}

fn event(notice: &Notice) -> Value {
    let Notice {
        pod,
        code,
        message,
        at,
    } = notice;
    // The same of each replica, and another in each span.
    let spans = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        / AGAIN.as_secs();
    let hash = sha256(format!("{} {code} {spans}", pod.uid).as_bytes());
    let note = format!("{code}: {message}");
    let end = (0..=LONGEST.min(note.len())).rev();
    let end = end.into_iter().find(|end| note.is_char_boundary(*end));
    let name: String = pod.name.chars().take(200).collect();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{name}.{}", Hex(&hash[..8])),
            "namespace": *pod.namespace,
        },
        "eventTime": micro(*at),
        "type": "Warning",
        "reason": "IdentityRefused",
        "action": "Issue",
        "note": &note[..end.unwrap_or(0)],
        "reportingController": "arx.dev/ca",
        "reportingInstance": "arx-ca",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": *pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
        },
    })
}

/// With six digits after the second, which is all that a MicroTime takes.
fn micro(at: SystemTime) -> String {
    let micros = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_micros();
    let whole = rfc3339(at);
    let seconds: String = whole.chars().take("2026-11-26T18:00:00".len()).collect();
    format!("{seconds}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fake::api_server;
    use crate::refusal::Fault;

    fn pod(uid: &str) -> Found {
        Found {
            cluster: "c1".into(),
            namespace: "shop".into(),
            name: "web-1".to_owned(),
            uid: uid.to_owned(),
            service_account: "web".into(),
            node: Some("n1".into()),
            labels: Vec::new(),
        }
    }

    fn refusal(code: &'static str) -> Refusal {
        Refusal::new(code, Fault::Forbidden, "it may not have that")
    }

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(1_780_000_000_123_456)
    }

    const CODES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

    #[test]
    fn a_reason_is_told_of_a_pod_once_in_ten_minutes_and_few_of_one_pod() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let told = |limits: &mut Limits, now| CODES.map(|code| limits.allow("1", code, now));
        let first = told(&mut limits, now);
        assert_eq!(first[..REASONS], [Some(true); REASONS]);
        assert_eq!(first[REASONS..], [Some(false); 2]);
        assert_eq!(told(&mut limits, now)[..REASONS], [None; REASONS]);
        assert_eq!(limits.allow("1", "A", now + AGAIN), Some(true));
    }

    #[test]
    fn however_many_pods_are_refused_only_so_many_events_are_written() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let told = |limits: &mut Limits, now, from: usize| {
            let each = (from..from + 2000).map(|uid| limits.allow(&uid.to_string(), "A", now));
            each.filter(|allowed| *allowed == Some(true)).count()
        };
        assert_eq!(told(&mut limits, now, 0), BURST as usize);
        assert_eq!(told(&mut limits, now + 3 * EACH, 2000), 3);
        for n in 1..10 {
            told(&mut limits, now + n * EACH, 2000 * n as usize);
        }
        assert!(limits.pods.len() <= PODS, "what is kept is bounded");
    }

    #[tokio::test]
    async fn an_event_names_the_pod_and_the_reason_and_what_is_refused_is_not_tried_for_long() {
        let (client, mut asked) = api_server();
        let events = Events::default();
        let now = Instant::now();
        events.tell(&pod("1"), &refusal("ARX-DENIED"), at(), now);
        events.tell(&pod("2"), &refusal("ARX-DENIED"), at(), now);
        events.tell(&pod("3"), &refusal("ARX-DENIED"), at(), now);
        let answer = async {
            let first = asked.recv().await.expect("a request");
            assert_eq!(first.what, "/apis/events.k8s.io/v1/namespaces/shop/events");
            let body = first.body.clone();
            assert_eq!(body["regarding"]["uid"], "1");
            assert_eq!(body["note"], "ARX-DENIED: it may not have that");
            let time = body["eventTime"].as_str().expect("a time");
            assert!(time.ends_with(".123456Z"), "{time}");
            first.whole(201, &body);
            let second = asked.recv().await.expect("a request");
            let status = json!({"kind": "Status", "status": "Failure", "code": 403});
            second.whole(403, &status);
        };
        let counted = async {
            while events.counts()[Outcome::Forbidden as usize] < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = events.keep(&client) => panic!("it ends never"),
            _ = async { tokio::join!(answer, counted) } => {}
        }
        assert_eq!(events.counts(), [1, 0, 2, 0]);
    }
}
