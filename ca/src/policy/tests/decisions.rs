//! What is granted, and what is not.

use super::*;
use crate::pods::Found;
use crate::policy::Rule;

fn path(granted: Result<Grant, Denied>) -> Result<String, &'static str> {
    granted
        .map(|grant| grant.id.path().to_owned())
        .map_err(|denied| denied.code())
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_service_account_gets_the_id_of_the_template_for_the_usual_time() {
    let grant = workload(&policy(""), &token("payments", "api")).expect("granted");
    assert_eq!(grant.id.as_str(), "spiffe://example.org/ns/payments/sa/api");
    assert_eq!((grant.ttl, grant.rule), (HOUR, Rule::Template));
    assert!(grant.dns_names.is_empty());
    let by_cluster = policy("template = \"/{cluster}/{namespace}/{serviceaccount}\"");
    assert_eq!(
        path(workload(&by_cluster, &token("payments", "api"))).as_deref(),
        Ok("/c1/payments/api")
    );
}

#[test]
fn a_lifetime_that_is_asked_for_is_cut_to_what_is_allowed() {
    let policy = policy("ttl = \"30m\"\nmax_ttl = \"2h\"\nnode_ttl = \"10m\"");
    let (token, join) = (token("a", "b"), agent_token());
    for (asked, workload, node) in [
        (None, 1800, 600),
        (Some(0), 1800, 600),
        (Some(1), 5, 5),
        (Some(60), 60, 60),
        (Some(7200), 7200, 600),
        (Some(1 << 40), 7200, 600),
    ] {
        let ttl = |evidence| {
            let ttl = asked.map(Duration::from_secs);
            let request = Request {
                ttl,
                ..request(evidence)
            };
            policy.decide(&request).expect("granted").ttl.as_secs()
        };
        assert_eq!(ttl(Evidence::Token(&token)), workload, "{asked:?}");
        assert_eq!(ttl(Evidence::Join(&join)), node, "{asked:?}");
        assert_eq!(ttl(Evidence::Renewal), node, "{asked:?}");
    }
}

#[test]
fn what_has_made_a_lifetime_what_it_is_is_told() {
    let policy = policy(
        r#"
        ttl = "30m"
        max_ttl = "2h"
        [[exception]]
        namespace = "payments"
        service_account = "api"
        ttl = "10m"
        max_ttl = "20m"
        "#,
    );
    let (usual, exceptional) = (token("shop", "web"), token("payments", "api"));
    let exception = "policy.exception[0], or policy";
    for (token, asked, seconds, by) in [
        (&usual, None, 1800, "policy.ttl".to_owned()),
        (&usual, Some(0), 1800, "policy.ttl".to_owned()),
        (&usual, Some(60), 60, "as was asked for".to_owned()),
        (&usual, Some(7200), 7200, "as was asked for".to_owned()),
        (
            &usual,
            Some(7201),
            7200,
            "policy.max_ttl; 7201 s were asked for".to_owned(),
        ),
        (&usual, Some(1), 5, "the shortest there is".to_owned()),
        (&exceptional, None, 600, format!("{exception}.ttl")),
        (&exceptional, Some(900), 900, "as was asked for".to_owned()),
        (
            &exceptional,
            Some(1800),
            1200,
            format!("{exception}.max_ttl; 1800 s were asked for"),
        ),
    ] {
        let pod = Found::of_token(token).expect("it is bound to one");
        let ttl = asked.map(Duration::from_secs);
        let granted = policy.decide(&Request {
            ttl,
            ..request(Evidence::Pod(&pod))
        });
        let granted = granted.expect("granted").ttl;
        assert_eq!(granted.as_secs(), seconds, "{asked:?}");
        assert_eq!(policy.lifetime_by(&pod, ttl), by, "{asked:?}");
    }
}

