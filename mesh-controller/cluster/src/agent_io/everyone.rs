//! All pods of the cluster, for who may ask for whom. Only what that needs is kept of each, and a change costs no more
//! than the pod it is about.

use std::{fmt, sync::Arc};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::{
    Api, ResourceExt as _,
    api::{self, ApiResource},
    runtime::watcher::{self, Config, Event},
};
use mesh_core::issuance::{Pod, Pods};
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{
    OwnCluster,
    follow::{LIST_DEADLINE, WATCH_SECS, pause},
};

/// What is read of a pod's wishes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wishes {
    #[serde(default)]
    service_account_name: String,
    #[serde(default)]
    node_name: String,
}

/// What is read of a pod's state.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct State {
    #[serde(default)]
    phase: String,
}

pub(super) type Slim = api::Object<Wishes, State>;

pub(super) fn pod(object: &Slim) -> Pod {
    let phase = object.status.as_ref().map_or("", |s| s.phase.as_str());
    Pod {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        account: object.spec.service_account_name.clone(),
        node: object.spec.node_name.clone(),
        over: matches!(phase, "Succeeded" | "Failed"),
    }
}

/// The pods of the cluster as they are known now; nothing until all were listed once.
#[derive(Clone, Default)]
pub struct Everyone(Arc<RwLock<Option<Pods>>>);

impl fmt::Debug for Everyone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Everyone").finish_non_exhaustive()
    }
}

impl Everyone {
    /// Nobody is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These and no others.
    #[must_use]
    pub fn of(pods: Pods) -> Self {
        Self(Arc::new(RwLock::new(Some(pods))))
    }

    /// Looks at them. Changes wait meanwhile, so the look is to be short.
    pub fn look<T>(&self, look: impl FnOnce(Option<&Pods>) -> T) -> T {
        look(self.0.read().as_ref())
    }

    /// Forgets everybody.
    pub fn clear(&self) {
        *self.0.write() = None;
    }

    pub(super) fn take(&self, event: Event<Slim>, listing: &mut Option<Pods>) {
        let put = |pods: &mut Pods, object: &Slim| {
            let namespace = object.namespace().unwrap_or_default();
            pods.put(&namespace, &object.name_any(), pod(object));
        };
        match event {
            Event::Init => *listing = Some(Pods::default()),
            Event::InitApply(object) => {
                if let Some(listing) = listing {
                    put(listing, &object);
                }
            }
            Event::InitDone => {
                if let Some(listed) = listing.take() {
                    *self.0.write() = Some(listed);
                }
            }
            Event::Apply(object) => {
                if let Some(pods) = self.0.write().as_mut() {
                    put(pods, &object);
                }
            }
            Event::Delete(object) => {
                if let Some(pods) = self.0.write().as_mut() {
                    pods.remove(&object.namespace().unwrap_or_default(), &object.name_any());
                }
            }
        }
    }
}

impl OwnCluster {
    /// Follows all pods of the cluster, for ever. What was seen last stays while the API server is away.
    pub async fn follow_everyone(&self, everyone: Everyone) {
        let kind = ApiResource::erase::<Object>(&());
        let api: Api<Slim> = Api::all_with(self.client.clone(), &kind);
        let config = Config::default().timeout(WATCH_SECS);
        let mut failures = 0_u32;
        loop {
            let mut stream = std::pin::pin!(watcher::watcher(api.clone(), config.clone()));
            let mut listing = None;
            loop {
                // The watch notices by itself when its connection has died; a list does not.
                let next = if listing.is_some() {
                    let Ok(next) = timeout(LIST_DEADLINE, stream.next()).await else {
                        tracing::warn!(
                            "the own API server did not finish the list of all pods; asking anew"
                        );
                        break;
                    };
                    next
                } else {
                    stream.next().await
                };
                match next {
                    None => break,
                    Some(Ok(event)) => {
                        if !matches!(event, Event::Init) {
                            failures = 0;
                        }
                        everyone.take(event, &mut listing);
                    }
                    Some(Err(error)) => {
                        listing = None;
                        if failures == 0 {
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                "failed to watch all pods"
                            );
                        }
                        sleep(pause(failures)).await;
                        failures = failures.saturating_add(1);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, uid: &str, account: &str, phase: &str) -> Slim {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "kof", "uid": uid},
            "spec": {"serviceAccountName": account, "nodeName": "n1", "containers": []},
            "status": {"phase": phase, "podIP": "10.0.0.1"},
        }))
        .unwrap()
    }

    #[test]
    fn nobody_is_known_before_all_are_and_then_each_change_is() {
        let everyone = Everyone::new();
        let runs = |account: &str| everyone.look(|pods| pods.map(|p| p.runs("n1", "kof", account)));
        let mut listing = None;
        let mut take = |event| everyone.take(event, &mut listing);
        take(Event::Init);
        take(Event::InitApply(object("a-0", "1", "a", "Running")));
        assert_eq!(runs("a"), None);
        take(Event::InitDone);
        assert_eq!((runs("a"), runs("b")), (Some(true), Some(false)));
        take(Event::Apply(object("b-0", "2", "b", "Pending")));
        assert_eq!(runs("b"), Some(true));
        take(Event::Apply(object("b-0", "2", "b", "Succeeded")));
        assert_eq!(runs("b"), Some(false));
        take(Event::Delete(object("a-0", "1", "a", "Running")));
        assert_eq!(runs("a"), Some(false));
        // A new list replaces all of it, once it is whole.
        take(Event::Init);
        take(Event::InitApply(object("c-0", "3", "c", "Running")));
        assert_eq!((runs("c"), runs("b")), (Some(false), Some(false)));
        take(Event::InitDone);
        assert_eq!(runs("c"), Some(true));
        everyone.clear();
        assert_eq!(runs("c"), None);
    }

    #[test]
    fn a_pod_without_a_state_is_read() {
        let bare =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
        assert_eq!(pod(&serde_json::from_value(bare).unwrap()), Pod::default());
    }
}
