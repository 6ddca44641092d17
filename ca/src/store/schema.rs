//! Which form the values of a trust domain have, and who may read it.
//!
//! Two numbers stand in the store in clear text: `schema`, the form, and `min_reader`, the
//! oldest form whose software still understands it. A new field that older software may carry
//! along raises the first alone; anything that older software would get wrong raises both.

use arx_identity::TrustDomain;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{CasError, Entry, Key, Prefix, Segment, Store, StoreError};

const KIND: Segment = Segment::fixed("schema");

/// The form that this version of Arx writes.
pub const FORMAT: Format = Format {
    schema: 1,
    min_reader: 1,
    steps: &[],
};

/// A form of the values, and how to get there from older ones.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its number.
    pub schema: u32,
    /// The number of the oldest form whose software understands this one.
    pub min_reader: u32,
    /// From the oldest form that can be migrated to this one, in order.
    pub steps: &'static [Step],
}

/// Brings the values of a trust domain from one form to the next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The form that it starts from.
    pub from: u32,
    /// Does it. Runs again after a crash, so what it has done already must not hurt.
    pub run: for<'a> fn(&'a dyn Store, &'a TrustDomain) -> BoxFuture<'a, Result<(), CasError>>,
}

/// What the store says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The form of the values.
    pub schema: u32,
    /// The number of the oldest form whose software may read it.
    pub min_reader: u32,
    /// The software that set these numbers, by name and version.
    pub written_by: String,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The values of a trust domain are not in a form to work with. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A newer version made changes that this one does not understand.
    #[error(
        "the state of {trust_domain} was written by {written_by} (schema {schema}), which only \
         versions that read schema {min_reader} understand; this one reads {ours}: run \
         {written_by} or newer, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// The software that wrote it.
        written_by: String,
        /// Its form.
        schema: u32,
        /// The form that a reader must know.
        min_reader: u32,
        /// The form that this version knows.
        ours: u32,
    },
    /// An older version wrote it. Nothing is migrated without being told to.
    #[error(
        "the state of {trust_domain} was written by {written_by} (schema {schema}) and this \
         version needs schema {ours}: make a backup, then run `arx-ca --config FILE migrate`"
    )]
    Older {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// The software that wrote it.
        written_by: String,
        /// Its form.
        schema: u32,
        /// The form that this version needs.
        ours: u32,
    },
    /// No way leads from the stored form to this version's.
    #[error(
        "the state of {trust_domain} was written by {written_by} (schema {schema}), too old to \
         be migrated to schema {ours} in one go: upgrade to a version in between first"
    )]
    TooOld {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// The software that wrote it.
        written_by: String,
        /// Its form.
        schema: u32,
        /// The form that this version needs.
        ours: u32,
    },
    /// There are values, but nothing says of which form.
    #[error(
        "the state of {trust_domain} does not say which schema it has ({detail}): it is \
         incomplete, restore a backup"
    )]
    Unmarked {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What is there instead.
        detail: String,
    },
    /// The store does not let us look or write.
    #[error(transparent)]
    Store(#[from] CasError),
}

impl Schema {
    /// What the kind of its value is called in keys.
    pub const KIND: Segment = KIND;
}

impl From<StoreError> for SchemaError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl SchemaError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Newer { .. } => "ARX-STORE-NEWER",
            Self::Older { .. } => "ARX-STORE-OLDER",
            Self::TooOld { .. } => "ARX-STORE-TOO-OLD",
            Self::Unmarked { .. } => "ARX-STORE-UNMARKED",
            Self::Store(error) => error.code(),
        }
    }
}

impl Format {
    /// Makes sure that this version may work with the state of `trust_domain`, and marks it as
    /// its own if there is none yet. `software` is the name and version of the caller.
    ///
    /// # Errors
    /// [`SchemaError`]; nothing was changed.
    pub async fn open(
        &self,
        store: &dyn Store,
        trust_domain: &TrustDomain,
        software: &str,
    ) -> Result<Schema, SchemaError> {
        let found = match load(store, trust_domain).await? {
            Some((found, _)) => found,
            None => return self.begin(store, trust_domain, software).await,
        };
        self.usable(found, trust_domain)
    }