#[test]
fn the_exception_that_names_the_account_counts_before_the_one_for_its_namespace() {
    let policy = policy(
        r#"
        [[exception]]
        namespace = "payments"
        service_account = "*"
        deny = true
        [[exception]]
        namespace = "payments"
        service_account = "api"
        ttl = "10m"
        max_ttl = "30m"
        dns_names = ["api.payments.svc"]
        path = "/payments/api"
        [[exception]]
        namespace = "payments"
        service_account = "web"
        [[exception]]
        namespace = "tools"
        service_account = "*"
        max_ttl = "20m"
        path = "/tools/{serviceaccount}"
        "#,
    );
    let grant = workload(&policy, &token("payments", "api")).expect("granted");
    assert_eq!(grant.id.path(), "/payments/api");
    assert_eq!(*grant.dns_names, ["api.payments.svc".to_owned()]);
    assert_eq!((grant.ttl, grant.rule), (HOUR / 6, Rule::Exception(1)));
    let denied = workload(&policy, &token("payments", "other")).expect_err("denied");
    assert_eq!(denied.code(), "ARX-POLICY-DENIED");
    assert!(
        denied.to_string().contains("policy.exception[0]"),
        "{denied}"
    );
    assert_eq!(
        path(workload(&policy, &token("payments", "web"))).as_deref(),
        Ok("/ns/payments/sa/web")
    );
    let grant = workload(&policy, &token("tools", "x")).expect("granted");
    assert_eq!((grant.id.path(), grant.ttl), ("/tools/x", HOUR / 3));
    assert_eq!(
        path(workload(&policy, &token("other", "api"))).as_deref(),
        Ok("/ns/other/sa/api")
    );
}

#[test]
fn keys_outside_the_list_are_refused_as_a_fault_of_the_request() {
    let policy = policy("keys = [\"ecdsa-p384\", \"rsa-3072\"]");
    for (key, allowed) in [
        (KeyAlgorithm::EcdsaP384, true),
        (KeyAlgorithm::Rsa(3072), true),
        (KeyAlgorithm::Rsa(2048), false),
        (KeyAlgorithm::EcdsaP256, false),
    ] {
        let decided = policy.decide(&Request {
            key,
            ..request(Evidence::Renewal)
        });
        match decided {
            Ok(_) => assert!(allowed, "{key}"),
            Err(denied) => {
                assert!(!allowed, "{key}");
                assert_eq!(denied.code(), "ARX-POLICY-KEY");
                assert!(denied.is_request());
            }
        }
    }
}

#[test]
fn a_pod_has_its_service_accounts_identity_for_the_agent_of_its_own_node_and_cluster() {
    let policy = policy("");
    let changed = |change: fn(&mut Found)| {
        let mut pod = Found {
            cluster: "c1".into(),
            namespace: "a".into(),
            name: "web-1".to_owned(),
            uid: "uid".to_owned(),
            service_account: "b".into(),
            node: Some("node-1".into()),
            labels: Vec::new(),
        };
        change(&mut pod);
        path(policy.decide(&request(Evidence::Pod(&pod))))
    };
    assert_eq!(changed(|_| ()).as_deref(), Ok("/ns/a/sa/b"));
    assert_eq!(
        changed(|it| it.node = Some("node-2".into())),
        Err("ARX-EVIDENCE-NODE")
    );
    assert_eq!(changed(|it| it.node = None), Err("ARX-EVIDENCE-NODE"));
    assert_eq!(
        changed(|it| it.cluster = "c2".into()),
        Err("ARX-EVIDENCE-CLUSTER")
    );
    assert_eq!(
        changed(|it| it.namespace = "a/b".into()),
        Err("ARX-POLICY-NAME")
    );
}

#[test]
fn a_token_counts_only_for_the_agent_of_its_own_node_and_cluster() {
    let policy = policy("");
    let sound = token("a", "b");
    let changed = |change: fn(&mut Verified)| {
        let mut token = sound.clone();
        change(&mut token);
        path(workload(&policy, &token))
    };
    assert_eq!(changed(|_| ()).as_deref(), Ok("/ns/a/sa/b"));
    assert_eq!(
        changed(|it| it.node = bound("node-2")),
        Err("ARX-EVIDENCE-NODE")
    );
    assert_eq!(changed(|it| it.node = None), Err("ARX-EVIDENCE-NO-NODE"));
    assert_eq!(
        changed(|it| it.cluster = "c2".into()),
        Err("ARX-EVIDENCE-CLUSTER")
    );
    assert_eq!(
        changed(|it| it.purpose = Purpose::Join),
        Err("ARX-EVIDENCE-PURPOSE")
    );
    let unbound = |it: &mut Verified| (it.node, it.pod) = (None, None);
    assert_eq!(
        changed(unbound).as_deref(),
        Ok("/ns/a/sa/b"),
        "where the cluster allows such tokens"
    );
    let agent = Agent {
        cluster: "c3",
        node: "node-1",
    };
    let foreign = policy.decide(&Request {
        agent,
        ..request(Evidence::Renewal)
    });
    assert_eq!(
        path(foreign),
        Err("ARX-EVIDENCE-CLUSTER"),
        "not configured any longer"
    );
}

