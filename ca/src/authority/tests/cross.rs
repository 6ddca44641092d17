//! The cross-certificate of a planned rotation: in what is issued, for as long as it is of use.

use arx_daemon::Clock;

use super::keep::{recorder, short};
use super::*;
use crate::state::Root;

fn id(root: &Certificate) -> KeyId {
    root.subject_key_id().expect("the profile has it")
}

/// A root that has given another a cross-certificate, and that, which signs now.
struct Crossed {
    store: Shared,
    authority: Authority,
    old: Certificate,
    new: Certificate,
}

impl Crossed {
    async fn begin() -> Self {
        Self::with(options()).await
    }

    async fn with(options: Options) -> Self {
        let store = memory();
        let authority = open(&store, options).await.expect("it starts");
        let old = authority.root();
        let (new, crossing) = authority.prepare_crossed_root(now()).await.expect("a root");
        let Crossing::Made(cross) = crossing else {
            panic!("{crossing:?}")
        };
        assert_eq!(cross.subject(), new.subject());
        assert_eq!(cross.issuer(), old.subject());
        authority
            .activate(id(&old), id(&new))
            .await
            .expect("it signs");
        authority.follow_active().await.expect("it reads");
        Self {
            store,
            authority,
            old,
            new,
        }
    }

    async fn issues() -> Self {
        let begun = Self::begin().await;
        let prepared = begun.authority.prepare(now()).await;
        begun.authority.install(prepared.expect("it is made"));
        begun
    }

    /// What is handed out for a leaf of this lifetime.
    fn chain(&self, ttl: Duration) -> CertChain {
        let issuing = self.authority.issuing().expect("it issues");
        let leaf = leaf_at(&issuing, now(), ttl).expect("it is signed");
        let leaf = leaf.leaf().clone();
        let ends = leaf.not_after();
        let above: Vec<_> = issuing.handed_out(ends).cloned().collect();
        let encoded: Vec<_> = above.iter().map(Certificate::der).collect();
        assert!(issuing.encoded(ends).iter().eq(encoded));
        CertChain::new([vec![leaf], above].concat()).expect("each signs the one before it")
    }
}

/// The authorities by which this is believed by whoever has these roots.
fn issuers(chain: &CertChain, roots: &[&Certificate]) -> Option<Vec<KeyId>> {
    let roots = roots.iter().copied().cloned().collect();
    let bundle = TrustBundle::new(trust_domain(), Sequence::default(), roots).expect("a bundle");
    verify(chain, &bundle, now()).ok().map(|peer| peer.issuers)
}

#[tokio::test]
async fn what_is_issued_under_the_new_root_is_believed_by_whoever_has_either_root() {
    let it = Crossed::issues().await;
    let serving = it.authority.prepare_serving(now()).expect("it is signed");
    for chain in [it.chain(HOUR), serving.chain().clone()] {
        assert_eq!(chain.certificates().len(), 3);
        let below = it.authority.issuing().expect("it issues").intermediate();
        let under_new = Some(vec![below, id(&it.new)]);
        assert_eq!(issuers(&chain, &[&it.new]), under_new);
        assert_eq!(issuers(&chain, &[&it.old, &it.new]), under_new);
        assert_eq!(
            issuers(&chain, &[&it.old]),
            Some(vec![below, id(&it.new), id(&it.old)])
        );
    }
    let again = it.authority.prepare(now()).await.expect("it is made");
    let kept = again.issuing.chain();
    assert_eq!(kept.len(), 1, "the way up to the root is what it was");
}

#[tokio::test]
async fn a_process_that_starts_while_the_old_root_retires_hands_the_cross_certificate_out() {
    let mut it = Crossed::issues().await;
    it.authority = start(&it.store).await;
    let prepared = it.authority.first(now()).await.expect("it is made");
    it.authority.install(prepared);
    assert!(issuers(&it.chain(HOUR), &[&it.old]).is_some());
}

