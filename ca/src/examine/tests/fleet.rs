//! Nodes and their agents.

use super::*;
use crate::caller::NodeName;
use crate::denial::Subject;
use crate::pods::{self, Pods};
use crate::state::{Counted, hash_of};
use crate::testing::node;

fn pod(name: &str, account: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "arx-system", "uid": name},
        "spec": {"serviceAccountName": account, "nodeName": node},
        "status": {"phase": "Running"},
    })
}

/// What is known of these pods.
async fn inhabited(pods: Vec<Value>) -> Result<nodes::Inhabited, String> {
    let (client, mut asked) = api_server();
    let hour = Duration::from_secs(3600);
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let known = Pods::new(
        "c1".into(),
        pods::Api::with(client, None),
        hour,
        &[],
        false,
        clock,
    );
    let is_agent = |namespace: &str, account: &str| (namespace, account) == ("arx-system", "agent");
    let unread = known.nodes(is_agent).expect_err("nothing was read");
    assert!(unread.contains("being read"), "{unread}");
    let read = async {
        let list = asked.recv().await.expect("a list");
        let list_of = json!({"metadata": {"resourceVersion": "7"}, "items": pods});
        list.whole(200, &list_of);
        asked.recv().await.expect("a watch").open()
    };
    tokio::select! {
        () = known.keep() => panic!("it is kept for ever"),
        _watch = read => known.nodes(is_agent),
    }
}

#[tokio::test]
async fn a_node_with_pods_and_without_an_agent_is_named_and_whether_its_pod_is_there() {
    let mut over = pod("over", "web", "n5");
    over["status"]["phase"] = json!("Failed");
    let pods = vec![
        pod("web-1", "web", "n1"),
        pod("agent-2", "agent", "n2"),
        pod("web-3", "web", "n3"),
        pod("web-4", "web", "n4"),
        pod("agent-4", "agent", "n4"),
        over,
        pod("web-6", "web", "n6"),
    ];
    let inhabited = inhabited(pods).await.expect("they are read");
    let house = House::new().await.expect("an authority");
    let (ca, now) = (&house.ca, house.clock.now());
    // n1 is connected here, and another replica has issued to n2.
    let _session = house.follow(&node(), 1);
    let counted = Counted {
        nodes: [hash_of("c1/n2")].into_iter().collect(),
        until: now + Duration::from_secs(3600),
    };
    house.beside("ca-2").await.expect("a replica");
    ca.state.counted("ca-2", counted).await.expect("it is kept");
    let fleet = nodes::Fleet::of(ca, now).await.expect("it is known");
    let denied = Subject::Node(NodeName {
        cluster: "c1".into(),
        node: "n6".into(),
    });
    let deny = ca.deny(&denied, None, "a test".to_owned());
    deny.await.expect("it is denied");
    let inhabited = nodes::not_denied(ca, &cluster(""), inhabited, now);
    let (test, wrong) = nodes::judge(&cluster(""), inhabited, &fleet);
    assert!(test.ends_with("4 in all"), "{test}");
    assert_eq!(
        wrong.as_deref(),
        Some(
            "n3 has no pod of an agent; n4 has not joined by its agent's pod arx-system/agent-4: see that one's log. Pods there get no identity"
        )
    );
    // What that replica has issued ends.
    let later = now + Duration::from_secs(7200);
    let fleet = nodes::Fleet::of(ca, later).await.expect("it is known");
    let only = nodes::Inhabited::from([("n2".into(), None)]);
    assert!(nodes::judge(&cluster(""), only, &fleet).1.is_some());
}
