//! ConfigMaps with whatever somebody has put there.

use super::*;

/// Within the life of the roots.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2000)
}

/// A bundle of two roots.
fn two() -> TrustBundle {
    let roots = [bundle(1), bundle(1)].map(|it| it.roots()[0].clone());
    let domain = bundle(1).trust_domain().clone();
    let sequence = Sequence {
        epoch: 1,
        number: 2,
    };
    TrustBundle::new(domain, sequence, roots.to_vec()).expect("a bundle")
}

fn map(namespace: &str, pem: &str) -> Value {
    json!({"metadata": {"name": "arx-trust", "namespace": namespace}, "data": {"bundle.pem": pem}})
}

/// What is said of these ConfigMaps and namespaces, which come in pages of two.
async fn said_of(
    lines: &str,
    bundle: &TrustBundle,
    maps: Vec<Value>,
    namespaces: &[&str],
    now: SystemTime,
) -> String {
    let namespaces = namespaces
        .iter()
        .map(|name| json!({"metadata": {"name": name}}))
        .collect::<Vec<_>>();
    let server = Server::new(move |asked| {
        let all = match asked.what.split(['?', '&']).next() {
            Some("/api/v1/namespaces") => &namespaces,
            Some("/api/v1/configmaps") => {
                assert!(
                    asked
                        .what
                        .contains("fieldSelector=metadata.name%3Darx-trust")
                );
                &maps
            }
            other => panic!("{other:?}"),
        };
        let next = asked.what.split_once("&continue=").map(|(_, it)| it);
        let from: usize = next.map_or(0, |it| it.parse().expect("a number"));
        let to = (from + 2).min(all.len());
        let next = if to < all.len() {
            to.to_string()
        } else {
            String::new()
        };
        (
            200,
            json!({"metadata": {"continue": next}, "items": all[from..to]}),
        )
    });
    let options = published(&format!("config_map = \"arx-trust\"\n{lines}"));
    let mut findings = findings();
    maps::look(&server.api, &options, bundle, now, &mut findings).await;
    findings.wrong()
}

#[tokio::test]
async fn roots_that_are_foreign_or_ended_or_missing_are_named_with_their_namespace() {
    let (ours, foreign) = (two(), bundle(1));
    let [first, second] = [0, 1].map(|n| ours.roots()[n].pem());
    let both = format!("{first}{second}");
    let key = |n: usize| ours.roots()[n].subject_key_id().expect("a root has one");
    let maps = vec![
        map("a", &both),
        // The order is of no account.
        map("b", &format!("{second}{first}")),
        map("c", &format!("{both}{}", foreign.pem())),
        map("d", &first),
        map("e", "nothing"),
    ];
    let names = ["a", "b", "c", "d", "e", "f"];
    let said = said_of("", &ours, maps, &names, now()).await;
    let foreign = foreign.roots()[0].subject_key_id().expect("a root has one");
    for part in [
        "in 6 namespaces".to_owned(),
        format!("c has a foreign root (key {foreign})"),
        format!("d lacks a root that is trusted (key {})", key(1)),
        "e has something else than certificates".to_owned(),
        "f has none".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    assert!(!said.contains(": a ") && !said.contains("; b "), "{said}");
    let well = vec![map("a", &both), map("b", &both)];
    assert_eq!(
        said_of("", &ours, well.clone(), &["a", "b"], now()).await,
        ""
    );
    let later = now() + Duration::from_secs(100_000);
    let said = said_of("", &ours, well, &["a", "b"], later).await;
    assert!(
        said.contains(&format!("a has a root that has ended (key {}", key(0))),
        "{said}"
    );
}

#[tokio::test]
async fn of_namespaces_that_were_not_chosen_only_what_is_ours_is_looked_at() {
    let (ours, foreign) = (two(), bundle(1));
    let mut left = map("old", &foreign.pem());
    left["metadata"]["annotations"] = json!({"arx.dev/trust-domain": "example.org"});
    let maps = vec![map("shop", &ours.pem()), map("other", &foreign.pem()), left];
    let names = ["shop", "other", "old"];
    let said = said_of("namespaces = [\"shop\"]", &ours, maps, &names, now()).await;
    assert!(said.starts_with("warn no ConfigMap arx-trust"), "{said}");
    assert!(said.contains("old has a foreign root"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[tokio::test]
async fn of_many_the_first_are_named() {
    let ours = two();
    let names: Vec<_> = (0..100).map(|n| format!("n{n}")).collect();
    let maps = names.iter().map(|name| map(name, "x")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let said = said_of("", &ours, maps, &names, now()).await;
    assert!(
        said.contains("in 100 namespaces") && said.contains("and 95 more"),
        "{said}"
    );
    // Nor do many certificates in one make it longer.
    let many: String = (0..20).map(|_| bundle(1).pem()).collect();
    let said = said_of("", &ours, vec![map("n", &many)], &["n"], now()).await;
    assert!(said.contains("17 more") && said.len() < 1500, "{said}");
}
