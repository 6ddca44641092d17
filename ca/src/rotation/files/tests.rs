use std::time::{Duration, SystemTime};

use arx_daemon::Clock;
use arx_identity::profile::{self, Issuer, Validity};
use arx_identity::{Certificate, KeyAlgorithm, PrivateKey, TrustDomain};
use tempfile::TempDir;

use super::*;
use crate::refusal::Refusal;
use crate::rotation::begin;
use crate::state::{RootName, RootState, Terms};
use crate::testing::{House, Outcome};

type Failed = Box<dyn std::error::Error>;

const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 3;

fn key(number: u8) -> KeyId {
    KeyId::from_slice(&[number; 20]).expect("20 bytes")
}

/// A rotation from A to B that `ca-1` began because of its files, in this phase.
fn rotations(phase: Phase, change: impl FnOnce(&mut Rotation)) -> Rotations {
    let mut rotations = Rotations::default();
    let terms = Terms {
        window: Duration::ZERO,
        dwell: Duration::ZERO,
        patience: None,
    };
    let epoch = SystemTime::UNIX_EPOCH;
    begin(&mut rotations, key(A), terms, String::new(), epoch).expect("none is under way");
    let rotation = &mut rotations.all[0];
    rotation.phase = phase;
    rotation.to = (phase != Phase::Prepare).then(|| key(B));
    rotation.replica = "ca-1".to_owned();
    rotation.by = Initiator::Files;
    rotation.roots = [A, B]
        .map(|number| RootName {
            key_id: key(number),
            subject: String::new(),
            not_after: epoch,
        })
        .to_vec();
    change(rotation);
    rotations
}

/// What follows for `ca-1`; of what somebody has to know, the code.
fn follows(found: u8, active: u8, rotations: &Rotations) -> Result<Wish, &'static str> {
    match wish(key(found), key(active), rotations, "ca-1") {
        Wish::Tell(code, _) => Err(code),
        wish => Ok(wish),
    }
}

#[test]
fn another_root_in_the_files_begins_a_rotation_and_the_active_one_nothing() {
    let none = Rotations::default();
    assert_eq!(follows(A, A, &none), Ok(Wish::Nothing));
    assert_eq!(follows(B, A, &none), Ok(Wish::Begin));
    let done = rotations(Phase::Done, |_| {});
    assert_eq!(follows(B, B, &done), Ok(Wish::Nothing));
    assert_eq!(follows(A, B, &done), Ok(Wish::Begin), "and back again");
}

#[test]
fn the_root_that_is_rotated_to_is_as_it_should_be_in_every_phase() {
    for phase in [
        Phase::Prepare,
        Phase::Distribute,
        Phase::Activate,
        Phase::Reissue,
        Phase::Retire,
        Phase::Withdraw,
        Phase::Restore,
        Phase::Held,
    ] {
        let under_way = rotations(phase, |_| {});
        assert_eq!(follows(B, A, &under_way), Ok(Wish::Nothing), "{phase:?}");
    }
}

#[test]
fn the_first_root_in_the_files_again_turns_the_rotation_round_wherever_that_can_be() {
    for phase in [
        Phase::Prepare,
        Phase::Distribute,
        Phase::Activate,
        Phase::Reissue,
        Phase::Retire,
        Phase::Held,
    ] {
        let under_way = rotations(phase, |_| {});
        assert_eq!(follows(A, A, &under_way), Ok(Wish::Abort), "{phase:?}");
    }
    for phase in [Phase::Withdraw, Phase::Restore] {
        let back = rotations(phase, |it| it.aborting = phase == Phase::Withdraw);
        assert_eq!(follows(A, A, &back), Ok(Wish::Nothing), "{phase:?}");
    }
    let exchanged = rotations(Phase::Reissue, |it| {
        (it.from, it.to, it.aborting) = (key(B), Some(key(A)), true);
    });
    assert_eq!(follows(A, A, &exchanged), Ok(Wish::Nothing));
    assert_eq!(
        follows(B, A, &exchanged),
        Ok(Wish::Nothing),
        "it was turned by hand"
    );
}

#[test]
fn files_that_another_replica_has_not_got_yet_turn_nothing_round() {
    let elsewhere = rotations(Phase::Distribute, |it| it.replica = "ca-2".to_owned());
    assert_eq!(follows(A, A, &elsewhere), Err("ARX-AUTHORITY-FILES-BEHIND"));
}

#[test]
fn a_third_root_waits_until_the_rotation_is_over_and_is_then_rotated_to() {
    for phase in [
        Phase::Prepare,
        Phase::Distribute,
        Phase::Reissue,
        Phase::Retire,
    ] {
        let under_way = rotations(phase, |_| {});
        assert_eq!(
            follows(C, A, &under_way),
            Err("ARX-AUTHORITY-FILES-THIRD"),
            "{phase:?}"
        );
    }
    assert_eq!(
        follows(C, B, &rotations(Phase::Done, |_| {})),
        Ok(Wish::Begin)
    );
    assert_eq!(
        follows(C, A, &rotations(Phase::Aborted, |_| {})),
        Ok(Wish::Begin)
    );
}

