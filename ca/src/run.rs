//! The process: puts the parts together in the order in which they need each other, keeps
//! them until it is asked to end, and takes other configurations meanwhile.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arx_daemon::drain::{Drain, OnPanic, Reloads, Tasks};
use arx_daemon::ops::{self, Condition, Readiness};
use arx_daemon::{Clock, drain, exit, files, log};
use arx_identity::Svid;
use arx_identity::tls;
use arx_proto::admin::v1::admin_server::AdminServer;
use arx_proto::node::v1::node_server::NodeServer;
use tokio::net::{TcpListener, UnixListener};

use crate::admin;
use crate::answers::Answers;
use crate::authority::{self, Authority, Made};
use crate::ca::{Ca, CurrentRules, Rules};
use crate::config::Config;
use crate::fleet::Fleet;
use crate::issue::{issued_record, key_id};
use crate::ledger::{self, Ledger};
use crate::metrics::{Gauges, Kind, Metrics, Readings};
use crate::node_api;
use crate::policy::Policy;
use crate::queue::Queue;
use crate::seal;
use crate::serve::{Nodes, serve_admin};
use crate::state::State;
use crate::store;
use crate::token::Tokens;
use crate::trust::{Evidence, Trust};

/// What the processes call themselves in the state and to agents.
pub const SOFTWARE: &str = concat!("arx-ca ", env!("CARGO_PKG_VERSION"));
/// Largest message of an agent: a batch of 100 items with tokens has some 300 KiB, and an
/// item that is far too large should be refused by itself.
const MESSAGE: usize = 4 * 1024 * 1024;
/// Between looks at whether the store can write.
const PROBE: Duration = Duration::from_secs(5);
/// Between removals of old segments.
const PRUNE: Duration = Duration::from_secs(3600);

/// Runs the authority until it is asked to end.
#[must_use]
pub fn process(path: PathBuf, config: Config, clock: Clock, accept_loss: bool) -> ExitCode {
    let log = match log::init(config.log, &clock) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return exit::RUNTIME.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(code = "ARX-START", %error, "can't start threads");
            return exit::RUNTIME.into();
        }
    };
    let code = runtime.block_on(async {
        match Process::start(path, config, clock, log, accept_loss).await {
            Ok(process) => process.run().await,
            Err(error) => {
                tracing::error!(code = error.code, "can't start: {}", error.message);
                exit::RUNTIME
            }
        }
    });
    // Whatever was cut off at the end of the grace period must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code.into()
}

/// Why an authority can't start.
#[derive(Debug)]
struct StartError {
    code: &'static str,
    message: String,
}

macro_rules! start_error_from {
    ($($error:ty),*) => {$(
        impl From<$error> for StartError {
            fn from(error: $error) -> Self {
                Self { code: error.code(), message: error.to_string() }
            }
        }
    )*};
}
start_error_from!(
    store::OpenError,
    seal::SourceError,
    crate::state::StateError,
    authority::AuthorityError,
    crate::trust::TrustError,
    crate::token::SourceError,
    ledger::Error,
    ledger::AppendError
);

impl StartError {
    fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |error| Self {
            code: "ARX-START",
            message: format!("{what}: {error}"),
        }
    }
}

struct Process {
    path: PathBuf,
    config: Config,
    log: log::Log,
    ca: Arc<Ca>,
    drain: Drain,
    reloads: Reloads,
    tasks: Tasks,
    _ops: ops::Serving,
}

