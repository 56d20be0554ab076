//! Labels on namespaces that belong to others: only ours are written, none of theirs is changed, and ours go with us.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams},
};
use mesh_api::labels;
use mesh_core::facts::Obstacle;
use serde_json::{Value, json};

use super::{ObjectId, Outcome, Standing, Writer};
use crate::call::{CallError, call, call_opt};

/// Our marks say whose an object is; they are only on what is ours.
const MARKS: [&str; 3] = [labels::MANAGED_BY, labels::INSTALL, labels::MEMBER];

/// What to do about the labels of somebody else's namespace.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// They are as they should be.
    Nothing,
    /// These are to be ours; none: what was ours is to go.
    Apply(BTreeMap<String, String>),
    /// Somebody else wants another value.
    Refuse(String, String, String),
}

fn step(body: &Value, meta: &ObjectMeta, manager: &str) -> Step {
    let wanted: BTreeMap<String, String> = body
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| !MARKS.contains(&key.as_str()))
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let none = BTreeMap::new();
    let there = meta.labels.as_ref().unwrap_or(&none);
    let other = wanted.iter().find_map(|(key, value)| {
        let seen = there.get(key).filter(|seen| *seen != value)?;
        Some((key.clone(), seen.clone(), value.clone()))
    });
    if let Some((key, seen, value)) = other {
        return Step::Refuse(key, seen, value);
    }
    let present = wanted.keys().all(|key| there.contains_key(key));
    if present && (!wanted.is_empty() || !owns(meta, manager)) {
        Step::Nothing
    } else {
        Step::Apply(wanted)
    }
}

/// Whether we have applied anything there. What another install of ours made is its own.
fn owns(meta: &ObjectMeta, manager: &str) -> bool {
    let theirs = meta.labels.as_ref().is_some_and(|labels| {
        labels.contains_key(labels::MANAGED_BY) && labels.contains_key(labels::INSTALL)
    });
    let fields = meta.managed_fields.iter().flatten();
    !theirs
        && fields
            .into_iter()
            .any(|entry| entry.manager.as_deref() == Some(manager))
}

/// What is applied. Without labels the field is left out: who applies an empty one owns it ever after, and would never be done.
fn applied(id: &ObjectId, meta: &ObjectMeta, labels: &BTreeMap<String, String>) -> Value {
    let mut metadata = json!({ "name": id.name, "uid": meta.uid });
    if let Some(metadata) = metadata.as_object_mut()
        && !labels.is_empty()
    {
        metadata.insert("labels".to_owned(), json!(labels));
    }
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })
}

impl Writer {
    /// Sees to our labels on a namespace that is somebody else's.
    pub(super) async fn visit(
        &self,
        id: &ObjectId,
        body: &Value,
        meta: &ObjectMeta,
    ) -> Result<Outcome, CallError> {
        match step(body, meta, self.manager) {
            Step::Nothing => Ok(Outcome::Shared),
            Step::Apply(labels) => {
                self.put_labels(id, meta, &labels).await?;
                Ok(Outcome::Written)
            }
            Step::Refuse(key, seen, value) => {
                let message =
                    format!("{id} has label {key}={seen}, which is not ours; {value} is needed");
                Ok(Outcome::Refused(Obstacle::new("LabelTaken", message)))
            }
        }
    }

    async fn put_labels(
        &self,
        id: &ObjectId,
        meta: &ObjectMeta,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), CallError> {
        self.allowed("apply", id)?;
        let body = applied(id, meta, labels);
        // Not forced: whoever has set a label keeps it.
        let params = PatchParams::apply(self.manager);
        let api = self.api(id);
        let patch = Patch::Apply(&body);
        call("apply", id, api.patch(&id.name, &params, &patch))
            .await
            .map(drop)
    }

    /// Takes our labels off a namespace that is somebody else's. Says whether there were any.
    pub(super) async fn give_up_labels(&self, name: &str) -> Result<bool, CallError> {
        let id = ObjectId {
            kind: mesh_api::render::namespace_kind(),
            namespace: None,
            name: name.to_owned(),
        };
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = call_opt("get", &id, api.get_metadata_opt(name))
            .await?
            .flatten();
        let Some(meta) = found.map(|found| found.metadata) else {
            return Ok(false);
        };
        let foreign =
            self.owner.standing(&meta) == Standing::Foreign && meta.deletion_timestamp.is_none();
        if !foreign || step(&json!({}), &meta, self.manager) == Step::Nothing {
            return Ok(false);
        }
        self.put_labels(&id, &meta, &BTreeMap::new()).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

    use super::*;

    fn meta(labels: &[(&str, &str)], managers: &[&str]) -> ObjectMeta {
        let entry = |manager: &&str| ManagedFieldsEntry {
            manager: Some((*manager).to_owned()),
            ..ManagedFieldsEntry::default()
        };
        ObjectMeta {
            labels: Some(
                labels
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ),
            managed_fields: Some(managers.iter().map(entry).collect()),
            ..ObjectMeta::default()
        }
    }

    fn body(labels: &[(&str, &str)]) -> Value {
        let mut all: BTreeMap<&str, &str> = labels.iter().copied().collect();
        all.extend(MARKS.map(|mark| (mark, "x")));
        json!({ "metadata": { "name": "kof", "labels": all } })
    }

    #[test]
    fn giving_up_leaves_no_field_of_ours() {
        let id = ObjectId {
            kind: mesh_api::render::namespace_kind(),
            namespace: None,
            name: "kof".to_owned(),
        };
        let meta = meta(&[], &["us"]);
        let none = applied(&id, &meta, &BTreeMap::new());
        assert_eq!(none.pointer("/metadata/labels"), None);
        let one = BTreeMap::from([("net".to_owned(), "a".to_owned())]);
        let some = applied(&id, &meta, &one);
        assert_eq!(some.pointer("/metadata/labels/net"), Some(&json!("a")));
    }

    #[test]
    fn labels_are_added_to_what_is_there_and_never_changed() {
        let wanted = body(&[("net", "a")]);
        let added = BTreeMap::from([("net".to_owned(), "a".to_owned())]);
        let cases = [
            (meta(&[("other", "1")], &["helm"]), Step::Apply(added)),
            (meta(&[("net", "a")], &["helm"]), Step::Nothing),
            (
                meta(&[("net", "b")], &["helm"]),
                Step::Refuse("net".into(), "b".into(), "a".into()),
            ),
        ];
        for (meta, expected) in cases {
            assert_eq!(step(&wanted, &meta, "us"), expected, "{meta:?}");
        }
    }

    #[test]
    fn only_what_is_ours_is_given_up() {
        let nothing = body(&[]);
        let ours = meta(&[("net", "a")], &["helm", "us"]);
        assert_eq!(step(&nothing, &ours, "us"), Step::Apply(BTreeMap::new()));
        assert_eq!(
            step(&nothing, &meta(&[("net", "a")], &["helm"]), "us"),
            Step::Nothing
        );
        // Another install of ours made this one, under the same manager.
        let other = [
            (labels::MANAGED_BY, labels::MANAGED_BY_US),
            (labels::INSTALL, "z"),
        ];
        assert_eq!(step(&nothing, &meta(&other, &["us"]), "us"), Step::Nothing);
    }
}
