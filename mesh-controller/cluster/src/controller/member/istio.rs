//! What is watched in a member for the sake of its data plane: the gateway's Service, or all there is of Istio.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Service},
};
use kube::{Api, Client, Resource, core::DeserializeGuard};
use mesh_api::{
    NAMESPACE, TELEMETRY_NAMESPACE,
    read::{self, IstioObjects},
};
use mesh_core::{
    facts::{Role, Target},
    istio::{Plane, config_map},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::{Bells, Member};
use crate::{
    controller::{index::Store, look::Wish},
    watches::{Filter, Patience, Seen, follow},
};

/// What decides about what is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    plane: Plane,
    revision: String,
    /// Pods are looked at where others come in.
    pods: bool,
}

impl Scope {
    fn of(wish: &Wish, role: Option<Role>) -> Option<Self> {
        let terms = wish.terms.as_ref()?;
        Some(Self {
            plane: terms.plane,
            revision: terms.revision.clone(),
            pods: role == Some(Role::Region),
        })
    }
}

/// Everything there is of Istio, as its watches see it.
#[derive(Default)]
struct Known {
    istiods: Store<Deployment>,
    configs: Store<ConfigMap>,
    namespaces: Store<Namespace>,
    gateways: Store<Service>,
    services: Store<Service>,
    pods: Store<Pod>,
}

impl Known {
    /// Everything was listed.
    fn is_warm(&self, pods: bool) -> bool {
        self.istiods.is_warm()
            && self.configs.is_warm()
            && self.namespaces.is_warm()
            && self.gateways.is_warm()
            && self.services.is_warm()
            && (!pods || self.pods.is_warm())
    }

    fn objects(&self) -> IstioObjects<'_> {
        fn all<K: Resource>(store: &Store<K>) -> Vec<&K> {
            store.iter().map(|(_, object)| &**object).collect()
        }
        let configs = self.configs.iter();
        IstioObjects {
            istiods: all(&self.istiods),
            configs: configs
                .map(|(key, map)| (key.name.as_str(), &**map))
                .collect(),
            namespace: self
                .namespaces
                .iter()
                .next()
                .map(|(_, namespace)| &**namespace),
            gateways: all(&self.gateways),
            services: all(&self.services),
            pods: all(&self.pods),
        }
    }

    /// Where Istio's gateway is reached.
    fn targets(&self) -> BTreeSet<Target> {
        let gateways = self.gateways.iter().map(|(_, service)| service);
        gateways
            .filter(|service| !read::is_ours(&service.metadata))
            .flat_map(|service| read::gateway(service))
            .collect()
    }
}

impl Member {
    /// Watches what belongs to the member's data plane, for as long as that is the same.
    pub(super) async fn watch_plane(&self, client: &Client, bells: &Bells) {
        let mut wish = self.wish.clone();
        loop {
            let scope = Scope::of(&wish.borrow_and_update(), self.role());
            let other = async {
                loop {
                    if wish.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    if Scope::of(&wish.borrow_and_update(), self.role()) != scope {
                        return;
                    }
                }
            };
            tokio::select! {
                () = other => {}
                () = self.watch_scope(client, bells, scope.as_ref()) => return,
            }
        }
    }

    fn role(&self) -> Option<Role> {
        let key = crate::watches::Key::new(&self.key.namespace, &self.key.name);
        self.common.index.read(|state| {
            let object = state.members.get(&key)?;
            Some(match object.spec.role {
                mesh_api::member::Role::Management => Role::Management,
                mesh_api::member::Role::Region => Role::Region,
                mesh_api::member::Role::Child => Role::Child,
            })
        })
    }

    async fn watch_scope(&self, client: &Client, bells: &Bells, scope: Option<&Scope>) {
        match scope {
            Some(scope) if scope.plane == Plane::Istio => {
                Box::pin(self.watch_istio(client, scope)).await;
            }
            Some(_) | None => {
                self.report(|seen| seen.istio = None);
                self.watch_gateway(client, bells).await;
            }
        }
    }

    async fn watch_istio(&self, client: &Client, scope: &Scope) {
        let known = Mutex::new(Known::default());
        let config = config_map(&scope.revision);
        let labelled = |labels: &str| Filter {
            labels: Some(labels.to_owned()),
            fields: None,
        };
        let note = || self.note_istio(&known.lock(), scope);
        let pods = async {
            if scope.pods {
                into(
                    Api::namespaced(client.clone(), TELEMETRY_NAMESPACE),
                    Filter::default(),
                    |seen| known.lock().pods.see(seen),
                    note,
                )
                .await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = into(Api::namespaced(client.clone(), NAMESPACE), labelled("app=istiod"), |seen| known.lock().istiods.see(seen), note) => {}
            () = into(Api::namespaced(client.clone(), NAMESPACE), Filter::named(&config), |seen| known.lock().configs.see(seen), note) => {}
            () = into(Api::all(client.clone()), Filter::named(NAMESPACE), |seen| known.lock().namespaces.see(seen), note) => {}
            () = into(Api::namespaced(client.clone(), NAMESPACE), labelled("istio=eastwestgateway"), |seen| known.lock().gateways.see(seen), note) => {}
            () = into(Api::namespaced(client.clone(), TELEMETRY_NAMESPACE), Filter::default(), |seen| known.lock().services.see(seen), note) => {}
            () = pods => {}
        }
    }

    /// Takes in what is seen, once all of it was listed.
    fn note_istio(&self, known: &Known, scope: &Scope) {
        if !known.is_warm(scope.pods) {
            return;
        }
        let facts = read::istio(&known.objects());
        let targets = known.targets();
        self.report(|seen| {
            seen.istio = Some(facts);
            seen.gateway = Some(targets);
        });
    }
}

/// Follows one kind into a store, and says so when something changed.
async fn into<K>(
    api: Api<DeserializeGuard<K>>,
    filter: Filter,
    mut put: impl FnMut(Seen<K>) -> bool + Send,
    note: impl Fn() + Send + Sync,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    follow(api, filter, Patience::LONG, |seen| {
        if put(seen) {
            note();
        }
    })
    .await;
}