impl Process {
    async fn start(
        path: PathBuf,
        config: Config,
        clock: Clock,
        log: log::Log,
        accept_loss: bool,
    ) -> Result<Self, StartError> {
        let (drain, reloads) = drain::listen(config.node_api.drain.get())
            .map_err(StartError::io("can't listen for signals"))?;
        let tasks = Tasks::new(&drain);
        let readiness = Readiness::new();
        let conditions = Conditions::new(&readiness);
        let process = ops::Process {
            name: "arx-ca",
            version: env!("CARGO_PKG_VERSION"),
        };
        let mut registry = ops::registry(&process, &clock, &readiness, &tasks);
        let metrics = Metrics::new(&mut registry);
        // Bound first: an address that is taken is found out before anything is written.
        let ops = ops::Server::bind(config.ops.address)
            .await
            .map_err(StartError::io(format!(
                "can't bind ops.address {}",
                config.ops.address
            )))?;
        let listener = TcpListener::bind(config.node_api.address)
            .await
            .map_err(StartError::io(format!(
                "can't bind node_api.address {}",
                config.node_api.address
            )))?;

        let parts = Parts::open(&config, &clock, accept_loss).await?;
        let tokens = Tokens::new(&config.clusters, &clock).await?;
        let policy = Policy::new(&config.trust_domain, &config.policy, &config.clusters).map_err(
            |error| StartError {
                code: "ARX-CONFIG",
                message: error.to_string(),
            },
        )?;
        let ca = Arc::new(Ca {
            trust_domain: config.trust_domain.clone(),
            replica: parts.replica.clone(),
            software: SOFTWARE,
            started: clock.now(),
            clock: clock.clone(),
            state: parts.state,
            custody: custody(&config),
            authority: Arc::new(parts.authority),
            trust: Arc::new(parts.trust),
            ledger: parts.ledger,
            fleet: Fleet::default(),
            queue: Queue::new(processors(), config.node_api.queue),
            answers: Answers::default(),
            metrics,
            drain: drain.clone(),
            fleet_ahead: Mutex::new(None),
            rules: CurrentRules::new(Rules {
                generation: 1,
                policy,
                tokens,
            }),
            readiness: readiness.clone(),
        });
        let gauges = Arc::clone(&ca);
        registry.register_collector(Box::new(Gauges(move || readings(&gauges))));
        let ops = ops.start(readiness, registry, drain.clone());

        let serving = first_certificates(&ca).await?;
        let server =
            tls::Server::new(&serving, &ca.trust.current()).map_err(|error| StartError {
                code: "ARX-START",
                message: error.to_string(),
            })?;
        let server = Arc::new(server);
        let admin = bind_admin(&config.admin.socket)?;

        let this = Self {
            path,
            config,
            log,
            ca,
            drain,
            reloads,
            tasks,
            _ops: ops,
        };
        this.keep(conditions, &server);
        this.serve(server, serving, listener, admin);
        tracing::info!(
            trust_domain = %this.ca.trust_domain,
            replica = %this.ca.replica,
            node_api = %this.config.node_api.address,
            admin = %this.config.admin.socket.display(),
            bundle = %this.ca.trust.current().sequence(),
            "authority is up"
        );
        Ok(this)
    }

    fn serve(
        &self,
        server: Arc<tls::Server>,
        serving: Svid,
        listener: TcpListener,
        admin: UnixListener,
    ) {
        let api = NodeServer::new(node_api::Api::new(Arc::clone(&self.ca)))
            .max_decoding_message_size(MESSAGE);
        let nodes = Nodes {
            tls: Arc::clone(&server),
            trust_domain: self.ca.trust_domain.clone(),
            trust: self.ca.trust.watch(),
            api,
            clock: self.ca.clock.clone(),
            tasks: self.tasks.clone(),
            drain: self.drain.clone(),
            metrics: self.ca.metrics.clone(),
        };
        let most = self.config.node_api.max_connections;
        self.tasks
            .spawn("node listener", OnPanic::End, nodes.serve(listener, most));
        let api = AdminServer::new(admin::Api::new(Arc::clone(&self.ca)));
        self.tasks.spawn(
            "admin listener",
            OnPanic::End,
            serve_admin(admin, api, self.tasks.clone(), self.drain.clone()),
        );
        self.keep_authority(server, serving);
    }

    /// Everything that goes on beside answering calls.
    fn keep(&self, conditions: Conditions, _server: &Arc<tls::Server>) {
        let Conditions {
            authority,
            ledger,
            store,
        } = conditions;
        let ca = &self.ca;
        let clock = ca.clock.clone();
        self.until_drained("clock", async move { clock.watch().await });
        self.until_drained(
            "authority health",
            watch_authority(Arc::clone(ca), authority),
        );
        self.until_drained("ledger health", watch_ledger(Arc::clone(ca), ledger));
        self.until_drained("store health", watch_store(Arc::clone(ca), store));
        let trust = Arc::clone(&ca.trust);
        self.until_drained("trust", async move {
            trust.follow().await;
        });
        self.until_drained(
            "ledger pruning",
            prune(Arc::clone(ca), self.config.ledger.retention.get()),
        );
        self.until_drained("lines of nodes", restore_lines(Arc::clone(ca)));
        self.until_drained("token keys", keep_keys(Arc::clone(ca)));
    }

