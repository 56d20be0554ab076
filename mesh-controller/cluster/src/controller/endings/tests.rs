use jiff::SignedDuration;
use mesh_api::{
    member::{MeshMember, MeshMemberSpec, Role, Source},
    mesh::{Mesh, MeshSpec, MeshStatus, RootStatus},
};
use mesh_ca::Authority;
use mesh_core::{
    facts::{Anchor, Crl, MemberKey, Obstacle, RootFacts},
    names::MeshName,
};
use prometheus_client::{encoding::text::encode, registry::Registry};

use super::*;
use crate::{
    controller::{
        index::Observed,
        look::{Constants, look},
    },
    metrics::Metrics,
    vault::Root,
    watches::Seen,
};

const MESH: &str = "default";

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn days(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * days)
}

fn root(generation: u32, ends: i64) -> Root {
    let mesh: MeshName = MESH.parse().unwrap();
    let life = SignedDuration::from_hours(24 * ends);
    let (authority, material) = Authority::generate_root(&mesh, generation, life, now()).unwrap();
    let facts = authority.certificate().clone();
    Root {
        key: facts.key_fingerprint.clone(),
        not_after: facts.not_after,
        facts: RootFacts {
            generation,
            certificate: material.cert_pem,
            ends: None,
        },
        status: RootStatus {
            generation,
            fingerprint: facts.fingerprint,
            ..RootStatus::default()
        },
        signer: Ok(std::sync::Arc::new(authority)),
    }
}

fn anchor(generation: u32, ends: i64) -> Anchor {
    Anchor {
        generation,
        certificate: format!("c{generation}"),
        fingerprint: format!("f{generation}"),
        serial: format!("{generation}"),
        not_before: now(),
        not_after: days(ends),
    }
}

fn member(name: &str) -> MeshMember {
    let source = Source {
        kind: "ClusterDeployment".to_owned(),
        namespace: "kcm-system".to_owned(),
        name: name.to_owned(),
        uid: "1".to_owned(),
    };
    let spec = MeshMemberSpec {
        mesh: MESH.to_owned(),
        cluster: name.to_owned(),
        role: Role::Region,
        region: None,
        source,
        overrides: None,
    };
    let mut object = MeshMember::new(name, spec);
    object.metadata.namespace = Some("kcm-system".to_owned());
    object.metadata.uid = Some(format!("uid-{name}"));
    object.metadata.resource_version = Some("1".to_owned());
    object
}

fn key(name: &str) -> MemberKey {
    MemberKey {
        namespace: "kcm-system".to_owned(),
        name: name.to_owned(),
    }
}

/// A controller that looks, and what Prometheus would read.
struct World {
    state: State,
    metrics: Metrics,
    registry: Registry,
    version: u32,
}

impl World {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("mesh");
        let metrics = Metrics::register(&mut registry);
        Self {
            state: State::default(),
            metrics,
            registry,
            version: 0,
        }
    }

    fn root(&mut self, root: &Root, list_days: i64) {
        self.version += 1;
        let mut mesh = Mesh::new(MESH, MeshSpec::default());
        mesh.metadata.resource_version = Some(self.version.to_string());
        let authority = root.signer.clone().unwrap();
        let life = SignedDuration::from_hours(24 * list_days);
        let list = authority.sign_crl(&[], 1, life, now()).unwrap();
        mesh.status = Some(MeshStatus {
            root: Some(root.status.clone()),
            crl: Some(list.pem),
            ..MeshStatus::default()
        });
        self.state.meshes.see(Seen::Applied(mesh));
        self.state.roots.insert(MESH.to_owned(), Ok(root.clone()));
    }

    fn holds(&mut self, name: &str, anchors: &[Anchor], list_days: i64) {
        self.state.members.see(Seen::Applied(member(name)));
        let list = Crl {
            issuer: name.to_owned(),
            number: 1,
            until: Some(days(list_days)),
            list: String::new(),
        };
        let observed = Observed {
            anchors: Some(anchors.to_vec()),
            lists: Some(vec![list]),
            ..Observed::default()
        };
        self.state.observed.insert(key(name), observed);
    }

    /// The series, without the name they have in common, with days in place of seconds.
    fn shown(&self) -> Vec<String> {
        let constants = Constants {
            install: "install".to_owned(),
            management_member: false,
            management_mesh: MESH.to_owned(),
        };
        let found = look(&self.state, &constants, now());
        self.metrics
            .endings(endings(&self.state, &found).into_iter());
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("mesh_certificate_not_after_seconds{mesh=\"default\",cluster=")
            })
            .map(|line| {
                let (labels, at) = line.split_once("} ").unwrap();
                let seconds = at.parse::<i64>().unwrap() - now().as_second();
                format!("{} {}", labels.replace('"', ""), seconds / (24 * 3600))
            })
            .collect();
        lines.sort();
        lines
    }
}

#[test]
fn what_is_shown_is_true_after_every_change() {
    let mut world = World::new();
    let nothing = Vec::<String>::new();
    assert_eq!(world.shown(), nothing);
    world.root(&root(1, 1000), 30);
    world.holds("region1", &[anchor(1, 90)], 7);
    world.holds("region2", &[anchor(4, 80)], 6);
    let root1 = [",kind:Crl,generation:1 30", ",kind:Root,generation:1 1000"];
    let region1 = [
        "region1,kind:Crl,generation:0 7",
        "region1,kind:Intermediate,generation:1 90",
    ];
    let region2 = [
        "region2,kind:Crl,generation:0 6",
        "region2,kind:Intermediate,generation:4 80",
    ];
    let expected = |parts: &[[&str; 2]]| -> Vec<String> {
        let mut lines: Vec<String> = parts
            .iter()
            .flatten()
            .map(|line| line.replace(':', "="))
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(world.shown(), expected(&[root1, region1, region2]));

    // An intermediate is replaced: both as long as both are held, then the new one alone.
    world.holds("region1", &[anchor(2, 95), anchor(1, 90)], 5);
    let both = [
        "region1,kind:Intermediate,generation:1 90",
        "region1,kind:Intermediate,generation:2 95",
    ];
    assert!(
        expected(&[both])
            .iter()
            .all(|line| world.shown().contains(line))
    );
    world.holds("region1", &[anchor(2, 95)], 5);
    let region1 = [
        "region1,kind:Crl,generation:0 5",
        "region1,kind:Intermediate,generation:2 95",
    ];
    assert_eq!(world.shown(), expected(&[root1, region1, region2]));

    // The root is replaced.
    world.root(&root(2, 2000), 29);
    let root2 = [",kind:Crl,generation:2 29", ",kind:Root,generation:2 2000"];
    assert_eq!(world.shown(), expected(&[root2, region1, region2]));

    // A member is gone.
    world
        .state
        .members
        .see(Seen::Deleted(Key::new("kcm-system", "region2")));
    world.state.observed.remove(&key("region2"));
    assert_eq!(world.shown(), expected(&[root2, region1]));

    // The root is missing.
    let missing = Err(Obstacle::new("RootMissing", "gone"));
    world.state.roots.insert(MESH.to_owned(), missing);
    assert_eq!(world.shown(), expected(&[region1]));
}
