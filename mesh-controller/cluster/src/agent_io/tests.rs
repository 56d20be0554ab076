use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::{follow, seen, *};

fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn request(status: Value) -> CsrOutcome {
    let mut object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "a"},
        "spec": {"request": "YQ==", "signerName": mesh_api::labels::SIGNER, "usages": ["cert sign"]},
    });
    object["status"] = status;
    seen::csr(&read(object)).outcome
}

#[test]
fn a_request_is_pending_until_something_is_said() {
    assert_eq!(request(json!({})), CsrOutcome::Pending);
    let approved =
        json!([{"type": "Approved", "status": "True", "reason": "Member", "message": "x"}]);
    assert_eq!(
        request(json!({"conditions": approved})),
        CsrOutcome::Pending
    );
    assert_eq!(
        request(json!({"conditions": approved, "certificate": "Yg=="})),
        CsrOutcome::Issued(b"b".to_vec())
    );
    let said = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "reason": "R", "message": "m"}]});
    let (reason, message) = ("R".to_owned(), "m".to_owned());
    assert_eq!(
        request(said("Denied")),
        CsrOutcome::Denied {
            reason: reason.clone(),
            message: message.clone()
        }
    );
    assert_eq!(
        request(said("Failed")),
        CsrOutcome::Failed { reason, message }
    );
}

fn pod(status: Value, deleted: bool) -> PodSeen {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    object["status"] = status;
    if deleted {
        object["metadata"]["deletionTimestamp"] = json!("2026-11-21T04:00:00Z");
    }
    seen::pod(&read(object))
}

#[test]
fn a_pod_that_ends_is_not_ready() {
    let up = json!({
        "phase": "Running",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "garbage"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    let seen = pod(up.clone(), false);
    assert!(seen.ready && !seen.leaving);
    assert_eq!(seen.ips.len(), 2);
    let seen = pod(up.clone(), true);
    assert!(!seen.ready && seen.leaving);
    let mut over = up;
    over["phase"] = json!("Failed");
    assert!(pod(over, false).leaving);
    assert!(!pod(json!({}), false).ready);
}

#[test]
fn secrets_are_not_shown() {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "resourceVersion": "3"},
        "data": {"g1.key": "c2VjcmV0"},
    });
    let seen = seen::secret(&read(object));
    assert_eq!(seen.data["g1.key"].as_slice(), b"secret");
    let shown = format!("{seen:?}");
    assert!(
        shown.contains("g1.key") && !shown.contains("115, 101"),
        "{shown}"
    );
}

#[test]
fn a_slice_is_read_as_it_was_applied() {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "a", "labels": {
            "endpointslice.kubernetes.io/managed-by": "kof-istio",
            "kubernetes.io/service-name": "region1-vmauth",
            "app.kubernetes.io/managed-by": "kof-istio",
        }},
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
        "ports": [{"name": "http", "port": 8427}],
    });
    let slice = seen::slice(&read(object));
    assert_eq!(slice.service, "region1-vmauth");
    assert_eq!(slice.addresses.len(), 2);
    assert_eq!(slice.port, ("http".to_owned(), 8427));
    assert_eq!(
        slice.marks.keys().collect::<Vec<_>>(),
        ["app.kubernetes.io/managed-by"]
    );
}

#[test]
fn nothing_is_shown_of_a_list_before_it_is_whole() {
    let pod = |name: &str| -> k8s_openapi::api::core::v1::Pod {
        read(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}))
    };
    let mut listing = None;
    let mut present = BTreeMap::from([("old".to_owned(), seen::pod(&pod("old")))]);
    let mut take = |event| {
        let name = |pod: &k8s_openapi::api::core::v1::Pod| kube::ResourceExt::name_any(pod);
        follow::take(event, (name, &seen::pod), &mut listing, &mut present);
        (
            listing.is_some(),
            present.keys().cloned().collect::<Vec<_>>(),
        )
    };
    assert_eq!(take(Event::Init), (true, vec!["old".to_owned()]));
    assert_eq!(
        take(Event::InitApply(pod("a"))),
        (true, vec!["old".to_owned()])
    );
    assert_eq!(take(Event::InitDone), (false, vec!["a".to_owned()]));
    assert_eq!(
        take(Event::Apply(pod("b"))),
        (false, vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(take(Event::Delete(pod("a"))), (false, vec!["b".to_owned()]));
}

/// A map of ours, with these entries, labels beside ours, and a manager of each of these fields.
fn map(entries: &Value, label: &str, fields: &[(&str, &str)]) -> MapSeen {
    let written = |(manager, field): &(&str, &str)| json!({"manager": manager, "fieldsV1": {"f:data": {*field: {}}}});
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "a",
            "namespace": "anywhere",
            "uid": "u",
            "labels": {mesh_api::labels::MEMBER: "m1", label: "true"},
            "managedFields": fields.iter().map(written).collect::<Vec<_>>(),
        },
        "data": entries,
    });
    maps::Reading::new("b").map(&read(object))
}

#[test]
fn a_map_is_judged_by_its_one_entry() {
    let draft = MapDraft {
        name: "a",
        entry: "b",
        text: "lists".to_owned(),
        marks: BTreeMap::from([(mesh_api::labels::MEMBER.to_owned(), "m1".to_owned())]),
    };
    let ours = (mesh_api::labels::AGENT, "f:b");
    let seen = map(
        &json!({"a": "x", "b": "lists", "c": "y"}),
        "x",
        &[ours, ("kubectl", "f:a")],
    );
    assert_eq!((&seen.hash, &seen.marks), (&draft.hash(), &draft.marks));
    assert_eq!((seen.text.as_deref(), seen.shared), (Some("lists"), false));
    let without = map(&json!({"a": "lists"}), "x", &[ours]);
    assert_eq!((without.hash.as_str(), without.text), ("", None));
    let empty = MapDraft {
        text: String::new(),
        ..draft
    };
    assert_eq!(map(&json!({"b": ""}), "x", &[ours]).hash, empty.hash());
    // Taken over by istiod, or its own from the first.
    for (label, manager) in [("x", "pilot-discovery"), ("istio.io/config", ours.0)] {
        let seen = map(&json!({"b": "lists"}), label, &[ours, (manager, "f:b")]);
        assert_eq!((seen.shared, seen.text), (true, None), "{label} {manager}");
    }
}

#[test]
fn a_text_that_stands_in_many_maps_is_kept_once() {
    let reading = maps::Reading::new("b");
    let text = |text: &str| {
        let labels = json!({mesh_api::labels::MEMBER: "m1"});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": labels}, "data": {"b": text}});
        reading.map(&read(object)).text.unwrap()
    };
    let (one, two, other) = (text("lists"), text("lists"), text("others"));
    assert!(std::sync::Arc::ptr_eq(&one, &two));
    assert_eq!((&*one, &*other), ("lists", "others"));
}
