//! What members report, and what was remembered of them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use mesh_core::{
    facts::{AgentFacts, Anchor, Obstacle, PathFacts, ReplicaFacts, Target},
    names::ClusterName,
};

use crate::{
    agent::{MeshAgent, Replica},
    member::MeshMemberStatus,
};

/// Port of gateways (Istio's east-west gateways listen there too).
const GATEWAY_PORT: u16 = 15443;

/// Reads what an agent reports. Entries that cannot be read are left out: a member's word about itself is
/// never trusted further than this.
#[must_use]
pub fn agent(agent: &MeshAgent) -> AgentFacts {
    let Some(status) = &agent.status else {
        return AgentFacts::default();
    };
    AgentFacts {
        intermediate_obstacle: status
            .obstacle
            .as_ref()
            .map(|o| Obstacle::new(&o.reason, o.message.clone())),
        replicas: status
            .replicas
            .iter()
            .map(|replica| (replica.pod.clone(), facts(replica)))
            .collect(),
    }
}

fn facts(replica: &Replica) -> ReplicaFacts {
    let mut unresolved = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for path in &replica.paths {
        let (Ok(region), Ok(since)) = (
            path.region.parse::<ClusterName>(),
            path.since.parse::<Timestamp>(),
        ) else {
            continue;
        };
        if let Some(why) = &path.unresolved {
            unresolved.insert(
                region.clone(),
                Obstacle::new(&why.reason, why.message.clone()),
            );
        }
        let outcome = if path.ready {
            Ok(())
        } else {
            Err(Obstacle::new(&path.reason, path.message.clone()))
        };
        paths.insert(region, PathFacts { outcome, since });
    }
    ReplicaFacts {
        accepted: replica.accepted_generation,
        rejected: replica.rejected.clone(),
        unresolved,
        paths,
    }
}

/// Where the gateway Service of a member is reached from outside: load balancer addresses, as IP or host name.
#[must_use]
pub fn gateway(service: &Service) -> BTreeSet<Target> {
    let ingress = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref());
    ingress
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ip.clone().or_else(|| entry.hostname.clone()))
        .filter(|host| !host.is_empty())
        .map(|host| Target {
            host,
            port: GATEWAY_PORT,
        })
        .collect()
}

/// What the status of a `MeshMember` remembers: its anchors, its gateway and the UID of its cluster.
#[must_use]
pub fn remembered(status: &MeshMemberStatus) -> (Vec<Anchor>, BTreeSet<Target>, Option<String>) {
    let anchors = status
        .intermediates
        .iter()
        .filter_map(|entry| {
            Some(Anchor {
                generation: entry.generation,
                certificate: entry.certificate.clone(),
                fingerprint: entry.fingerprint.clone(),
                not_after: entry.not_after.parse().ok()?,
            })
        })
        .collect();
    let gateway = status
        .addresses
        .iter()
        .map(|address| Target {
            host: address.host.clone(),
            port: address.port,
        })
        .collect();
    (anchors, gateway, status.cluster_uid.clone())
}
