//! The operator's files while the process runs: taken whole or not at all, and another root in
//! them only as far as a rotation leads.

use tempfile::TempDir;

use super::operator::{Made, below, dir, files, finish, given, key, mode, pem, root, root_of};
use super::*;
use crate::store::faults::{Fault, Faulty};

fn id(made: &Made) -> KeyId {
    made.certificate
        .subject_key_id()
        .expect("the profile has it")
}

/// A process that issues.
async fn issuing(store: &Shared, options: Options) -> Authority {
    try_issuing(store, options).await.expect("it starts")
}

async fn try_issuing(store: &Shared, options: Options) -> Result<Authority, AuthorityError> {
    let authority = open(store, options).await?;
    authority.install(authority.first(now()).await?);
    Ok(authority)
}

fn issues_under(authority: &Authority) -> KeyId {
    authority.issuing().expect("it was installed").root()
}

/// Looks, and answers the root that is in use and why another one is not.
async fn look(authority: &Authority) -> (Option<Certificate>, Option<&'static str>) {
    let found = authority
        .look_at_files(now())
        .await
        .expect("the state is well");
    (found, authority.files_refused().map(|(code, _)| code))
}

/// What is told of these files, by a process that runs on another set, and goes on.
async fn refused(dir: &TempDir, a: &Made, certificates: &str, key: &str) -> (&'static str, String) {
    let store = memory();
    let authority = issuing(&store, given(dir, &[a])).await;
    let before = dump(&store).await;
    files(dir, certificates, key);
    let (found, _) = look(&authority).await;
    assert_eq!(found.as_ref(), Some(&a.certificate), "the set before stays");
    assert_eq!(dump(&store).await, before, "nothing was made or changed");
    authority.prepare(now()).await.expect("it signs as before");
    authority.files_refused().expect("it is told")
}

#[tokio::test]
async fn half_a_set_changes_nothing_is_told_and_is_taken_when_it_is_whole() {
    let (dir, a, b, store) = (dir(), root(), root(), memory());
    let authority = issuing(&store, given(&dir, &[&a])).await;
    let (certificates, keys) = (pem(&[&b]), b.key.pkcs8_pem());
    for (certificates, key, code) in [
        (
            &certificates[..],
            &a.key.pkcs8_pem()[..],
            "ARX-AUTHORITY-KEY-MISMATCH",
        ),
        (
            &certificates[..80],
            &keys[..],
            "ARX-AUTHORITY-CERTIFICATE-FILE",
        ),
        ("", &keys[..], "ARX-AUTHORITY-CERTIFICATE-FILE"),
        (&certificates[..], &keys[..100], "ARX-AUTHORITY-KEY-FILE"),
        (&certificates[..], "", "ARX-AUTHORITY-KEY-FILE"),
    ] {
        files(&dir, certificates, key);
        let (found, told) = look(&authority).await;
        assert_eq!((found.as_ref(), told), (Some(&a.certificate), Some(code)));
        assert_eq!(authority.root(), a.certificate);
    }
    std::fs::remove_file(dir.path().join("ca.key")).expect("it is ours");
    assert_eq!(look(&authority).await.1, Some("ARX-AUTHORITY-KEY-FILE"));
    given(&dir, &[&b]);
    let (found, told) = look(&authority).await;
    assert_eq!((found.as_ref(), told), (Some(&b.certificate), None));
    assert_eq!(
        authority.root(),
        a.certificate,
        "nobody trusts the other one yet"
    );
}

#[tokio::test]
async fn a_message_about_files_names_them_and_no_part_of_a_key() {
    let (dir, a, b) = (dir(), root(), root());
    let keys = b.key.pkcs8_pem();
    let (_, message) = refused(&dir, &a, &pem(&[&b]), &keys[..100]).await;
    assert!(
        message.contains("ca.key") && message.contains("stays in use"),
        "{message}"
    );
    assert!(!message.contains(&keys[40..60]), "{message}");
}

