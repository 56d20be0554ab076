//! Leaving a member: everything of ours goes, in an order in which nothing breaks for others and nothing comes
//! back: first the names that lead to us, then the agent, then its rights, then what it made, last what all stood on.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    apps::v1::Deployment,
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Discovery, Resource,
    api::{
        DeleteParams, DynamicObject, ListParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams,
        Preconditions,
    },
    core::NamespaceResourceScope,
    discovery::{Scope, verbs},
};
use mesh_api::{NAMESPACE, TELEMETRY_NAMESPACE, labels, render::prunable};
use serde_json::json;

use super::{ObjectId, Standing, Writer};
use crate::call::{CallError, Trouble, call, call_opt};

/// Entry of Secret `cacerts` with revocation lists; Istio's name.
const LISTS: &str = "ca-crl.pem";
/// Figures about pods, not objects.
const FIGURES: &str = "metrics.k8s.io";

/// What istiod's pods and Deployments are labelled with, in each of its revisions.
const ISTIOD: &str = "app=istiod";

/// What is left of ours in a member after a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Objects that this pass still found and deleted.
    pub found: u32,
    /// One that is being deleted, and still there.
    pub going: Option<ObjectId>,
}

impl Remains {
    /// Nothing at all is left.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.found == 0 && self.going.is_none()
    }
}

impl Writer {
    /// One pass of leaving. Leaving is complete when a pass finds nothing; until then it is to be repeated.
    ///
    /// # Errors
    ///
    /// The first request that failed. Nothing is lost: the next pass begins again.
    pub async fn leave(&self) -> Result<Remains, CallError> {
        // First what leads istiod to others.
        let mut remains = Remains {
            found: self.prune_remotes(&BTreeSet::new()).await?,
            ..Remains::default()
        };
        for kind in prunable() {
            if kind.kind == "MeshAgent" {
                remains.found += self.leave_made_by_agent().await?;
            }
            for (id, meta) in self.ours(*kind).await? {
                if meta.deletion_timestamp.is_some() {
                    remains.going = Some(id);
                    continue;
                }
                remains.found += 1;
                if id.kind.kind == "Namespace" {
                    self.leave_namespace(&id, &meta).await?;
                } else {
                    self.delete(&id, &meta).await?;
                }
            }
        }
        for namespace in [NAMESPACE, TELEMETRY_NAMESPACE] {
            remains.found += u32::from(self.give_up_labels(namespace).await?);
        }
        Ok(remains)
    }

