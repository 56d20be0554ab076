//! Remote secrets: written in place, never deleted and made again, and never read. Only their metadata comes back.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ListParams, ObjectMeta, Patch, PatchParams},
};
use mesh_api::{NAMESPACE, labels, render::secret_kind};
use mesh_core::facts::Obstacle;
use serde_json::{Value, json};

use super::{ObjectId, Owner, Standing, Writer, refusal};
use crate::call::{CallError, Trouble, call, call_opt};

impl Owner {
    /// Whether this is ours.
    pub(crate) fn owns(&self, meta: &ObjectMeta) -> bool {
        self.standing(meta) == Standing::Ours
    }
}

fn id(name: &str) -> ObjectId {
    ObjectId {
        kind: secret_kind(),
        namespace: Some(NAMESPACE.to_owned()),
        name: name.to_owned(),
    }
}

/// Whether what we put into a remote secret under this key is still ours: whoever writes to it takes it out of our managed fields.
pub(crate) fn is_intact(meta: &ObjectMeta, key: &str) -> bool {
    let ours = meta.managed_fields.iter().flatten().filter(|entry| {
        entry.manager.as_deref() == Some(labels::CONTROLLER)
            && entry.operation.as_deref() == Some("Apply")
    });
    let holds = |fields: &Value| {
        fields
            .get("f:data")
            .and_then(|data| data.get(format!("f:{key}")))
            .is_some()
    };
    ours.into_iter().any(|entry| {
        entry
            .fields_v1
            .as_ref()
            .is_some_and(|fields| holds(&fields.0))
    })
}

impl Writer {
    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// A remote secret's metadata, with its managed fields.
    pub(crate) async fn remote_meta(&self, name: &str) -> Result<Option<ObjectMeta>, CallError> {
        let found = call_opt("get", id(name), self.secrets().get_metadata_opt(name))
            .await?
            .flatten();
        Ok(found.map(|found| found.metadata))
    }

    /// Writes a remote secret, and says what became of its metadata. One that is there is changed in place.
    ///
    /// # Errors
    ///
    /// When it is foreign or could not be written; nothing of its content is in the words.
    pub(crate) async fn put_remote(
        &self,
        name: &str,
        mut body: Value,
    ) -> Result<ObjectMeta, Obstacle> {
        let id = id(name);
        let live = self
            .remote_meta(name)
            .await
            .map_err(|error| error.obstacle())?;
        if let Some(live) = &live {
            if !self.owner.owns(live) {
                return Err(refusal(&id, live));
            }
            if live.deletion_timestamp.is_some() {
                return Err(Obstacle::new(
                    "BeingDeleted",
                    format!("{id} is being deleted"),
                ));
            }
            if let Some(meta) = body.pointer_mut("/metadata").and_then(Value::as_object_mut) {
                meta.insert("uid".to_owned(), json!(live.uid));
            }
        }
        self.allowed("apply", &id)
            .map_err(|error| error.obstacle())?;
        // Not forced where nothing was: whoever is faster than we are keeps his object.
        let params = PatchParams {
            force: live.is_some(),
            ..PatchParams::apply(self.manager)
        };
        tracing::debug!(object = %id, "Applying");
        let secrets = self.secrets();
        let patch = Patch::Apply(&body);
        let written = call("apply", &id, secrets.patch_metadata(name, &params, &patch)).await;
        written
            .map(|written| written.metadata)
            .map_err(|error| error.obstacle())
    }

    /// Deletes remote secrets of ours but these. Says how many there were: none where we may not even look, as in management without
    /// the chart's value `management.remoteSecrets`.
    ///
    /// # Errors
    ///
    /// The first request that failed.
    pub(crate) async fn prune_remotes(&self, kept: &BTreeSet<String>) -> Result<u32, CallError> {
        let which = format!("{},{}=true", self.owner.selector(), labels::MULTI_CLUSTER);
        let params = ListParams::default().labels(&which);
        let list = call(
            "list",
            "remote secrets",
            self.secrets().list_metadata(&params),
        )
        .await;
        let list = match list {
            Err(error) if error.trouble() == Trouble::Forbidden => return Ok(0),
            other => other?,
        };
        let mut found = 0;
        for secret in list.items {
            let meta = secret.metadata;
            let name = meta.name.clone().unwrap_or_default();
            if !kept.contains(&name) {
                found += u32::from(self.delete(&id(&name), &meta).await?);
            }
        }
        Ok(found)
    }
}
