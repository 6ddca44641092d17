//! The roots as they are stored, at hand for whoever must not wait for a store: an operator's
//! screen, a scrape. Beside them, what became of rotations is counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::{Certificate, KeyId};
use tokio::sync::watch;

use crate::ca::Ca;
use crate::state::{Authorities, Document as _, Phase, Root, Rotations, StateError};

/// After the state could not be read.
const AGAIN: Duration = Duration::from_secs(2);

/// A root as it was last read, without its key.
#[derive(Clone, Debug)]
pub struct RootSeen {
    /// Its subject key identifier.
    pub key_id: KeyId,
    /// The self-signed certificate.
    pub certificate: Certificate,
    /// `active`, `prepared`, `retiring`, `distrusted`, or the word of a newer version.
    pub state: Arc<str>,
    /// Where its key is, in words.
    pub custody: String,
    /// When its rotation begins by itself.
    pub renews: Option<SystemTime>,
}

/// What was last read.
#[derive(Debug, Default)]
pub struct Overview {
    roots: watch::Sender<Arc<[RootSeen]>>,
    files: watch::Sender<Option<(&'static str, String)>>,
}

impl Overview {
    /// All roots, also those that sign nothing; none before they were first read.
    #[must_use]
    pub fn roots(&self) -> Arc<[RootSeen]> {
        Arc::clone(&self.roots.borrow())
    }

    /// What somebody should know of the operator's files, by code and message.
    #[must_use]
    pub fn files(&self) -> watch::Receiver<Option<(&'static str, String)>> {
        self.files.subscribe()
    }

    pub(crate) fn tell_of_files(&self, told: Option<(&'static str, String)>) {
        self.files.send_replace(told);
    }

    /// When the rotation of the active root begins by itself.
    #[must_use]
    pub fn renewal(&self) -> Option<SystemTime> {
        let roots = self.roots.borrow();
        let active = roots.iter().find(|root| &*root.state == "active");
        active.and_then(|root| root.renews)
    }
}

/// How long the root lives that signs: when an operator should hear of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remaining {
    /// Less than a week.
    Week,
    /// Less than 30 days.
    Month,
    /// Less than 60 days.
    TwoMonths,
    /// Longer.
    Enough,
}

impl Remaining {
    /// Of a root that ends at `end`.
    #[must_use]
    pub fn of(end: SystemTime, now: SystemTime) -> Self {
        const DAY: u64 = 24 * 3600;
        match end.duration_since(now).unwrap_or_default().as_secs() {
            left if left < 7 * DAY => Self::Week,
            left if left < 30 * DAY => Self::Month,
            left if left < 60 * DAY => Self::TwoMonths,
            _ => Self::Enough,
        }
    }

    /// What to do about it; nothing, if it is long enough. Where the root is the operator's, it
    /// is rotated by other `files`.
    #[must_use]
    pub fn advice(self, files: bool) -> Option<&'static str> {
        Some(match (self, files) {
            (Self::Enough, _) => return None,
            (Self::Week, false) => {
                "it ends within 7 days, and everything with it: `arx rotate root` now"
            }
            (Self::Month, false) => {
                "it ends within 30 days: begin its rotation now, with `arx rotate root`"
            }
            (Self::TwoMonths, false) => {
                "it ends within 60 days: plan its rotation, with `arx rotate root --dry-run`"
            }
            (Self::Week, true) => {
                "it ends within 7 days, and everything with it: put the next root and its key into \
                 authority.certificate_file and key_file now"
            }
            (Self::Month, true) => {
                "it ends within 30 days: put the next root and its key into \
                 authority.certificate_file and key_file"
            }
            (Self::TwoMonths, true) => {
                "it ends within 60 days: have the next root made, for authority.certificate_file"
            }
        })
    }
}

/// What has happened to rotations between two looks.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    done: u64,
    aborted: u64,
    forced: u64,
}

impl News {
    fn between(before: &Rotations, after: &Rotations) -> Self {
        let mut news = Self::default();
        for rotation in &after.all {
            let known = before.all.iter().find(|known| known.id == rotation.id);
            if !known.is_some_and(|known| known.phase.is_over()) {
                match rotation.phase {
                    Phase::Done => news.done += 1,
                    Phase::Aborted => news.aborted += 1,
                    _ => {}
                }
            }
            let passed = known.map_or(0, |known| known.passed.len());
            let new = rotation.passed.iter().skip(passed);
            news.forced += new.filter(|passed| passed.forced.is_some()).count() as u64;
        }
        news
    }
}

