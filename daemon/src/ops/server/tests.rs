use std::error::Error;
use std::time::SystemTime;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::web::{CONNECTIONS, HEADER_BYTES, HEADER_TIME, HEADERS, TIME};
use super::*;
use crate::Clock;
use crate::drain::{Cause, OnPanic, Tasks};
use crate::ops::{Condition, Process, registry};

type Outcome = Result<(), Box<dyn Error>>;

struct Port {
    serving: Serving,
    store: Condition,
    drain: Drain,
    clock: Clock,
    tasks: Tasks,
}

async fn open() -> io::Result<Port> {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000));
    let drain = Drain::new(Duration::from_secs(20));
    let tasks = Tasks::new(&drain);
    let readiness = Readiness::new();
    let store = readiness.condition("store");
    store.set_ok();
    let registry = registry(
        &Process {
            name: "arx-test",
            version: "1.2.3",
        },
        &clock,
        &readiness,
        &tasks,
    );
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
    let serving = server.start(readiness, registry, drain.clone());
    Ok(Port {
        serving,
        store,
        drain,
        clock,
        tasks,
    })
}

impl Port {
    /// Sends raw text, and returns all that comes until the server closes.
    async fn send(&self, text: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.serving.address()).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn get(&self, path: &str) -> io::Result<String> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await
    }
}

fn body(answer: &str) -> &str {
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body)
        .expect("an answer has a head")
}

fn head(answer: &str) -> String {
    answer
        .split("\r\n\r\n")
        .next()
        .expect("split gives one at least")
        .to_lowercase()
}

#[tokio::test]
async fn livez_is_ok_as_long_as_the_process_answers() -> Outcome {
    let port = open().await?;
    port.store.set_failing("ARX-STORE-FULL", "broken");
    let answer = port.get("/livez").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    assert_eq!(body(&answer), "ok\n");
    Ok(())
}

