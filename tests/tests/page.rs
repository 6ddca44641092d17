//! The status page in a real browser: a rotation is followed on it, what others say stays
//! text, and it can be read by everybody.

mod page {
    pub(crate) mod looks;
    pub(crate) mod tls;
}

use anyhow::{Context as _, ensure};
use arx_daemon::files::write_atomically;
use arx_proto::admin::v1::{DenyRequest, RotateRootRequest, RotationStatusRequest};
use arx_tests::browser::{Browser, Looks};
use arx_tests::mesh::{Mesh, Options};
use arx_tests::pair::Pair;
use arx_tests::process::{free_port, until};
use arx_tests::sds::{Connection, secrets, svid};
use page::looks;

/// What a proxy would say to whoever looks at its words in a browser.
const HOSTILE: &str = "<script>window.owned=1</script><img src=x onerror='window.owned=2'>\" onfocus=\"window.owned=3\" \u{202e}&lt;";

async fn rotate(mesh: &Mesh, window_ms: u64, dwell_ms: u64) -> anyhow::Result<()> {
    let request = RotateRootRequest {
        window_ms: Some(window_ms),
        dwell_ms: Some(dwell_ms),
        reason: "yearly, as <b>planned</b>".to_owned(),
        ..RotateRootRequest::default()
    };
    mesh.admin().await?.rotate_root(request).await?;
    Ok(())
}

/// Remembers every phase that is told, and every proxy that is shown as done.
const WATCH: &str = r#"
    window.loaded = 'once';
    window.told = [];
    window.done = [];
    const look = () => {
        const phase = document.querySelector('#phase strong')?.textContent;
        if (phase && window.told.at(-1) !== phase) window.told.push(phase);
        for (const row of document.querySelectorAll('[aria-labelledby=nodes] tbody tr')) {
            const text = row.innerText.replace(/\s+/g, ' ');
            if (/confirmed|renewed/.test(text) && !/not confirmed/.test(text)) window.done.push(text);
        }
    };
    new MutationObserver(look).observe(document, {subtree: true, childList: true, characterData: true});
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotation_is_followed_on_the_page_from_start_to_done_without_reloading_it()
-> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let mut browser = Browser::start().await?;
    let page = format!("http://localhost:{}/rotation", pair.mesh.ops_port);
    browser.open(&page).await?;
    browser
        .until("document.querySelector('#phase').textContent.includes('none')")
        .await?;
    browser
        .until("document.querySelector('#live').textContent === 'live'")
        .await?;
    browser.value(WATCH).await?;
    let load = pair.load();
    rotate(&pair.mesh, 0, 2000).await?;
    let window = Looks {
        width: 1280,
        height: 1000,
        dark: false,
    };
    browser.look(window).await?;
    browser
        .until("document.querySelector('#phase strong')?.textContent === 'Distribute'")
        .await?;
    browser
        .until("document.querySelector('progress')?.value > 0")
        .await?;
    looks::picture(&mut browser, "rotation").await?;
    browser
        .until("document.querySelector('#phase strong')?.textContent === 'Done'")
        .await?;
    load.stop().await.without_failure()?;

    ensure!(
        browser.value("window.loaded").await? == "once",
        "it was loaded again"
    );
    let told = browser.value("window.told.join()").await?.to_string();
    for phases in ["Distribute", "Reissue,", "Retire,Done"] {
        ensure!(told.contains(phases), "{phases} is not in {told}");
    }
    let done = browser.value("window.done.join('\\n')").await?;
    let done = done.as_str().context("a text")?;
    for proxy in [&pair.web, &pair.api] {
        let process = format!("pid {}", proxy.process.id());
        let states: Vec<_> = done
            .lines()
            .filter(|line| line.contains(&process))
            .collect();
        ensure!(
            states.iter().any(|line| line.contains("confirmed"))
                && states.iter().any(|line| line.contains("renewed")),
            "{process}: {states:?}"
        );
    }
    ensure!(
        browser
            .value("document.querySelector('main').innerText.includes('yearly, as <b>planned</b>')")
            .await?
            == true
    );
    looks::picture(&mut browser, "done").await?;
    let problems = browser.problems();
    ensure!(problems.is_empty(), "{problems:?}");
    Ok(())
}

/// A mesh in the middle of a rotation that a consumer of node `n1` refuses.
struct Refused {
    mesh: Mesh,
    _agent: arx_tests::mesh::Agent,
    _stream: arx_tests::sds::Stream,
}

