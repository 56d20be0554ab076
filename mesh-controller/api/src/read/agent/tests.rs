use serde_json::json;

use super::*;

fn service(ingress: &serde_json::Value) -> Service {
    serde_json::from_value(json!({ "status": { "loadBalancer": { "ingress": ingress } } })).unwrap()
}

fn hosts(ingress: &serde_json::Value) -> Vec<String> {
    gateway(&service(ingress))
        .into_iter()
        .map(|t| t.host)
        .collect()
}

/// A region's word about its address goes into the `MeshAgent` of each of its peers, which takes all of it or nothing.
#[test]
fn an_address_that_peers_could_not_take_is_left_out() {
    let long = "a".repeat(300);
    let found = hosts(&json!([
        { "ip": "192.0.2.1" }, { "ip": "2001:db8::1" }, { "hostname": "lb_1.Example.org." },
        { "hostname": long }, { "hostname": "" }, { "hostname": "a..b" }, { "hostname": "a b" }, { "hostname": "a/b" },
        { "hostname": format!("{}.org", "a".repeat(64)) },
    ]));
    assert_eq!(found, ["192.0.2.1", "2001:db8::1", "lb_1.Example.org."]);
    let many: Vec<_> = (0..5000)
        .map(|n| json!({ "hostname": format!("h{n}.example") }))
        .collect();
    assert_eq!(hosts(&json!(many)).len(), ADDRESSES_MAX);
}

/// A member's words end in status and events on management: they are short, and reasons are words.
#[test]
fn what_a_member_says_is_cut_to_size() {
    let long = format!("a\u{1b}[2J\n{}", "x".repeat(1_000_000));
    let path = |region: &str| {
        json!({ "region": region, "ready": false, "reason": "a reason\n", "message": long,
        "since": "2026-01-01T00:00:00Z", "unresolved": { "reason": long, "message": long } })
    };
    let replica = |pod: &str| json!({ "pod": pod, "version": "1", "rejected": long, "paths": [path("region1")] });
    let mut replicas: Vec<_> = (0..100).map(|n| replica(&format!("pod-{n}"))).collect();
    replicas.insert(0, replica(&long));
    let spec = json!({ "mesh": "m", "cluster": "c", "role": "child", "trustDomain": "t", "identity": "i", "signerGeneration": 1,
        "root": { "generation": 1, "certificate": "" }, "leafSeconds": 60, "intermediateSeconds": 600 });
    let object = json!({ "apiVersion": "mesh.kof.k0rdent.mirantis.com/v1alpha1", "kind": "MeshAgent", "metadata": { "name": "mesh" },
        "spec": spec, "status": { "obstacle": { "reason": "RequestDenied", "message": long }, "replicas": replicas } });
    let facts = agent(&serde_json::from_value(object).unwrap());
    let obstacle = facts.intermediate_obstacle.unwrap();
    assert_eq!(obstacle.reason, "RequestDenied");
    assert_eq!(obstacle.message.chars().count(), TEXT_MAX);
    assert!(!obstacle.message.contains(char::is_control));
    assert_eq!(facts.replicas.len(), REPLICAS_MAX);
    for (pod, replica) in &facts.replicas {
        assert!(pod.starts_with("pod-"));
        assert_eq!(replica.rejected.as_ref().unwrap().chars().count(), TEXT_MAX);
        for why in replica.unresolved.values().chain(
            replica
                .paths
                .values()
                .filter_map(|p| p.outcome.as_ref().err()),
        ) {
            assert_eq!(why.reason, "Unreadable");
            assert_eq!(why.message.chars().count(), TEXT_MAX);
        }
        assert_eq!((replica.unresolved.len(), replica.paths.len()), (1, 1));
    }
}

/// A pod that only probes is no replica of the agent: it has no Envoy, and its number takes nobody's place.
#[test]
fn who_only_probes_is_told_apart() {
    let path = json!({ "region": "region1", "ready": true, "reason": "Answered", "message": "", "since": "2026-01-01T00:00:00Z" });
    let pod = |name: String, sidecar: bool| json!({ "pod": name, "version": "1", "acceptedGeneration": 3, "sidecar": sidecar, "paths": [path] });
    let mut replicas: Vec<_> = (0..100).map(|n| pod(format!("p{n}"), true)).collect();
    replicas.push(pod("agent".to_owned(), false));
    let spec = json!({ "mesh": "m", "cluster": "c", "role": "child", "trustDomain": "t", "identity": "i", "signerGeneration": 1,
        "root": { "generation": 1, "certificate": "" }, "leafSeconds": 60, "intermediateSeconds": 600 });
    let object = json!({ "apiVersion": "mesh.kof.k0rdent.mirantis.com/v1alpha1", "kind": "MeshAgent", "metadata": { "name": "mesh" },
        "spec": spec, "status": { "replicas": replicas } });
    let object: MeshAgent = serde_json::from_value(object).unwrap();
    let facts = agent(&object);
    assert_eq!(facts.replicas.keys().collect::<Vec<_>>(), ["agent"]);
    assert_eq!(facts.probers.len(), REPLICAS_MAX);
    assert!(facts.probers.values().all(|paths| paths.len() == 1));
    // Agents of before do not say what they are not.
    let agent = serde_json::to_value(&object.status.unwrap().replicas[100]).unwrap();
    assert!(agent.get("sidecar").is_none());
}