    /// What the agent made lies in known places and carries the member's labels: another member or install that
    /// claims the same cluster keeps what is its own. Secrets are not read, only their metadata.
    async fn leave_made_by_agent(&self) -> Result<u32, CallError> {
        let made = format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_US);
        let by_label = ListParams::default().labels(&made);
        let intermediate =
            ListParams::default().fields(&format!("metadata.name={}", labels::INTERMEDIATE_SECRET));
        let mut found = self.leave_each::<Secret>(NAMESPACE, &intermediate).await?;
        found += self.leave_cacerts(true).await?;
        found += self.leave_maps().await?;
        found += self.leave_entries().await?;
        found += self.leave_each::<Lease>(NAMESPACE, &by_label).await?;
        found += self
            .leave_each::<EndpointSlice>(TELEMETRY_NAMESPACE, &by_label)
            .await?;
        let requests: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let ours = ListParams::default().fields(&format!("spec.signerName={}", labels::SIGNER));
        let list = call(
            "list",
            "certificatesigningrequests",
            requests.list_metadata(&ours),
        )
        .await?;
        for request in list.items {
            if self.owner.standing(&request.metadata) != Standing::Ours {
                continue;
            }
            found += 1;
            self.leave_one(&requests, "CertificateSigningRequest", &request.metadata)
                .await?;
        }
        Ok(found)
    }

    /// One pass of taking back what the agent made for workloads: roots and revocation lists in all namespaces, and what istiod
    /// signs with, if no istiod is there. To be repeated until nothing is found.
    ///
    /// # Errors
    ///
    /// The first request that failed.
    pub async fn leave_workloads(&self) -> Result<u32, CallError> {
        Ok(self.leave_cacerts(false).await? + self.leave_maps().await?)
    }

    /// One pass of taking back what the agent wrote for sidecars. To be repeated until nothing is found.
    ///
    /// # Errors
    ///
    /// The first request that failed.
    pub async fn leave_entries(&self) -> Result<u32, CallError> {
        let mut found = 0;
        for (id, meta) in self.ours(mesh_api::render::workload_entry_kind()).await? {
            found += u32::from(self.delete(&id, &meta).await?);
        }
        Ok(found)
    }

    /// An istiod that finds no `cacerts` when it starts makes a root of its own, which nobody trusts. So the Secret stays as long as an istiod is
    /// there: with our labels as long as we are there too, without them when we leave for good. Then its revocation lists go, since
    /// nobody would renew them.
    async fn leave_cacerts(&self, for_good: bool) -> Result<u32, CallError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let name = labels::CACERTS_SECRET;
        let object = format!("Secret {name}");
        let which = ListParams::default().fields(&format!("metadata.name={name}"));
        let list = call("list", &object, secrets.list_metadata(&which)).await?;
        let ours = list
            .items
            .iter()
            .map(|secret| &secret.metadata)
            .find(|meta| {
                self.owner.standing(meta) == Standing::Ours && meta.deletion_timestamp.is_none()
            });
        let Some(meta) = ours else {
            return Ok(0);
        };
        if !self.has_istiod().await? {
            self.leave_one(&secrets, "Secret", meta).await?;
            return Ok(1);
        }
        if !for_good {
            return Ok(0);
        }
        tracing::info!("Leaving Secret cacerts to istiod");
        self.allowed("patch", &object)?;
        let body = json!({
            "metadata": {
                "uid": meta.uid,
                "labels": { (labels::MANAGED_BY): null, (labels::INSTALL): null, (labels::MEMBER): null },
            },
            "data": { (LISTS): null },
        });
        let patch = Patch::Merge(&body);
        let params = PatchParams {
            field_manager: Some(self.manager.to_owned()),
            ..PatchParams::default()
        };
        match call(
            "patch",
            &object,
            secrets.patch_metadata(name, &params, &patch),
        )
        .await
        {
            Ok(_) => Ok(1),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// Whether an istiod is there, also one that does not run now.
    async fn has_istiod(&self) -> Result<bool, CallError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let which = ListParams::default().labels(ISTIOD).limit(1);
        match call("list", "deployments of istiod", api.list_metadata(&which)).await {
            // What we may not see may well be there.
            Err(error) if error.trouble() == Trouble::Forbidden => Ok(true),
            list => Ok(!list?.items.is_empty()),
        }
    }

    async fn leave_maps(&self) -> Result<u32, CallError> {
        let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
        let mut found = 0;
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        for name in [labels::ROOT_CONFIG_MAP, labels::CRL_CONFIG_MAP] {
            let which = named(name);
            let listing = maps.list_metadata(&which);
            let list = call("list", format!("configmaps {name}"), listing).await?;
            for map in list.items {
                let meta = &map.metadata;
                if self.owner.standing(meta) != Standing::Ours || meta.deletion_timestamp.is_some()
                {
                    continue;
                }
                found += 1;
                let namespace = meta.namespace.as_deref().unwrap_or_default();
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                self.leave_one(&api, &format!("ConfigMap {namespace}"), meta)
                    .await?;
            }
        }
        Ok(found)
    }

    async fn leave_each<K>(&self, namespace: &str, which: &ListParams) -> Result<u32, CallError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send,
        PartialObjectMeta<K>: Send,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let plural = K::plural(&()).into_owned();
        let list = call(
            "list",
            format!("{plural} in {namespace}"),
            api.list_metadata(which),
        )
        .await?;
        let mut found = 0;
        for object in list.items {
            // On management the controller's own Lease is not the member's.
            let theirs = object.metadata.name.as_deref() == Some(crate::lease::NAME);
            if self.owner.standing(&object.metadata) == Standing::Ours
                && !theirs
                && object.metadata.deletion_timestamp.is_none()
            {
                found += 1;
                self.leave_one(&api, &plural, &object.metadata).await?;
            }
        }
        Ok(found)
    }

    async fn leave_one<K>(
        &self,
        api: &Api<K>,
        kind: &str,
        meta: &ObjectMeta,
    ) -> Result<(), CallError>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send,
    {
        let name = meta.name.clone().unwrap_or_default();
        let object = format!("{kind} {name}");
        self.allowed("delete", &object)?;
        let preconditions = Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: None,
        });
        let params = DeleteParams {
            preconditions,
            ..DeleteParams::background()
        };
        match call("delete", &object, api.delete(&name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A namespace that we made goes when nothing of others is in it; else only our labels go.
    async fn leave_namespace(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<(), CallError> {
        match self.tenant(&id.name).await? {
            None => {
                self.delete(id, meta).await?;
            }
            Some(tenant) => {
                tracing::info!(namespace = %id.name, %tenant, "Leaving the namespace to others");
                self.allowed("apply", id)?;
                // Applying nothing gives up everything that we applied before.
                let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": id.name, "uid": meta.uid } });
                let params = PatchParams::apply(self.manager).force();
                call(
                    "apply",
                    id,
                    self.api(id).patch(&id.name, &params, &Patch::Apply(&body)),
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Something in a namespace that is neither ours nor in every namespace.
    async fn tenant(&self, namespace: &str) -> Result<Option<String>, CallError> {
        let discovery = call(
            "discover",
            "the API",
            Discovery::new(self.client.clone())
                .exclude(&[FIGURES])
                .run_aggregated(),
        )
        .await?;
        for group in discovery.groups() {
            for (kind, capabilities) in group.recommended_resources() {
                if capabilities.scope != Scope::Namespaced
                    || !capabilities.supports_operation(verbs::LIST)
                {
                    continue;
                }
                let api: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), namespace, &kind);
                let object = format!("{} in {namespace}", kind.plural);
                let list = match call_opt(
                    "list",
                    object,
                    api.list_metadata(&ListParams::default().limit(50)),
                )
                .await
                {
                    // What we may not see may well be there.
                    Err(error) if error.trouble() == Trouble::Forbidden => {
                        return Ok(Some(format!("{}, perhaps", kind.plural)));
                    }
                    list => list?,
                };
                let found = list
                    .into_iter()
                    .flat_map(|list| list.items)
                    .find(|o| !is_usual(&kind.kind, &o.metadata));
                if let Some(found) = found {
                    return Ok(Some(format!(
                        "{} {}",
                        kind.kind,
                        found.metadata.name.unwrap_or_default()
                    )));
                }
            }
        }
        Ok(None)
    }
}

/// In every namespace, or on its way out with us.
fn is_usual(kind: &str, meta: &ObjectMeta) -> bool {
    let name = meta.name.as_deref().unwrap_or_default();
    let none = BTreeMap::new();
    let all = meta.labels.as_ref().unwrap_or(&none);
    let ours = all
        .get(labels::MANAGED_BY)
        .is_some_and(|by| by == labels::MANAGED_BY_US)
        || all.get("app").is_some_and(|app| app == labels::AGENT_NAME);
    let usual = match kind {
        "Event" => true,
        "ConfigMap" => name == "kube-root-ca.crt",
        "ServiceAccount" => name == "default",
        _ => false,
    };
    ours || usual || meta.deletion_timestamp.is_some()
}
