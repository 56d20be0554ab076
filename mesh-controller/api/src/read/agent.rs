//! What members report, and what was remembered of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use mesh_core::{
    contract::GATEWAY_PORT,
    facts::{AgentFacts, Anchor, Obstacle, PathFacts, ReplicaFacts, Target},
    istio::Host,
    names::{ClusterName, LABEL_MAX},
    peer::Dead,
    remote::{Said, Synced},
    text::line,
};

use crate::{
    agent::{MeshAgent, Replica},
    member::MeshMemberStatus,
};

/// Longest name of a host or a pod, in bytes (RFC 1035 2.3.4; Kubernetes).
const NAME_MAX: usize = 253;
/// Most characters of a text of a member's that go on into status, events and logs.
const TEXT_MAX: usize = 1000;
/// Most characters of a reason (Kubernetes wants a `CamelCase` word; ours have fewer).
const REASON_MAX: usize = 64;
/// Most replicas of one agent that are listened to: [`super::mesh`] allows 9, and a rollout has some more.
const REPLICAS_MAX: usize = 32;
/// Most paths of one replica that are listened to: many times the regions of the largest mesh.
const PATHS_MAX: usize = 1000;
/// Most addresses of one gateway: peers connect to each and look up each. Load balancers have a handful.
const ADDRESSES_MAX: usize = 16;
/// What an intermediate lives, where nobody wrote down when it began.
const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Reads what an agent reports. Entries that cannot be read are left out, and what is too long is cut: a member's word about
/// itself is never trusted further than this, and must not fill anybody else's objects.
#[must_use]
pub fn agent(agent: &MeshAgent) -> AgentFacts {
    let Some(status) = &agent.status else {
        return AgentFacts::default();
    };
    let pods = |sidecar: bool| {
        let all = status.replicas.iter();
        let such = all.filter(move |it| it.sidecar == sidecar && it.pod.len() <= NAME_MAX);
        such.take(REPLICAS_MAX)
    };
    AgentFacts {
        intermediate_obstacle: status
            .obstacle
            .as_ref()
            .map(|o| told(&o.reason, &o.message)),
        workloads_obstacle: status
            .workloads
            .as_ref()
            .and_then(|workloads| workloads.obstacle.as_ref())
            .map(|o| told(&o.reason, &o.message)),
        replicas: pods(false)
            .map(|replica| (replica.pod.clone(), facts(replica)))
            .collect(),
        probers: pods(true)
            .map(|replica| (replica.pod.clone(), facts(replica).paths))
            .collect(),
    }
}

fn facts(replica: &Replica) -> ReplicaFacts {
    let mut unresolved = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for path in replica.paths.iter().take(PATHS_MAX) {
        let (Ok(region), Ok(since)) = (
            path.region.parse::<ClusterName>(),
            path.since.parse::<Timestamp>(),
        ) else {
            continue;
        };
        if let Some(why) = &path.unresolved {
            unresolved.insert(region.clone(), told(&why.reason, &why.message));
        }
        let outcome = if path.ready {
            Ok(())
        } else {
            Err(told(&path.reason, &path.message))
        };
        let dead = path.dead.as_ref().and_then(dead);
        let facts = PathFacts {
            outcome,
            since,
            dead,
        };
        paths.insert(region, facts);
    }
    ReplicaFacts {
        accepted: replica.accepted_generation,
        rejected: replica.rejected.as_deref().map(short),
        unresolved,
        paths,
        remotes: remotes(replica),
    }
}

/// A pod's word that a region is dead.
#[must_use]
pub fn dead(said: &crate::agent::Dead) -> Option<Dead> {
    Some(Dead {
        since: said.since.parse().ok()?,
        withdrawn: said.withdrawn,
    })
}

/// What istiod says there about regions; words that it does not have are left out.
fn remotes(replica: &Replica) -> BTreeMap<ClusterName, Said> {
    let said = replica.remotes.iter().take(PATHS_MAX);
    let read = said.filter_map(|said| {
        let note = said.message.as_deref().map(short);
        let state = Synced::read(&said.state)?;
        Some((said.region.parse().ok()?, Said { state, note }))
    });
    read.collect()
}

/// A member's words about something that stands in its way.
fn told(reason: &str, message: &str) -> Obstacle {
    let is_word = reason.len() <= REASON_MAX
        && reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(|c| c.is_ascii_alphanumeric());
    Obstacle::new(if is_word { reason } else { "Unreadable" }, short(message))
}

fn short(text: &str) -> String {
    line(text, TEXT_MAX)
}

/// An IP address or a DNS name: anything else would be refused where peers are told of it, with all else that they are told.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_MAX
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    host.parse::<IpAddr>().is_ok()
        || (host.len() <= NAME_MAX
            && host
                .strip_suffix('.')
                .unwrap_or(host)
                .split('.')
                .all(is_label))
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
        .filter(|host| is_host(host))
        .take(ADDRESSES_MAX)
        .map(|host| Target {
            host,
            port: GATEWAY_PORT,
        })
        .collect()
}

/// Most bytes of a revocation list: room for some hundred certificates.
pub const LIST_MAX: usize = 16 * 1024;
/// Most lists of one member: one for each certificate that it is trusted by.
const LISTS_MAX: usize = 4;

/// The revocation lists that an agent reports: not more, and none longer, than peers can be told. Nobody has looked into them yet.
#[must_use]
pub fn lists(agent: &MeshAgent) -> Vec<crate::agent::Crl> {
    let reported = agent.status.iter().flat_map(|status| &status.crls);
    bounded(reported)
}

/// Those that the status of a `MeshMember` remembers.
#[must_use]
pub fn remembered_lists(status: &MeshMemberStatus) -> Vec<crate::agent::Crl> {
    bounded(status.crls.iter())
}

fn bounded<'a, T>(lists: T) -> Vec<crate::agent::Crl>
where
    T: Iterator<Item = &'a crate::agent::Crl>,
{
    lists
        .filter(|crl| crl.list.len() <= LIST_MAX && crl.issuer.len() == 64)
        .take(LISTS_MAX)
        .cloned()
        .collect()
}

/// What the status of a `MeshMember` remembers: its anchors, its gateway and the UID of its cluster.
#[must_use]
pub fn remembered(status: &MeshMemberStatus) -> (Vec<Anchor>, BTreeSet<Target>, Option<String>) {
    let anchors = status
        .intermediates
        .iter()
        .filter_map(|entry| {
            let not_after: Timestamp = entry.not_after.parse().ok()?;
            let month_before = not_after.saturating_sub(MONTH).unwrap_or(not_after);
            Some(Anchor {
                generation: entry.generation,
                certificate: entry.certificate.clone(),
                fingerprint: entry.fingerprint.clone(),
                serial: entry.serial.clone(),
                not_before: entry.not_before.parse().unwrap_or(month_before),
                not_after,
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

/// Most hosts of one member: many times the backends of a contract.
const HOSTS_MAX: usize = 64;

/// How a member was called through Istio's gateway, as its status remembers it.
#[must_use]
pub fn remembered_hosts(status: &MeshMemberStatus) -> BTreeMap<String, Host> {
    let host = |host: &crate::member::Host| Host {
        service: host.service.clone(),
        port: host.port,
        protocol: super::mesh::protocol(host.protocol),
        accounts: host.accounts.iter().cloned().collect(),
    };
    let hosts = status.hosts.iter().take(HOSTS_MAX);
    hosts
        .map(|known| (known.backend.clone(), host(known)))
        .collect()
}

#[cfg(test)]
mod tests;