#[test]
fn a_node_joins_by_a_listed_account_only_and_gets_its_own_name() {
    let policy = policy("");
    let join = |token: &Verified| path(policy.decide(&request(Evidence::Join(token))));
    assert_eq!(join(&agent_token()).as_deref(), Ok("/arx/node/c1/node-1"));
    assert_eq!(Agent::of_token(&agent_token()), Ok(AGENT));
    let other = Verified {
        namespace: "default".to_owned(),
        ..agent_token()
    };
    assert_eq!(join(&other), Err("ARX-POLICY-AGENT"));
    let workload_token = Verified {
        purpose: Purpose::Workload,
        ..agent_token()
    };
    assert_eq!(join(&workload_token), Err("ARX-EVIDENCE-PURPOSE"));
    let elsewhere = Verified {
        node: bound("node-2"),
        ..agent_token()
    };
    assert_eq!(join(&elsewhere), Err("ARX-EVIDENCE-NODE"));
    let nowhere = Verified {
        node: None,
        pod: None,
        ..agent_token()
    };
    assert_eq!(join(&nowhere), Err("ARX-EVIDENCE-NO-NODE"));
    assert_eq!(Agent::of_token(&nowhere), Err(Denied::NoNode));
    assert_eq!(
        path(policy.decide(&request(Evidence::Renewal))).as_deref(),
        Ok("/arx/node/c1/node-1")
    );
}

#[test]
fn names_that_are_no_path_segments_are_denied() {
    let policy = policy("");
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "ä",
        "a%2fb",
        "a\0",
        &"x".repeat(254),
    ] {
        assert_eq!(
            path(workload(&policy, &token(bad, "b"))),
            Err("ARX-POLICY-NAME"),
            "{bad}"
        );
        assert_eq!(
            path(workload(&policy, &token("a", bad))),
            Err("ARX-POLICY-NAME"),
            "{bad}"
        );
        let agent = Agent {
            cluster: "c1",
            node: bad,
        };
        let node = policy.decide(&Request {
            agent,
            ..request(Evidence::Renewal)
        });
        assert_eq!(path(node), Err("ARX-POLICY-NAME"), "{bad}");
    }
}

#[test]
fn a_name_cannot_lead_under_the_reserved_prefix() {
    let policy = policy("template = \"/{namespace}/{serviceaccount}\"");
    assert_eq!(
        path(workload(&policy, &token("arx", "ca"))),
        Err("ARX-POLICY-RESERVED")
    );
    assert_eq!(
        path(workload(&policy, &token("arx2", "ca"))).as_deref(),
        Ok("/arx2/ca")
    );
}

#[test]
fn a_local_process_gets_the_first_rule_that_it_fits_whole() {
    let hash = "ab".repeat(32);
    let policy = policy(&format!(
        r#"
        max_ttl = "2h"
        [[local]]
        path = "/local/hashed"
        nodes = ["c1/node-1"]
        uid = 1000
        executable_sha256 = "{hash}"
        [[local]]
        path = "/local/web"
        nodes = ["c2/*", "c1/node-1"]
        uid = 1000
        gid = 100
        executable = "/usr/bin/envoy"
        [[local]]
        path = "/local/elsewhere"
        nodes = ["c1/node-2", "c2/*"]
        gid = 7
        "#
    ));
    let web = Process {
        uid: 1000,
        gid: 100,
        executable: Some("/usr/bin/envoy"),
        sha256: None,
    };
    let grant = process(&policy, web).expect("granted");
    assert_eq!(grant.id.as_str(), "spiffe://example.org/local/web");
    assert_eq!((grant.ttl, grant.rule), (HOUR, Rule::Local(1)));
    let hashed = Process {
        sha256: Some([0xab; 32]),
        ..web
    };
    assert_eq!(
        path(process(&policy, hashed)).as_deref(),
        Ok("/local/hashed")
    );
    for wrong in [
        Process { uid: 0, ..web },
        Process { gid: 0, ..web },
        Process {
            executable: Some("/usr/bin/envoy2"),
            ..web
        },
        Process {
            executable: None,
            ..web
        },
        Process { gid: 7, ..web },
    ] {
        assert_eq!(
            path(process(&policy, wrong)),
            Err("ARX-POLICY-NO-RULE"),
            "{wrong:?}"
        );
    }
    let there = |cluster, node| {
        let agent = Agent { cluster, node };
        let gid7 = Process { gid: 7, ..web };
        path(policy.decide(&Request {
            agent,
            ..request(Evidence::Process(gid7))
        }))
    };
    assert_eq!(there("c1", "node-2").as_deref(), Ok("/local/elsewhere"));
    assert_eq!(there("c2", "any").as_deref(), Ok("/local/elsewhere"));
    assert_eq!(there("c1", "node-3"), Err("ARX-POLICY-NO-RULE"));
}
