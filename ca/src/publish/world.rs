//! What is known of a cluster's objects, and what is to be done about them. Pure: whoever keeps
//! it says what was heard and what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arx_identity::Sequence;
use tokio::time::Instant;

use super::place::{Place, Seen};
use super::trouble::Trouble;
use super::wanted::Wanted;

/// One object: which of the places, and in which namespace, if in one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) place: usize,
    pub(super) namespace: Arc<str>,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct World {
    pub(super) places: Vec<Place>,
    /// Only these, if any are named.
    only: BTreeSet<String>,
    wanted: Wanted,
    /// Earlier orders of the same roots.
    orders: Vec<[u8; 32]>,
    /// Nothing before they were read.
    namespaces: Option<BTreeSet<Arc<str>>>,
    /// Why they are not heard of, if they are not.
    pub(super) namespaces_away: Option<Trouble>,
    /// The same of the objects of each place.
    read: Vec<Read>,
    objects: BTreeMap<Target, Object>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    pub(super) is_read: bool,
    pub(super) away: Option<Trouble>,
}

#[derive(Debug, Default)]
struct Object {
    seen: Option<Seen>,
    is_being_written: bool,
    /// Whether it was heard to be another one since that began.
    has_changed: bool,
    failures: u32,
    /// Not before, after a failure.
    again: Option<Instant>,
    trouble: Option<Trouble>,
    /// Since when it holds the roots of a sequence.
    holds: Option<(Sequence, Instant)>,
}

/// What an object needs.
enum Need {
    Nothing,
    Write,
    /// Somebody has to see to it.
    Help(Trouble),
}

/// How an object stands.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) target: Target,
    /// Since when it holds what is wanted.
    pub(super) holds_since: Option<Instant>,
    pub(super) trouble: Option<Trouble>,
    /// There is no such object, and it is not ours to make.
    pub(super) is_absent: bool,
}

impl Object {
    /// It is not there any more, and with it whatever was in the way.
    fn lost(&mut self) {
        if self.seen.take().is_some() {
            self.changed();
        }
        self.holds = None;
    }

    /// Whatever was in the way may be gone, and what a write under way is answered may be of before.
    fn changed(&mut self) {
        self.again = None;
        self.has_changed = true;
    }
}

impl World {
    pub(super) fn new(places: Vec<Place>, only: &[String], wanted: Wanted) -> Self {
        let read = vec![Read::default(); places.len()];
        let none = places.iter().any(Place::is_in_namespaces);
        Self {
            places,
            only: only.iter().cloned().collect(),
            wanted,
            orders: Vec::new(),
            namespaces: (!none).then(BTreeSet::new),
            namespaces_away: None,
            read,
            objects: BTreeMap::new(),
        }
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What is wanted from now on.
    pub(super) fn want(&mut self, wanted: Wanted) {
        if wanted == self.wanted {
            return;
        }
        let before = std::mem::replace(&mut self.wanted, wanted);
        if before.stamp == self.wanted.stamp {
            self.orders.push(before.content);
        } else {
            self.orders.clear();
        }
        for object in self.objects.values_mut() {
            object.again = None;
            object.failures = 0;
        }
    }

    pub(super) fn listed_namespaces(&mut self, names: impl Iterator<Item = String>) {
        let only = &self.only;
        let wanted = names.filter(|name| only.is_empty() || only.contains(name));
        let names: BTreeSet<Arc<str>> = wanted.map(Arc::from).collect();
        self.objects
            .retain(|target, _| target.namespace.is_empty() || names.contains(&target.namespace));
        self.namespaces = Some(names);
        self.namespaces_away = None;
    }

    pub(super) fn namespace(&mut self, name: &str) {
        if self.only.is_empty() || self.only.contains(name) {
            self.namespaces
                .get_or_insert_with(BTreeSet::new)
                .insert(name.into());
        }
        self.namespaces_away = None;
    }

    pub(super) fn namespace_gone(&mut self, name: &str) {
        if let Some(names) = &mut self.namespaces {
            names.remove(name);
        }
        self.objects.retain(|target, _| *target.namespace != *name);
    }

    /// All objects of a place, by namespace.
    pub(super) fn listed(&mut self, place: usize, all: Vec<(String, Seen)>, now: Instant) {
        let found: BTreeSet<&str> = all.iter().map(|(it, _)| it.as_str()).collect();
        for (target, object) in &mut self.objects {
            if target.place == place && !found.contains(&*target.namespace) {
                object.lost();
            }
        }
        for (namespace, seen) in all {
            self.see(place, &namespace, seen, now);
        }
        self.read[place] = Read {
            is_read: true,
            away: None,
        };
    }

    /// An object as the API server has it now.
    pub(super) fn see(&mut self, place: usize, namespace: &str, seen: Seen, now: Instant) {
        let target = Target {
            place,
            namespace: namespace.into(),
        };
        let (stamp, content) = (&self.wanted.stamp, self.wanted.content);
        let known = |it: &[u8; 32]| *it == content || self.orders.contains(it);
        let holds = seen.stamp.as_ref() == Some(stamp) && seen.content.as_ref().is_some_and(known);
        let object = self.objects.entry(target).or_default();
        object.holds = match object.holds {
            Some((sequence, since)) if holds && sequence == stamp.sequence => {
                Some((sequence, since))
            }
            _ => holds.then_some((stamp.sequence, now)),
        };
        let same = object.seen.as_ref().is_some_and(|it| it.holds_as(&seen));
        if !same {
            object.changed();
        }
        object.seen = Some(seen);
        self.read[place].away = None;
    }

    /// An object is not there any more.
    pub(super) fn gone(&mut self, place: usize, namespace: &str) {
        let target = Target {
            place,
            namespace: namespace.into(),
        };
        if let Some(object) = self.objects.get_mut(&target) {
            object.lost();
        }
        self.read[place].away = None;
    }

    /// The objects of a place are not heard of.
    pub(super) fn away(&mut self, place: usize, why: Trouble) {
        self.read[place].away = Some(why);
    }

    /// What came of writing: the object, or why it was not written, and how long to wait.
    pub(super) fn wrote(
        &mut self,
        target: &Target,
        outcome: Result<Seen, (Trouble, Instant)>,
        now: Instant,
    ) {
        let Some(object) = self.objects.get_mut(target) else {
            return;
        };
        object.is_being_written = false;
        match outcome {
            Ok(seen) => {
                object.failures = 0;
                object.trouble = None;
                let namespace = Arc::clone(&target.namespace);
                self.see(target.place, &namespace, seen, now);
            }
            Err((trouble, again)) => {
                object.failures += 1;
                object.trouble = Some(trouble);
                object.again = (!object.has_changed).then_some(again);
            }
        }
    }

    /// How often writing it has failed since it last went well.
    pub(super) fn failures(&self, target: &Target) -> u32 {
        self.objects.get(target).map_or(0, |object| object.failures)
    }

    /// The next that is to be written, with what is known of it; it counts as being written.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Target, Option<Seen>)> {
        self.make_known();
        let due = self.objects.iter().find(|(target, object)| {
            !object.is_being_written
                && object.again.is_none_or(|again| again <= now)
                && matches!(self.need(target, object), Need::Write)
        });
        let target = due.map(|(target, _)| target.clone())?;
        let object = self.objects.get_mut(&target)?;
        object.is_being_written = true;
        object.has_changed = false;
        Some((target, object.seen.clone()))
    }

