use std::time::Duration;

use http::Request;
use http::header::{CACHE_CONTROL, HOST};

use super::*;
use crate::denial::Subject;
use crate::testing::{House, Outcome};

fn page_of(house: &House) -> Arc<Page> {
    let running = Arc::new(OnceLock::new());
    let _first = running.set(Arc::clone(&house.ca));
    page(running, house)
}

fn page(running: Arc<OnceLock<Arc<Ca>>>, house: &House) -> Arc<Page> {
    let ca = &house.ca;
    Page::new(
        &Options::default(),
        running,
        ca.readiness.clone(),
        house.clock.clone(),
        ca.drain.clone(),
    )
}

async fn ask(page: &Arc<Page>, method: &str, target: &str) -> Response<Body> {
    let request = Request::builder().method(method).uri(target);
    let request = request.header(HOST, "localhost").body(());
    let (parts, ()) = request.expect("a request").into_parts();
    page.answer(&parts, None).await
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

/// The next piece of an answer that goes on.
async fn piece(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.expect("never fails");
    let data = frame.into_data().expect("no trailers");
    Some(String::from_utf8_lossy(&data).into_owned())
}

#[tokio::test]
async fn every_answer_forbids_to_run_to_frame_and_to_keep_what_is_not_its_own() -> Outcome {
    let house = House::new().await?;
    let page = page_of(&house);
    let answers = [
        ("GET", "/", StatusCode::OK),
        ("GET", "/rotation", StatusCode::OK),
        ("GET", "/agents", StatusCode::OK),
        ("GET", "/certificates", StatusCode::OK),
        ("GET", "/denied", StatusCode::OK),
        ("GET", "/ledger", StatusCode::OK),
        ("GET", "/events", StatusCode::OK),
        ("GET", "/page.js", StatusCode::OK),
        ("GET", "/page.css", StatusCode::OK),
        ("GET", "/icon.svg", StatusCode::OK),
        ("GET", "/nowhere", StatusCode::NOT_FOUND),
        ("GET", "/agents/c1/nobody", StatusCode::NOT_FOUND),
        ("GET", "/rotation?id=r9", StatusCode::NOT_FOUND),
        ("POST", "/", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/?token=x", StatusCode::BAD_REQUEST),
    ];
    for (method, target, status) in answers {
        let answer = ask(&page, method, target).await;
        assert_eq!(answer.status(), status, "{method} {target}");
        let header = |name: &str| answer.headers().get(name).and_then(|it| it.to_str().ok());
        let policy = header("content-security-policy").unwrap_or_default();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{target}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), Some("nosniff"));
        assert_eq!(header("referrer-policy"), Some("no-referrer"));
        assert_eq!(header(CACHE_CONTROL.as_str()), Some("no-store"));
    }
    let refused = ask(&page, "POST", "/").await;
    assert_eq!(refused.headers()[ALLOW], "GET");
    Ok(())
}

#[tokio::test]
async fn nothing_on_a_page_comes_from_elsewhere_or_has_a_style_or_script_of_its_own() -> Outcome {
    let house = House::new().await?;
    let page = page_of(&house);
    for target in [
        "/",
        "/rotation",
        "/agents",
        "/certificates?q=ab",
        "/denied",
        "/ledger",
    ] {
        let html = text(ask(&page, "GET", target).await).await;
        for attribute in ["src=\"", "href=\"", "action=\""] {
            for value in html.split(attribute).skip(1) {
                assert!(
                    value.starts_with(['/', '#']),
                    "{target}: {attribute}{value:.40}"
                );
            }
        }
        assert_eq!(html.matches("<script").count(), 1, "{target}");
        for own in [" style=", "<style", " onclick=", "javascript:"] {
            assert!(!html.contains(own), "{target}: {own}");
        }
    }
    for asset in [STYLE, SCRIPT] {
        assert!(!asset.contains("://") && !asset.contains("innerHTML"));
    }
    Ok(())
}

