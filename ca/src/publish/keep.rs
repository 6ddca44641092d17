//! Keeping a cluster's objects as they are to be: one task owns what is known of them, hears,
//! and writes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Publisher;
use super::place::{Kind, Seen, resource};
use super::trouble::Trouble;
use super::wanted::Wanted;
use super::watch::{Heard, Selection, Source, watch};
use super::world::{Target, pause};
use crate::ca::Ca;

/// Whose fields these are (server-side apply).
const MANAGER: &str = "arx-ca";
/// Objects that are written at a time.
const AT_ONCE: usize = 4;
/// Between two that are begun: 20 in a second.
const APART: Duration = Duration::from_millis(50);
/// An answer that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Somebody else's object is tried again so often, should nothing be heard of it.
const FOREIGN: Duration = Duration::from_secs(60);
/// Between looks at whether this replica has become the one that publishes.
const LOOK: Duration = Duration::from_secs(1);
/// Heard and not yet taken in.
const HEARD: usize = 64;

type Written = (Target, Result<Seen, Trouble>);

impl Ca {
    /// Keeps the roots in the objects of all clusters that are named, for ever.
    pub async fn keep_published(&self) {
        let each = self.publishers.all.iter().map(|it| it.keep(self));
        future::join_all(each).await;
        future::pending().await
    }
}

