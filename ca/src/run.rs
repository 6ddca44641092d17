//! The process: puts the parts together in the order in which they need each other, keeps
//! them until it is asked to end, and takes other configurations meanwhile.

mod door;
mod keep;
mod open;
mod own;
mod waiting;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arx_daemon::drain::{Drain, OnPanic, Reloads, Tasks};
use arx_daemon::ops::{self, Readiness};
use arx_daemon::{Clock, drain, exit, log};
use arx_identity::{Svid, tls};
use arx_proto::admin::v1::admin_server::AdminServer;
use arx_proto::admin::v1::custody_server::CustodyServer;
use arx_proto::admin::v1::recovery_server::RecoveryServer;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use crate::admin;
use crate::answers::Answers;
use crate::authority::{renewal_at, serving_at};
use crate::ca::{Ca, CurrentRules, Rules};
use crate::config::Config;
use crate::fleet::Fleet;
use crate::lease::Leading;
use crate::metrics::{Gauges, Metrics, Readings, RootLabel, Rotating};
use crate::nested;
use crate::overview::Overview;
use crate::page::{Page, Place};
use crate::peer::Replicas;
use crate::policy::Policy;
use crate::publish::Publishers;
use crate::queue::Queue;
use crate::refusal::Told;
use crate::rotation::{self, Rotator};
use crate::serve::{Answers as Answered, Nodes};
use crate::share::Shares;
use crate::sink::{self, Sink};
use crate::state::LedgerLost;
use crate::token::Tokens;
use door::Door;
use keep::Conditions;
use open::{Parts, Start, StartError};

pub(crate) use open::seal_source;
pub(crate) use own::installed_record;

