//! The conditions of one member, read from what is known of it and of its peers.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Kind, PathReport, State, Verdict, Word, fine, grace_ends, is_name, reachable, verdict, wait,
    with_ready,
};
use crate::{
    facts::{Anchor, Facts, MemberFacts, Obstacle, ReplicaFacts, Role},
    istio::{self, Plane},
    names::ClusterName,
    plan::{Peer, Seat, generations::Generations},
    remote::Pairs,
};

/// Everything that the conditions of one member are read from.
pub(crate) struct View<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) seat: &'a Seat,
    pub(crate) member: &'a MemberFacts,
    pub(crate) regions: &'a BTreeMap<ClusterName, Peer<'a>>,
    /// Those that verify this member, or are verified by it.
    pub(crate) links: &'a [Peer<'a>],
    pub(crate) generations: &'a Generations,
    pub(crate) pairs: &'a Pairs,
    pub(crate) now: Timestamp,
}

impl View<'_> {
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let words = [
            (Kind::Reachable, self.reachable()),
            (Kind::Enrolled, self.enrolled()),
            (Kind::IntermediateReady, self.intermediate()),
            (Kind::TrustDistributed, self.trust()),
            (Kind::GatewayReady, self.gateway()),
            (Kind::DiscoveryReady, self.discovery()),
            (Kind::NamesReady, self.names()),
            (Kind::PathsReady, self.paths_ready()),
        ];
        with_ready(
            words
                .into_iter()
                .map(|(kind, word)| verdict(kind, word))
                .collect(),
        )
    }

    fn reachable(&self) -> Word {
        reachable(&self.member.access, &self.member.reach)
    }

    fn enrolled(&self) -> Word {
        if let Err(why) = &self.facts.root {
            return Err(why.clone());
        }
        if let Some(why) = self.member.hindrances.iter().find(|h| !is_name(h)) {
            return Err(why.clone());
        }
        let others: Vec<String> = self
            .seat
            .contested_by
            .iter()
            .map(ToString::to_string)
            .collect();
        match &self.member.delivered {
            None => wait(
                "Delivering",
                "waiting for a first complete delivery to the member",
            ),
            Some(_) if others.is_empty() => {
                fine("Delivered", "everything of ours is in the member")
            }
            Some(_) => fine(
                "ClusterIdContested",
                format!("also claimed by {}, refused", others.join(", ")),
            ),
        }
    }

    fn intermediate(&self) -> Word {
        let revoked = &self.facts.revoked;
        let anchors = &self.member.anchors;
        let mut usable = anchors.iter().filter(|anchor| !anchor.is_among(revoked));
        let first = usable.clone().next();
        let signs = self.generations.sign;
        if let Some(anchor) = usable.find(|anchor| anchor.generation == signs).or(first) {
            return self.issued(anchor);
        }
        if let Some(anchor) = anchors.first() {
            return wait(
                "Revoked",
                format!(
                    "generation {}, serial {}, is revoked; waiting for the next generation",
                    anchor.generation, anchor.serial
                ),
            );
        }
        let told = self
            .member
            .agent
            .as_ref()
            .and_then(|agent| agent.intermediate_obstacle.clone());
        told.map_or_else(
            || {
                wait(
                    "AwaitingRequest",
                    "the agent has not asked for an intermediate yet; is its pod running?",
                )
            },
            Err,
        )
    }

    /// The intermediate is there; what its successor waits for, and who does not believe in it yet.
    fn issued(&self, anchor: &Anchor) -> Word {
        let said = format!(
            "generation {}, until {}",
            anchor.generation, anchor.not_after
        );
        let Generations { sign, prepare, .. } = *self.generations;
        let next = self.member.anchors.iter();
        let next = next
            .filter(|anchor| Some(anchor.generation) == prepare)
            .max_by_key(|a| a.not_after);
        match (next, prepare) {
            (Some(next), _) => {
                let waits = self
                    .unbelieving(next)
                    .unwrap_or_else(|| "its turn".to_owned());
                let said = format!(
                    "{said}; generation {} is prepared and waits for {waits}",
                    next.generation
                );
                fine("Renewing", said)
            }
            (None, Some(next)) => fine(
                "Renewing",
                format!("{said}; generation {next} is being made"),
            ),
            (None, None) => match self.unbelieving(anchor).filter(|_| sign > 1) {
                Some(peers) => fine(
                    "PeersBehind",
                    format!("{said}; it is signed with, and not accepted yet by {peers}"),
                ),
                None => fine("Issued", said),
            },
        }
    }

    /// Peers that have not accepted a certificate of this member; at most three are named.
    fn unbelieving(&self, anchor: &Anchor) -> Option<String> {
        let cluster = &self.seat.claim.cluster;
        let peers: Vec<&str> = self
            .links
            .iter()
            .filter(|peer| !peer.believes(cluster, anchor))
            .map(|peer| peer.seat.claim.cluster.as_str())
            .collect();
        let (first, rest) = peers.split_at_checked(3).unwrap_or((peers.as_slice(), &[]));
        match (first.join(", "), rest.len()) {
            (text, _) if text.is_empty() => None,
            (text, 0) => Some(text),
            (text, more) => Some(format!("{text} and {more} more")),
        }
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = (&String, &ReplicaFacts)> {
        self.member
            .agent
            .iter()
            .flat_map(|agent| agent.replicas.iter())
    }

    /// The first replica that has not accepted what was delivered.
    fn behind(&self) -> Option<String> {
        let Some(delivered) = &self.member.delivered else {
            return Some("nothing was delivered yet".to_owned());
        };
        if self.replicas().next().is_none() {
            return Some("no replica of the agent has reported".to_owned());
        }
        let in_grace = grace_ends(self.member, self.now).is_some();
        let behind = |r: &ReplicaFacts| match r.accepted {
            None => true,
            Some(accepted) => accepted < delivered.generation && !in_grace,
        };
        self.replicas().find(|(_, r)| behind(r)).map(|(pod, r)| {
            let accepted = r
                .accepted
                .map_or_else(|| "none".to_owned(), |g| g.to_string());
            format!(
                "pod {pod} accepted generation {accepted} of MeshAgent, {} was delivered",
                delivered.generation
            )
        })
    }

    fn trust(&self) -> Word {
        if let Some(behind) = self.behind() {
            return wait("AgentBehind", behind);
        }
        let agent = self.member.agent.as_ref();
        if let Some(why) = agent.and_then(|agent| agent.workloads_obstacle.as_ref())
            && self.seat.plane == Plane::Istio
        {
            return Err(why.clone());
        }
        for (name, peer) in self.regions {
            if peer.facts.trusted_by(&self.facts.revoked).is_empty() {
                return wait(
                    "RegionWithoutIntermediate",
                    format!("region {name} has no intermediate yet"),
                );
            }
            // Sidecars believe whatever leads to the root.
            if peer.seat.plane == Plane::Istio {
                continue;
            }
            let knows_us = peer.facts.delivered.as_ref().is_some_and(|d| {
                d.delivery
                    .trusts
                    .get(&self.seat.claim.cluster)
                    .is_some_and(|t| t.anchors == self.member.trusted_by(&self.facts.revoked))
            });
            // After a restart nobody has asked the region yet; its probe tells the truth sooner.
            if !knows_us && peer.facts.delivered.is_some() {
                return wait(
                    "RegionBehind",
                    format!("region {name} has not received this member's certificate"),
                );
            }
        }
        fine("Trusted", "certificates were exchanged")
    }

    /// What is the matter with Istio itself here.
    fn istio(&self) -> Result<(), Obstacle> {
        let Some(seen) = &self.member.istio else {
            return Err(Obstacle::new(
                "IstioUnknown",
                "Istio was not looked for yet",
            ));
        };
        let expected = istio::Expected {
            cluster: &self.seat.claim.cluster,
            trust_domain: &self.facts.trust_domain,
            revision: &self.facts.istio.revision,
        };
        istio::judge(seen, &expected).map(drop)
    }

    /// The doors of a region in the Istio plane.
    fn doors(&self) -> Word {
        let Some(seen) = &self.member.istio else {
            return wait("IstioUnknown", "Istio was not looked for yet");
        };
        if seen.gateways.is_empty() && self.seat.claim.gateway_override.is_empty() {
            return wait(
                "GatewayMissing",
                "no Service with label istio=eastwestgateway in namespace istio-system: install Istio's chart gateway",
            );
        }
        let doors = istio::doors(&self.seat.claim.cluster, &self.facts.contract, seen);
        let (mut open, mut bare, mut missing) = (Vec::new(), None, None);
        for door in doors.into_values() {
            match door {
                Ok(door) if !door.accounts.is_empty() => open.push(door.service),
                Ok(door) => {
                    let message = format!(
                        "no pod of Service kof/{} has a sidecar ({} without): Istio's gateway leads to none of them",
                        door.backend.service, door.bare
                    );
                    bare.get_or_insert_with(|| Obstacle::new("BackendWithoutSidecar", message));
                }
                Err(why) => {
                    missing.get_or_insert(why);
                }
            }
        }
        match (open.is_empty(), bare.or(missing)) {
            (true, Some(why)) => Err(why),
            (true, None) => wait("NoBackend", "the contract has no backend"),
            (false, _) => fine("Addressed", format!("open: {}", open.join(", "))),
        }
    }

    fn gateway(&self) -> Word {
        if self.seat.plane == Plane::Istio {
            self.istio()?;
        }
        for (pod, replica) in self.replicas() {
            if let Some(words) = &replica.rejected {
                return wait(
                    "ConfigRejected",
                    format!("Envoy of pod {pod} refused its configuration: {words}"),
                );
            }
        }
        let addressed =
            !self.seat.claim.gateway_override.is_empty() || !self.member.gateway.is_empty();
        match self.seat.claim.role {
            Role::Region if self.seat.plane == Plane::Istio && !addressed => {
                self.doors()?;
                let message = "no Service with label istio=eastwestgateway in namespace istio-system has an address";
                wait("NoAddress", message)
            }
            Role::Region if !addressed => wait(
                "NoAddress",
                "Service istio-system/mesh-gateway has no load balancer address",
            ),
            Role::Region => {
                if self.seat.plane == Plane::Istio {
                    self.doors()?;
                }
                let targets = if self.seat.claim.gateway_override.is_empty() {
                    &self.member.gateway
                } else {
                    &self.seat.claim.gateway_override
                };
                let list: Vec<String> = targets
                    .iter()
                    .map(|t| format!("{}:{}", t.host, t.port))
                    .collect();
                fine("Addressed", list.join(", "))
            }
            Role::Management | Role::Child => fine("NotNeeded", "nobody calls this member"),
        }
    }

    fn discovery(&self) -> Word {
        if self.seat.claim.role == Role::Child && self.regions.is_empty() {
            return match &self.seat.claim.region {
                Some(region) => wait(
                    "NoRegion",
                    format!(
                        "region {region} is not a member of mesh {}",
                        self.facts.mesh
                    ),
                ),
                None => wait(
                    "NoRegion",
                    "no region is known for this child: set label k0rdent.mirantis.com/kof-regional-cluster-name",
                ),
            };
        }
        for (name, peer) in self.regions {
            if peer.facts.gateway.is_empty() && peer.seat.claim.gateway_override.is_empty() {
                return wait(
                    "NoGatewayAddress",
                    format!("the gateway of region {name} has no address yet"),
                );
            }
        }
        for (name, peer) in self.regions {
            let hosts = crate::plan::hosts(self.facts, peer.seat, peer.facts);
            if peer.seat.plane == Plane::Istio && hosts.is_empty() {
                let message = format!(
                    "nothing is known to be open at the Istio gateway of region {name}; see condition GatewayReady of its MeshMember"
                );
                return wait("NothingOpen", message);
            }
        }
        for (pod, replica) in self.replicas() {
            if let Some((region, why)) = replica.unresolved.iter().next() {
                let message = format!("pod {pod}, gateway of region {region}: {}", why.message);
                return wait(&why.reason, message);
            }
        }
        match self.seat.claim.role {
            Role::Region => fine("NotNeeded", "a region calls nobody"),
            Role::Management if self.regions.is_empty() => {
                fine("NoRegions", "no region is enrolled yet")
            }
            Role::Management | Role::Child => {
                let mut said = vec!["gateway addresses are known".to_owned()];
                said.extend(self.remotes()?);
                fine("Known", said.join("; "))
            }
        }
    }

    fn names(&self) -> Word {
        if let Some(why) = self.member.hindrances.iter().find(|h| is_name(h)) {
            return Err(why.clone());
        }
        if self.regions.is_empty() {
            return fine("NotNeeded", "this member calls nobody");
        }
        let Some(delivered) = &self.member.delivered else {
            return wait("Delivering", "the Services are not there yet");
        };
        match self
            .regions
            .keys()
            .find(|name| !delivered.delivery.consume.contains_key(*name))
        {
            Some(name) => wait(
                "Delivering",
                format!("the Service of region {name} is not there yet"),
            ),
            None => fine("Present", "Services are in namespace kof"),
        }
    }

    pub(crate) fn paths(&self) -> Vec<PathReport> {
        self.regions
            .iter()
            .map(|(name, peer)| self.path(name, peer))
            .collect()
    }

    fn paths_ready(&self) -> Word {
        let paths = self.paths();
        match paths.iter().find(|path| path.state != State::True) {
            Some(path) => wait(
                &path.reason,
                format!("path to region {}: {}", path.region, path.message),
            ),
            None if paths.is_empty() => fine("NotNeeded", "no path begins in this member"),
            None => fine("Answered", "requests come through on every path"),
        }
    }
}
