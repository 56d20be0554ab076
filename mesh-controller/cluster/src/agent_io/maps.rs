//! `ConfigMap`s of one name in every namespace, as Istio's proxies mount them.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Weak},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, Preconditions},
    runtime::watcher::Config,
};
use mesh_api::labels;
use mesh_core::text::hex;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{
    AgentIoError, OwnCluster, Seen,
    follow::{follow, named},
    write::{apply_as, call, made, posted},
};

/// The label by which istiod knows the maps that it writes.
const ISTIODS: &str = "istio.io/config";
/// How many are written at a time.
const HANDS: usize = 8;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceSeen {
    /// It is being deleted: nothing can be made in it.
    pub leaving: bool,
}

/// A `ConfigMap`, as far as it is ours. What somebody puts beside the one entry is no business of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapSeen {
    /// UID of the object.
    pub uid: String,
    /// Those of its labels that say whose it is.
    pub marks: BTreeMap<String, String>,
    /// Hash of the entry, as [`MapDraft::hash`] makes it; empty if there is none.
    pub hash: String,
    /// istiod has taken it over, or somebody else: the entry was written by others too, or the label is there by which istiod knows its own.
    pub shared: bool,
    /// The entry, if nobody else has written it.
    pub text: Option<Arc<str>>,
}

/// A `ConfigMap` as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDraft {
    /// Name of the object.
    pub name: &'static str,
    /// Name of its one entry.
    pub entry: &'static str,
    /// The entry.
    pub text: String,
    /// Its labels.
    pub marks: BTreeMap<String, String>,
}

impl MapDraft {
    /// Hash of its entry.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(&self.text)
    }
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// How `ConfigMap`s of one name are read. The same text stands in every namespace; it is kept once.
pub(super) struct Reading {
    entry: &'static str,
    texts: Mutex<BTreeMap<String, Weak<str>>>,
}

pub(super) fn namespace(object: &Namespace) -> NamespaceSeen {
    let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
    NamespaceSeen {
        leaving: object.metadata.deletion_timestamp.is_some() || phase == Some("Terminating"),
    }
}

impl Reading {
    pub(super) fn new(entry: &'static str) -> Self {
        Self {
            entry,
            texts: Mutex::default(),
        }
    }

    pub(super) fn map(&self, object: &ConfigMap) -> MapSeen {
        let own = [labels::MANAGED_BY, labels::INSTALL, labels::MEMBER];
        let field = format!("f:{}", self.entry);
        let foreign = object.managed_fields().iter().any(|written| {
            let data = written.fields_v1.as_ref().and_then(|f| f.0.get("f:data"));
            written.manager.as_deref() != Some(labels::AGENT)
                && data.is_some_and(|data| data.get(&field).is_some())
        });
        let marks: BTreeMap<String, String> = object
            .labels()
            .iter()
            .filter(|(key, _)| own.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let shared = foreign || object.labels().contains_key(ISTIODS);
        let text = object.data.as_ref().and_then(|data| data.get(self.entry));
        let hash = text.map(|text| hash(text)).unwrap_or_default();
        MapSeen {
            uid: object.uid().unwrap_or_default(),
            text: text
                .filter(|_| !shared && !marks.is_empty())
                .map(|text| self.kept(&hash, text)),
            marks,
            hash,
            shared,
        }
    }

    /// The text, as it is kept for all maps in which it stands.
    fn kept(&self, hash: &str, text: &str) -> Arc<str> {
        let mut texts = self.texts.lock();
        if let Some(kept) = texts.get(hash).and_then(Weak::upgrade) {
            return kept;
        }
        let kept: Arc<str> = text.into();
        texts.retain(|_, text| text.strong_count() > 0);
        texts.insert(hash.to_owned(), Arc::downgrade(&kept));
        kept
    }
}

impl OwnCluster {
    /// Follows all namespaces.
    pub fn follow_namespaces(
        &self,
        to: watch::Sender<Seen<NamespaceSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let api: Api<Namespace> = Api::all(self.client.clone());
        follow(
            api,
            Config::default(),
            (|o: &Namespace| o.name_any(), namespace),
            to,
        )
    }

