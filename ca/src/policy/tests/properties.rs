//! What holds whatever the names, the evidence and the request are.

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::policy::{LONGEST_TTL, SHORTEST_TTL};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("arx".to_owned()),
        Just("node".to_owned()),
        Just("..".to_owned()),
        Just("arx-system".to_owned()),
        Just("arx-node-agent".to_owned()),
        Just("node-1".to_owned()),
        Just("arx/node".to_owned()),
        "[a-z0-9.-]{0,12}",
        "\\PC{0,8}",
    ]
}

fn verified() -> impl Strategy<Value = Verified> {
    let cluster = prop_oneof![Just("c1"), Just("c2"), Just("arx")];
    let node = option::of(prop_oneof![Just("node-1".to_owned()), name()]);
    (cluster, name(), name(), node, any::<bool>(), any::<bool>()).prop_map(
        |(cluster, namespace, account, node, pod, join)| Verified {
            cluster: cluster.into(),
            pod: if pod { bound("pod") } else { None },
            node: node.and_then(|node| bound(&node)),
            purpose: if join {
                Purpose::Join
            } else {
                Purpose::Workload
            },
            ..token(&namespace, &account)
        },
    )
}

/// Templates and exceptions that come as near to the reserved prefix as they may.
fn policies() -> Vec<Policy> {
    [
        "",
        "template = \"/{namespace}/{serviceaccount}\"\nmax_ttl = \"1h\"",
        "template = \"/a{namespace}/node/{cluster}/{serviceaccount}\"",
        "template = \"/{cluster}/{namespace}/{serviceaccount}\"\nttl = \"5s\"\nmax_ttl = \"5s\"",
        "[[exception]]\nnamespace = \"arx\"\nservice_account = \"*\"\npath = \"/{namespace}/{serviceaccount}\"",
        "[[local]]\npath = \"/arx-local/node\"\nnodes = [\"c1/*\"]\nuid = 1",
    ]
    .map(policy)
    .into()
}

proptest! {
    #[test]
    fn nothing_but_a_node_of_its_own_name_is_ever_under_the_reserved_prefix(
        verified in verified(),
        cluster in prop_oneof![Just("c1".to_owned()), Just("c2".to_owned()), name()],
        node in prop_oneof![Just("node-1".to_owned()), name()],
        kind in 0..4,
        uid in 0..2u32,
        ttl in option::of(any::<u64>()),
    ) {
        let agent = Agent { cluster: &cluster, node: &node };
        let evidence = match kind {
            0 => Evidence::Token(&verified),
            1 => Evidence::Join(&verified),
            2 => Evidence::Process(Process { uid, gid: 0, executable: None, sha256: None }),
            _ => Evidence::Renewal,
        };
        for policy in policies() {
            let request = Request {
                agent,
                ttl: ttl.map(Duration::from_secs),
                ..request(evidence)
            };
            let Ok(grant) = policy.decide(&request) else { continue };
            prop_assert!(grant.ttl >= SHORTEST_TTL && grant.ttl <= LONGEST_TTL);
            let own = format!("/arx/node/{cluster}/{node}");
            match evidence {
                Evidence::Join(token) => {
                    prop_assert_eq!(grant.id.path(), own);
                    prop_assert_eq!(&token.namespace, "arx-system");
                    prop_assert_eq!(&token.service_account, "arx-node-agent");
                    prop_assert_eq!(token.purpose, Purpose::Join);
                }
                Evidence::Renewal => prop_assert_eq!(grant.id.path(), own),
                _ => prop_assert!(!grant.id.path().starts_with("/arx/") && grant.id.path() != "/arx"),
            }
        }
    }

    #[test]
    fn no_lifetime_is_above_the_maximum_that_is_configured(
        ttl in 5u64..=86_400, more in 0u64..86_400, node in 5u64..=86_400, asked in option::of(any::<u64>()),
    ) {
        let max = (ttl + more).min(86_400);
        let policy = policy(&format!("ttl = \"{ttl}s\"\nmax_ttl = \"{max}s\"\nnode_ttl = \"{node}s\""));
        let asked = asked.map(Duration::from_secs);
        let token = token("a", "b");
        for (evidence, most) in [(Evidence::Token(&token), max), (Evidence::Renewal, node)] {
            let grant = policy.decide(&Request { ttl: asked, ..request(evidence) }).expect("granted");
            prop_assert!(grant.ttl <= Duration::from_secs(most));
            if let Some(asked) = asked && !asked.is_zero() {
                prop_assert!(grant.ttl <= asked.max(SHORTEST_TTL));
            }
        }
    }

    #[test]
    fn different_service_accounts_never_share_an_id_by_a_template(
        a in ("[a-z0-9.-]{1,6}", "[a-z0-9.-]{1,6}"), b in ("[a-z0-9.-]{1,6}", "[a-z0-9.-]{1,6}"),
    ) {
        prop_assume!(a != b);
        for policy in policies() {
            let id = |(namespace, account): &(String, String)| workload(&policy, &token(namespace, account)).ok();
            if let (Some(one), Some(other)) = (id(&a), id(&b)) {
                prop_assert_ne!(one.id, other.id);
            }
        }
    }

    #[test]
    fn any_template_is_refused_or_makes_sound_ids(template in "(/?[a-z{}.]{0,9}(\\{(namespace|serviceaccount|cluster)\\})?){0,5}") {
        let config = Config { template, ..Config::default() };
        if let Ok(policy) = Policy::new(&domain(), &config, &clusters()) {
            let granted = workload(&policy, &token("x", "y"));
            prop_assert!(granted.is_ok(), "{granted:?}");
        }
    }
}