    /// Renews the intermediate and the serving certificate.
    fn keep_authority(&self, server: Arc<tls::Server>, serving: Svid) {
        let ca = Arc::clone(&self.ca);
        let presented = Arc::new(Mutex::new(serving));
        let made = {
            let (ca, server, presented) =
                (Arc::clone(&ca), Arc::clone(&server), Arc::clone(&presented));
            move |made| {
                let (ca, server, presented) =
                    (Arc::clone(&ca), Arc::clone(&server), Arc::clone(&presented));
                Box::pin(async move { took(&ca, &server, &presented, made).await })
                    as futures_util::future::BoxFuture<'static, _>
            }
        };
        let keeper = Arc::clone(&ca);
        self.until_drained("authority", async move {
            keeper.authority.keep(&keeper.clock, made).await;
        });
        // Peers are judged by the newest bundle.
        self.until_drained("tls trust", async move {
            let mut trust = ca.trust.watch();
            while trust.changed().await.is_ok() {
                let bundle = Arc::clone(&trust.borrow_and_update());
                let serving = presented.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                if let Err(error) = server.replace(&serving, &bundle) {
                    tracing::error!(code = "ARX-TLS", %error, "the new bundle could not be taken for connections");
                }
            }
        });
    }

    fn until_drained(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let drain = self.drain.clone();
        self.tasks.spawn(name, OnPanic::End, async move {
            tokio::select! {
                () = work => {}
                () = drain.requested() => {}
            }
        });
    }

    async fn run(mut self) -> u8 {
        loop {
            tokio::select! {
                () = self.drain.requested() => break,
                () = self.reloads.next() => self.reload().await,
            }
        }
        let _cut = self.tasks.finish().await;
        let _gone = std::fs::remove_file(&self.config.admin.socket);
        let ca = Arc::clone(&self.ca);
        let _closed = tokio::task::spawn_blocking(move || ca.ledger.close()).await;
        tracing::info!("authority has ended");
        self.drain.exit_code()
    }

    /// Takes the configuration file again: whole, or not at all.
    async fn reload(&mut self) {
        let taken = self.try_reload().await;
        self.ca.metrics.reloaded(taken.is_ok());
        match taken {
            Ok(generation) => tracing::info!(generation, "configuration taken"),
            Err(reason) => tracing::error!(
                code = "ARX-RELOAD",
                generation = self.ca.rules.get().generation,
                "configuration refused, the one before stays in force: {reason}"
            ),
        }
    }

    async fn try_reload(&mut self) -> Result<u64, String> {
        let new = Config::load(&self.path).map_err(|error| error.to_string())?;
        let fixed = self.config.fixed_differences(&new);
        if !fixed.is_empty() {
            return Err(format!(
                "{} can't change while the process runs: undo that, or restart",
                fixed.join(", ")
            ));
        }
        let before = self.ca.rules.get();
        let generation = before.generation + 1;
        let policy = Policy::new(&new.trust_domain, &new.policy, &new.clusters)
            .map_err(|error| error.to_string())?;
        let tokens = before
            .tokens
            .reloaded(&new.clusters)
            .await
            .map_err(|error| error.to_string())?;
        // The relations hold: they were checked with the file.
        let _relations = self.ca.authority.set_longest_leaf(new.policy.longest_ttl());
        self.ca.rules.set(Rules {
            generation,
            policy,
            tokens,
        });
        self.log.set_level(new.log.level);
        self.config = new;
        Ok(generation)
    }
}

/// What is opened from the disk.
struct Parts {
    replica: Arc<str>,
    state: State,
    authority: Authority,
    trust: Trust,
    ledger: Ledger,
}

