//! When nodes go to which replica: many nodes, by a clock that the tests move.

use super::spread::preference;
use super::*;
use crate::config;
use arx_daemon::config::File;
use arx_daemon::ops::Readiness;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

const NODES: usize = 200;

/// The agents of many nodes that know the same replicas; they end with this.
struct Nodes {
    directory: tempfile::TempDir,
    drain: Drain,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    addresses: [SocketAddr; 2],
}

impl Nodes {
    fn know(addresses: [SocketAddr; 2]) -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            drain: Drain::new(Duration::ZERO),
            events: mpsc::channel(1),
            addresses,
        }
    }

    /// Those that belong to the first of both.
    fn all(&self) -> impl Iterator<Item = Authority> {
        let [own, other] = self.addresses;
        let names = (0..).map(|n| format!("node-{n}"));
        let belong = names.filter(move |it| preference(it, own) > preference(it, other));
        belong.take(NODES).map(|name| self.node(&name))
    }

    fn node(&self, name: &str) -> Authority {
        let [one, other] = self.addresses;
        let text = config::tests::text(self.directory.path())
            .replace("node-1", name)
            .replace(
                "address = \"127.0.0.1:8443\"",
                &format!("addresses = [\"{one}\", \"{other}\"]"),
            );
        let file = File::from_text("agent.toml", text).expect("TOML");
        let config = Config::read(&file).expect("a good configuration");
        let ids = NodeId::new(&config.trust_domain, &config.cluster, name);
        Authority {
            config: Arc::new(config),
            clock: Clock::system(),
            drain: self.drain.clone(),
            tasks: Tasks::new(&self.drain),
            ids: ids.expect("a good name"),
            svid: None,
            cache_id: [0; 16],
            trust: watch::channel(None).1,
            events: self.events.0.clone(),
            condition: Readiness::new().condition("authority"),
            metrics: Metrics::default(),
        }
    }

    /// Their tasks, which have begun and know the replicas.
    async fn begun(&self) -> Vec<Running> {
        let mut begun = Vec::new();
        for node in self.all() {
            let mut node = Running::new(
                node,
                [0; 16],
                watch::channel(None).0,
                Arc::default(),
                Arc::default(),
            );
            let known = node.way.look_up().await.expect("addresses");
            assert_eq!(known[0].address, self.addresses[0]);
            node.replicas.take(known);
            begun.push(node);
        }
        begun
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.drain.request(arx_daemon::drain::Cause::Finished);
    }
}

/// An address at which nobody listens, and what keeps it so.
fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("a free port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// All moments are in a span of time from `first` on, and every quarter of it has its share.
fn are_spread(moments: &[Duration], first: Duration, span: Duration) {
    let mut quarters = [0; 4];
    for moment in moments {
        let after = moment.checked_sub(first);
        let after = after.unwrap_or_else(|| panic!("{moment:?} is before {first:?}"));
        assert!(after <= span, "{moment:?} is after {:?}", first + span);
        let part = after.as_millis() * 4 / (span.as_millis() + 1);
        quarters[usize::try_from(part).expect("one of four")] += 1;
    }
    assert!(
        quarters.iter().all(|it| it * 10 >= moments.len()),
        "a herd: {quarters:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_nodes_of_a_replica_that_is_away_come_to_the_next_one_by_one_within_a_second() {
    let (_held, own) = nobody();
    let next = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let nodes = Nodes::know([own, next.local_addr().expect("bound")]);
    let begun = Instant::now();
    for node in nodes.all() {
        node.start();
    }
    let mut came = Vec::new();
    while came.len() < NODES {
        let (connection, _) = next.accept().await.expect("they come");
        came.push((begun.elapsed(), connection));
    }
    let moments: Vec<_> = came.iter().map(|(moment, _)| *moment).collect();
    // What the first attempt takes is not of this clock; a millisecond is its resolution.
    let span = FAILOVER_SPREAD + Duration::from_millis(10);
    are_spread(&moments, Duration::ZERO, span);
}

#[tokio::test]
async fn nodes_leave_a_replica_that_is_lost_or_goes_away_one_by_one_within_a_second() {
    let [(_one, own), (_other, next)] = [nobody(), nobody()];
    let nodes = Nodes::know([own, next]);
    let (mut lost, mut drained) = (Vec::new(), Vec::new());
    for mut node in nodes.begun().await {
        node.at = Some(own);
        node.drained = true;
        drained.push(node.wait_after(Ok(()), &mut 0).await);
        let error = SessionError::Lost("it was killed".to_owned());
        lost.push(node.wait_after(Err(error), &mut 0).await);
        assert_eq!(node.replicas.choose().map(|it| it.address), Some(next));
    }
    are_spread(&drained, Duration::ZERO, FAILOVER_SPREAD);
    are_spread(&lost, Duration::ZERO, FAILOVER_SPREAD);
}

#[tokio::test(start_paused = true)]
async fn nodes_go_back_not_before_rebalance_and_one_by_one_until_twice_that() {
    let [(_one, own), (_other, next)] = [nobody(), nobody()];
    let nodes = Nodes::know([own, next]);
    let mut moments = Vec::new();
    for mut node in nodes.begun().await {
        node.at = Some(next);
        let begun = Instant::now();
        let found = node.way_back().await.expect("it looks for it");
        let belongs = found.own.map(|(target, _)| target.address);
        assert_eq!(belongs, Some(own));
        moments.push(begun.elapsed());
    }
    let rebalance = Duration::from_secs(300);
    are_spread(&moments, rebalance, rebalance);
}
