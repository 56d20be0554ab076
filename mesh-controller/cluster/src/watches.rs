//! Watches that never end: errors are waited out with backoff, a malformed object is a refusal and not the end
//! of the stream, and a list counts only when it is complete.

use std::{fmt::Debug, pin::pin, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use kube::{
    Api, Resource,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::watcher::{self, Event, InitialListStrategy, watcher},
};
use mesh_core::facts::Obstacle;
use serde::de::DeserializeOwned;

use crate::{call::CallError, client::WATCH_SECONDS};

/// Namespace (empty for what has none) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub key: Key,
    /// Why.
    pub why: String,
}

/// What a watch saw.
#[derive(Debug)]
pub enum Seen<K> {
    /// Everything there is: what was known before and is not among it is gone.
    All {
        /// The objects.
        objects: Vec<K>,
        /// Those that cannot be read; what was known of them before still holds.
        refused: Vec<Refusal>,
    },
    /// One was made or changed.
    Applied(K),
    /// One is gone.
    Deleted(Key),
    /// One was made or changed, and cannot be read.
    Refused(Refusal),
    /// The watch is interrupted, and will be tried again.
    Interrupted {
        /// There is no such kind.
        absent: bool,
        /// Why.
        why: Obstacle,
    },
}

/// How long a watch waits after failures.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Patience {
    /// For what somebody waits for.
    pub const SHORT: Self = Self {
        first: Duration::from_millis(100),
        most: Duration::from_secs(5),
    };
    /// For kinds that may be installed some day.
    pub const LONG: Self = Self {
        first: Duration::from_secs(1),
        most: Duration::from_secs(15),
    };

    pub(crate) fn delays(self) -> impl Iterator<Item = Duration> + Send {
        ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.most)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
            .build()
    }
}

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
}

impl Filter {
    /// One object by its name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            fields: Some(format!("metadata.name={name}")),
            labels: None,
        }
    }

    fn config(self) -> watcher::Config {
        watcher::Config {
            label_selector: self.labels,
            field_selector: self.fields,
            timeout: Some(WATCH_SECONDS),
            initial_list_strategy: InitialListStrategy::ListWatch,
            ..watcher::Config::default()
        }
    }
}

/// Watches whole objects for ever and tells `on` what it sees.
pub async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    filter: Filter,
    patience: Patience,
    mut on: impl FnMut(Seen<K>) + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    run(api, filter, patience, |seen| {
        on(match seen {
            Seen::All { objects, .. } => {
                let (mut good, mut refused) = (Vec::new(), Vec::new());
                for object in objects {
                    match opened(object) {
                        Ok(object) => good.push(object),
                        Err(refusal) => refused.push(refusal),
                    }
                }
                Seen::All {
                    objects: good,
                    refused,
                }
            }
            Seen::Applied(object) => match opened(object) {
                Ok(object) => Seen::Applied(object),
                Err(refusal) => Seen::Refused(refusal),
            },
            Seen::Deleted(key) => Seen::Deleted(key),
            Seen::Refused(refusal) => Seen::Refused(refusal),
            Seen::Interrupted { absent, why } => Seen::Interrupted { absent, why },
        });
    })
    .await;
}

fn opened<K: Resource>(object: DeserializeGuard<K>) -> Result<K, Refusal> {
    object.0.map_err(|invalid| Refusal {
        key: Key::new(
            invalid.metadata.namespace.unwrap_or_default(),
            invalid.metadata.name.unwrap_or_default(),
        ),
        why: invalid.error,
    })
}

/// Watches metadata alone, for ever: of Secrets nobody needs to see more to know that one changed.
pub async fn follow_metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    filter: Filter,
    patience: Patience,
    on: impl FnMut(Seen<PartialObjectMeta<K>>) + Send,
) where
    K: Resource + Clone + Debug + Send + 'static,
    PartialObjectMeta<K>: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    run(api, filter, patience, on).await;
}

async fn run<R>(api: Api<R>, filter: Filter, patience: Patience, mut on: impl FnMut(Seen<R>) + Send)
where
    R: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let url = api.resource_url().to_owned();
    let mut stream = pin!(watcher(api, filter.config()));
    let mut delays = patience.delays();
    let mut listing = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => listing.push(slim(object)),
            Ok(Event::InitDone) => {
                delays = patience.delays();
                on(Seen::All {
                    objects: std::mem::take(&mut listing),
                    refused: Vec::new(),
                });
            }
            Ok(Event::Apply(object)) => {
                delays = patience.delays();
                on(Seen::Applied(slim(object)));
            }
            Ok(Event::Delete(object)) => on(Seen::Deleted(Key::of(&object))),
            Err(error) => {
                let (absent, why) = told(error, &url);
                on(Seen::Interrupted { absent, why });
                if let Some(delay) = delays.next() {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}

/// Nobody here reads managed fields out of a watch, and they are half of most objects.
fn slim<R: Resource>(mut object: R) -> R {
    object.meta_mut().managed_fields = None;
    object
}

fn told(error: watcher::Error, url: &str) -> (bool, Obstacle) {
    let source = match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => source,
        watcher::Error::WatchError(status) => kube::Error::Api(status),
        watcher::Error::NoResourceVersion => {
            return (
                false,
                Obstacle::new(
                    "NoResourceVersion",
                    format!("failed to watch {url}: no resource version"),
                ),
            );
        }
    };
    let error = CallError::Api {
        verb: "watch",
        object: url.to_owned(),
        source: Box::new(source),
    };
    (error.is_not_found(), error.obstacle())
}