#[test]
fn a_root_whose_rotation_was_turned_round_is_not_rotated_to_again_by_itself() {
    let aborted = rotations(Phase::Aborted, |_| {});
    assert_eq!(follows(B, A, &aborted), Err("ARX-AUTHORITY-FILES-ABORTED"));
    let before_it_was_made = rotations(Phase::Aborted, |it| it.to = None);
    assert_eq!(
        follows(B, A, &before_it_was_made),
        Err("ARX-AUTHORITY-FILES-ABORTED")
    );
}

/// An authority over files.
struct Home {
    house: House,
    folder: TempDir,
}

fn write(folder: &TempDir, root: &(Certificate, PrivateKey)) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::write(folder.path().join("ca.pem"), root.0.pem())?;
    let key = folder.path().join("ca.key");
    std::fs::write(&key, root.1.pkcs8_pem().as_bytes())?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn root(now: SystemTime) -> Result<(Certificate, PrivateKey), Failed> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let validity = Validity::authority(now, Duration::from_secs(300 * 86_400));
    let unsigned = profile::root(
        key.public_key(),
        &TrustDomain::parse("example.org")?,
        validity,
    )?;
    let signature = key.sign(unsigned.to_be_signed())?;
    Ok((unsigned.complete(&signature)?, key))
}

impl Home {
    async fn new(first: &(Certificate, PrivateKey), clock: Clock) -> Result<Self, Failed> {
        Self::over(first, None, clock).await
    }

    /// Over a certificate that stands below `above`.
    async fn over(
        first: &(Certificate, PrivateKey),
        above: Option<&Certificate>,
        clock: Clock,
    ) -> Result<Self, Failed> {
        let folder = TempDir::new()?;
        write(&folder, first)?;
        let chain = [Some(&first.0), above].into_iter().flatten();
        let chain: String = chain.map(Certificate::pem).collect();
        std::fs::write(folder.path().join("ca.pem"), chain)?;
        let at = folder.path().display();
        let lines = format!("certificate_file = \"{at}/ca.pem\"\nkey_file = \"{at}/ca.key\"");
        let house = House::with(&lines, clock).await?;
        Ok(Self { house, folder })
    }

    /// A look at the files, and then as many at the rotation as it takes to stand still.
    async fn look(&self) -> Result<Option<&'static str>, String> {
        let told = self.house.ca.look_at_files().await;
        let told = told.map_err(|wrong| words(wrong.refusal()))?;
        for _ in 0..10 {
            self.house.ca.look_again().await.map_err(words)?;
        }
        Ok(told.map(|(code, _)| code))
    }

    async fn last(&self) -> Result<Rotation, Failed> {
        let rotations = self.house.ca.state.rotations().await?;
        rotations.all.last().cloned().ok_or_else(|| "none".into())
    }

    async fn roots(&self) -> Result<Vec<(String, RootState)>, Failed> {
        let stored = self.house.ca.state.authorities().await?.ok_or("roots")?;
        let roots = stored.value.roots.into_iter();
        Ok(roots
            .map(|it| (it.certificate.subject().to_owned(), it.state))
            .collect())
    }
}

fn words(refusal: Refusal) -> String {
    format!("{}: {}", refusal.code, refusal.message)
}

#[tokio::test]
async fn a_replaced_root_is_put_beside_the_active_one_by_a_rotation_that_says_why() -> Outcome {
    let clock = Clock::system();
    let (a, b) = (root(clock.now())?, root(clock.now())?);
    let home = Home::new(&a, clock).await?;
    assert_eq!(home.look().await?, None);
    assert!(home.house.ca.state.rotations().await?.all.is_empty());
    write(&home.folder, &b)?;
    assert_eq!(home.look().await?, None);
    let begun = home.last().await?;
    assert_eq!(
        (begun.phase, begun.by),
        (Phase::Distribute, Initiator::Files)
    );
    assert!(begun.reason.contains(b.0.subject()), "{begun:?}");
    assert!(
        begun.cross_until.is_some(),
        "the key of the first is still at hand"
    );
    assert_eq!(begun.to, b.0.subject_key_id());
    let both = [
        (a.0.subject().to_owned(), RootState::Active),
        (b.0.subject().to_owned(), RootState::Prepared),
    ];
    assert_eq!(home.roots().await?, both);
    assert_eq!(home.house.ca.trust.current().roots(), [a.0.clone(), b.0]);

    // The first one again.
    write(&home.folder, &a)?;
    assert_eq!(home.look().await?, None);
    assert_eq!(home.last().await?.phase, Phase::Aborted);
    assert_eq!(home.roots().await?, both[..1]);
    assert_eq!(home.house.ca.trust.current().roots(), [a.0]);
    Ok(())
}