impl Publisher {
    /// Keeps the objects of one cluster, for ever.
    pub(super) async fn keep(&self, ca: &Ca) {
        let (tell, mut heard) = mpsc::channel(HEARD);
        let mut watches: FuturesUnordered<BoxFuture<'_, ()>> = self.watches(&tell).collect();
        let mut writes: FuturesUnordered<BoxFuture<'_, Written>> = FuturesUnordered::new();
        let (mut trust, mut issuing) = (ca.trust.watch(), ca.authority.watch());
        let (mut not_before, mut told) = (Instant::now(), Instant::now());
        loop {
            let bundle = Arc::clone(&trust.borrow_and_update());
            issuing.borrow_and_update();
            let wanted = Wanted::of(&bundle, ca.authority.root_key_id());
            let now = Instant::now();
            let mut wait = LOOK;
            {
                let mut world = self.world();
                world.want(wanted.clone());
                world.make_known();
                if !ca.is_leader() || writes.len() >= AT_ONCE {
                } else if now < not_before {
                    wait = not_before - now;
                } else if let Some((target, seen)) = world.take(now) {
                    writes.push(self.write(target, seen, wanted).boxed());
                    not_before = now + APART;
                    wait = APART;
                } else if let Some(next) = world.next() {
                    wait = next.saturating_duration_since(now).min(LOOK);
                }
            }
            if now >= told {
                self.tell();
                told = now + LOOK;
            }
            tokio::select! {
                Some((source, heard)) = heard.recv() => self.hear(source, heard),
                Some((target, outcome)) = writes.next(), if !writes.is_empty() => {
                    self.wrote(&target, outcome);
                }
                Some(()) = watches.next(), if !watches.is_empty() => {}
                Ok(()) = trust.changed() => {}
                Ok(()) = issuing.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// What hears of namespaces and of each place.
    fn watches(
        &self,
        tell: &mpsc::Sender<(Source, Heard)>,
    ) -> impl Iterator<Item = BoxFuture<'_, ()>> {
        let places = self.places.clone();
        let namespaced = places.iter().any(|place| place.is_in_namespaces());
        let selection = Selection {
            labels: self.options.namespace_selector.clone(),
            fields: None,
        };
        let namespaces = namespaced.then(|| {
            let api = Api::all_with(
                self.client.clone(),
                &resource("", "v1", "Namespace", "namespaces"),
            );
            watch(api, selection, Source::Namespaces, tell.clone()).boxed()
        });
        let tell = tell.clone();
        let places = places.into_iter().enumerate().map(move |(number, place)| {
            let (tell, client) = (tell.clone(), self.client.clone());
            async move {
                let source = Source::Place(number);
                let selection = Selection {
                    fields: Some(format!("metadata.name={}", place.name)),
                    labels: None,
                };
                let Some(resource) = self.served(number, place.kind, &tell).await else {
                    return;
                };
                watch(Api::all_with(client, &resource), selection, source, tell).await;
            }
            .boxed()
        });
        namespaces.into_iter().chain(places)
    }

    /// By which version the API server serves a kind; waits until it can be asked.
    async fn served(
        &self,
        place: usize,
        kind: Kind,
        tell: &mpsc::Sender<(Source, Heard)>,
    ) -> Option<ApiResource> {
        if kind != Kind::ClusterTrustBundle {
            return Some(kind.resource("v1"));
        }
        let mut failures = 0;
        loop {
            let trouble = match timeout(DEADLINE, self.find_version(kind)).await {
                Ok(Ok(Some(resource))) => {
                    *self
                        .version
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) =
                        resource.version.clone();
                    return Some(resource);
                }
                Ok(Ok(None)) => Trouble::unserved(),
                Ok(Err(error)) => Trouble::of(&error),
                Err(_) => Trouble::silent(DEADLINE.as_secs()),
            };
            tell.send((Source::Place(place), Heard::Away(trouble)))
                .await
                .ok()?;
            tokio::time::sleep(pause(failures)).await;
            failures += 1;
        }
    }

    async fn find_version(&self, kind: Kind) -> Result<Option<ApiResource>, kube::Error> {
        for version in ["v1", "v1beta1"] {
            let resource = kind.resource(version);
            let listed = self.client.list_api_group_resources(&resource.api_version);
            let listed = match listed.await {
                Ok(listed) => listed,
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error),
            };
            if listed.resources.iter().any(|it| it.name == resource.plural) {
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }

    fn hear(&self, source: Source, heard: Heard) {
        let now = Instant::now();
        let mut world = self.world();
        match (source, heard) {
            (Source::Namespaces, Heard::All(all)) => {
                let living = all.into_iter().filter(is_living);
                world.listed_namespaces(living.filter_map(|it| it.metadata.name));
            }
            (Source::Namespaces, Heard::There(object)) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                if is_living(&object) {
                    world.namespace(name);
                } else {
                    world.namespace_gone(name);
                }
            }
            (Source::Namespaces, Heard::Gone(object)) => {
                world.namespace_gone(object.metadata.name.as_deref().unwrap_or_default());
            }
            (Source::Namespaces, Heard::Away(why)) => world.namespaces_away = Some(why),
            (Source::Place(place), Heard::All(all)) => {
                let read = |object: DynamicObject| {
                    let seen = self.places[place].read(&object);
                    (object.metadata.namespace.unwrap_or_default(), seen)
                };
                world.listed(place, all.into_iter().map(read).collect(), now);
            }
            (Source::Place(place), Heard::There(object)) => {
                let seen = self.places[place].read(&object);
                let namespace = object.metadata.namespace.unwrap_or_default();
                world.see(place, &namespace, seen, now);
            }
            (Source::Place(place), Heard::Gone(object)) => {
                world.gone(
                    place,
                    object.metadata.namespace.as_deref().unwrap_or_default(),
                );
            }
            (Source::Place(place), Heard::Away(why)) => world.away(place, why),
        }
    }

    async fn write(&self, target: Target, seen: Option<Seen>, wanted: Wanted) -> Written {
        let place = &self.places[target.place];
        let version = self.version.lock();
        let version = version
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let resource = place.kind.resource(&version);
        let api: Api<DynamicObject> = match &*target.namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let object = Patch::Apply(place.apply(&resource, seen.as_ref(), &wanted));
        let parameters = PatchParams::apply(MANAGER);
        let applied = timeout(DEADLINE, api.patch(&place.name, &parameters, &object)).await;
        let outcome = match applied {
            Ok(Ok(object)) => Ok(place.read(&object)),
            Ok(Err(error)) => Err(Trouble::of(&error)),
            Err(_) => Err(Trouble::silent(DEADLINE.as_secs())),
        };
        (target, outcome)
    }

    fn wrote(&self, target: &Target, outcome: Result<Seen, Trouble>) {
        let now = Instant::now();
        self.count(outcome.as_ref().err());
        let mut world = self.world();
        let outcome = outcome.map_err(|trouble| {
            let wait = match trouble.may_pass() {
                true => pause(world.failures(target)),
                false => FOREIGN,
            };
            (trouble, now + wait)
        });
        world.wrote(target, outcome, now);
    }
}

/// In a namespace that is being deleted nothing can be made any more.
fn is_living(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_none()
}