#[tokio::test]
async fn a_leaf_that_outlives_the_cross_certificate_goes_without_it() {
    let it = Crossed::issues().await;
    let issuing = it.authority.issuing().expect("it issues");
    let cross = issuing.cross().expect("it was made");
    let life = options().intermediate_ttl + 2 * options().longest_leaf;
    assert_eq!(cross.not_after(), now() + life);
    let second = Duration::from_secs(1);
    assert_eq!(issuing.handed_out(cross.not_after()).count(), 2);
    assert_eq!(issuing.handed_out(cross.not_after() + second).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_old_root_goes_no_new_chain_has_the_cross_certificate() {
    let clock = Clock::following_tokio(now());
    let it = Crossed::with(short()).await;
    let (record, mut made) = recorder();
    let test = async {
        let (mut serving, mut issuing) = (it.authority.serving.subscribe(), it.authority.watch());
        let carries = |svid: &Option<Svid>| {
            let chain = svid.as_ref().map(Svid::chain);
            chain.is_some_and(|chain| chain.certificates().len() == 3)
        };
        serving.wait_for(carries).await.expect("it is open");
        let intermediate = it.authority.issuing().expect("it issues").intermediate();
        it.authority.retire(id(&it.old)).await.expect("it goes");
        it.authority.follow_cross(None).await.expect("it reads");
        issuing
            .wait_for(|it| it.as_ref().is_some_and(|it| it.cross().is_none()))
            .await
            .expect("it is open");
        serving
            .wait_for(|svid| svid.is_some() && !carries(svid))
            .await
            .expect("it is open");
        let issuing = it.authority.issuing().expect("it issues");
        assert_eq!(issuing.intermediate(), intermediate, "it is the same");
        assert!(issuers(&it.chain(MINUTE), &[&it.new]).is_some());
        assert!(issuers(&it.chain(MINUTE), &[&it.old]).is_none());
        let stored = authorities(&it.store).await;
        assert!(stored.roots.iter().all(|root| root.cross.is_none()));
        made.close();
    };
    tokio::select! {
        never = it.authority.keep(&clock, record) => match never {},
        () = test => {}
    }
}

#[tokio::test]
async fn whoever_must_not_be_trusted_vouches_for_nobody() {
    let it = Crossed::issues().await;
    let prepare = || async { it.authority.prepare(now()).await.expect("it is made") };
    it.authority.follow_cross(None).await.expect("it reads");
    assert!(prepare().await.issuing.cross().is_some());
    let distrusted = Some(id(&it.old));
    it.authority
        .follow_cross(distrusted)
        .await
        .expect("it is written");
    assert!(prepare().await.issuing.cross().is_none());
    let stored = authorities(&it.store).await;
    assert!(stored.roots.iter().all(|root| root.cross.is_none()));
}

#[tokio::test]
async fn a_rotation_that_is_turned_round_hands_out_no_cross_certificate() {
    let it = Crossed::issues().await;
    let (old, new) = (id(&it.old), id(&it.new));
    it.authority.activate(new, old).await.expect("it signs");
    it.authority.follow_active().await.expect("it reads");
    let back = it.authority.prepare(now()).await.expect("it is made");
    assert_eq!(back.issuing.root(), old);
    assert!(back.issuing.cross().is_none());
    // Round once more, it is of use again.
    it.authority.activate(old, new).await.expect("it signs");
    it.authority.follow_active().await.expect("it reads");
    let again = it.authority.prepare(now()).await.expect("it is made");
    assert!(again.issuing.cross().is_some());
}

#[tokio::test]
async fn a_root_that_is_prepared_already_stays_as_it_is() {
    let store = memory();
    let authority = start(&store).await;
    let first = authority.prepare_root(now()).await.expect("it is made");
    let (again, crossing) = authority
        .prepare_crossed_root(now())
        .await
        .expect("it is there");
    assert_eq!((again, crossing), (first, Crossing::Earlier));
    let stored = authorities(&store).await;
    assert!(stored.roots.iter().all(|root| root.cross.is_none()));
}

#[tokio::test]
async fn a_root_whose_key_is_not_here_certifies_no_other_and_another_can_follow_it() {
    let store = memory();
    let authority = start(&store).await;
    let mut active = authorities(&store).await.roots.remove(0);
    assert_eq!(authority.cannot_cross(&active), None);
    let lost = Root {
        key: KeyPlace::Files,
        ..active
    };
    let reason = authority.cannot_cross(&lost).expect("it cannot");
    assert!(reason.contains("authority.certificate_file"), "{reason}");
    active = lost;
    active.above = vec![active.certificate.clone()];
    let reason = authority.cannot_cross(&active).expect("it cannot");
    assert!(reason.contains("an authority below it"), "{reason}");
}