/// What the processes call themselves in the state and to agents.
pub const SOFTWARE: &str = concat!("arx-ca ", env!("CARGO_PKG_VERSION"));
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
            Ok(Some(process)) => process.run().await,
            Ok(None) => exit::OK,
            Err(error) => {
                tracing::error!(code = error.code, "can't start: {}", error.message);
                if error.configuration {
                    exit::CONFIG
                } else {
                    exit::RUNTIME
                }
            }
        }
    });
    // Whatever was cut off at the end of the grace period must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code.into()
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
    ) -> Result<Option<Self>, StartError> {
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

        let place = config.page.place(config.ops.address);
        let listener_of_page = match place {
            Place::Own { address, .. } => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(StartError::io(format!("can't bind page.address {address}")))?,
            ),
            Place::Ops | Place::Nowhere => None,
        };

        let running = Arc::new(OnceLock::<Arc<Ca>>::new());
        let page = Page::new(
            &config.page,
            Arc::clone(&running),
            readiness.clone(),
            clock.clone(),
            drain.clone(),
        );
        let gauges = Arc::clone(&running);
        registry.register_collector(Box::new(Gauges(move || {
            gauges.get().map(|ca| readings(ca))
        })));
        let site = (place == Place::Ops).then(|| page.site());
        let ops = ops.start_with(readiness.clone(), registry, drain.clone(), site);

        let mut door = Door::new(&config.admin.socket, &tasks, &drain);
        let start = Start {
            config: &config,
            clock: &clock,
            accept_loss,
            conditions: &conditions,
            drain: &drain,
        };
        let Some(parts) = Parts::open(start, &mut door).await? else {
            return Ok(None);
        };
        let tokens = Tokens::new(&config.clusters, &clock).await?;
        let policy = Policy::new(&config.trust_domain, &config.policy, &config.clusters)
            .map_err(|error| StartError::new("ARX-CONFIG", error))?;
        let publishers = Publishers::new(
            &config.publish,
            &config.clusters,
            &parts.trust.current(),
            parts.authority.root_key_id(),
        )
        .await?;
        let lost = parts.lost;
        let ca = Arc::new(Ca {
            trust_domain: config.trust_domain.clone(),
            replica: parts.replica.clone(),
            replicas: match config.state.place().is_shared() {
                true => Replicas::Several,
                false => Replicas::One,
            },
            software: SOFTWARE,
            started: clock.now(),
            clock: clock.clone(),
            state: parts.state,
            place: config.state.place(),
            custody: open::custody(&config),
            authority: Arc::new(parts.authority),
            trust: Arc::new(parts.trust),
            publishers,
            leading: Leading::default(),
            rotator: Rotator::default(),
            overview: Overview::default(),
            denials: parts.denials,
            restore: parts.restore,
            sink: config.ledger.sink.clone().map(|target| {
                let directory = config.state.directory.join("ledger");
                Arc::new(Sink::new(target, parts.ledger.clone(), directory))
            }),
            ledger: parts.ledger,
            fleet: Fleet::default(),
            shares: Shares::default(),
            confirmed_below: nested::Confirmed::default(),
            above: rotation::Above::default(),
            nested: nested::Rate::default(),
            queue: Queue::new(processors(), config.node_api.queue),
            answers: Answers::default(),
            told: Told::default(),
            recent: crate::recent::Recent::default(),
            metrics,
            drain: drain.clone(),
            fleet_ahead: Mutex::new(None),
            rules: CurrentRules::new(Rules {
                generation: 1,
                policy,
                tokens,
                retention: config.ledger.retention.get(),
                nested: nested::Allowed::new(&config.nested),
                rotation: config.rotation_defaults(),
            }),
            readiness,
        });
        let _first = running.set(Arc::clone(&ca));
        let serving = own::first_certificates(&ca).await?;
        let server = tls::Server::new(&serving, &ca.trust.current())
            .map_err(|error| StartError::new("ARX-START", error))?;
        let server = Arc::new(server);
        door.open()?;
        let api = AdminServer::new(admin::Api::new(Arc::clone(&ca)));
        let custody = CustodyServer::new(admin::Custody::of(Arc::clone(&ca)));
        let recovery = RecoveryServer::new(admin::Recovery::of(Arc::clone(&ca)));
        door.answer(Answered::Everything(api, custody, recovery));

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
        this.keep(conditions);
        this.keep_history(lost);
        this.serve(server, serving, listener);
        this.show(page, place, listener_of_page);
        tracing::info!(
            trust_domain = %this.ca.trust_domain,
            replica = %this.ca.replica,
            node_api = %this.config.node_api.address,
            admin = %this.config.admin.socket.display(),
            bundle = %this.ca.trust.current().sequence(),
            "authority is up"
        );
        Ok(Some(this))
    }

    fn serve(&self, server: Arc<tls::Server>, serving: Svid, listener: TcpListener) {
        let most = self.config.node_api.max_connections;
        let nodes = Nodes::new(
            Arc::clone(&self.ca),
            Arc::clone(&server),
            self.tasks.clone(),
            most,
        );
        self.tasks
            .spawn("node listener", OnPanic::End, nodes.serve(listener, most));
        self.keep_authority(server, serving);
    }

    /// Serves the status page where it has a listener of its own.
    fn show(&self, page: Arc<Page>, place: Place, listener: Option<TcpListener>) {
        let counting = Arc::clone(&page);
        self.until_drained("issuance rate", async move { counting.keep().await });
        if let (Place::Own { tls, address }, Some(listener)) = (place, listener) {
            tracing::info!(%address, tls, "the status page is up");
            self.until_drained("page listener", page.serve(listener, tls));
        }
    }

    /// Everything that goes on beside answering calls.
    fn keep(&self, conditions: Conditions) {
        let Conditions {
            authority,
            files,
            key,
            ledger,
            pods,
            publish,
            store,
        } = conditions;
        let ca = &self.ca;
        let clock = ca.clock.clone();
        self.until_drained("clock", async move { clock.watch().await });
        self.until_drained(
            "authority health",
            keep::watch_authority(Arc::clone(ca), authority),
        );
        self.until_drained("root key", keep::watch_key(Arc::clone(ca), key));
        let reaching = Arc::clone(ca);
        self.until_drained("reaching the root key", async move {
            reaching.authority.keep_reaching(&reaching.clock).await;
        });
        if ca.authority.options().certifier.is_some() {
            let upper = ca.readiness.condition("upper");
            let hearing = Arc::clone(ca);
            self.until_drained("authority above", async move {
                hearing.keep_following_above().await;
            });
            let above = ca.readiness.condition("upstream");
            self.until_drained("upstream health", keep::watch_above(Arc::clone(ca), above));
            let following = Arc::clone(ca);
            self.until_drained("root of a CA outside", async move {
                following.keep_following_outside().await;
            });
            self.until_drained("upper health", keep::watch_upper(Arc::clone(ca), upper));
        }
        if let Some(sink) = &ca.sink {
            let (writing, condition) = (Arc::clone(sink), ca.readiness.condition("ledger sink"));
            self.until_drained("ledger sink", async move { writing.keep().await });
            let watching = sink::watch(Arc::clone(sink), condition);
            self.until_drained("ledger sink health", watching);
        }
        self.until_drained("ledger health", keep::watch_ledger(Arc::clone(ca), ledger));
        self.until_drained("pods", keep::watch_pods(Arc::clone(ca), pods));
        self.until_drained("store health", keep::watch_store(Arc::clone(ca), store));
        self.until_drained(
            "publish health",
            keep::watch_published(Arc::clone(ca), publish),
        );
        let publishing = Arc::clone(ca);
        self.until_drained("publishing", async move {
            publishing.keep_published().await;
        });
        let trust = Arc::clone(&ca.trust);
        self.until_drained("trust", async move {
            trust.follow().await;
        });
        let denying = Arc::clone(ca);
        self.until_drained("denials", async move {
            denying.denials.follow().await;
        });
        let restored = Arc::clone(ca);
        self.until_drained("restored state", async move {
            restored.restore.follow().await;
        });
        let comparing = Arc::clone(ca);
        let settle = self.config.state.restore_settle.get();
        self.until_drained("comparing the fleet", async move {
            comparing.keep_restored(settle).await;
        });
        // For a backup that another replica makes.
        if self.config.state.place().is_shared() {
            let counting = Arc::clone(ca);
            self.until_drained(
                "count of nodes",
                async move { counting.keep_counted().await },
            );
        }
        if ca.restore.get().is_some_and(|it| it.is_shut()) {
            let restored = ca.readiness.condition("restored");
            self.until_drained(
                "restored health",
                keep::watch_restored(Arc::clone(ca), restored),
            );
        }
        let leading = Arc::clone(ca);
        self.until_drained("lease", async move { leading.keep_leading().await });
        let rotating = Arc::clone(ca);
        self.until_drained("rotation", async move { rotating.keep_rotating().await });
        if ca.authority.looks_every().is_some() {
            let looking = Arc::clone(ca);
            self.until_drained(
                "operator's files",
                async move { looking.keep_files().await },
            );
            self.until_drained("files health", keep::watch_files(Arc::clone(ca), files));
        } else {
            files.set_ok();
        }
        let renewing = Arc::clone(ca);
        self.until_drained("root renewal", async move {
            renewing.keep_root_renewed().await;
        });
        let shown = Arc::clone(ca);
        self.until_drained("overview", async move { shown.keep_overview().await });
        self.until_drained("refusals", keep::tell_refusals(Arc::clone(ca)));
        self.until_drained("published bundles", keep::record_published(Arc::clone(ca)));
        self.until_drained("ledger pruning", keep::prune(Arc::clone(ca)));
        self.until_drained("lines of nodes", keep::restore_lines(Arc::clone(ca)));
        self.until_drained("token keys", keep::keep_keys(Arc::clone(ca)));
    }

    /// What is known of what was issued.
    fn keep_history(&self, lost: Option<LedgerLost>) {
        let ca = &self.ca;
        let noting = Arc::clone(ca);
        self.until_drained("checkpoints", async move {
            noting.keep_checkpoints().await;
        });
        if let Some(lost) = lost {
            let condition = ca.readiness.condition("ledger history");
            let watching = keep::watch_history(Arc::clone(ca), lost, condition);
            self.until_drained("ledger history", watching);
        }
    }

    /// Renews the intermediate and the serving certificate.
    fn keep_authority(&self, server: Arc<tls::Server>, serving: Svid) {
        let ca = Arc::clone(&self.ca);
        let presented = Arc::new(own::Presented::new(serving));
        let made = {
            let (ca, server, presented) =
                (Arc::clone(&ca), Arc::clone(&server), Arc::clone(&presented));
            move |made| {
                let (ca, server, presented) =
                    (Arc::clone(&ca), Arc::clone(&server), Arc::clone(&presented));
                Box::pin(async move { own::took(&ca, &server, &presented, made).await })
                    as BoxFuture<'static, _>
            }
        };
        let keeper = Arc::clone(&ca);
        self.until_drained("authority", async move {
            keeper.authority.keep(&keeper.clock, made).await;
        });
        let keeper = Arc::clone(&ca);
        self.until_drained("upper authority", async move {
            let recorder = Arc::clone(&keeper);
            let installed = move |installed| {
                let ca = Arc::clone(&recorder);
                Box::pin(async move { own::renewed(&ca, &installed).await })
                    as BoxFuture<'static, _>
            };
            keeper.authority.keep_upper(&keeper.clock, installed).await;
        });
        {
            let (ca, presented) = (Arc::clone(&ca), Arc::clone(&presented));
            self.until_drained("replaced certificates", async move {
                own::keep_released(&ca, &presented).await;
            });
        }
        // Peers are judged by the newest bundle.
        self.until_drained("tls trust", async move {
            let mut trust = ca.trust.watch();
            while trust.changed().await.is_ok() {
                if let Err(error) = presented.trust(&ca, &server).await {
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
        self.ca.note_last_checkpoint().await;
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
            retention: new.ledger.retention.get(),
            nested: nested::Allowed::new(&new.nested),
            rotation: new.rotation_defaults(),
        });
        self.log.set_level(new.log.level);
        self.config = new;
        Ok(generation)
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn readings(ca: &Ca) -> Readings {
    let (agents_connected, agents_known) = ca.fleet.size();
    let ledger = ca.ledger.status();
    let live = ca.ledger.live();
    let now = ca.clock.now();
    let mut authority_ends = vec![("root", ca.authority.root().not_after())];
    let mut authority_renewals = Vec::new();
    if let Some(upper) = ca.authority.upper() {
        authority_ends.push(("upper", upper.ends));
        authority_renewals.push(("upper", upper.renewal_at));
    }
    if let Some(issuing) = ca.authority.issuing() {
        authority_ends.push(("intermediate", issuing.not_after()));
        let renewal = renewal_at(issuing.term(), ca.authority.longest_leaf());
        authority_renewals.extend(renewal.map(|at| ("intermediate", at)));
    }
    if let Some(serving) = ca.authority.serving() {
        let leaf = serving.chain().leaf();
        authority_ends.push(("serving", leaf.not_after()));
        authority_renewals.push(("serving", serving_at(leaf.not_before(), leaf.not_after())));
    }
    let roots = ca.overview.roots();
    let roots = roots.iter().map(|root| {
        let label = RootLabel {
            state: Arc::clone(&root.state),
            key_id: root.key_id.to_string(),
        };
        (label, root.certificate.not_after())
    });
    let view = ca.rotator.watch().borrow().clone();
    // What is under way is not overdue.
    let idle = view
        .as_ref()
        .is_none_or(|view| view.rotation.phase.is_over());
    let renewal = ca.overview.renewal().filter(|_| idle);
    authority_renewals.extend(renewal.map(|at| ("root", at)));
    Readings {
        queue: ca.queue.waiting(),
        agents_connected,
        agents_known,
        live_certificates: live.is_ready().then(|| live.count(now)),
        ledger_records: ledger.records,
        ledger_bytes: ledger.bytes,
        sink: ca.sink.as_ref().map(|sink| {
            let progress = sink.progress().borrow().clone();
            (
                ledger.records.saturating_sub(progress.next),
                progress.missed,
            )
        }),
        leads: ca.is_leader(),
        is_shut: ca.restore.is_open().is_err(),
        upstream_reachable: ca.above_is_reachable(),
        root_key_reachable: ca.authority.reach().borrow().away.is_none(),
        authority_ends,
        authority_renewals,
        roots: roots.collect(),
        rotating: Rotating::of(view.as_deref(), now),
        files_in_use: ca
            .authority
            .looks_every()
            .map(|_| ca.overview.files().borrow().is_none()),
        pods: ca
            .rules
            .get()
            .tokens
            .pods()
            .map(|it| (it.cluster().clone(), it.health()))
            .collect(),
        published: ca.publishers.health(),
        denials: ca.denials.get().holding(now).count(),
        bundle_number: ca.trust.current().sequence().number,
        generation: ca.rules.get().generation,
    }
}
