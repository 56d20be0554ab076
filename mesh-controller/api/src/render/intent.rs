//! A delivery as a `MeshAgent`.

use mesh_core::{
    contract::{Backend, Caller, Contract, Grant, Protocol},
    facts::Role,
    plan::{Consume, Delivery, Trust},
};

use super::{member::MemberSettings, workload};
use crate::{
    NAMESPACE, TELEMETRY_NAMESPACE,
    agent::{self as api, MeshAgentSpec},
    labels,
    member::{self, Address},
    mesh,
    read::WorkloadRules,
};

/// What the agent of a member is to serve.
#[must_use]
pub fn mesh_agent(delivery: &Delivery, settings: &MemberSettings) -> MeshAgentSpec {
    let identity = |domain: &mesh_core::names::TrustDomain| {
        domain.workload(NAMESPACE, labels::GATEWAY_NAME).to_string()
    };
    // A region whose certificate is not known yet cannot be verified, so it is not called yet.
    let consume = delivery.consume.iter().filter_map(|(region, consume)| {
        let trust = delivery.trusts.get(region)?;
        Some(self::consume(
            delivery,
            region.as_str(),
            consume,
            identity(&trust.trust_domain),
        ))
    });
    let serve = delivery.serve.iter().filter_map(|(caller, kind)| {
        let trust = delivery.trusts.get(caller)?;
        let service = delivery.cluster.service().ok()?;
        Some(api::Serve {
            caller: caller.to_string(),
            sni: sni(caller.as_str(), &service),
            identities: vec![identity(&trust.trust_domain)],
            grants: delivery.contract.granted(*kind).map(grant).collect(),
            epoch: trust.epoch,
        })
    });
    MeshAgentSpec {
        mesh: delivery.mesh.to_string(),
        cluster: delivery.cluster.to_string(),
        role: role(delivery.role),
        trust_domain: delivery.trust_domain.to_string(),
        identity: identity(&delivery.trust_domain),
        root: api::Root {
            generation: delivery.root.generation,
            certificate: delivery.root.certificate.clone(),
        },
        signer_generation: delivery.signer,
        prepare_generation: delivery.prepare,
        leaf_seconds: settings.leaf_seconds,
        intermediate_seconds: settings.intermediate_seconds,
        trusts: delivery
            .trusts
            .iter()
            .map(|(cluster, known)| trust(cluster.as_str(), known))
            .collect(),
        serve: serve.collect(),
        backends: if delivery.gateway {
            backends(&delivery.contract)
        } else {
            Vec::new()
        },
        consume: consume.collect(),
        workloads: settings
            .workloads
            .as_ref()
            .map(|rules| workloads(delivery, rules)),
        crls: delivery
            .crls
            .iter()
            .map(|(issuer, list)| api::Crl {
                issuer: issuer.clone(),
                list: list.clone(),
            })
            .collect(),
    }
}

/// How workloads get certificates.
fn workloads(delivery: &Delivery, rules: &WorkloadRules) -> api::Workloads {
    api::Workloads {
        issuer: rules.issuer,
        trust_domain: delivery.trust_domain.to_string(),
        bundle: api::Bundle {
            generation: delivery.root.generation,
            roots: vec![delivery.root.certificate.clone()],
        },
        default_seconds: rules.life.as_secs(),
        max_seconds: rules.most.as_secs(),
        node_accounts: rules.node_accounts.clone(),
        service_names: workload::ca_names(rules),
    }
}

/// The SNI of a link. Each caller has its own, so that the gateway verifies it against that caller's own
/// certificates and no others.
fn sni(caller: &str, service: &str) -> String {
    format!("{caller}.{service}.{TELEMETRY_NAMESPACE}.svc.cluster.local")
}

fn consume(delivery: &Delivery, region: &str, consume: &Consume, identity: String) -> api::Consume {
    api::Consume {
        region: region.to_owned(),
        service: consume.service.clone(),
        sni: sni(delivery.cluster.as_str(), &consume.service),
        identity,
        addresses: consume
            .targets
            .iter()
            .map(|t| Address {
                host: t.host.clone(),
                port: t.port,
            })
            .collect(),
        probe: delivery
            .contract
            .probe_path(consume.caller)
            .unwrap_or_else(|| "/".to_owned()),
    }
}

fn trust(cluster: &str, trust: &Trust) -> api::Trust {
    api::Trust {
        cluster: cluster.to_owned(),
        trust_domain: trust.trust_domain.to_string(),
        certificates: trust
            .anchors
            .iter()
            .map(|anchor| anchor.certificate.clone())
            .collect(),
    }
}

fn grant(grant: &Grant) -> mesh::Grant {
    mesh::Grant {
        caller: match grant.caller {
            Caller::Child => mesh::Caller::Child,
            Caller::Management => mesh::Caller::Management,
        },
        prefix: grant.prefix.clone(),
        backend: grant.backend.clone(),
    }
}

fn backends(contract: &Contract) -> Vec<mesh::Backend> {
    let backend = |backend: &Backend| mesh::Backend {
        name: backend.name.clone(),
        namespace: backend.namespace.clone(),
        service: backend.service.clone(),
        port: backend.port,
        protocol: match backend.protocol {
            Protocol::Http => mesh::Protocol::Http,
            Protocol::Grpc => mesh::Protocol::Grpc,
        },
    };
    contract.backends.iter().map(backend).collect()
}

/// A role as it stands in objects.
pub(super) fn role(role: Role) -> member::Role {
    match role {
        Role::Management => member::Role::Management,
        Role::Region => member::Role::Region,
        Role::Child => member::Role::Child,
    }
}