    /// Follows the `ConfigMap`s of this name, by namespace, for the sake of one entry.
    pub fn follow_maps(
        &self,
        name: &str,
        entry: &'static str,
        to: watch::Sender<Seen<MapSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let key = |object: &ConfigMap| object.namespace().unwrap_or_default();
        let reading = Reading::new(entry);
        let read = move |object: &ConfigMap| reading.map(object);
        follow(api, named(name), (key, read), to)
    }

    /// Makes a `ConfigMap` in each of these namespaces, and mends it where one of ours was seen: never another of the same name.
    /// Returns how many were written, and the first failure after all were tried.
    pub async fn put_maps(
        &self,
        draft: &MapDraft,
        todo: &BTreeMap<String, Option<String>>,
    ) -> (usize, Option<AgentIoError>) {
        let writes: Vec<BoxFuture<'_, Result<bool, AgentIoError>>> = todo
            .iter()
            .map(|(namespace, uid)| match uid {
                None => self.create_map(draft, namespace).boxed(),
                Some(uid) => self.mend_map(draft, namespace, uid).boxed(),
            })
            .collect();
        let outcomes: Vec<Result<bool, AgentIoError>> =
            stream::iter(writes).buffer_unordered(HANDS).collect().await;
        let written = outcomes.iter().filter(|it| matches!(it, Ok(true))).count();
        (written, outcomes.into_iter().find_map(Result::err))
    }

    /// Deletes these very `ConfigMap`s of one name, by namespace and UID. Returns the first failure after all were tried.
    pub async fn delete_maps(
        &self,
        name: &str,
        todo: &BTreeMap<String, String>,
    ) -> Option<AgentIoError> {
        let deletes: Vec<BoxFuture<'_, Result<(), AgentIoError>>> = todo
            .iter()
            .map(|(namespace, uid)| self.delete_map(name, namespace, uid).boxed())
            .collect();
        let outcomes: Vec<Result<(), AgentIoError>> = stream::iter(deletes)
            .buffer_unordered(HANDS)
            .collect()
            .await;
        outcomes.into_iter().find_map(Result::err)
    }

    async fn delete_map(&self, name: &str, namespace: &str, uid: &str) -> Result<(), AgentIoError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let object = format!("ConfigMap {namespace}/{name}");
        match call("delete", object, self.maps(namespace).delete(name, &params)).await {
            // Gone, or another by now.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn create_map(&self, draft: &MapDraft, namespace: &str) -> Result<bool, AgentIoError> {
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(draft.name.to_owned()),
                namespace: Some(namespace.to_owned()),
                labels: Some(draft.marks.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(
                draft.entry.to_owned(),
                draft.text.clone(),
            )])),
            ..ConfigMap::default()
        };
        let name = format!("ConfigMap {namespace}/{}", draft.name);
        let (api, params) = (self.maps(namespace), posted());
        match made(call("create", name, api.create(&params, &object)).await) {
            Ok(made) => Ok(made == super::Made::Now),
            // The namespace went meanwhile.
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn mend_map(
        &self,
        draft: &MapDraft,
        namespace: &str,
        uid: &str,
    ) -> Result<bool, AgentIoError> {
        let object = json!({
            "apiVersion": ConfigMap::api_version(&()),
            "kind": ConfigMap::kind(&()),
            "metadata": {"name": draft.name, "namespace": namespace, "uid": uid, "labels": draft.marks},
            "data": {draft.entry: draft.text},
        });
        let name = format!("ConfigMap {namespace}/{}", draft.name);
        let api = self.maps(namespace);
        let (params, patch) = apply_as(labels::AGENT, &object);
        match call("apply", name, api.patch(draft.name, &params, &patch)).await {
            Ok(_) => Ok(true),
            // It is another by now, or gone: the watch tells.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