#[tokio::test]
async fn a_root_whose_key_the_operator_keeps_elsewhere_is_replaced_without_a_cross_certificate()
-> Outcome {
    let clock = Clock::system();
    let (a, b) = (root(clock.now())?, root(clock.now())?);
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let unsigned = profile::intermediate(
        &Issuer::new(&a.0)?,
        key.public_key(),
        &TrustDomain::parse("example.org")?,
        "operator",
        Validity::authority(clock.now(), Duration::from_secs(200 * 86_400)),
        1,
    )?;
    let signature = a.1.sign(unsigned.to_be_signed())?;
    let below = (unsigned.complete(&signature)?, key);
    let home = Home::over(&below, Some(&a.0), clock).await?;
    write(&home.folder, &b)?;
    home.look().await?;
    let begun = home.last().await?;
    assert_eq!(
        (begun.phase, begun.cross_until),
        (Phase::Distribute, None),
        "it goes on"
    );
    Ok(())
}

#[tokio::test]
async fn a_third_root_is_told_and_the_rotation_goes_on_by_the_key_that_was_there_before() -> Outcome
{
    let clock = Clock::system();
    let (a, b, c) = (root(clock.now())?, root(clock.now())?, root(clock.now())?);
    let home = Home::new(&a, clock).await?;
    write(&home.folder, &b)?;
    home.look().await?;
    write(&home.folder, &c)?;
    assert_eq!(home.look().await?, Some("ARX-AUTHORITY-FILES-THIRD"));
    let goes_on = home.last().await?;
    assert_eq!(
        (goes_on.phase, goes_on.to),
        (Phase::Distribute, b.0.subject_key_id())
    );
    let b = b.0.subject_key_id().ok_or("a key id")?;
    home.house.ca.authority.can_sign(b).await?;
    Ok(())
}

#[tokio::test]
async fn by_hand_a_root_in_files_is_rotated_to_what_lies_there_or_it_is_said_what_to_do() -> Outcome
{
    let clock = Clock::system();
    let (a, b) = (root(clock.now())?, root(clock.now())?);
    let home = Home::new(&a, clock).await?;
    home.look().await?;
    let ca = &home.house.ca;
    let terms = ca.terms(None, None, None);
    let refused = ca.rotate(terms, String::new(), Initiator::Operator).await;
    let refused = refused.err().ok_or("there is nothing to rotate to")?;
    assert_eq!(refused.code, "ARX-ROTATION-FILES");
    assert!(
        refused.message.contains("certificate_file"),
        "{}",
        refused.message
    );
    assert!(
        ca.state.rotations().await?.all.is_empty(),
        "nothing has begun"
    );

    write(&home.folder, &b)?;
    home.look().await?;
    ca.abort_rotation("", "a mistake".to_owned())
        .await
        .map_err(words)?;
    home.look().await?;
    assert_eq!(home.look().await?, Some("ARX-AUTHORITY-FILES-ABORTED"));
    assert_eq!(
        home.last().await?.id,
        "r1",
        "it does not begin again by itself"
    );
    ca.rotate(terms, String::new(), Initiator::Operator)
        .await
        .map_err(words)?;
    home.look().await?;
    assert_eq!(
        (home.last().await?.id, home.last().await?.to),
        ("r2".to_owned(), b.0.subject_key_id())
    );
    Ok(())
}

#[tokio::test]
async fn without_the_key_of_the_first_root_a_rotation_is_not_turned_round_once_that_would_have_to_sign()
-> Outcome {
    let clock = Clock::system();
    let (a, b) = (root(clock.now())?, root(clock.now())?);
    let home = Home::new(&a, clock).await?;
    write(&home.folder, &b)?;
    home.look().await?;
    let ca = &home.house.ca;
    let (from, to) = (
        a.0.subject_key_id().ok_or("id")?,
        b.0.subject_key_id().ok_or("id")?,
    );
    ca.authority.activate(from, to).await?;
    let key = ca.state.key(&<Rotations as crate::state::Document>::KIND);
    let activated = |found: Option<crate::state::Loaded<Rotations>>| {
        let mut rotations = found.map(|found| found.value).unwrap_or_default();
        rotations.all[0].phase = Phase::Activate;
        Ok::<_, crate::state::StateError>(crate::state::Decision::Write(rotations, ()))
    };
    ca.state.update(&key, activated).await?;
    ca.look_again().await.map_err(words)?;
    // As after a restart.
    ca.authority.forget(&a.0);
    let refused = ca.abort_rotation("", "a mistake".to_owned()).await;
    let refused = refused.err().ok_or("nobody could sign")?;
    assert_eq!(refused.code, "ARX-ROTATION-NO-WAY-BACK");
    assert!(
        refused.message.contains("previous_key_file"),
        "{}",
        refused.message
    );
    assert!(!home.last().await?.aborting);
    // The set itself is the way.
    write(&home.folder, &a)?;
    home.look().await?;
    assert!(home.last().await?.aborting);
    let active = ca.state.authorities().await?.ok_or("roots")?;
    assert_eq!(active.value.active().and_then(|it| it.key_id()), Some(from));
    Ok(())
}