impl Ca {
    /// Reads again whenever something was stored, for as long as the process runs.
    pub async fn keep_overview(&self) {
        let mut roots = self.state.changes(&Authorities::KIND);
        let mut rotations = self.state.changes(&Rotations::KIND);
        let mut before = None;
        loop {
            let read = self.read_overview(&mut before).await;
            if let Err(error) = &read {
                tracing::debug!(code = error.code(), %error, "the roots could not be read to be shown");
            }
            tokio::select! {
                Ok(()) = roots.changed() => {}
                Ok(()) = rotations.changed() => {}
                () = tokio::time::sleep(AGAIN), if read.is_err() => {}
                else => return,
            }
        }
    }

    async fn read_overview(&self, before: &mut Option<Rotations>) -> Result<(), StateError> {
        if let Some(stored) = self.state.authorities().await? {
            let roots = stored.value.roots.iter();
            let roots = roots
                .filter_map(|root| seen(root, self.due(root)))
                .collect();
            self.overview.roots.send_replace(roots);
        }
        let after = self.state.rotations().await?;
        // What was before this process is another one's to count.
        if let Some(before) = before {
            let News {
                done,
                aborted,
                forced,
            } = News::between(before, &after);
            self.metrics.rotations_ended(Phase::Done, done);
            self.metrics.rotations_ended(Phase::Aborted, aborted);
            self.metrics.gates_forced(forced);
        }
        *before = Some(after);
        Ok(())
    }
}

fn seen(root: &Root, renews: Option<SystemTime>) -> Option<RootSeen> {
    Some(RootSeen {
        key_id: root.key_id()?,
        certificate: root.certificate.clone(),
        state: root.state.as_str().into(),
        custody: root.key.to_string(),
        renews,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::begin;
    use crate::state::{Forced, Opener, Passed, Terms};
    use crate::testing::{House, Outcome};

    fn one() -> Result<Rotations, Box<dyn std::error::Error>> {
        let mut rotations = Rotations::default();
        let from = KeyId::from_slice(&[1; 20]).ok_or("a key id")?;
        let terms = Terms {
            window: Duration::ZERO,
            dwell: Duration::ZERO,
            patience: None,
        };
        begin(
            &mut rotations,
            from,
            terms,
            String::new(),
            SystemTime::UNIX_EPOCH,
        )?;
        Ok(rotations)
    }

    fn forced() -> Passed {
        Passed {
            phase: Phase::Distribute,
            began: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            sequence: None,
            confirmed: 0,
            forced: Some(Forced {
                by: Opener::Operator,
                reason: "it is gone".to_owned(),
                left_behind: Vec::new(),
                count: 1,
                holders: Vec::new(),
            }),
            aborted: None,
            denied: None,
        }
    }

    #[test]
    fn what_happens_to_a_rotation_is_news_once() -> Outcome {
        let nothing = Rotations::default();
        let running = one()?;
        assert_eq!(News::between(&nothing, &running), News::default());
        let mut past_a_gate = running.clone();
        past_a_gate.all[0].passed.push(forced());
        let news = News::between(&running, &past_a_gate);
        assert_eq!((news.done, news.forced), (0, 1));
        let mut done = past_a_gate.clone();
        done.all[0].phase = Phase::Done;
        let news = News::between(&past_a_gate, &done);
        assert_eq!((news.done, news.aborted, news.forced), (1, 0, 0));
        assert_eq!(News::between(&done, &done), News::default());
        let news = News::between(&nothing, &done);
        assert_eq!(
            (news.done, news.forced),
            (1, 1),
            "all of it between two looks"
        );
        Ok(())
    }

    #[test]
    fn an_operator_hears_of_a_roots_end_at_60_30_and_7_days() {
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600);
        let now = day(100);
        let of = |days| Remaining::of(day(days), now);
        assert_eq!(of(160), Remaining::Enough);
        assert_eq!(of(159), Remaining::TwoMonths);
        assert_eq!(of(130), Remaining::TwoMonths);
        assert_eq!(of(129), Remaining::Month);
        assert_eq!(of(106), Remaining::Week);
        assert_eq!(of(99), Remaining::Week, "it is over");
        assert!(Remaining::Enough.advice(false).is_none());
        let files = Remaining::Week.advice(true);
        assert!(files.is_some_and(|advice| advice.contains("certificate_file")));
    }

    #[tokio::test]
    async fn a_root_that_is_prepared_is_seen_beside_the_active_one() -> Outcome {
        let house = House::new().await?;
        let ca = &house.ca;
        assert!(ca.overview.roots().is_empty());
        ca.read_overview(&mut None).await?;
        let next = ca.authority.prepare_root(house.clock.now()).await?;
        ca.read_overview(&mut None).await?;
        let roots = ca.overview.roots();
        let states: Vec<_> = roots.iter().map(|root| &*root.state).collect();
        assert_eq!(states, ["active", "prepared"]);
        assert_eq!(roots[0].key_id, ca.authority.root_key_id());
        assert_eq!(roots[1].certificate.der(), next.der());
        Ok(())
    }
}
