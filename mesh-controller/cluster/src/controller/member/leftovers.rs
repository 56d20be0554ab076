//! What other tools have left in a member, looked for now and then: lists of a few kinds in one namespace, of Secrets the metadata alone.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta},
    core::GroupVersionKind,
};
use mesh_api::{NAMESPACE, labels, read};
use mesh_core::leftovers::Found;
use serde_json::Value;

use super::Member;
use crate::{
    call::{CallError, Trouble, call},
    lease::jittered,
};

/// Before the first look: what is on its way into a member goes first.
const FIRST: Duration = Duration::from_secs(10);
/// Between looks.
const LOOK: Duration = Duration::from_mins(10);
/// Most objects of one kind.
const MOST: u32 = 500;

/// Reads one object of another group.
type Read = fn(&ObjectMeta, &Value) -> Option<Found>;

/// Kinds of others that are looked at: group, version, kind, plural.
const KINDS: [([&str; 4], Read); 3] = [
    (
        ["networking.istio.io", "v1", "Gateway", "gateways"],
        read::left_gateway,
    ),
    (
        ["cert-manager.io", "v1", "Issuer", "issuers"],
        read::left_issuer,
    ),
    (
        ["cert-manager.io", "v1", "Certificate", "certificates"],
        read::left_authority,
    ),
];

/// What may not be seen, and a kind that is not there, is nothing.
fn seen<T>(answer: Result<Vec<T>, CallError>) -> Result<Vec<T>, CallError> {
    match answer {
        Err(error) if matches!(error.trouble(), Trouble::Forbidden | Trouble::NotFound) => {
            Ok(Vec::new())
        }
        answer => answer,
    }
}

async fn secrets(client: &Client, which: ListParams) -> Result<Vec<ObjectMeta>, CallError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let list = call("list", "Secrets", api.list_metadata(&which.limit(MOST))).await;
    let metas = |list: kube::core::ObjectList<_>| {
        let items: Vec<kube::api::PartialObjectMeta<Secret>> = list.items;
        items.into_iter().map(|secret| secret.metadata).collect()
    };
    seen(list.map(metas))
}

/// All that is there of others.
async fn look(client: &Client) -> Result<BTreeSet<Found>, CallError> {
    let remote = ListParams::default().labels(&format!("{}=true", labels::MULTI_CLUSTER));
    let token = ListParams::default().fields("type=kubernetes.io/service-account-token");
    let remotes = secrets(client, remote).await?;
    let tokens = secrets(client, token).await?;
    let mut found: BTreeSet<Found> = remotes.iter().filter_map(read::left_remote).collect();
    found.extend(tokens.iter().filter_map(read::left_token));
    for ([group, version, kind, plural], read) in KINDS {
        let known = GroupVersionKind::gvk(group, version, kind);
        let known = ApiResource::from_gvk_with_plural(&known, plural);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &known);
        let list = call("list", plural, api.list(&ListParams::default().limit(MOST))).await;
        let objects = seen(list.map(|list| list.items))?;
        let objects = objects.iter();
        found.extend(objects.filter_map(|object| read(&object.metadata, &object.data)));
    }
    Ok(found)
}

impl Member {
    /// Looks now and then, for as long as the session lasts.
    pub(super) async fn look_for_leftovers(&self, client: &Client) {
        let mut pause = FIRST;
        loop {
            tokio::time::sleep(jittered(pause)).await;
            pause = LOOK;
            match look(client).await {
                Ok(found) => self.report(|seen| seen.leftovers = Some(found)),
                Err(error) => {
                    tracing::debug!(member = %self.key, why = mesh_core::text::chain(&error), "Cannot look for left-overs");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