impl Parts {
    async fn open(config: &Config, clock: &Clock, accept_loss: bool) -> Result<Self, StartError> {
        let directory = &config.state.directory;
        std::fs::create_dir_all(directory)
            .and_then(|()| {
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
            })
            .map_err(StartError::io(format!(
                "can't prepare state.directory {}",
                directory.display()
            )))?;
        let file = directory.join("state.redb");
        let first_start = !file.exists();
        let now = clock.now();
        let store: store::Shared = Arc::new(store::Redb::open_or_create(&file, now)?);
        let seal = seal_source(config).seal(first_start)?;
        let state = State::open(store, seal, &config.trust_domain, SOFTWARE).await?;
        let replica = state.replica(config.replica.as_deref(), now).await?;

        let (ledger, recovery) = Ledger::open(ledger_options(config), now)?;
        if let Some(torn) = &recovery.torn {
            tracing::warn!(code = "ARX-LEDGER-TORN", %torn, "the end of the ledger was cut: it was never acknowledged");
        }
        let evidence = Evidence {
            highest: ledger.last_sequence(),
            accept_loss,
        };
        // Before anything is made that would have to be trusted.
        Trust::examine(&state, Some(&replica), evidence).await?;
        let authority =
            Authority::open(state.clone(), &replica, config.authority_options(), now).await?;
        for note in authority.notes() {
            tracing::warn!(code = "ARX-AUTHORITY-NOTE", "{note}");
        }
        let trust = Trust::open(state.clone(), &replica, authority.root(), evidence, now).await?;
        Ok(Self {
            replica: replica.name().into(),
            state,
            authority,
            trust,
            ledger,
        })
    }
}

/// Where the sealing key comes from.
pub(crate) fn seal_source(config: &Config) -> seal::Source {
    match &config.state.seal_key_file {
        Some(path) => seal::Source::File {
            path: path.clone(),
            create: true,
        },
        None => seal::Source::None,
    }
}

/// Where the root's key is, in words.
fn custody(config: &Config) -> &'static str {
    match (&config.authority.key_file, &config.state.seal_key_file) {
        (Some(_), _) => "the operator's file",
        (None, Some(_)) => "state file, sealed",
        (None, None) => "state file, in plain text",
    }
}