#[tokio::test]
async fn readyz_is_200_or_503_and_lists_each_condition_with_code_and_message() -> Outcome {
    let port = open().await?;
    let answer = port.get("/readyz?verbose").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    assert_eq!(body(&answer), "ready\n[+] store: ok\n");
    port.store
        .set_failing("ARX-STORE-FULL", "no space left; free some");
    let answer = port.get("/readyz").await?;
    assert!(answer.starts_with("HTTP/1.1 503 "));
    assert_eq!(
        body(&answer),
        "not ready\n[-] store: ARX-STORE-FULL: no space left; free some\n"
    );
    port.store.set_ok();
    assert!(port.get("/readyz").await?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[tokio::test]
async fn readyz_is_json_for_who_accepts_it() -> Outcome {
    let port = open().await?;
    let ask = "GET /readyz HTTP/1.1\r\nhost: x\r\naccept: application/json\r\n\r\n";
    let answer = port.send(ask).await?;
    assert!(head(&answer).contains("content-type: application/json"));
    let value: serde_json::Value = serde_json::from_str(body(&answer))?;
    assert_eq!(
        value,
        serde_json::json!({ "ready": true, "conditions": [{ "name": "store", "ok": true }] })
    );
    port.store.set_failing("ARX-STORE-FULL", "m");
    let value: serde_json::Value = serde_json::from_str(body(&port.send(ask).await?))?;
    let store = serde_json::json!({ "name": "store", "ok": false, "code": "ARX-STORE-FULL", "message": "m" });
    assert_eq!(
        value,
        serde_json::json!({ "ready": false, "conditions": [store] })
    );
    Ok(())
}

#[tokio::test]
async fn a_draining_process_is_alive_and_not_ready() -> Outcome {
    let port = open().await?;
    port.drain.request(Cause::Signal("SIGTERM"));
    let answer = port.get("/readyz").await?;
    assert!(answer.starts_with("HTTP/1.1 503 "));
    assert!(body(&answer).contains("[-] drain: ARX-DRAINING: this process is ending: SIGTERM\n"));
    assert!(port.get("/livez").await?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

#[tokio::test]
async fn metrics_are_openmetrics_with_the_standard_set() -> Outcome {
    let port = open().await?;
    port.clock
        .set(port.clock.now() + Duration::from_secs(3_600));
    port.clock.observe();
    port.tasks
        .spawn("worker", OnPanic::Continue, std::future::pending());
    port.tasks
        .spawn("doomed", OnPanic::Continue, async { panic!("on purpose") });
    while port.tasks.panics().is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = port.get("/metrics").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    assert!(
        head(&answer)
            .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{answer}"
    );
    let body = body(&answer);
    for line in [
        "arx_build_info{name=\"arx-test\",version=\"1.2.3\"} 1",
        "process_start_time_seconds 1780000000.0",
        "# TYPE process_cpu_seconds counter",
        "# TYPE process_resident_memory_bytes gauge",
        "# TYPE process_open_fds gauge",
        "arx_clock_jumps_total 1",
        "arx_ready{condition=\"store\"} 1",
        "arx_warned{condition=\"store\"} 0",
        "arx_tasks{task=\"worker\"} 1",
        "arx_task_panics_total{task=\"doomed\"} 1",
    ] {
        assert!(
            body.lines().any(|found| found == line),
            "no line {line:?} in\n{body}"
        );
    }
    let value = |name: &str| -> f64 {
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the metric is there");
        line.trim().parse().expect("a number")
    };
    assert!(value("process_cpu_seconds_total ") > 0.0);
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_open_fds ") >= 3.0);
    assert!(body.ends_with("# EOF\n"));
    Ok(())
}

#[tokio::test]
async fn other_paths_are_404_and_other_methods_405() -> Outcome {
    let port = open().await?;
    for path in ["/", "/livez/", "/debug", "//metrics", "/%6civez"] {
        assert!(port.get(path).await?.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = port
            .send(&format!(
                "{method} /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
            ))
            .await?;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}");
        assert!(head(&answer).contains("allow: get, head"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn head_has_the_head_of_get_and_no_body() -> Outcome {
    let port = open().await?;
    let answer = port.send("HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    assert!(head(&answer).contains("content-length: 3"), "{answer}");
    assert_eq!(body(&answer), "");
    Ok(())
}

#[tokio::test]
async fn a_connection_serves_one_request() -> Outcome {
    let port = open().await?;
    let answer = port
        .send(&"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2))
        .await?;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1);
    assert!(head(&answer).contains("connection: close"));
    Ok(())
}

#[tokio::test]
async fn oversized_headers_are_refused_and_garbage_hurts_nobody() -> Outcome {
    let port = open().await?;
    let huge = format!(
        "GET /livez HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(HEADER_BYTES)
    );
    let many = format!(
        "GET /livez HTTP/1.1\r\n{}\r\n",
        "x: y\r\n".repeat(HEADERS + 1)
    );
    for text in [
        huge.as_str(),
        many.as_str(),
        "\u{16}\u{3}\u{1}garbage\r\n\r\n",
        "GET\r\n\r\n",
    ] {
        match port.send(text).await {
            Ok(answer) => assert!(
                answer.starts_with("HTTP/1.1 4") || answer.is_empty(),
                "{answer}"
            ),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    assert!(port.get("/livez").await?.starts_with("HTTP/1.1 200 "));
    Ok(())
}

/// Waits until the server has closed the stream, whatever it said before.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_send_no_request_are_let_go_and_never_keep_a_probe_waiting() -> Outcome {
    let port = open().await?;
    let started = tokio::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(TcpStream::connect(port.serving.address()).await?);
    }
    // More than there are places for: each takes that of the one which came first.
    for _ in 0..3 {
        assert!(port.get("/livez").await?.starts_with("HTTP/1.1 200 "));
    }
    assert!(started.elapsed() < HEADER_TIME, "{:?}", started.elapsed());
    for stream in &mut silent {
        closed(stream).await;
    }
    assert!(started.elapsed() <= TIME, "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_lasts_does_not_give_way_to_clients_that_send_no_request() -> Outcome {
    let drain = Drain::new(Duration::from_secs(20));
    let site: Site = Arc::new(|_| {
        let begun = futures_util::stream::once(async {
            Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from_static(
                b"begun",
            )))
        });
        let lasts = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
        let mut answer = Response::new(http_body_util::StreamBody::new(lasts).boxed_unsync());
        let lasting = web::Lasting(Duration::from_secs(60));
        answer.extensions_mut().insert(lasting);
        Box::pin(async move { answer })
    });
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
    let serving = server.start_with(Readiness::new(), Registry::default(), drain, Some(site));
    let mut following = TcpStream::connect(serving.address()).await?;
    following
        .write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    let mut said = vec![0; 4096];
    assert!(following.read(&mut said).await? > 0);
    tokio::time::sleep(TIME + Duration::from_secs(1)).await;
    let began = tokio::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        silent.push(TcpStream::connect(serving.address()).await?);
    }
    closed(&mut following).await;
    assert!(began.elapsed() > TIME, "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn dropping_the_handle_closes_the_port() -> Outcome {
    let port = open().await?;
    let address = port.serving.address();
    drop(port.serving);
    // The listener goes when its task is dropped, at the next turn of the runtime.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_is_named() -> Outcome {
    let port = open().await?;
    let address = port.serving.address();
    let error = Server::bind(address).await.expect_err("in use");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {address}: ")),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_site_answers_all_paths_but_the_ports_own() -> Outcome {
    let drain = Drain::new(Duration::from_secs(20));
    let site: Site = Arc::new(|request: Request<Incoming>| {
        let shown = format!("{} {}", request.method(), request.uri().path());
        Box::pin(async move { Response::new(Full::new(Bytes::from(shown)).boxed_unsync()) })
    });
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
    let serving = server.start_with(Readiness::new(), Registry::default(), drain, Some(site));
    let ask = |line: &str| {
        let (text, address) = (
            format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n"),
            serving.address(),
        );
        async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(text.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            io::Result::Ok(body(&answer).to_owned())
        }
    };
    assert_eq!(ask("GET /livez").await?, "ok\n");
    assert_eq!(ask("GET /").await?, "GET /");
    assert_eq!(ask("DELETE /agents").await?, "DELETE /agents");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn only_an_answer_that_says_so_goes_on_for_longer_than_any_other() {
    for (lasting, expected) in [(None, 10), (Some(60), 70)] {
        let (near, far) = tokio::io::duplex(1024);
        let began = tokio::time::Instant::now();
        let serving = web::serve(far, |_| async move {
            let never = futures_util::stream::pending();
            let mut answer = Response::new(http_body_util::StreamBody::new(never).boxed_unsync());
            if let Some(seconds) = lasting {
                answer
                    .extensions_mut()
                    .insert(web::Lasting(Duration::from_secs(seconds)));
            }
            answer
        });
        let asking = async {
            let mut near = near;
            near.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .expect("it reads");
            let mut all = Vec::new();
            let _cut = near.read_to_end(&mut all).await;
        };
        tokio::join!(serving, asking);
        assert_eq!(began.elapsed().as_secs(), expected);
    }
}
