//! A client that is an API server: it has as many pods as are wanted, reviews every token that
//! could be one of theirs, and has things happen to pods.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::client::Boss;

/// Namespaces that the pods are spread over.
const NAMESPACES: usize = 100;
/// Events of one piece of a watch.
const PIECE: usize = 200;

/// Whose pods there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) pods: usize,
    pub(crate) nodes: usize,
}

/// Where a pod is, by its number.
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
}

impl Place {
    pub(crate) fn of(number: usize, nodes: usize) -> Self {
        Self {
            namespace: format!("shop-{}", number % NAMESPACES),
            name: format!("web-{number}"),
            node: format!("node-{}", number % nodes.max(1)),
        }
    }
}

pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let (happens, _) = broadcast::channel(4096);
    let shared = Arc::new(Shared {
        options,
        reviews: AtomicU64::new(0),
        version: AtomicU64::new(1_000_000),
        happens,
    });
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener, Arc::clone(&shared)));
    boss.say("ready", &())?;
    while let Some(order) = boss.order().await? {
        match order.split_once(' ') {
            None if order == "port" => boss.say("listens", &port)?,
            None if order == "reviews" => {
                boss.say("reviewed", &shared.reviews.load(Ordering::Relaxed))?;
            }
            Some(("happens", count)) => {
                shared.happen(count.parse()?).await;
                boss.say("happened", &())?;
            }
            _ => anyhow::bail!("no such order: {order}"),
        }
    }
    Ok(())
}

struct Shared {
    options: Options,
    reviews: AtomicU64,
    version: AtomicU64,
    happens: broadcast::Sender<Bytes>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(|request| answer(Arc::clone(&shared), request));
                    let _ended = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    Ok(match (request.method(), path.as_str()) {
        (&Method::GET, "/api/v1/pods") if query.contains("watch=") => watch(&shared),
        (&Method::GET, "/api/v1/pods") => whole(StatusCode::OK, shared.page(&query).into()),
        (&Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => {
            let body = request.into_body().collect().await;
            let body = body.map(http_body_util::Collected::to_bytes);
            match body.ok().and_then(|body| shared.review(&body)) {
                Some(review) => whole(StatusCode::CREATED, review.to_string().into()),
                None => whole(StatusCode::BAD_REQUEST, Bytes::new()),
            }
        }
        _ => whole(StatusCode::NOT_FOUND, Bytes::new()),
    })
}

fn whole(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

fn watch(shared: &Shared) -> Answer {
    let events = futures_util::stream::unfold(shared.happens.subscribe(), |mut events| async {
        let piece = events.recv().await.ok()?;
        Some((Ok(Frame::data(piece)), events))
    });
    Response::new(StreamBody::new(events.boxed()).boxed_unsync())
}

impl Shared {
    /// A page of the list: `limit` pods from `continue` on.
    fn page(&self, query: &str) -> String {
        let number = |name: &str| {
            let mut values = query.split('&').filter_map(|it| it.split_once('='));
            let value = values.find(|(key, _)| *key == name)?.1;
            value.parse::<usize>().ok()
        };
        let from = number("continue").unwrap_or(0);
        // Agents come first, and are on the first page.
        let to = (from + number("limit").unwrap_or(500)).min(self.options.pods);
        let mut items: Vec<String> = (from..to).map(|number| self.pod(number, 1)).collect();
        if from == 0 {
            items.extend((0..self.options.nodes).map(agent));
        }
        let next = match to < self.options.pods {
            true => to.to_string(),
            false => String::new(),
        };
        format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"1000000","continue":"{next}"}},"items":[{}]}}"#,
            items.join(",")
        )
    }

    fn pod(&self, number: usize, version: u64) -> String {
        let Place {
            namespace,
            name,
            node,
        } = Place::of(number, self.options.nodes);
        pod(&namespace, &name, "web", &node, version)
    }

    /// Has something happen to so many pods, one after the other.
    async fn happen(&self, count: usize) {
        let mut number = 0;
        while number < count {
            let mut piece = String::new();
            for _ in 0..PIECE.min(count - number) {
                let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
                let pod = self.pod(number % self.options.pods.max(1), version);
                piece.push_str(r#"{"type":"MODIFIED","object":"#);
                piece.push_str(&pod);
                piece.push_str("}\n");
                number += 1;
            }
            // Whoever is slower than that would be told that it has missed something.
            while self.happens.len() > 1024 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            let _nobody_watches = self.happens.send(piece.into());
        }
    }

    /// A TokenReview of a token, which is believed: what it costs to verify is no affair of the
    /// authority's.
    fn review(&self, body: &[u8]) -> Option<Value> {
        self.reviews.fetch_add(1, Ordering::Relaxed);
        let review: Value = serde_json::from_slice(body).ok()?;
        let token = review["spec"]["token"].as_str()?;
        let Some(claims) = token.split('.').nth(1) else {
            return Some(json!({"status": {"authenticated": false}}));
        };
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let bound = &claims["kubernetes.io"];
        let extra = |kind: &str, what: &str| json!([bound[kind][what].as_str().unwrap_or("")]);
        Some(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "status": {
                "authenticated": true, "audiences": claims["aud"],
                "user": {
                    "username": claims["sub"], "uid": bound["serviceaccount"]["uid"],
                    "extra": {
                        "authentication.kubernetes.io/pod-name": extra("pod", "name"),
                        "authentication.kubernetes.io/pod-uid": extra("pod", "uid"),
                        "authentication.kubernetes.io/node-name": extra("node", "name"),
                        "authentication.kubernetes.io/node-uid": extra("node", "uid"),
                    },
                },
            },
        }))
    }
}