/// The ledger as configured.
pub(crate) fn ledger_options(config: &Config) -> ledger::Options {
    ledger::Options {
        directory: config.state.directory.join("ledger"),
        trust_domain: config.trust_domain.clone(),
        segment_bytes: config.ledger.segment_size.bytes(),
        gather: config.ledger.gather.get(),
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The intermediate and the serving certificate that a process begins with.
async fn first_certificates(ca: &Ca) -> Result<Svid, StartError> {
    let now = ca.clock.now();
    let prepared = ca.authority.prepare(now).await?;
    let record = intermediate_record(&ca.replica, &prepared.registered);
    ca.ledger
        .append(vec![ledger::Record::new(now, record)])
        .await?;
    ca.authority.install(prepared);
    let serving = ca.authority.prepare_serving(now)?;
    record_serving(ca, &serving).await?;
    ca.authority.install_serving(serving.clone());
    Ok(serving)
}

async fn record_serving(ca: &Ca, serving: &Svid) -> Result<(), ledger::AppendError> {
    let Some(issuing) = ca.authority.issuing() else {
        return Ok(());
    };
    let record = ledger::Issued {
        replica: ca.replica.to_string(),
        evidence: "the authority's own serving certificate".to_owned(),
        policy_generation: ca.rules.get().generation,
        ..issued_record(
            &issuing,
            serving.chain().leaf(),
            ca.trust.current().sequence(),
        )
    };
    ca.ledger
        .append(vec![ledger::Record::new(ca.clock.now(), record)])
        .await?;
    ca.metrics.issued(Kind::Own, 1);
    Ok(())
}

fn intermediate_record(
    replica: &str,
    intermediate: &crate::state::Intermediate,
) -> ledger::IntermediateRegistered {
    let certificate = &intermediate.certificate;
    ledger::IntermediateRegistered {
        replica: replica.to_owned(),
        serial: certificate.serial().as_bytes().to_vec(),
        key_id: key_id(certificate.public_key().key_id()),
        root_key_id: key_id(intermediate.root),
        validity: ledger::Validity {
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
        },
    }
}

/// Takes what the authority has made for itself: into the ledger first.
async fn took(
    ca: &Ca,
    server: &tls::Server,
    presented: &Mutex<Svid>,
    made: Made,
) -> Result<(), String> {
    match made {
        Made::Intermediate(intermediate) => {
            let record = intermediate_record(&ca.replica, &intermediate);
            let appended = ca
                .ledger
                .append(vec![ledger::Record::new(ca.clock.now(), record)])
                .await;
            appended
                .map(|_receipt| ())
                .map_err(|error| error.to_string())
        }
        Made::Serving(svid) => {
            record_serving(ca, &svid)
                .await
                .map_err(|error| error.to_string())?;
            server
                .replace(&svid, &ca.trust.current())
                .map_err(|error| error.to_string())?;
            *presented
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = svid;
            Ok(())
        }
    }
}

struct Conditions {
    authority: Condition,
    ledger: Condition,
    store: Condition,
}

impl Conditions {
    fn new(readiness: &Readiness) -> Self {
        Self {
            authority: readiness.condition("authority"),
            ledger: readiness.condition("ledger"),
            store: readiness.condition("store"),
        }
    }
}

async fn watch_authority(ca: Arc<Ca>, condition: Condition) {
    let mut health = ca.authority.health();
    loop {
        {
            let health = health.borrow_and_update();
            match (&health.trouble, health.can_issue) {
                (_, true) => condition.set_ok(),
                (Some((code, message)), false) => condition.set_failing(code, message.clone()),
                (None, false) => condition.set_failing(
                    "ARX-AUTHORITY-NOT-READY",
                    "there is no valid intermediate: see the log",
                ),
            }
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_ledger(ca: Arc<Ca>, condition: Condition) {
    let mut paused = ca.ledger.paused();
    loop {
        match &*paused.borrow_and_update() {
            Some(pause) => condition.set_failing(
                "ARX-LEDGER-PAUSED",
                format!("nothing is issued, because the ledger is paused: {pause}"),
            ),
            None => condition.set_ok(),
        }
        if paused.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_store(ca: Arc<Ca>, condition: Condition) {
    loop {
        match ca.state.store().probe().await {
            Ok(()) => condition.set_ok(),
            Err(error) => condition.set_failing(error.code(), error.to_string()),
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// Refreshes the keys that tokens are verified with, also those of later rules.
async fn keep_keys(ca: Arc<Ca>) {
    let mut rules = ca.rules.watch();
    loop {
        let tokens = rules.borrow_and_update().tokens.clone();
        tokio::select! {
            () = async { tokens.keep().await } => {}
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

async fn prune(ca: Arc<Ca>, retention: Duration) {
    ca.ledger.live().ready().await;
    loop {
        let pruning = Arc::clone(&ca);
        let outcome = tokio::task::spawn_blocking(move || {
            pruning.ledger.prune(pruning.clock.now(), retention)
        })
        .await;
        match outcome {
            Ok(Ok(pruned)) if pruned.segments > 0 => tracing::info!(
                segments = pruned.segments,
                "old segments of the ledger were removed"
            ),
            Ok(Err(error)) => {
                tracing::warn!(code = error.code(), %error, "old segments of the ledger could not be removed")
            }
            _ => {}
        }
        tokio::time::sleep(PRUNE).await;
    }
}

/// Which certificates of nodes belong to the line of their last join is in the ledger.
async fn restore_lines(ca: Arc<Ca>) {
    ca.ledger.live().ready().await;
    let now = ca.clock.now();
    for (cluster, node, certificates) in ca.ledger.live().nodes(now) {
        let name = crate::caller::NodeName { cluster, node };
        ca.fleet.restore(&name, certificates);
    }
}

fn readings(ca: &Ca) -> Readings {
    let (agents_connected, agents_known) = ca.fleet.size();
    let ledger = ca.ledger.status();
    let live = ca.ledger.live();
    let mut authority_ends = vec![("root", ca.authority.root().not_after())];
    authority_ends.extend(
        ca.authority
            .issuing()
            .map(|issuing| ("intermediate", issuing.not_after())),
    );
    Readings {
        queue: ca.queue.waiting(),
        agents_connected,
        agents_known,
        live_certificates: live.is_ready().then(|| live.count(ca.clock.now())),
        ledger_records: ledger.records,
        ledger_bytes: ledger.bytes,
        authority_ends,
        bundle_number: ca.trust.current().sequence().number,
        generation: ca.rules.get().generation,
    }
}

/// The socket is for root and the own user; the permissions say so too.
fn bind_admin(path: &Path) -> Result<UnixListener, StartError> {
    let what = format!("can't bind admin.socket {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(StartError::io(&what))?;
    }
    files::bind_socket(path, 0o600)
        .map_err(|error| StartError {
            code: "ARX-START",
            message: format!("admin.socket: {error}"),
        })
        .and_then(|listener| UnixListener::from_std(listener).map_err(StartError::io(&what)))
}
