//! What is watched on management, and how it gets into the index.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource, api::PartialObjectMeta, core::DeserializeGuard};
use mesh_api::labels;
use serde::de::DeserializeOwned;

use super::index::{Index, State, Store};
use crate::{
    tasks::Tasks,
    watches::{Filter, Patience, Seen, follow, follow_metadata},
};

type Shelf<K> = fn(&mut State) -> &mut Store<K>;

/// Starts a watch for each kind.
pub(crate) fn spawn(tasks: &mut Tasks, client: &Client, index: &Arc<Index>) {
    let all = Filter::default;
    let children = || Filter {
        labels: Some(format!("{}=child", labels::KOF_ROLE)),
        fields: None,
    };
    feed(
        tasks,
        (client, index),
        "watch meshes",
        (all(), Patience::SHORT),
        |state| &mut state.meshes,
    );
    feed(
        tasks,
        (client, index),
        "watch members",
        (all(), Patience::SHORT),
        |state| &mut state.members,
    );
    feed(
        tasks,
        (client, index),
        "watch child configs",
        (children(), Patience::SHORT),
        |state: &mut State| -> &mut Store<ConfigMap> { &mut state.configs },
    );
    // These kinds come with k0rdent, and may come later than we do.
    feed(
        tasks,
        (client, index),
        "watch cluster deployments",
        (all(), Patience::LONG),
        |state| &mut state.deployments,
    );
    feed(
        tasks,
        (client, index),
        "watch credentials",
        (all(), Patience::LONG),
        |state| &mut state.credentials,
    );
    feed(
        tasks,
        (client, index),
        "watch cluster templates",
        (all(), Patience::LONG),
        |state| &mut state.templates,
    );
    let api: Api<PartialObjectMeta<Secret>> = Api::all(client.clone());
    let index = Arc::clone(index);
    tasks.spawn("watch secrets", async move {
        follow_metadata(api, Filter::default(), Patience::SHORT, |seen| {
            tell(&seen, "Secret");
            index.learn(|state| state.secrets.see(bare(seen)));
        })
        .await;
    });
}

fn feed<K>(
    tasks: &mut Tasks,
    (client, index): (&Client, &Arc<Index>),
    name: &'static str,
    (filter, patience): (Filter, Patience),
    shelf: Shelf<K>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    let index = Arc::clone(index);
    tasks.spawn(name, async move {
        let kind = K::kind(&());
        follow(api, filter, patience, |seen| {
            tell(&seen, &kind);
            index.learn(|state| shelf(state).see(seen));
        })
        .await;
    });
}

fn tell<K>(seen: &Seen<K>, kind: &str) {
    match seen {
        Seen::Refused(refusal) => {
            tracing::warn!(kind, object = %refusal.key, why = refusal.why, "Refused an object that cannot be read");
        }
        Seen::All { refused, .. } => {
            for refusal in refused {
                tracing::warn!(kind, object = %refusal.key, why = refusal.why, "Refused an object that cannot be read");
            }
        }
        Seen::Interrupted { absent: true, .. } => {
            tracing::debug!(kind, "The kind does not exist yet");
        }
        Seen::Interrupted { absent: false, why } => {
            tracing::warn!(kind, why = why.message, "A watch is interrupted");
        }
        Seen::Applied(_) | Seen::Deleted(_) => {}
    }
}

/// Of Secrets only the version is kept.
fn bare(seen: Seen<PartialObjectMeta<Secret>>) -> Seen<PartialObjectMeta<Secret>> {
    let strip = |mut object: PartialObjectMeta<Secret>| {
        object.metadata.annotations = None;
        object.metadata.labels = None;
        object.metadata.owner_references = None;
        object
    };
    match seen {
        Seen::All { objects, refused } => Seen::All {
            objects: objects.into_iter().map(strip).collect(),
            refused,
        },
        Seen::Applied(object) => Seen::Applied(strip(object)),
        Seen::Deleted(key) => Seen::Deleted(key),
        Seen::Refused(refusal) => Seen::Refused(refusal),
        Seen::Interrupted { absent, why } => Seen::Interrupted { absent, why },
    }
}