impl Refused {
    async fn start(options: Options) -> anyhow::Result<Self> {
        let mesh = Mesh::start(options).await?;
        let agent = mesh.agent("n1").await?;
        let token = mesh.token("shop", "web", "n1");
        let connection = Connection::open(&agent.socket, Some(&token)).await?;
        let mut certificates = connection.stream(&["default"]).await?;
        let response = certificates.next().await?;
        certificates.ack(&response)?;
        let mut stream = connection.stream(&["ROOTCA"]).await?;
        let first = stream.next().await?;
        stream.ack(&first)?;
        rotate(&mesh, 0, 1000).await?;
        let both = stream.next().await?;
        stream.nack(&both, HOSTILE)?;
        until("the refusal is in the way", || async {
            let request = RotationStatusRequest::default();
            let answer = mesh.admin().await?.rotation_status(request).await?;
            let rotation = answer.into_inner().rotation.context("it is under way")?;
            let reasons: Vec<_> = rotation.unconfirmed.iter().map(|it| &it.reason).collect();
            Ok(rotation.phase == "distribute" && reasons == ["refused"])
        })
        .await?;
        Ok(Self {
            mesh,
            _agent: agent,
            _stream: stream,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn by_tls_the_page_is_for_listed_certificates_and_the_token_alone() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (own, token_file) = (free_port()?, folder.path().join("page.token"));
    write_atomically(&token_file, page::tls::TOKEN.as_bytes(), 0o600)?;
    let mesh = Mesh::start(Options {
        authority: format!(
            "[page]\naddress = \"127.0.0.1:{own}\"\nhosts = [\"ca.example.org\"]\nclients = [\"spiffe://example.org/ns/shop/sa/web\"]\ntoken_file = \"{}\"\n",
            token_file.display()
        ),
        ..Options::default()
    })
    .await?;
    let agent = mesh.agent("n1").await?;
    let mut certificates = Vec::new();
    for account in ["web", "api"] {
        let token = mesh.token("shop", account, "n1");
        let connection = Connection::open(&agent.socket, Some(&token)).await?;
        let response = connection.stream(&["default"]).await?.next().await?;
        certificates.push(svid(&secrets(&response)?[0])?);
    }
    let [listed, other] = &certificates[..] else {
        anyhow::bail!("there are two");
    };
    page::tls::is_for_listed_clients(&mesh, own, listed, other).await?;
    page::tls::is_for_those_with_the_token(&mesh, own, other, &token_file).await?;
    // Nothing of it is on the port that everybody may scrape.
    let (status, _) = arx_tests::http::get(mesh.ops_port, "/").await?;
    ensure!(status == 404, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_is_found_on_the_page_by_its_serial_number() -> anyhow::Result<()> {
    let pair = Pair::start(Options::default()).await?;
    let mut browser = Browser::start().await?;
    let page = format!("http://127.0.0.1:{}/certificates", pair.mesh.ops_port);
    browser.open(&page).await?;
    let rows = "document.querySelector('main table')?.querySelectorAll('tbody tr').length";
    ensure!(browser.value(rows).await?.as_u64() > Some(1));
    let serial = browser
        .value("document.querySelector('main tbody tr td a > code[title]').title")
        .await?;
    let serial = serial.as_str().context("a serial number")?;
    // Where the form leads with this in its field.
    let address = format!(
        "(() => {{ const form = document.querySelector('form'); form.q.value = '{serial}'; \
         return form.action + '?' + new URLSearchParams(new FormData(form)); }})()"
    );
    let address = browser.value(&address).await?;
    browser
        .open(address.as_str().context("an address")?)
        .await?;
    browser.until(&format!("{rows} === 1")).await?;
    let found = browser
        .value("document.querySelector('main tbody tr td a > code[title]').title")
        .await?;
    ensure!(found == serial, "{found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_proxy_says_is_shown_as_text_and_every_page_can_be_read_by_everybody()
-> anyhow::Result<()> {
    let refused = Refused::start(Options::default()).await?;
    for subject in ["node/c1/n2", "sa/shop/api"] {
        let request = DenyRequest {
            subject: subject.to_owned(),
            reason: HOSTILE.to_owned(),
            ..DenyRequest::default()
        };
        refused.mesh.admin().await?.deny(request).await?;
    }
    let origin = format!("http://127.0.0.1:{}", refused.mesh.ops_port);
    let mut browser = Browser::start().await?;
    let pages = [
        ("/", "overview"),
        ("/rotation", "blocked"),
        ("/agents", "agents"),
        ("/agents/c1/n1", "agent"),
        (
            "/certificates?q=spiffe://example.org/ns/shop/sa/web",
            "certificates",
        ),
        ("/denied", "denied"),
        ("/ledger", "ledger"),
        ("/nowhere", "missing"),
    ];
    for (path, name) in pages {
        browser.open(&format!("{origin}{path}")).await?;
        looks::is_in_order(&mut browser, name).await?;
    }
    for path in ["/rotation", "/agents/c1/n1"] {
        browser.open(&format!("{origin}{path}")).await?;
        browser
            .until("document.querySelector('#live').textContent === 'live'")
            .await?;
        let words = browser
            .value("document.querySelector('q.words').textContent")
            .await?;
        let shown = HOSTILE.replace('\u{202e}', "\\u{202e}");
        ensure!(words.as_str() == Some(&shown), "{path}: {words}");
        let tags = browser
            .value("document.querySelectorAll('main script, main img').length")
            .await?;
        ensure!(tags == 0, "{path}: {tags}");
    }
    ensure!(browser.value("typeof window.owned").await? == "undefined");
    // A page that is not there is the one thing that a browser may complain of.
    let mut problems = browser.problems();
    problems.retain(|problem| !problem.contains("/nowhere"));
    ensure!(problems.is_empty(), "{problems:?}");

    // Without scripts it is the same.
    browser.scripts(false).await?;
    browser.open(&format!("{origin}/")).await?;
    browser.open(&format!("{origin}/rotation")).await?;
    let text = browser.value("document.body.innerText").await?;
    let text = text.as_str().context("a text")?;
    for part in [
        "Distribute",
        "refused",
        "onerror=",
        "mend what the proxy says",
    ] {
        ensure!(text.contains(part), "{part} is not in:\n{text}");
    }
    ensure!(
        browser
            .value("document.querySelector('#live').textContent")
            .await?
            == ""
    );
    Ok(())
}