#[tokio::test]
async fn what_is_searched_for_comes_back_as_text() -> Outcome {
    let house = House::new().await?;
    let page = page_of(&house);
    let target = "/certificates?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&after=%3Cb%3E";
    let answer = ask(&page, "GET", target).await;
    let html = text(answer).await;
    assert!(
        !html.contains("<script>") && !html.contains("<b>"),
        "{html}"
    );
    let target = "/certificates?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    let html = text(ask(&page, "GET", target).await).await;
    let shown = "value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\"";
    assert!(html.contains(shown), "{html}");
    Ok(())
}

#[tokio::test]
async fn who_is_denied_is_shown_with_the_reason_as_text_and_told_to_those_who_follow() -> Outcome {
    let house = House::new().await?;
    let page = page_of(&house);
    let nobody = text(ask(&page, "GET", "/denied").await).await;
    assert!(nobody.contains("Nobody is denied."), "{nobody}");
    let overview = text(ask(&page, "GET", "/").await).await;
    assert!(overview.contains(">Denied</a>"), "{overview}");

    let mut following = ask(&page, "GET", "/events").await.into_body();
    let _begun = piece(&mut following).await;
    for subject in ["node/c1/n1", "spiffe://example.org/ns/shop/sa/web"] {
        let subject = Subject::parse(subject, &house.ca.trust_domain).expect("a subject");
        let reason = "<i>stolen</i>".to_owned();
        house.ca.deny(&subject, None, reason).await.expect("stored");
    }
    assert_eq!(
        piece(&mut following).await.as_deref(),
        Some("data: changed\n\n")
    );
    let denied = text(ask(&page, "GET", "/denied").await).await;
    for part in [
        "2 are denied",
        "node <a class=\"node\" href=\"/agents/c1/n1\">c1/n1</a>",
        "href=\"/certificates?q=spiffe%3A%2F%2Fexample.org%2Fns%2Fshop%2Fsa%2Fweb\"",
        "&lt;i&gt;stolen&lt;/i&gt;",
        "allowed again",
    ] {
        assert!(denied.contains(part), "{part} is not in {denied}");
    }
    let rest = text(ask(&page, "GET", "/denied?after=node%2Fc1%2Fn1").await).await;
    assert!(!rest.contains("href=\"/agents/c1/n1\""), "{rest}");
    let overview = text(ask(&page, "GET", "/").await).await;
    let counted = ">Denied <span class=\"tag\">2</span></a>";
    assert!(overview.contains(counted), "{overview}");
    Ok(())
}

#[tokio::test]
async fn before_there_is_an_authority_the_page_says_what_it_waits_for() -> Outcome {
    let house = House::new().await?;
    let store = house.ca.readiness.condition("store");
    store.set_failing("ARX-STORE-FULL", "no space is left; free some");
    let page = page(Arc::new(OnceLock::new()), &house);
    let answer = ask(&page, "GET", "/").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let html = text(answer).await;
    assert!(
        html.contains("no space is left") && html.contains("ARX-STORE-FULL"),
        "{html}"
    );
    Ok(())
}

#[tokio::test]
async fn those_who_follow_are_told_of_changes_and_each_takes_one_of_few_places() -> Outcome {
    let house = House::new().await?;
    let page = page_of(&house);
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        followers.push(ask(&page, "GET", "/events").await.into_body());
    }
    let busy = ask(&page, "GET", "/events").await;
    assert_eq!(busy.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(busy).await.contains("ARX-PAGE-BUSY"));
    let mut first = followers.swap_remove(0);
    let begun = piece(&mut first).await.ok_or("an event")?;
    assert!(begun.starts_with("retry: "), "{begun}");
    house.ca.fleet.touch();
    assert_eq!(
        piece(&mut first).await.as_deref(),
        Some("data: changed\n\n")
    );
    drop(followers.pop());
    let free = ask(&page, "GET", "/events").await;
    assert_eq!(free.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn those_who_follow_hear_something_also_when_nothing_happens() {
    let clock = Clock::system();
    let drain = Drain::new(Duration::from_secs(1));
    let page = Page::new(
        &Options::default(),
        Arc::new(OnceLock::new()),
        Readiness::new(),
        clock,
        drain,
    );
    let mut body = ask(&page, "GET", "/events").await.into_body();
    let _begun = piece(&mut body).await;
    assert_eq!(piece(&mut body).await.as_deref(), Some("data: tick\n\n"));
}
