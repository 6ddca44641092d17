//! A client that is many agents: each has joined, and follows on a connection of its own.

use std::path::PathBuf;
use std::sync::Arc;

use arx_identity::Svid;
use arx_proto::node::v1::agent_message::Message as Up;
use arx_proto::node::v1::authority_message::Message as Down;
use arx_proto::node::v1::node_client::NodeClient;
use arx_proto::node::v1::{AgentMessage, Inventory, SubscriberReport};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::client::Boss;
use super::node::{Authority, Http2, hello};

/// Joins or connects at a time.
const AT_ONCE: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) authority: Authority,
    /// One token a line, each of another node.
    pub(crate) tokens: PathBuf,
}

pub(crate) async fn play(boss: &mut Boss, options: Options) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.tokens)?;
    let nodes = join_all(
        &options.authority,
        text.lines().map(str::to_owned).collect(),
    )
    .await?;
    boss.say("ready", &())?;
    while boss.order().await?.is_some() {
        follow_all(boss, &options.authority, &nodes).await?;
        boss.say("gone", &())?;
    }
    Ok(())
}

/// Follows as all of them, and counts what is pushed, until told otherwise.
async fn follow_all(boss: &mut Boss, authority: &Authority, nodes: &[Svid]) -> anyhow::Result<()> {
    let (heard, mut count) = watch::channel(0usize);
    let mut agents = JoinSet::new();
    for some in nodes.chunks(AT_ONCE) {
        let opened = some.iter().map(|svid| follow(authority, svid));
        for agent in futures_util::future::try_join_all(opened).await? {
            agents.spawn(agent.listen(heard.clone()));
        }
    }
    boss.say("following", &nodes.len())?;
    while boss.order().await?.is_some_and(|order| order != "leave") {
        heard.send_replace(0);
        boss.say("armed", &())?;
        tokio::select! {
            all = count.wait_for(|count| *count >= nodes.len()) => { all?; }
            Some(ended) = agents.join_next() => {
                ended??;
                anyhow::bail!("a Follow ended");
            }
        }
        boss.say("heard", &nodes.len())?;
    }
    agents.shutdown().await;
    Ok(())
}

async fn join_all(authority: &Authority, tokens: Vec<String>) -> anyhow::Result<Vec<Svid>> {
    let tls = Arc::new(authority.tls(None)?);
    let mut nodes = Vec::with_capacity(tokens.len());
    for some in tokens.chunks(AT_ONCE) {
        let joins = some.iter().map(|token| authority.new_node(&tls, token));
        nodes.extend(futures_util::future::try_join_all(joins).await?);
    }
    Ok(nodes)
}

struct Agent {
    _client: NodeClient<Http2>,
    up: mpsc::UnboundedSender<AgentMessage>,
    down: tonic::Streaming<arx_proto::node::v1::AuthorityMessage>,
}

/// Opens a Follow, and says what an agent without workloads says.
async fn follow(authority: &Authority, svid: &Svid) -> anyhow::Result<Agent> {
    let mut client = authority.connect(&authority.tls(Some(svid))?).await?;
    let (up, messages) = mpsc::unbounded_channel();
    let hello = hello();
    let inventory = Inventory {
        cache_id: hello.cache_id.clone(),
        ordinal: 1,
        leaves: Vec::new(),
        complete: true,
    };
    let report = SubscriberReport {
        ordinal: 1,
        states: Vec::new(),
        complete: true,
    };
    for message in [
        Up::Hello(hello),
        Up::Inventory(inventory),
        Up::Subscribers(report),
    ] {
        up.send(AgentMessage {
            message: Some(message),
        })?;
    }
    let messages = stream::unfold(messages, |mut messages| async move {
        Some((messages.recv().await?, messages))
    });
    let mut down = client.follow(messages).await?.into_inner();
    // Welcome, trust, and that the report was seen, in whatever order.
    let mut missing = 3;
    while missing > 0 {
        match down.message().await?.and_then(|message| message.message) {
            Some(Down::Welcome(_) | Down::ReportSeen(_)) => missing -= 1,
            Some(Down::Trust(trust)) => {
                missing -= 1;
                up.send(AgentMessage {
                    message: trust.position.map(Up::Stored),
                })?;
            }
            Some(_) => {}
            None => anyhow::bail!("a Follow ended before it began"),
        }
    }
    Ok(Agent {
        _client: client,
        up,
        down,
    })
}

impl Agent {
    /// Counts what is pushed, hints and roots, and confirms roots.
    async fn listen(mut self, heard: watch::Sender<usize>) -> anyhow::Result<()> {
        while let Some(message) = self.down.message().await? {
            match message.message {
                Some(Down::Renew(_)) => {}
                Some(Down::Trust(trust)) => self.up.send(AgentMessage {
                    message: trust.position.map(Up::Stored),
                })?,
                _ => continue,
            }
            heard.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}
