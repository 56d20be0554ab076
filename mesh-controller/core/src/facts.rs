//! What is known about one mesh at one moment. Plain values; whoever observes puts them here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    contract::Contract,
    istio::{Host, IstioFacts, IstioRules, Plane},
    names::{ClusterName, MeshName, TrustDomain},
    peer,
    plan::Delivery,
    remote::{RemoteFacts, Said},
};

/// The `MeshMember` object of a member: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// Its namespace, that of its source.
    pub namespace: String,
    /// Its name, that of its source.
    pub name: String,
}

impl std::fmt::Display for MemberKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a cluster is to kof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Queries all regions.
    Management,
    /// Stores.
    Region,
    /// Sends to its region.
    Child,
}

/// Most characters of a message.
const MESSAGE_MAX: usize = 2000;

/// Something that stands in the way, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// One `CamelCase` word, as in a Kubernetes condition.
    pub reason: String,
    /// Which object, and what is the matter.
    pub message: String,
}

impl Obstacle {
    /// From its two parts. A message that is too long for a status is cut: its end may be whatever a stranger's server answered.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX) {
            message.truncate(end);
            message.push('…');
        }
        Self {
            reason: reason.to_owned(),
            message,
        }
    }
}

/// Everything known about one mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The mesh.
    pub mesh: MeshName,
    /// The trust domain under which each member has its own.
    pub trust_domain: TrustDomain,
    /// What may cross gateways.
    pub contract: Contract,
    /// What carries the links of members that do not say otherwise.
    pub plane: Plane,
    /// What was decided about members in the Istio plane.
    pub istio: IstioRules,
    /// What was decided about regions that do not answer.
    pub dead_peer: peer::Rules,
    /// Whether the root can sign; if not, why.
    pub root: Result<RootFacts, Obstacle>,
    /// Serial numbers of certificates that nobody is to believe any more, as [`plain_serial`] writes them.
    pub revoked: BTreeSet<String>,
    /// By cluster ID, a number that changes with each of its certificates that is revoked.
    pub epochs: BTreeMap<ClusterName, u64>,
    /// The root's revocation list.
    pub crl: Option<Crl>,
    /// The members, also those that leave.
    pub members: BTreeMap<MemberKey, MemberFacts>,
}

/// The root that signs intermediates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFacts {
    /// Its generation, from 1.
    pub generation: u32,
    /// Its certificate, PEM.
    pub certificate: String,
    /// When it ends, if that is known.
    pub ends: Option<Timestamp>,
}

/// What is known about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFacts {
    /// When its object was made: of two that claim one cluster ID, neither of them established, the elder gets it.
    pub created: Timestamp,
    /// What it claims to be; if it cannot be that, why.
    pub claim: Result<Claim, Obstacle>,
    /// Whether it stays.
    pub life: Life,
    /// The way to its API server.
    pub access: Access,
    /// Whether its API server answers.
    pub reach: Reach,
    /// What was applied there last, whole.
    pub delivered: Option<Delivered>,
    /// What hinders applying.
    pub hindrances: Vec<Obstacle>,
    /// What its agent reports.
    pub agent: Option<AgentFacts>,
    /// The certificates its peers trust it by, newest first: intermediates that the root signed for it.
    pub anchors: Vec<Anchor>,
    /// The revocation lists of its intermediates, as far as they are what they say.
    pub crls: Vec<Crl>,
    /// The generation of its intermediate that it was told to sign with last.
    pub signs: u32,
    /// Where its gateway is reached, as last known.
    pub gateway: BTreeSet<Target>,
    /// What is seen of Istio there, once it was looked for.
    pub istio: Option<IstioFacts>,
    /// How it was called through Istio's gateway, as last known, by backend of the contract.
    pub hosts: BTreeMap<String, Host>,
    /// What has to do with remote secrets.
    pub remote: RemoteFacts,
}

/// Most certificates that peers know one member by: two while it rotates. A member may have the root sign more, and
/// must not fill the objects of its peers with them.
const ANCHORS_MAX: usize = 4;

impl MemberFacts {
    /// The certificates that peers are told to trust this member by: each once, newest first, none that is revoked, and not more
    /// than a rotation needs.
    #[must_use]
    pub fn trusted_by(&self, revoked: &BTreeSet<String>) -> Vec<Anchor> {
        let mut seen = BTreeSet::new();
        self.anchors
            .iter()
            .filter(|anchor| !anchor.is_among(revoked))
            .filter(|anchor| seen.insert(anchor.fingerprint.as_str()))
            .take(ANCHORS_MAX)
            .cloned()
            .collect()
    }
}