#[tokio::test]
async fn a_root_that_has_expired_or_ends_before_a_leaf_does_is_not_taken() {
    let (dir, a) = (dir(), root());
    let key = key(KeyAlgorithm::EcdsaP256);
    let validity = Validity {
        not_before: now() - 2 * DAY,
        not_after: now() - DAY,
    };
    let unsigned = profile::root(key.public_key(), &trust_domain(), validity);
    let expired = Made {
        certificate: finish(unsigned.expect("the profile has it"), &key),
        key,
    };
    let (code, _) = refused(&dir, &a, &pem(&[&expired]), &expired.key.pkcs8_pem()).await;
    assert_eq!(code, "ARX-AUTHORITY-EXPIRED");
    let short = root_of("example.org", HOUR);
    let (code, _) = refused(&dir, &a, &pem(&[&short]), &short.key.pkcs8_pem()).await;
    assert_eq!(code, "ARX-AUTHORITY-LIFETIME");
}

#[tokio::test]
async fn a_certificate_that_is_no_authority_is_not_taken() {
    let (dir, a) = (dir(), root());
    let issuer = profile::Issuer::new(&a.certificate).expect("it issues");
    let key = key(KeyAlgorithm::EcdsaP256);
    let leaf = Leaf {
        public_key: key.public_key(),
        id: &SpiffeId::new(&trust_domain(), "/ns/a/sa/b").expect("an id"),
        dns_names: &[],
        validity: Validity::leaf(&issuer, now(), DAY),
        revocable: false,
    };
    let unsigned = profile::leaf(&issuer, &leaf).expect("the profile has it");
    let leaf = Made {
        certificate: finish(unsigned, &a.key),
        key,
    };
    let (code, message) = refused(&dir, &a, &pem(&[&leaf, &a]), &leaf.key.pkcs8_pem()).await;
    assert_eq!(code, "ARX-AUTHORITY-PROFILE");
    assert!(message.contains("cannot be used"), "{message}");
}

#[tokio::test]
async fn a_root_whose_key_is_another_one_is_not_taken() {
    let (dir, a, b, other) = (dir(), root(), root(), root());
    let (code, _) = refused(&dir, &a, &pem(&[&b]), &other.key.pkcs8_pem()).await;
    assert_eq!(code, "ARX-AUTHORITY-KEY-MISMATCH");
}

/// What stands at the beginning of this DER: with its header, and the rest.
fn split(der: &[u8]) -> (&[u8], &[u8]) {
    let (header, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(u16::from_be_bytes([der[2], der[3]]))),
    };
    der.split_at(header + length)
}

/// The same with this content.
fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("certificates are short");
    let mut der = vec![tag, 0x82];
    der.extend_from_slice(&length.to_be_bytes());
    if length < 0x80 {
        der = vec![tag, u8::try_from(length).expect("it is less")];
    } else if length < 0x100 {
        der = vec![tag, 0x81, u8::try_from(length).expect("it is less")];
    }
    der.extend_from_slice(content);
    der
}

/// A root of the same name as `a`, by this key.
fn namesake(a: &Made, key: Arc<PrivateKey>) -> Made {
    let validity = Validity::authority(now(), 3000 * DAY);
    let unsigned = profile::root(key.public_key(), &trust_domain(), validity);
    let own = finish(unsigned.expect("the profile has it"), &key);
    // What tells the names of two roots apart is a number in hex.
    let number = |of: &Certificate| {
        let name = of
            .subject()
            .strip_prefix("serialNumber=")
            .expect("it begins so");
        name[..32].to_owned()
    };
    let (from, to) = (number(&own), number(&a.certificate));
    let parts = &own.der()[4..];
    let (tbs, rest) = split(parts);
    let (algorithm, _) = split(rest);
    let mut tbs = tbs.to_vec();
    let mut renamed = 0;
    for at in 0..tbs.len() - from.len() {
        if tbs[at..].starts_with(from.as_bytes()) {
            tbs[at..at + to.len()].copy_from_slice(to.as_bytes());
            renamed += 1;
        }
    }
    assert_eq!(renamed, 2, "issuer and subject");
    let signature = [&[0][..], &key.sign(&tbs).expect("it signs")].concat();
    let der = wrap(0x30, &[&tbs[..], algorithm, &wrap(3, &signature)].concat());
    let certificate = Certificate::from_der(&der).expect("it is one");
    assert_eq!(certificate.subject(), a.certificate.subject());
    Made { certificate, key }
}

