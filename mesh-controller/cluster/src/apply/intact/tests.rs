use serde_json::json;

use super::*;

const US: &str = "us";

fn wanted() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "a", "namespace": "n", "labels": { "x": "1" } },
        "spec": { "ports": [{ "port": 1, "name": "p" }], "selector": { "app": "a" }, "args": ["1", "2"], "empty": {} },
    })
}

fn live() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "a", "namespace": "n", "labels": { "x": "1", "theirs": "2" },
            "managedFields": [
                { "manager": "them", "operation": "Update", "fieldsV1": {} },
                { "manager": US, "operation": "Apply", "fieldsV1": {
                    "f:metadata": { "f:labels": { "f:x": {} } },
                    "f:spec": {
                        "f:ports": { "k:{\"port\":1,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {}, "f:name": {} } },
                        "f:selector": {},
                        "f:args": {},
                    },
                } },
            ],
        },
        "spec": {
            "ports": [{ "port": 9, "protocol": "TCP" }, { "port": 1, "name": "p", "protocol": "TCP" }],
            "selector": { "app": "a" }, "args": ["1", "2"], "clusterIP": "10.0.0.1",
        },
        "status": {},
    })
}

#[test]
fn what_others_add_is_theirs() {
    assert!(intact(&wanted(), &live(), US));
}

#[test]
fn sees_every_change_of_ours() {
    let changes: [(&str, Value); 6] = [
        ("/metadata/labels/x", json!("2")),
        ("/spec/ports/1/name", json!("q")),
        ("/spec/selector/app", json!("b")),
        ("/spec/args", json!(["1", "2", "3"])),
        ("/spec/args", json!(["1"])),
        ("/spec/ports", json!([])),
    ];
    for (path, value) in changes {
        let mut live = live();
        *live.pointer_mut(path).unwrap() = value;
        assert!(!intact(&wanted(), &live, US), "{path}");
    }
}

#[test]
fn sees_that_a_field_was_taken_from_us() {
    for (parent, field) in [("", "f:metadata"), ("/f:spec", "f:ports")] {
        let mut live = live();
        let fields = live
            .pointer_mut(&format!("/metadata/managedFields/1/fieldsV1{parent}"))
            .unwrap();
        fields.as_object_mut().unwrap().remove(field).unwrap();
        assert!(!intact(&wanted(), &live, US), "{field}");
    }
    assert!(!intact(&wanted(), &live(), "somebody"));
}

#[test]
fn numbers_are_what_they_are_worth() {
    assert!(same(&json!({ "minimum": 1.0 }), &json!({ "minimum": 1 })));
    assert!(!same(&json!({ "minimum": 1.0 }), &json!({ "minimum": 2 })));
}