/// What a cluster claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its ID.
    pub cluster: ClusterName,
    /// Its role.
    pub role: Role,
    /// The region it sends to; only a child has one.
    pub region: Option<ClusterName>,
    /// Addresses to use in place of those its gateway Service reports.
    pub gateway_override: BTreeSet<Target>,
    /// What carries its links, in place of what the mesh says.
    pub plane: Option<Plane>,
}

/// Whether a member stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is enrolled.
    Active,
    /// It is being removed.
    Leaving {
        /// Since when.
        since: Timestamp,
        /// A person said not to wait for it.
        forced: bool,
        /// Its lifecycle object and its kubeconfig are gone, so there is no cluster left to clean.
        gone: bool,
    },
}

/// The way to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not looked for yet.
    Unknown,
    /// A kubeconfig was found and may be used.
    Found,
    /// None, or none that may be used.
    Refused(Obstacle),
}

/// Whether an API server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not asked yet.
    Unknown,
    /// It answers, and it is this cluster.
    Answers {
        /// UID of its `kube-system` namespace.
        cluster_uid: String,
    },
    /// It does not, or it is not the cluster it should be.
    Lost(Obstacle),
}

/// What was applied in a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// What.
    pub delivery: Delivery,
    /// `metadata.generation` of its `MeshAgent` afterwards.
    pub generation: i64,
    /// When.
    pub since: Timestamp,
}

/// What an agent reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFacts {
    /// Why it has no intermediate, if it knows.
    pub intermediate_obstacle: Option<Obstacle>,
    /// Why workloads are not given what they should be, if that is so.
    pub workloads_obstacle: Option<Obstacle>,
    /// Its replicas, by pod.
    pub replicas: BTreeMap<String, ReplicaFacts>,
    /// Pods that only probe, through sidecars of their own: no Envoy of ours is beside them, and they issue nothing.
    pub probers: BTreeMap<String, BTreeMap<ClusterName, PathFacts>>,
}

/// What one replica of an agent reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// The generation of the `MeshAgent` that its Envoy accepted whole.
    pub accepted: Option<i64>,
    /// What its Envoy refused last, in Envoy's words.
    pub rejected: Option<String>,
    /// Gateways without an address, by region: why.
    pub unresolved: BTreeMap<ClusterName, Obstacle>,
    /// Its probes, by region.
    pub paths: BTreeMap<ClusterName, PathFacts>,
    /// What istiod says about regions that it reads.
    pub remotes: BTreeMap<ClusterName, Said>,
}

/// The outcome of the probes of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathFacts {
    /// Nothing stands in the way, or what does.
    pub outcome: Result<(), Obstacle>,
    /// Since when this outcome is the outcome.
    pub since: Timestamp,
    /// The region is called dead.
    pub dead: Option<peer::Dead>,
}

/// A certificate revocation list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crl {
    /// SHA-256 of the public key that signed it, lower-case hex.
    pub issuer: String,
    /// Its number: of two lists of a key, the one with the greater number holds.
    pub number: u64,
    /// When it ends, if somebody looked.
    pub until: Option<Timestamp>,
    /// The list, PEM.
    pub list: String,
}

/// A certificate that peers trust a member by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Anchor {
    /// Generation of the intermediate.
    pub generation: u32,
    /// The certificate, PEM.
    pub certificate: String,
    /// SHA-256 of its DER, lower-case hex.
    pub fingerprint: String,
    /// Its serial number, lower-case hex.
    pub serial: String,
    /// When it begins.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

impl Anchor {
    /// Whether its serial number is one of these.
    #[must_use]
    pub fn is_among(&self, serials: &BTreeSet<String>) -> bool {
        !serials.is_empty() && serials.contains(&plain_serial(&self.serial))
    }
}

/// A serial number as it is compared: lower-case hex without leading zeros, which people and programs write as they like.
#[must_use]
pub fn plain_serial(serial: &str) -> String {
    serial.trim_start_matches('0').to_ascii_lowercase()
}

/// Where a gateway is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// An IP address or a host name.
    pub host: String,
    /// A TCP port.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        assert_eq!(plain_serial("00AbC0"), plain_serial("abc0"));
        assert_ne!(plain_serial("abc0"), plain_serial("abc"));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        for (text, cut) in [("ä".repeat(2000), false), ("ä".repeat(1_000_000), true)] {
            let message = Obstacle::new("ServerError", text.clone()).message;
            assert_eq!(message != text, cut);
            assert!(message.chars().count() <= MESSAGE_MAX + 1);
        }
    }
}