    /// When something is to be written that failed before.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.objects.iter().filter(|(target, object)| {
            !object.is_being_written && matches!(self.need(target, object), Need::Write)
        });
        waiting.filter_map(|(_, object)| object.again).min()
    }

    /// How each stands, and what is to be known of places that were not read.
    pub(super) fn standings(&self) -> impl Iterator<Item = Standing> + '_ {
        self.objects.iter().map(|(target, object)| {
            let holds = object
                .holds
                .filter(|(sequence, _)| *sequence == self.wanted.stamp.sequence);
            let trouble = match self.need(target, object) {
                Need::Nothing => None,
                Need::Write => object.trouble.clone(),
                Need::Help(trouble) => Some(trouble),
            };
            Standing {
                target: target.clone(),
                holds_since: holds.map(|(_, since)| since),
                trouble,
                is_absent: object.seen.is_none() && !self.place(target).kind.is_made_here(),
            }
        })
    }

    /// Whether it is known which objects there have to be of a place; if not, why.
    pub(super) fn unread(&self, place: usize) -> Option<Option<&Trouble>> {
        if self.places[place].is_in_namespaces() && self.namespaces.is_none() {
            return Some(self.namespaces_away.as_ref());
        }
        let read = &self.read[place];
        (!read.is_read).then_some(read.away.as_ref())
    }

    /// Why what happens to objects of a place is not heard, though it was once.
    pub(super) fn unheard(&self, place: usize) -> Option<&Trouble> {
        let namespaces = self.namespaces_away.as_ref();
        let own = self.read[place].away.as_ref();
        own.or(namespaces.filter(|_| self.places[place].is_in_namespaces()))
    }

    pub(super) fn place(&self, target: &Target) -> &Place {
        &self.places[target.place]
    }

    /// Adds the objects that have to be there, of places that were read.
    pub(super) fn make_known(&mut self) {
        for (number, place) in self.places.iter().enumerate() {
            if !self.read[number].is_read {
                continue;
            }
            let everywhere = [Arc::from("")];
            let namespaces: Box<dyn Iterator<Item = &Arc<str>>> = match &self.namespaces {
                Some(names) if place.is_in_namespaces() => Box::new(names.iter()),
                None if place.is_in_namespaces() => continue,
                _ => Box::new(everywhere.iter()),
            };
            for namespace in namespaces {
                let target = Target {
                    place: number,
                    namespace: Arc::clone(namespace),
                };
                self.objects.entry(target).or_default();
            }
        }
    }

    fn need(&self, target: &Target, object: &Object) -> Need {
        let place = self.place(target);
        let known = match &self.namespaces {
            Some(names) if place.is_in_namespaces() => names.contains(&target.namespace),
            None if place.is_in_namespaces() => false,
            _ => true,
        };
        if !known || !self.read[target.place].is_read {
            return Need::Nothing;
        }
        let Some(seen) = &object.seen else {
            return match place.kind.is_made_here() {
                true => Need::Write,
                false => Need::Help(Trouble::absent()),
            };
        };
        let wanted = &self.wanted.stamp;
        match &seen.stamp {
            Some(stamp) if stamp.trust_domain != wanted.trust_domain => {
                Need::Help(Trouble::of_another(&stamp.trust_domain))
            }
            Some(stamp) if stamp.sequence > wanted.sequence => {
                Need::Help(Trouble::newer(stamp.sequence, wanted.sequence))
            }
            Some(stamp) if stamp.sequence == wanted.sequence && stamp.hash != wanted.hash => {
                Need::Help(Trouble::contradicts(stamp.sequence))
            }
            Some(stamp) if stamp == wanted && seen.content == Some(self.wanted.content) => {
                Need::Nothing
            }
            _ => Need::Write,
        }
    }
}

/// How long to wait after so many failures.
pub(super) fn pause(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);
    FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST)
}
