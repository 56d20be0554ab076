//! `WorkloadEntry` objects of Istio in namespace kof: where sidecars find the gateways of regions.

use std::collections::BTreeMap;

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
};
use mesh_api::{TELEMETRY_NAMESPACE, labels};
use serde_json::{Value, json};

use super::{
    AgentIoError, OwnCluster,
    seen::{self, Entry},
    write::{apply_as, call},
};

fn kind() -> ApiResource {
    ApiResource {
        group: "networking.istio.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "networking.istio.io/v1".to_owned(),
        kind: "WorkloadEntry".to_owned(),
        plural: "workloadentries".to_owned(),
    }
}

fn object_of(name: &str, entry: &Entry) -> Value {
    let mut marks = entry.marks.clone();
    marks.insert(labels::SERVICE.to_owned(), entry.service.clone());
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": { "name": name, "namespace": TELEMETRY_NAMESPACE, "labels": marks },
        "spec": {
            "address": entry.address,
            "ports": { (entry.port.0.clone()): entry.port.1 },
            // A Service selects by these; the account makes istiod expect mutual TLS and this identity.
            "labels": { (labels::SERVICE): entry.service },
            "serviceAccount": entry.account,
        },
    })
}

impl OwnCluster {
    fn entries(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), TELEMETRY_NAMESPACE, &kind())
    }

    /// The entries that are ours; one that is not as we write it has no content. Nothing when Istio is not installed.
    pub async fn list_entries(
        &self,
    ) -> Result<Option<BTreeMap<String, Option<Entry>>>, AgentIoError> {
        let ours = format!(
            "{}={},{}",
            labels::MANAGED_BY,
            labels::MANAGED_BY_US,
            labels::SERVICE
        );
        let (entries, params) = (self.entries(), ListParams::default().labels(&ours));
        match call("list", "workloadentries in kof", entries.list(&params)).await {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(list) => Ok(Some(
                list.items
                    .iter()
                    .filter_map(|object| Some((object.metadata.name.clone()?, seen::entry(object))))
                    .collect(),
            )),
        }
    }

    /// Applies an entry. Every replica applies the same as the same field manager.
    pub async fn apply_entry(&self, name: &str, entry: &Entry) -> Result<(), AgentIoError> {
        let object = object_of(name, entry);
        let (params, patch) = apply_as(labels::AGENT, &object);
        let entries = self.entries();
        let patching = entries.patch(name, &params, &patch);
        call(
            "apply",
            format!("WorkloadEntry {TELEMETRY_NAMESPACE}/{name}"),
            patching,
        )
        .await
        .map(drop)
    }

    /// Deletes an entry of ours.
    pub async fn delete_entry(&self, name: &str) -> Result<(), AgentIoError> {
        let (entries, params) = (self.entries(), DeleteParams::default());
        let object = format!("WorkloadEntry {TELEMETRY_NAMESPACE}/{name}");
        match call("delete", object, entries.delete(name, &params)).await {
            Err(error) if !error.is_not_found() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let entry = Entry {
            service: "region1-vmauth".to_owned(),
            address: "192.0.2.7".parse().unwrap(),
            port: ("http".to_owned(), 15443),
            account: "vmauth".to_owned(),
            marks: [(
                "app.kubernetes.io/managed-by".to_owned(),
                "kof-istio".to_owned(),
            )]
            .into(),
        };
        let object: DynamicObject = serde_json::from_value(object_of("x", &entry)).unwrap();
        assert_eq!(seen::entry(&object), Some(entry));
        let mut other = object.clone();
        other.data["spec"]["network"] = json!("elsewhere");
        assert_eq!(
            seen::entry(&other),
            None,
            "a field that is not ours is seen"
        );
        let mut other = object;
        other.data["spec"]["address"] = json!("gateway.example");
        assert_eq!(seen::entry(&other), None);
    }
}
