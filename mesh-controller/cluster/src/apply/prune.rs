//! Taking away what is ours and no longer wanted.

use kube::api::{DeleteParams, ListParams, ObjectMeta, Preconditions, PropagationPolicy};
use mesh_api::render::{ManagedKind, prunable};

use super::{Batch, Done, ObjectId, Writer, resource};
use crate::call::{CallError, call, call_opt};

impl Writer {
    /// Deletes what carries our labels and is not in the batch. Does nothing when the API server did not answer to the end.
    ///
    /// # Errors
    ///
    /// The first request that failed.
    pub async fn prune(&self, kept: &Batch<Done>) -> Result<u32, CallError> {
        let mut deleted = 0;
        if !kept.answered {
            return Ok(deleted);
        }
        for kind in prunable() {
            for (id, meta) in self.ours(*kind).await? {
                if !kept.keeps(&id) {
                    deleted += u32::from(self.delete(&id, &meta).await?);
                }
            }
        }
        Ok(deleted)
    }

    /// What is ours of one kind, in the whole cluster; nothing of a kind that the cluster does not know.
    pub(super) async fn ours(
        &self,
        kind: ManagedKind,
    ) -> Result<Vec<(ObjectId, ObjectMeta)>, CallError> {
        let api =
            kube::Api::<kube::api::DynamicObject>::all_with(self.client.clone(), &resource(kind));
        let params = ListParams::default().labels(&self.owner.selector());
        let found = call_opt("list", kind.plural, api.list_metadata(&params)).await?;
        let id = |meta: &ObjectMeta| ObjectId {
            kind,
            namespace: meta.namespace.clone().filter(|n| !n.is_empty()),
            name: meta.name.clone().unwrap_or_default(),
        };
        Ok(found
            .into_iter()
            .flat_map(|list| list.items)
            .map(|object| (id(&object.metadata), object.metadata))
            .collect())
    }

    /// Deletes this very object, not another of the same name. Says whether there was anything to do.
    pub(super) async fn delete(&self, id: &ObjectId, meta: &ObjectMeta) -> Result<bool, CallError> {
        if meta.deletion_timestamp.is_some() {
            return Ok(false);
        }
        self.allowed("delete", id)?;
        tracing::info!(object = %id, "Deleting");
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: meta.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match call("delete", id, self.api(id).delete(&id.name, &params)).await {
            Ok(_) => Ok(true),
            // Gone already, or another object by now.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