#[tokio::test]
async fn a_root_of_the_same_name_or_by_the_same_key_as_the_live_one_is_not_taken() {
    let (dir, a) = (dir(), root());
    let renewed = namesake(&a, a.key.clone());
    let (code, _) = refused(&dir, &a, &pem(&[&renewed]), &renewed.key.pkcs8_pem()).await;
    assert_eq!(code, "ARX-AUTHORITY-SAME-KEY");
    let namesake = namesake(&a, key(KeyAlgorithm::EcdsaP256));
    let (code, message) = refused(&dir, &a, &pem(&[&namesake]), &namesake.key.pkcs8_pem()).await;
    assert_eq!(code, "ARX-AUTHORITY-SAME-SUBJECT");
    assert!(message.contains(a.certificate.subject()), "{message}");
    // Nor by a start.
    let store = memory();
    issuing(&store, given(&dir, &[&a])).await;
    let authority = open(&store, given(&dir, &[&namesake]))
        .await
        .expect("it goes on");
    assert_eq!(authority.root(), a.certificate);
    assert_eq!(look(&authority).await.1, Some("ARX-AUTHORITY-SAME-SUBJECT"));
}

#[tokio::test]
async fn an_intermediate_that_was_renewed_below_the_same_root_is_issued_under_at_once() {
    let (dir, root, store) = (dir(), root(), memory());
    let (old, new) = (below(&root, 1, 30 * DAY), below(&root, 1, 300 * DAY));
    let authority = issuing(&store, given(&dir, &[&old, &root])).await;
    let chain = |authority: &Authority| authority.issuing().expect("it issues").chain()[1].clone();
    assert_eq!(chain(&authority), old.certificate);

    given(&dir, &[&new, &root]);
    assert_eq!(
        look(&authority).await,
        (Some(root.certificate.clone()), None)
    );
    let clock = arx_daemon::Clock::manual(now());
    let made = |_| Box::pin(async { Ok(()) }) as futures_util::future::BoxFuture<'static, _>;
    let mut signs = authority.watch();
    tokio::select! {
        never = authority.keep(&clock, made) => match never {},
        found = signs.wait_for(|it| it.as_ref().is_some_and(|it| it.chain()[1] == new.certificate)) => {
            found.expect("it lives");
        }
    }
    assert!(
        authority.successor().await.expect("it reads").is_none(),
        "no rotation is needed"
    );
    let stored = authorities(&store).await;
    assert_eq!(
        (stored.roots.len(), &stored.roots[0].above),
        (1, &vec![new.certificate.clone()])
    );
    let restarted = issuing(&store, given(&dir, &[&new, &root])).await;
    assert_eq!(chain(&restarted), new.certificate);
}

#[tokio::test]
async fn what_is_written_again_without_a_change_is_not_taken_again() {
    let (dir, a, store) = (dir(), root(), memory());
    let authority = issuing(&store, given(&dir, &[&a])).await;
    let before = dump(&store).await;
    let parents = authority.parent.subscribe();
    given(&dir, &[&a]);
    assert_eq!(look(&authority).await, (Some(a.certificate.clone()), None));
    assert!(!parents.has_changed().expect("it lives"));
    assert_eq!(dump(&store).await, before);
}

#[tokio::test]
async fn what_was_refused_for_its_time_alone_is_taken_when_that_has_come() {
    let (dir, a, store) = (dir(), root(), memory());
    let authority = issuing(&store, given(&dir, &[&a])).await;
    let key = key(KeyAlgorithm::EcdsaP256);
    let validity = Validity {
        not_before: now() + HOUR,
        not_after: now() + 3000 * DAY,
    };
    let unsigned = profile::root(key.public_key(), &trust_domain(), validity);
    let early = Made {
        certificate: finish(unsigned.expect("the profile has it"), &key),
        key,
    };
    given(&dir, &[&early]);
    assert_eq!(
        look(&authority).await.1,
        Some("ARX-AUTHORITY-NOT-YET-VALID")
    );
    let found = authority
        .look_at_files(now() + 2 * HOUR)
        .await
        .expect("it reads");
    assert_eq!(found, Some(early.certificate));
    assert_eq!(authority.files_refused(), None);
}