fn agent(number: usize) -> String {
    pod(
        "arx-system",
        &format!("arx-node-agent-{number}"),
        "arx-node-agent",
        &format!("node-{number}"),
        1,
    )
}

/// A pod as an API server sends it, with all that nobody here reads: two containers, their
/// status, who has written which field. Some 6 KB, as in clusters with a mesh.
fn pod(namespace: &str, name: &str, account: &str, node: &str, version: u64) -> String {
    let managed = r#"{"manager":"kubelet","operation":"Update","apiVersion":"v1","time":"2026-11-26T08:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:conditions":{"k:{\"type\":\"ContainersReady\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Initialized\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Ready\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:podIPs":{".":{},"k:{\"ip\":\"10.0.0.1\"}":{".":{},"f:ip":{}}},"f:startTime":{}}},"subresource":"status"}"#;
    let container = |of: &str| {
        format!(
            r#"{{"name":"{of}","image":"registry.example.org/shop/{of}:1.2.3","ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"env":[{{"name":"POD_NAME","valueFrom":{{"fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.name"}}}}}},{{"name":"POD_NAMESPACE","valueFrom":{{"fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.namespace"}}}}}}],"resources":{{"limits":{{"cpu":"1","memory":"512Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"volumeMounts":[{{"name":"tokens","readOnly":true,"mountPath":"/var/run/secrets/tokens"}}],"livenessProbe":{{"httpGet":{{"path":"/livez","port":8080,"scheme":"HTTP"}},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","securityContext":{{"capabilities":{{"drop":["ALL"]}},"runAsNonRoot":true,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false}}}}"#
        )
    };
    let status = |of: &str| {
        format!(
            r#"{{"name":"{of}","state":{{"running":{{"startedAt":"2026-11-26T08:00:03Z"}}}},"lastState":{{}},"ready":true,"restartCount":0,"image":"registry.example.org/shop/{of}:1.2.3","imageID":"registry.example.org/shop/{of}@sha256:7c1e6a5f5c1c0ad5f1a1b9e7e0a3b34ba2c5d2b54d0b4d2cb7ad2e1d5d9f7a11","containerID":"containerd://3b1f0f9e4f7d4d9f8c2f6c5a5d1b7e3e9a0c8d7f6e5b4a392817061524334251","started":true}}"#
        )
    };
    let condition = |of: &str| {
        format!(
            r#"{{"type":"{of}","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-11-26T08:00:03Z"}}"#
        )
    };
    format!(
        r#"{{"metadata":{{"name":"{name}","generateName":"web-5d8f7c9b6d-","namespace":"{namespace}","uid":"pod-{name}","resourceVersion":"{version}","creationTimestamp":"2026-11-26T08:00:00Z","labels":{{"app":"web","pod-template-hash":"5d8f7c9b6d","version":"v1"}},"annotations":{{"kubectl.kubernetes.io/restartedAt":"2026-11-20T08:00:00Z","prometheus.io/scrape":"true"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5d8f7c9b6d","uid":"0d3e1b5a-6f7c-4d2e-9b1a-3c5d7e9f1a2b","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{managed},{managed}]}},"spec":{{"volumes":[{{"name":"tokens","projected":{{"sources":[{{"serviceAccountToken":{{"audience":"arx","expirationSeconds":3600,"path":"arx"}}}}],"defaultMode":420}}}}],"containers":[{},{}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"{account}","serviceAccount":"{account}","nodeName":"{node}","securityContext":{{}},"schedulerName":"default-scheduler","tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}},{{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"}},"status":{{"phase":"Running","conditions":[{},{},{},{}],"hostIP":"192.0.2.10","podIP":"10.0.0.1","podIPs":[{{"ip":"10.0.0.1"}}],"startTime":"2026-11-26T08:00:00Z","containerStatuses":[{},{}],"qosClass":"Burstable"}}}}"#,
        container("app"),
        container("proxy"),
        condition("Initialized"),
        condition("Ready"),
        condition("ContainersReady"),
        condition("PodScheduled"),
        status("app"),
        status("proxy"),
    )
}

/// A kubeconfig file for this server.
pub(crate) fn kubeconfig(port: u16) -> anyhow::Result<String> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    serde_json::to_string(&config).context("it is JSON")
}