    /// Brings the state of `trust_domain` to this form, step by step, and says so in the store
    /// after each. May be repeated after any failure.
    ///
    /// # Errors
    /// [`SchemaError`]; steps before it are done and recorded.
    pub async fn migrate(
        &self,
        store: &dyn Store,
        trust_domain: &TrustDomain,
        software: &str,
    ) -> Result<Schema, SchemaError> {
        let Some((mut at, mut entry)) = load(store, trust_domain).await? else {
            return self.begin(store, trust_domain, software).await;
        };
        self.readable(&at, trust_domain)?;
        while at.schema < self.schema {
            let Some(step) = self.steps.iter().find(|step| step.from == at.schema) else {
                return Err(SchemaError::TooOld {
                    trust_domain: trust_domain.clone(),
                    written_by: at.written_by,
                    schema: at.schema,
                    ours: self.schema,
                });
            };
            (step.run)(store, trust_domain).await?;
            at.schema += 1;
            // Half-way, older software would meet both forms, so none may read it.
            at.min_reader = if at.schema == self.schema {
                self.min_reader
            } else {
                self.schema
            };
            software.clone_into(&mut at.written_by);
            entry.version = store
                .compare_and_swap(&entry.key, Some(&entry.version), json(&at))
                .await?;
        }
        Ok(at)
    }

    /// What the state of `trust_domain` says about itself, if there is any and this version may
    /// work with it. Writes nothing.
    ///
    /// # Errors
    /// [`SchemaError`] as for [`Format::open`].
    pub async fn inspect(
        &self,
        store: &dyn Store,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Schema>, SchemaError> {
        match load(store, trust_domain).await? {
            Some((found, _)) => self.usable(found, trust_domain).map(Some),
            None => self
                .refuse_unmarked(store, trust_domain)
                .await
                .map(|()| None),
        }
    }

    fn usable(&self, found: Schema, trust_domain: &TrustDomain) -> Result<Schema, SchemaError> {
        self.readable(&found, trust_domain)?;
        if found.schema < self.schema {
            return Err(SchemaError::Older {
                trust_domain: trust_domain.clone(),
                written_by: found.written_by,
                schema: found.schema,
                ours: self.schema,
            });
        }
        Ok(found)
    }

    fn readable(&self, found: &Schema, trust_domain: &TrustDomain) -> Result<(), SchemaError> {
        if found.min_reader <= self.schema {
            return Ok(());
        }
        Err(SchemaError::Newer {
            trust_domain: trust_domain.clone(),
            written_by: found.written_by.clone(),
            schema: found.schema,
            min_reader: found.min_reader,
            ours: self.schema,
        })
    }

    /// Values without a mark are somebody's state that lost it, not a first start.
    async fn refuse_unmarked(
        &self,
        store: &dyn Store,
        trust_domain: &TrustDomain,
    ) -> Result<(), SchemaError> {
        let key = Key::new(trust_domain, &KIND);
        let found = store
            .list(&Prefix::trust_domain(trust_domain), None, 1)
            .await?;
        // The mark itself may be there by now: two first starts at once.
        match found.entries.iter().find(|entry| entry.key != key) {
            Some(other) if store.get(&key).await?.is_none() => Err(SchemaError::Unmarked {
                trust_domain: trust_domain.clone(),
                detail: format!("there is {}", other.key),
            }),
            _ => Ok(()),
        }
    }

    async fn begin(
        &self,
        store: &dyn Store,
        trust_domain: &TrustDomain,
        software: &str,
    ) -> Result<Schema, SchemaError> {
        let ours = Schema {
            schema: self.schema,
            min_reader: self.min_reader,
            written_by: software.to_owned(),
            extra: Map::new(),
        };
        self.refuse_unmarked(store, trust_domain).await?;
        let key = Key::new(trust_domain, &KIND);
        match store.compare_and_swap(&key, None, json(&ours)).await {
            Ok(_) => Ok(ours),
            // Another process made its first start at the same moment.
            Err(CasError::Conflict { .. } | CasError::Unknown { .. }) => {
                let (found, _) = load(store, trust_domain).await?.ok_or_else(|| {
                    SchemaError::Store(CasError::unknown(&key, "it is not there yet"))
                })?;
                self.readable(&found, trust_domain)?;
                Ok(found)
            }
            Err(error) => Err(error.into()),
        }
    }
}

async fn load(
    store: &dyn Store,
    trust_domain: &TrustDomain,
) -> Result<Option<(Schema, Entry)>, SchemaError> {
    let Some(entry) = store.get(&Key::new(trust_domain, &KIND)).await? else {
        return Ok(None);
    };
    let schema = serde_json::from_slice(&entry.value).map_err(|error| SchemaError::Unmarked {
        trust_domain: trust_domain.clone(),
        detail: error.to_string(),
    })?;
    Ok(Some((schema, entry)))
}

fn json(schema: &Schema) -> Bytes {
    serde_json::to_vec(schema)
        .expect("numbers, texts and JSON values can be written")
        .into()
}

#[cfg(test)]
mod tests;