#[tokio::test]
async fn a_replaced_root_is_prepared_takes_over_and_goes_back_as_long_as_both_keys_are_at_hand() {
    let (dir, a, b, store) = (dir(), root(), root(), memory());
    let lower = below(&b, 1, 900 * DAY);
    let authority = issuing(&store, given(&dir, &[&a])).await;
    given(&dir, &[&lower, &b]);
    look(&authority).await;
    let prepared = authority.prepare_root(now()).await.expect("it has signed");
    assert_eq!(prepared, b.certificate);
    for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
        authority
            .activate(id(from), id(to))
            .await
            .expect("both sign");
        assert!(authority.follow_active().await.expect("its key is there"));
        authority.install(authority.prepare(now()).await.expect("it signs"));
        assert_eq!(issues_under(&authority), id(to));
    }
    let chain = leaf_at(&authority.issuing().expect("it issues"), now(), HOUR);
    verify(&chain.expect("it is signed"), &bundle(&authority), now()).expect("it verifies");
    authority.retire(id(&a)).await.expect("it is out");
    let error = authority.can_sign(id(&a)).await;
    error.expect("nothing is asked of a root that is gone");
    assert_eq!(
        authority.sources().files.len(),
        1,
        "the old key is forgotten"
    );
}

#[tokio::test]
async fn a_restart_while_the_files_hold_the_next_root_goes_on_under_the_one_that_is_trusted() {
    let (dir, a, b, store) = (dir(), root(), root(), memory());
    let first = issuing(&store, given(&dir, &[&a])).await;
    let kept = first.issuing().expect("it issues").intermediate();
    let next = given(&dir, &[&b]);
    let checked = check(&next, &trust_domain(), Some(&state(&store).await), now()).await;
    assert_eq!(checked.problems, []);
    assert!(
        checked.notes[0].contains(b.certificate.subject()),
        "{checked:?}"
    );

    let authority = issuing(&store, next.clone()).await;
    let goes_on = authority.issuing().expect("it issues");
    assert_eq!((goes_on.root(), goes_on.intermediate()), (id(&a), kept));
    assert_eq!(authority.root(), a.certificate);
    authority
        .prepare_root(now())
        .await
        .expect("the next one signs");

    // And again, when it has taken over.
    let authority = issuing(&store, next.clone()).await;
    authority.activate(id(&a), id(&b)).await.expect("it signs");
    let authority = issuing(&store, next).await;
    assert_eq!(issues_under(&authority), id(&b));
    let error = authority
        .activate(id(&b), id(&a))
        .await
        .expect_err("there is no key to go back to");
    assert_eq!(error.code(), "ARX-SIGNER-OTHER-KEY");
    assert_eq!(
        authorities(&store)
            .await
            .active()
            .and_then(|it| it.key_id()),
        Some(id(&b))
    );
}

#[tokio::test]
async fn a_restart_with_the_set_of_before_beside_the_next_one_signs_by_both() {
    let (dir, before, a, b, store) = (dir(), dir(), root(), root(), memory());
    // Nothing was ever issued, so nothing is kept.
    open(&store, given(&dir, &[&a])).await.expect("it starts");
    let mut next = given(&dir, &[&b]);
    assert_eq!(
        codes(open(&store, next.clone()).await),
        ["ARX-AUTHORITY-ROOT-CHANGED"]
    );
    if let Some(files) = &mut next.operator {
        files.previous = given(&before, &[&a]).operator.map(Box::new);
    }
    let authority = issuing(&store, next.clone()).await;
    assert_eq!(issues_under(&authority), id(&a));
    authority.prepare_root(now()).await.expect("it signs");
    authority.activate(id(&a), id(&b)).await.expect("it signs");
    let authority = issuing(&store, next).await;
    assert_eq!(issues_under(&authority), id(&b));
    authority
        .can_sign(id(&a))
        .await
        .expect("there is a way back");
    // A set of before that is no good is told, and in nobody's way.
    mode(&before.path().join("ca.key"), 0o644);
    let mut next = given(&dir, &[&b]);
    if let Some(files) = &mut next.operator {
        files.previous = Some(Box::new(OperatorFiles {
            certificate: before.path().join("ca.pem"),
            key: Some(before.path().join("ca.key")),
            previous: None,
            every: MINUTE,
        }));
    }
    let authority = issuing(&store, next).await;
    assert!(
        authority.notes()[0].contains("previous_certificate_file"),
        "{:?}",
        authority.notes()
    );
    let error = authority
        .can_sign(id(&a))
        .await
        .expect_err("its key is not read");
    assert_eq!(error.code(), "ARX-SIGNER-OTHER-KEY");
}

