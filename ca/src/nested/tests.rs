use super::*;
use crate::testing::{House, Outcome, config};
use arx_daemon::config::File;

const ID: &str = "spiffe://example.org/ns/arx-system/sa/arx-ca";

fn allowed() -> Allowed {
    Allowed::new(&[Config {
        id: ID.to_owned(),
        name: "west".to_owned(),
        max_ttl: Span::from_secs(1000),
        path_length: 2,
    }])
}

fn decide(id: &str, wanted: &Wanted<'_>) -> Result<Granted, &'static str> {
    let domain = TrustDomain::parse("example.org").expect("a trust domain");
    let id = SpiffeId::parse(id).expect("an id");
    allowed()
        .decide(&id, &domain, wanted)
        .map_err(|refusal| refusal.code)
}

const USUAL: Wanted<'static> = Wanted {
    trust_domain: "example.org",
    path_length: 1,
    ttl: None,
};

#[test]
fn who_is_on_the_list_gets_what_it_asks_for_within_its_bounds_and_nobody_else_anything() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let granted = |path_length, ttl| {
        Ok(Granted {
            name: "west".to_owned(),
            path_length,
            ttl: Duration::from_secs(ttl),
        })
    };
    let length = |path_length| Wanted {
        path_length,
        ..USUAL
    };
    let ttl = |ttl| Wanted { ttl, ..USUAL };
    assert_eq!(decide(ID, &USUAL), granted(1, 1000));
    assert_eq!(decide(ID, &length(2)), granted(2, 1000));
    assert_eq!(decide(ID, &ttl(seconds(60))), granted(1, 60));
    for refused in [0, 3, 257, u32::MAX] {
        let outcome = decide(ID, &length(refused));
        assert_eq!(outcome, Err("ARX-NESTED-PATH-LENGTH"), "{refused}");
    }
    for refused in [1, 59, 1001, u64::from(u32::MAX)] {
        let outcome = decide(ID, &ttl(seconds(refused)));
        assert_eq!(outcome, Err("ARX-NESTED-TTL"), "{refused}");
    }
    let elsewhere = Wanted {
        trust_domain: "example.com",
        ..USUAL
    };
    assert_eq!(decide(ID, &elsewhere), Err("ARX-NESTED-TRUST-DOMAIN"));
    for other in [
        "spiffe://example.org/ns/arx-system/sa/arx-ca2",
        "spiffe://example.org/ns/arx-system/sa",
        "spiffe://example.com/ns/arx-system/sa/arx-ca",
    ] {
        assert_eq!(decide(other, &USUAL), Err("ARX-NESTED-NOT-ALLOWED"));
    }
}

#[test]
fn a_list_that_would_let_the_wrong_ones_in_is_refused_by_its_fields() -> Outcome {
    let faults = |entry: &str| -> Result<String, Box<dyn std::error::Error>> {
        let file = File::from_text("test.toml", format!("[[nested]]\n{entry}\n"))?;
        #[derive(Deserialize)]
        struct Table {
            nested: Vec<Config>,
        }
        let table: Table = file.parse()?;
        let mut found = file.problems();
        problems(
            &table.nested,
            &TrustDomain::parse("example.org")?,
            &mut found,
        );
        Ok(found
            .finish()
            .err()
            .map(|it| it.to_string())
            .unwrap_or_default())
    };
    let named = |id: &str| format!("id = \"{id}\"\nname = \"west\"");
    assert_eq!(faults(&named(ID))?, "");
    for (entry, field) in [
        (named("spiffe://example.com/x"), "nested[0].id"),
        (named("https://example.org"), "nested[0].id"),
        (named("spiffe://example.org/arx/node/c1/n1"), "nested[0].id"),
        (format!("id = \"{ID}\"\nname = \"No\""), "nested[0].name"),
        (
            format!("{}\nmax_ttl = \"10s\"", named(ID)),
            "nested[0].max_ttl",
        ),
        (
            format!("{}\npath_length = 0", named(ID)),
            "nested[0].path_length",
        ),
        (
            format!("{}\n[[nested]]\n{}", named(ID), named(ID)),
            "nested[1].id",
        ),
    ] {
        let said = faults(&entry)?;
        assert!(said.contains(field), "{entry}: {said}");
    }
    assert!(config()?.nested.is_empty(), "nobody by default");
    Ok(())
}

#[tokio::test]
async fn what_is_certified_has_room_below_and_stands_under_the_root_that_signs() -> Outcome {
    let house = House::new().await?;
    let now = house.clock.now();
    let key = arx_identity::PrivateKey::generate(arx_identity::KeyAlgorithm::EcdsaP256)?;
    let below = |ttl, path_length| crate::authority::Below {
        key: key.public_key(),
        name: "nested:west",
        ttl: Duration::from_secs(ttl),
        path_length,
        root: None,
    };
    let authority = &house.ca.authority;
    let chain = authority.certify_below(&below(3600, 1), now).await?;
    assert_eq!(chain.len(), 2);
    assert!(chain[0].is_signed_by(&chain[1]) && chain[1] == authority.root());
    assert!(chain[0].subject().contains("nested:west"));
    // No longer than what is above it.
    let long = authority
        .certify_below(&below(100 * 365 * 86_400, 1), now)
        .await?;
    assert_eq!(long[0].not_after(), authority.root().not_after());
    Ok(())
}
