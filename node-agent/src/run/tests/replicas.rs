//! An agent that knows several replicas of its authority.

use super::*;
use crate::authority::spread::preference;
use crate::testing::server::Manner;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn prepared(ca: &server::Running, addresses: String) -> Node {
    let mut node = Node::prepare(ca, "");
    node.authority = addresses;
    node
}

async fn at(ca: &server::Running, addresses: String) -> Node {
    let mut node = prepared(ca, addresses);
    node.begin().await;
    node
}

/// One that does not wait long for an answer.
async fn hasty(ca: &server::Running, addresses: String) -> Node {
    let mut node = prepared(ca, addresses);
    node.patience = "500ms";
    node.begin().await;
    node
}

fn likes(address: &str) -> u64 {
    let address: SocketAddr = address.parse().expect("an address");
    preference("node-1", address)
}

fn hello(told: &Told) -> Option<()> {
    match told {
        Told::Up(AgentMessage {
            message: Some(agent_message::Message::Hello(_)),
        }) => Some(()),
        _ => None,
    }
}

fn join(told: &Told) -> Option<()> {
    matches!(told, Told::Join).then_some(())
}

/// Comes when the agent has taken the welcome.
fn settled(told: &Told) -> Option<()> {
    inventory(told).map(drop)
}

/// Two replicas, that of the node first; and their addresses.
async fn two() -> (server::Running, server::Running, String) {
    let one = server::Running::start().await;
    let other = one.beside("127.0.0.1:0").await;
    let addresses = format!("{} {}", one.ca.address, other.ca.address);
    if likes(&one.ca.address) > likes(&other.ca.address) {
        (one, other, addresses)
    } else {
        (other, one, addresses)
    }
}

impl Node {
    /// The lines of a metric.
    async fn metric(&self, name: &str) -> Vec<String> {
        let address = self.running.as_ref().expect("it runs").ops.address();
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).await;
        read.expect("it answers");
        let lines = answer.lines().filter(|line| line.starts_with(name));
        lines.map(str::to_owned).collect()
    }

    async fn failovers(&self) -> Vec<String> {
        self.metric("arx_agent_authority_failovers_total").await
    }
}

fn counted(failovers: u32) -> [String; 1] {
    [format!("arx_agent_authority_failovers_total {failovers}")]
}

#[tokio::test]
async fn an_agent_whose_replica_is_away_goes_to_the_next_and_comes_back_when_it_is_there_again() {
    let (mut own, mut next, addresses) = two().await;
    let mut node = at(&own, addresses).await;
    own.hear(hello).await;
    own.stop().await;
    next.hear(hello).await;
    let mut own = own.beside(&own.ca.address.clone()).await;
    own.hear(hello).await;
    node.readiness().ready().await;
    node.end().await;
}

#[tokio::test]
async fn a_replica_that_accepts_and_answers_nothing_is_left_for_the_next() {
    let mut ca = server::Running::start().await;
    let mut hanging = Vec::new();
    let preferred = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        hanging.push(listener);
        if likes(&address) > likes(&ca.ca.address) {
            break address;
        }
    };
    let addresses = format!("{preferred} {}", ca.ca.address);
    let mut node = hasty(&ca, addresses).await;
    ca.hear(hello).await;
    node.readiness().ready().await;
    node.end().await;
}

#[tokio::test]
async fn a_replica_that_takes_a_follow_and_gives_no_welcome_is_left_for_the_next() {
    let (mut own, mut next, addresses) = two().await;
    own.behaves(Manner::Mute);
    let mut node = hasty(&own, addresses).await;
    own.hear(hello).await;
    next.hear(settled).await;
    node.readiness().ready().await;
    node.end().await;
}

#[tokio::test]
async fn it_is_shown_whether_an_agent_is_where_it_belongs_and_how_often_it_had_to_leave() {
    let (mut own, mut next, addresses) = two().await;
    let mut node = at(&own, addresses).await;
    let at = |replica: &server::Running, belongs: u8| {
        let address = &replica.ca.address;
        [format!(
            "arx_agent_authority_preferred{{replica=\"{address}\"}} {belongs}"
        )]
    };
    own.hear(settled).await;
    assert_eq!(
        node.metric("arx_agent_authority_preferred").await,
        at(&own, 1)
    );
    assert_eq!(node.failovers().await, counted(0));
    own.stop().await;
    next.hear(settled).await;
    assert_eq!(
        node.metric("arx_agent_authority_preferred").await,
        at(&next, 0)
    );
    assert_eq!(node.failovers().await, counted(1));
    node.end().await;
}