#[tokio::test]
async fn a_root_that_was_distrusted_is_never_taken_again() {
    let (dir, a, b, store) = (dir(), root(), root(), memory());
    let authority = issuing(&store, given(&dir, &[&a])).await;
    let key = state(&store).await.key(&Authorities::KIND);
    let write = |found: Option<Loaded<Authorities>>| {
        let mut authorities = found.expect("a root was taken").value;
        authorities.roots.push(crate::state::Root {
            certificate: b.certificate.clone(),
            state: RootState::Distrusted,
            key: KeyPlace::Erased,
            above: Vec::new(),
            cross: None,
            added: now(),
            extra: Map::new(),
        });
        Ok::<_, StateError>(Decision::Write(authorities, ()))
    };
    state(&store)
        .await
        .update(&key, write)
        .await
        .expect("it is written");
    given(&dir, &[&b]);
    assert_eq!(look(&authority).await.1, Some("ARX-AUTHORITY-DISTRUSTED"));
}

#[tokio::test]
async fn a_state_that_was_put_back_is_told_and_nothing_is_taken_by_it() {
    let (dir, root, store) = (dir(), root(), memory());
    let (old, new) = (below(&root, 1, 30 * DAY), below(&root, 1, 300 * DAY));
    let authority = issuing(&store, given(&dir, &[&old, &root])).await;
    let key = state(&store).await.key(&Authorities::KIND);
    let before = store
        .get(&key)
        .await
        .expect("it reads")
        .expect("it is there");
    given(&dir, &[&new, &root]);
    look(&authority).await;
    let after = store
        .get(&key)
        .await
        .expect("it reads")
        .expect("it is there");
    assert_ne!(before.value, after.value);
    store
        .compare_and_swap(&key, Some(&after.version), before.value)
        .await
        .expect("it is put back");
    given(&dir, &[&below(&root, 1, 200 * DAY), &root]);
    let error = authority
        .look_at_files(now())
        .await
        .expect_err("it went backwards");
    assert_eq!(error.code(), "ARX-SEAL-GENERATION");
    let taken = authority.taken().expect("there is a set");
    assert_eq!(taken.above, [new.certificate], "what was taken stays");
}

/// The steps from the moment in which the files hold another root.
const STEPS: usize = 6;

async fn step(
    authority: &Authority,
    number: usize,
    a: &Made,
    b: &Made,
) -> Result<(), AuthorityError> {
    match number {
        0 => authority.look_at_files(now()).await.map(drop),
        1 => authority.prepare_root(now()).await.map(drop),
        2 => authority.activate(id(a), id(b)).await,
        3 => authority.follow_active().await.map(drop),
        4 => authority
            .prepare(now())
            .await
            .map(|it| drop(authority.install(it))),
        _ => authority.retire(id(a)).await,
    }
}

#[tokio::test]
async fn a_store_that_fails_at_any_write_of_a_replacement_leaves_it_to_the_next_attempt() {
    let faults = [
        Fault::Unavailable,
        Fault::Conflict,
        Fault::LostRequest,
        Fault::LostAnswer,
        Fault::Late,
    ];
    for fault in faults {
        for restarts in [false, true] {
            let mut writes = 0;
            loop {
                let (dir, a, b, inner) = (dir(), root(), root(), memory());
                let faulty = Arc::new(Faulty::new(inner.clone()));
                let mut authority = issuing(&(faulty.clone() as Shared), given(&dir, &[&a])).await;
                let next = given(&dir, &[&b]);
                faulty.cut_after(writes, fault);
                let (mut done, mut died) = (0, false);
                while done < STEPS {
                    match step(&authority, done, &a, &b).await {
                        Ok(()) => done += 1,
                        Err(error) => {
                            assert!(
                                error.passes() && !died,
                                "{fault:?} at write {writes}: {error}"
                            );
                            died = true;
                            faulty.heal().await;
                            if restarts {
                                authority = issuing(&inner, next.clone()).await;
                            }
                        }
                    }
                    let stored = authorities(&inner).await;
                    assert!(stored.active().is_some() && stored.roots.len() <= 2);
                }
                let stored = authorities(&inner).await;
                assert_eq!(stored.roots.len(), 1);
                assert_eq!(stored.roots[0].certificate, b.certificate);
                assert_eq!(issues_under(&authority), id(&b));
                if !died && !faulty.is_spent() {
                    break;
                }
                writes += 1;
            }
            assert!(writes >= 4, "the steps write more than that: {writes}");
        }
    }
}
