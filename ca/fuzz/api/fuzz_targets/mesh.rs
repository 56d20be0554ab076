//! Our objects as an API server hands them out: read, written and read again they are the same, what a `Mesh` promises can be kept, and what a
//! member reports fills nobody else's objects.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_api::{
    agent::MeshAgent,
    member::MeshMember,
    mesh::Mesh,
    read::{self, LIST_MAX},
};
use mesh_fuzz::came;
use serde::{Serialize, de::DeserializeOwned};

/// Most characters of a member's text that go on.
const TEXT_MAX: usize = 1000;
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Whether it is one of our objects, and a `Mesh` whose rules are taken.
fn judge(data: &[u8]) -> bool {
    let mut taken = false;
    if let Some(mesh) = object::<Mesh>(data) {
        if let Ok(rules) = read::mesh(&mesh) {
            assert!(rules.leaf_life <= rules.intermediate_life);
            assert!(rules.intermediate_life <= rules.root_life);
            rules.contract.check().expect("a contract can be kept");
            assert!((1..=9).contains(&rules.replicas));
            taken = true;
        }
        if let Some(status) = &mesh.status {
            assert_eq!(read::revocations(status).len(), status.revocations.len());
        }
    }
    if let Some(agent) = object::<MeshAgent>(data) {
        taken = true;
        let facts = read::agent(&agent);
        assert!(facts.replicas.len() <= 32);
        let mut told: Vec<&str> = Vec::new();
        told.extend(
            facts
                .intermediate_obstacle
                .iter()
                .map(|o| o.message.as_str()),
        );
        for (pod, replica) in &facts.replicas {
            assert!(pod.len() <= 253 && replica.paths.len() <= 1000);
            told.extend(replica.rejected.as_deref());
            let failed = replica
                .paths
                .values()
                .filter_map(|p| p.outcome.as_ref().err());
            told.extend(failed.map(|o| o.message.as_str()));
        }
        for text in told {
            assert!(text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control));
        }
        assert!(
            read::lists(&agent)
                .iter()
                .all(|crl| crl.list.len() <= LIST_MAX)
        );
    }
    if let Some(member) = object::<MeshMember>(data)
        && let Some(status) = &member.status
    {
        taken = true;
        let (anchors, gateway, _) = read::remembered(status);
        assert!(anchors.len() <= status.intermediates.len());
        assert!(gateway.len() <= status.addresses.len());
        assert!(read::remembered_lists(status).len() <= 4);
    }
    taken
}

/// The object, if it is one; written and read again it is the same.
fn object<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
    let object: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&object).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
    Some(object)
}