#[tokio::test]
async fn a_replica_that_says_that_it_goes_away_is_left_for_the_next_and_has_not_failed() {
    let (mut own, mut next, addresses) = two().await;
    let mut node = at(&own, addresses).await;
    own.hear(hello).await;
    // It still accepts.
    own.say(authority_message::Message::DrainAfterMs(0));
    next.hear(hello).await;
    own.hear(hello).await;
    // As it is when its stream ends earlier.
    own.say(authority_message::Message::DrainAfterMs(600_000));
    own.end_follows();
    next.hear(hello).await;
    assert_eq!(node.failovers().await, counted(0));
    node.end().await;
}

#[tokio::test]
async fn a_replica_that_is_busy_is_left_for_the_next_at_once_and_alone_for_as_long_as_it_wants() {
    let (mut own, mut next, addresses) = two().await;
    let long = Duration::from_secs(600);
    own.behaves(Manner::Refuses(Code::ResourceExhausted, long));
    let mut node = at(&own, addresses).await;
    own.hear(join).await;
    next.hear(hello).await;
    // It does not go back for that long, but where it is drained to.
    next.say(authority_message::Message::DrainAfterMs(0));
    next.hear(hello).await;
    assert!(own.told.try_recv().is_err(), "it was asked again");
    assert_eq!(node.failovers().await, counted(1));
    node.end().await;
}

#[tokio::test]
async fn a_replica_that_goes_on_and_can_issue_nothing_is_left_for_one_that_can() {
    let (mut own, mut next, addresses) = two().await;
    own.behaves(Manner::Paused);
    let mut node = at(&own, addresses).await;
    own.hear(settled).await;
    let proxy = node.proxy().await;
    let mut stream = proxy.ask("default", None);
    next.hear(settled).await;
    stream.take().await.expect("a certificate");
    assert_eq!(node.failovers().await, counted(1));
    node.end().await;
}

#[tokio::test]
async fn a_node_that_is_refused_for_what_it_is_asks_one_replica_after_the_other_and_not_at_once() {
    let (mut own, mut next, addresses) = two().await;
    for replica in [&own, &next] {
        replica.behaves(Manner::Refuses(Code::PermissionDenied, Duration::ZERO));
    }
    let mut node = at(&own, addresses).await;
    for _ in 0..2 {
        own.hear(join).await;
        next.hear(join).await;
    }
    // It has waited each time: that is not how one leaves a replica that has failed.
    assert_eq!(node.failovers().await, counted(0));
    node.end().await;
}

#[tokio::test]
async fn a_node_whose_line_is_another_at_a_replica_joins_again_there() {
    let (mut own, mut next, addresses) = two().await;
    let mut node = at(&own, addresses).await;
    own.hear(settled).await;
    next.behaves(Manner::Forgot);
    own.say(authority_message::Message::DrainAfterMs(0));
    next.hear(join).await;
    next.hear(settled).await;
    while let Ok(told) = own.told.try_recv() {
        assert!(join(&told).is_none(), "it has joined elsewhere");
    }
    assert_eq!(node.failovers().await, counted(0));
    node.end().await;
}

#[tokio::test]
async fn a_node_that_cannot_join_where_it_is_believed_no_more_stays_where_it_is_believed() {
    let (mut own, mut next, addresses) = two().await;
    let mut node = at(&own, addresses).await;
    own.hear(settled).await;
    own.behaves(Manner::Refuses(Code::Unauthenticated, Duration::ZERO));
    own.say(authority_message::Message::DrainAfterMs(0));
    next.hear(settled).await;
    // It comes back, is refused, and may not join.
    own.hear(join).await;
    next.hear(hello).await;
    while let Ok(told) = next.told.try_recv() {
        assert!(join(&told).is_none(), "its certificate was good there");
    }
    node.end().await;
}

#[tokio::test]
async fn while_an_agent_waits_for_its_own_replica_to_answer_it_hears_the_one_that_it_is_at() {
    let (mut own, mut next, addresses) = two().await;
    let mut node = at(&own, addresses).await;
    own.hear(settled).await;
    own.stop().await;
    let listener = TcpListener::bind(&own.ca.address).await;
    let listener = listener.expect("its port is free again");
    next.hear(settled).await;
    // It is on its way back, to one that accepts and answers nothing.
    let (mut hangs, _) = listener.accept().await.expect("it comes");
    let old = own.mind().authority.root.clone();
    let new = testing::Authority::made(server::now()).root;
    next.publish(2, &[&old, &new]);
    let stored = |told: &Told| match told {
        Told::Up(AgentMessage {
            message: Some(agent_message::Message::Stored(position)),
        }) => (number(position) == 2).then_some(()),
        _ => None,
    };
    let still_waits = async {
        let mut said = Vec::new();
        // Ends only when the agent gives up.
        hangs.read_to_end(&mut said).await.map(drop)
    };
    tokio::select! {
        () = next.hear(stored) => {}
        ended = still_waits => panic!("it has heard nothing before it gave up: {ended:?}"),
    }
    node.end().await;
}
