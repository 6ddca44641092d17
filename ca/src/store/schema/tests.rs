use futures_util::FutureExt;

use super::*;
use crate::store::Memory;

const OLD: Format = Format {
    schema: 1,
    min_reader: 1,
    steps: &[],
};
const COMPATIBLE: Format = Format {
    schema: 2,
    min_reader: 1,
    steps: &[RENAME],
};
const BREAKING: Format = Format {
    schema: 3,
    min_reader: 3,
    steps: &[RENAME, NOTHING],
};

const RENAME: Step = Step {
    from: 1,
    run: |store, td| rename(store, td).boxed(),
};
const NOTHING: Step = Step {
    from: 2,
    run: |_, _| async { Ok(()) }.boxed(),
};

const OLD_NAME: Segment = Segment::fixed("old-name");
const NEW_NAME: Segment = Segment::fixed("new-name");

async fn rename(store: &dyn Store, trust_domain: &TrustDomain) -> Result<(), CasError> {
    let old = Key::new(trust_domain, &OLD_NAME);
    if let Some(entry) = store.get(&old).await? {
        store
            .compare_and_swap(&Key::new(trust_domain, &NEW_NAME), None, entry.value)
            .await?;
        store.delete(&old, &entry.version).await?;
    }
    Ok(())
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

#[tokio::test]
async fn an_empty_store_is_marked_with_this_version() {
    let (store, td) = (Memory::new(), trust_domain());
    let made = FORMAT
        .open(&store, &td, "arx-ca 0.1.0")
        .await
        .expect("it is empty");
    assert_eq!(made.written_by, "arx-ca 0.1.0");
    let again = FORMAT
        .open(&store, &td, "arx-ca 0.1.1")
        .await
        .expect("the same form");
    assert_eq!(again, made);
}

#[tokio::test]
async fn a_store_from_a_newer_version_is_refused_with_who_wrote_it_and_what_to_do() {
    let (store, td) = (Memory::new(), trust_domain());
    BREAKING
        .open(&store, &td, "arx-ca 3.0.0")
        .await
        .expect("it is empty");
    let refused = OLD
        .open(&store, &td, "arx-ca 1.0.0")
        .await
        .expect_err("it is newer");
    assert_eq!(refused.code(), "ARX-STORE-NEWER");
    assert_eq!(
        refused.to_string(),
        "the state of example.org was written by arx-ca 3.0.0 (schema 3), which only versions \
         that read schema 3 understand; this one reads 1: run arx-ca 3.0.0 or newer, or restore \
         a backup from before the upgrade"
    );
    let refused = OLD
        .migrate(&store, &td, "arx-ca 1.0.0")
        .await
        .expect_err("it is newer");
    assert_eq!(refused.code(), "ARX-STORE-NEWER");
}

#[tokio::test]
async fn a_newer_version_that_says_older_ones_may_read_is_read() {
    let (store, td) = (Memory::new(), trust_domain());
    COMPATIBLE
        .open(&store, &td, "arx-ca 2.0.0")
        .await
        .expect("it is empty");
    let found = OLD
        .open(&store, &td, "arx-ca 1.0.0")
        .await
        .expect("it may be read");
    assert_eq!(
        (found.schema, found.written_by.as_str()),
        (2, "arx-ca 2.0.0")
    );
}

#[tokio::test]
async fn an_older_store_is_migrated_only_when_told_to() {
    let (store, td) = (Memory::new(), trust_domain());
    OLD.open(&store, &td, "arx-ca 1.0.0")
        .await
        .expect("it is empty");
    store
        .compare_and_swap(
            &Key::new(&td, &OLD_NAME),
            None,
            Bytes::from_static(b"value"),
        )
        .await
        .expect("it is new");

    let refused = BREAKING
        .open(&store, &td, "arx-ca 3.0.0")
        .await
        .expect_err("it is older");
    assert_eq!(refused.code(), "ARX-STORE-OLDER");
    assert!(refused.to_string().contains("migrate"));

    let migrated = BREAKING
        .migrate(&store, &td, "arx-ca 3.0.0")
        .await
        .expect("two steps");
    assert_eq!((migrated.schema, migrated.min_reader), (3, 3));
    let entry = store
        .get(&Key::new(&td, &NEW_NAME))
        .await
        .expect("it reads");
    assert_eq!(entry.expect("it was renamed").value, "value");
    BREAKING
        .open(&store, &td, "arx-ca 3.0.0")
        .await
        .expect("it is current");
}

#[tokio::test]
async fn a_migration_that_broke_off_is_refused_by_the_old_version_and_goes_on_with_the_new() {
    const BROKEN: Format = Format {
        steps: &[
            RENAME,
            Step {
                from: 2,
                run: |_, _| {
                    async {
                        Err(CasError::Unknown {
                            key: "some".into(),
                            detail: "gone".into(),
                        })
                    }
                    .boxed()
                },
            },
        ],
        ..BREAKING
    };
    let (store, td) = (Memory::new(), trust_domain());
    OLD.open(&store, &td, "arx-ca 1.0.0")
        .await
        .expect("it is empty");
    BROKEN
        .migrate(&store, &td, "arx-ca 3.0.0")
        .await
        .expect_err("the second step fails");
    let refused = OLD
        .open(&store, &td, "arx-ca 1.0.0")
        .await
        .expect_err("it is half-way");
    assert_eq!(refused.code(), "ARX-STORE-NEWER");
    let refused = BREAKING
        .open(&store, &td, "arx-ca 3.0.0")
        .await
        .expect_err("it is half-way");
    assert_eq!(refused.code(), "ARX-STORE-OLDER");
    BREAKING
        .migrate(&store, &td, "arx-ca 3.0.0")
        .await
        .expect("it goes on");
}

#[tokio::test]
async fn a_store_too_old_for_any_step_says_so() {
    const LATER: Format = Format {
        schema: 9,
        min_reader: 9,
        steps: &[],
    };
    let (store, td) = (Memory::new(), trust_domain());
    OLD.open(&store, &td, "arx-ca 1.0.0")
        .await
        .expect("it is empty");
    let refused = LATER
        .migrate(&store, &td, "arx-ca 9.0.0")
        .await
        .expect_err("no step");
    assert_eq!(refused.code(), "ARX-STORE-TOO-OLD");
}

#[tokio::test]
async fn values_without_a_schema_are_not_taken_for_a_first_start() {
    let (store, td) = (Memory::new(), trust_domain());
    store
        .compare_and_swap(
            &Key::new(&td, &OLD_NAME),
            None,
            Bytes::from_static(b"value"),
        )
        .await
        .expect("it is new");
    let refused = FORMAT
        .open(&store, &td, "arx-ca 0.1.0")
        .await
        .expect_err("it is incomplete");
    assert_eq!(refused.code(), "ARX-STORE-UNMARKED");
}

#[tokio::test]
async fn trust_domains_in_one_store_have_a_schema_each() {
    let store = Memory::new();
    let other = TrustDomain::parse("other.example").expect("a trust domain");
    BREAKING
        .open(&store, &trust_domain(), "arx-ca 3.0.0")
        .await
        .expect("it is empty");
    OLD.open(&store, &other, "arx-ca 1.0.0")
        .await
        .expect("it is empty too");
}

#[tokio::test]
async fn of_many_first_starts_at_once_all_agree() {
    let store = std::sync::Arc::new(Memory::new());
    let starts = (0..8).map(|n| {
        let store = store.clone();
        async move {
            FORMAT
                .open(&*store, &trust_domain(), &format!("arx-ca 0.1.{n}"))
                .await
        }
    });
    let all = futures_util::future::try_join_all(starts)
        .await
        .expect("all start");
    assert!(all.iter().all(|schema| *schema == all[0]));
}
