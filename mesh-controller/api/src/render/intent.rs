//! A delivery as a `MeshAgent`.

use std::collections::BTreeSet;

use mesh_core::{
    contract::{Backend, Caller, Contract, Grant, Protocol},
    facts::Role,
    istio::{Discovery, Host, Plane},
    names::TrustDomain,
    peer::{Policy, Rules},
    plan::{Consume, Delivery, Through, Trust},
};

use super::{member::MemberSettings, workload};
use crate::{
    TELEMETRY_NAMESPACE,
    agent::{self as api, MeshAgentSpec},
    member::{self, Address},
    mesh,
    read::WorkloadRules,
};

/// What the agent of a member is to serve.
#[must_use]
pub fn mesh_agent(delivery: &Delivery, settings: &MemberSettings) -> MeshAgentSpec {
    // A region whose certificate is not known yet cannot be verified, so it is not called yet.
    let consume = delivery.consume.iter().filter_map(|(region, consume)| {
        let trust = delivery.trusts.get(region)?;
        // Nor is one behind which nothing is known to be open.
        let closed = matches!(&consume.through, Through::Istio { hosts, .. } if hosts.is_empty());
        (!closed).then(|| self::consume(delivery, region.as_str(), consume, trust))
    });
    let serve = delivery.serve.iter().filter_map(|(caller, kind)| {
        let trust = delivery.trusts.get(caller)?;
        let service = delivery.cluster.service().ok()?;
        Some(api::Serve {
            caller: caller.to_string(),
            sni: sni(caller.as_str(), &service),
            identities: vec![trust.identity.to_string()],
            grants: delivery.contract.granted(*kind).map(grant).collect(),
            epoch: trust.epoch,
        })
    });
    MeshAgentSpec {
        mesh: delivery.mesh.to_string(),
        cluster: delivery.cluster.to_string(),
        role: role(delivery.role),
        trust_domain: delivery.trust_domain.to_string(),
        identity: delivery.identity.to_string(),
        shared_identity: delivery.shared_identity.as_ref().map(ToString::to_string),
        data_plane: data_plane(delivery.plane),
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
        dead_peer: dead_peer(delivery),
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

/// What is done about regions that do not answer; told to those who call any.
fn dead_peer(delivery: &Delivery) -> Option<api::DeadPeer> {
    let Rules {
        policy,
        after,
        return_after,
    } = delivery.dead_peer;
    let policy = match policy {
        Policy::Keep => return None,
        Policy::Mark => mesh::DeadPeerPolicy::Mark,
        Policy::Withdraw => mesh::DeadPeerPolicy::Withdraw,
    };
    (!delivery.consume.is_empty()).then(|| api::DeadPeer {
        policy,
        after_seconds: after.as_secs(),
        return_after_seconds: return_after.as_secs(),
    })
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

fn consume(delivery: &Delivery, region: &str, consume: &Consume, trust: &Trust) -> api::Consume {
    let probe = delivery.contract.probe(consume.caller);
    let (probe, backend) = probe.unwrap_or_else(|| ("/".to_owned(), String::new()));
    let hosts = match &consume.through {
        Through::Envoy => Vec::new(),
        Through::Istio {
            hosts,
            trust_domain,
        } => hosts
            .values()
            .map(|(host, prefixes)| self::host(host, prefixes, trust_domain))
            .collect(),
    };
    let probed = match &consume.through {
        Through::Envoy => None,
        Through::Istio { hosts, .. } => hosts.get(&backend).map(|(host, _)| host.service.clone()),
    };
    api::Consume {
        region: region.to_owned(),
        sni: sni(delivery.cluster.as_str(), &consume.service),
        service: probed.unwrap_or_else(|| consume.service.clone()),
        identity: trust.identity.to_string(),
        addresses: consume
            .targets
            .iter()
            .map(|t| Address {
                host: t.host.clone(),
                port: t.port,
            })
            .collect(),
        probe,
        sidecars: sidecars(delivery, consume),
        hosts,
    }
}

/// How sidecars of this member reach a region.
fn sidecars(delivery: &Delivery, consume: &Consume) -> api::Sidecars {
    match (&consume.through, &delivery.istio) {
        (Through::Istio { .. }, Some(istio)) => match istio.discovery {
            Discovery::Static => api::Sidecars::Static,
            Discovery::RemoteSecrets => api::Sidecars::Remote,
        },
        (Through::Envoy | Through::Istio { .. }, _) => api::Sidecars::Intake,
    }
}

fn host(host: &Host, prefixes: &BTreeSet<String>, domain: &TrustDomain) -> api::Host {
    let identity = |account: &String| domain.workload(TELEMETRY_NAMESPACE, account).to_string();
    api::Host {
        service: host.service.clone(),
        port: host.port,
        protocol: protocol(host.protocol),
        sni: host.sni(),
        accounts: host.accounts.iter().cloned().collect(),
        identities: host.accounts.iter().map(identity).collect(),
        prefixes: prefixes.iter().cloned().collect(),
    }
}

/// What carries links, as it stands in objects.
pub(super) const fn data_plane(plane: Plane) -> mesh::DataPlane {
    match plane {
        Plane::Envoy => mesh::DataPlane::Envoy,
        Plane::Istio => mesh::DataPlane::Istio,
    }
}

/// What a backend speaks, as it stands in objects.
pub(super) const fn protocol(protocol: Protocol) -> mesh::Protocol {
    match protocol {
        Protocol::Http => mesh::Protocol::Http,
        Protocol::Grpc => mesh::Protocol::Grpc,
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
        protocol: protocol(backend.protocol),
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
