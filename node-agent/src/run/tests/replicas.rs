//! An agent that knows several replicas of its authority.

use super::*;
use crate::authority::spread::preference;
use std::net::SocketAddr;
use tokio::net::TcpListener;

async fn at(ca: &server::Running, addresses: String) -> Node {
    let mut node = Node::prepare(ca, "");
    node.authority = addresses;
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

#[tokio::test]
async fn an_agent_whose_replica_is_away_goes_to_the_next_and_comes_back_when_it_is_there_again() {
    let one = server::Running::start().await;
    let other = one.beside("127.0.0.1:0").await;
    let addresses = format!("{} {}", one.ca.address, other.ca.address);
    let (mut own, mut next) = if likes(&one.ca.address) > likes(&other.ca.address) {
        (one, other)
    } else {
        (other, one)
    };
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
    let mut node = at(&ca, addresses).await;
    ca.hear(hello).await;
    node.readiness().ready().await;
    node.end().await;
}
