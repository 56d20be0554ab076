//! A mesh root and a member for tests, made by the production code of `mesh_ca`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mesh_api::{
    agent::{Consume, MeshAgentSpec, Root},
    member::{Address, Role},
};
use mesh_ca::{Authority, IntermediateSubject, Requested};
use mesh_cluster::agent_io::{Intent, SecretSeen};
use zeroize::Zeroizing;

use crate::{intermediate::Entries, wanted::Wanted};

pub(crate) fn now() -> Timestamp {
    "2026-11-21T04:00:00Z".parse().unwrap()
}

pub(crate) fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

pub(crate) struct Mesh {
    pub(crate) root: Authority,
    pub(crate) root_pem: String,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let mesh = "default".parse().unwrap();
        let (root, material) =
            Authority::generate_root(&mesh, 1, SignedDuration::from_hours(24 * 3650), now())
                .unwrap();
        Self {
            root,
            root_pem: material.cert_pem,
        }
    }

    pub(crate) fn intent(&self) -> Intent {
        let consume = |region: &str| Consume {
            region: region.to_owned(),
            service: format!("{region}-vmauth"),
            sni: format!("child1.{region}-vmauth.kof.svc.cluster.local"),
            identity: format!("spiffe://{region}.mesh.test/ns/istio-system/sa/mesh-gateway"),
            addresses: vec![Address {
                host: "192.0.2.1".to_owned(),
                port: 15443,
            }],
            probe: "/vm/select/0/prometheus/api/v1/query?query=1".to_owned(),
            hosts: Vec::new(),
            sidecars: mesh_api::agent::Sidecars::Intake,
        };
        Intent {
            uid: "0001".to_owned(),
            generation: 3,
            marks: BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "kof-istio".to_owned(),
            )]),
            leaving: false,
            spec: MeshAgentSpec {
                mesh: "default".to_owned(),
                cluster: "child1".to_owned(),
                role: Role::Child,
                trust_domain: "child1.mesh.test".to_owned(),
                identity: "spiffe://child1.mesh.test/ns/istio-system/sa/mesh-gateway".to_owned(),
                shared_identity: None,
                data_plane: mesh_api::mesh::DataPlane::Envoy,
                root: Root {
                    generation: 1,
                    certificate: self.root_pem.clone(),
                },
                signer_generation: 1,
                prepare_generation: None,
                leaf_seconds: 3600,
                intermediate_seconds: 86_400,
                trusts: Vec::new(),
                serve: Vec::new(),
                backends: Vec::new(),
                consume: vec![consume("region1")],
                dead_peer: None,
                workloads: None,
                crls: Vec::new(),
            },
            status: mesh_api::agent::MeshAgentStatus::default(),
        }
    }

    pub(crate) fn wanted(&self) -> Wanted {
        Wanted::read(&self.intent()).unwrap()
    }

    /// What the controller answers to a request.
    pub(crate) fn sign(
        &self,
        wanted: &Wanted,
        generation: u32,
        request: &str,
        at: Timestamp,
    ) -> String {
        let checked = mesh_ca::check_csr(request.as_bytes(), Requested::Nothing).unwrap();
        let subject = IntermediateSubject {
            mesh: wanted.mesh.clone(),
            cluster: wanted.cluster.clone(),
            generation,
        };
        let life = SignedDuration::from_secs(i64::from(wanted.spec.intermediate_seconds));
        self.root
            .sign_intermediate(&checked, &subject, life, at)
            .unwrap()
            .chain_pem
    }
}

pub(crate) fn secret(entries: &[(&str, &str)]) -> SecretSeen {
    let data: Entries = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Zeroizing::new(value.as_bytes().to_vec())))
        .collect();
    SecretSeen {
        resource_version: "7".to_owned(),
        labels: BTreeMap::new(),
        data,
    }
}
