//! What a member of the Istio plane needs, and how it is called.

use std::collections::{BTreeMap, BTreeSet};

use super::{Admitted, Delivery, Peer, Seat, calls, peers};
use crate::{
    contract::Caller,
    facts::{Facts, MemberFacts, Role},
    istio::{self, Discovery, Door, Entries, Flavour, Guest, Host, IstioFacts, Plane},
    names::{ClusterName, TrustDomain},
    remote,
};

/// What is to be there of Istio, between clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstioDelivery {
    /// The member's network.
    pub network: String,
    /// The revision of istiod that is meant.
    pub revision: String,
    /// Istio's kinds are served, so objects of them can be written.
    pub served: bool,
    /// The istiod that is meant is ready, or was when something was delivered last: pods are given sidecars. A pod that is made
    /// earlier would never have one.
    pub injects: bool,
    /// How it learns of regions.
    pub discovery: Discovery,
    /// The consumers whose istiod reads in it; only of a region.
    pub readers: BTreeSet<ClusterName>,
    /// They may read Secrets.
    pub read_secrets: bool,
    /// How its gateway is opened.
    pub flavour: Flavour,
    /// Extension provider for traces.
    pub tracing: Option<String>,
    /// The ways in, and who may use each; only of a region.
    pub doors: Vec<(Door, Entries)>,
}

/// What stands at a region's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Through {
    /// An Envoy of ours, that knows each caller and routes by path.
    Envoy,
    /// Istio's: one host for each backend of the contract that is known to be there.
    Istio {
        /// By backend: the host, and what the caller may ask of it.
        hosts: BTreeMap<String, (Host, BTreeSet<String>)>,
        /// The trust domain of those who answer.
        trust_domain: TrustDomain,
    },
}

impl Delivery {
    /// The regions that sidecars of this member go to by themselves: what is to be probed from a pod that has one.
    pub fn probed_by_sidecars(&self) -> impl Iterator<Item = &ClusterName> {
        let injects = self.istio.as_ref().is_some_and(|istio| istio.injects);
        let called = self.consume.iter().filter(move |_| injects);
        called.filter_map(|(region, consume)| {
            let Through::Istio { hosts, .. } = &consume.through else {
                return None;
            };
            let (_, backend) = self.contract.probe(consume.caller)?;
            // A region whose certificate is not known yet is not called yet.
            let known = hosts.contains_key(&backend) && self.trusts.contains_key(region);
            known.then_some(region)
        })
    }
}

/// How a region is called by this kind of caller.
pub(super) fn through(facts: &Facts, peer: &Peer<'_>, caller: Caller) -> Through {
    if peer.seat.plane == Plane::Envoy {
        return Through::Envoy;
    }
    let hosts = hosts(facts, peer.seat, peer.facts).into_iter();
    let hosts = hosts.filter_map(|(backend, host)| {
        let granted = facts.contract.granted(caller);
        let prefixes: BTreeSet<String> = granted
            .filter(|grant| grant.backend == backend)
            .map(|grant| grant.prefix.clone())
            .collect();
        (!prefixes.is_empty()).then_some((backend, (host, prefixes)))
    });
    Through::Istio {
        hosts: hosts.collect(),
        trust_domain: facts.trust_domain.clone(),
    }
}

/// How a region is called through Istio's gateway, as last known.
pub(crate) fn hosts(facts: &Facts, seat: &Seat, member: &MemberFacts) -> BTreeMap<String, Host> {
    if seat.plane != Plane::Istio || seat.claim.role != Role::Region {
        return BTreeMap::new();
    }
    let cluster = &seat.claim.cluster;
    istio::hosts(
        cluster,
        &facts.contract,
        member.istio.as_ref(),
        &member.hosts,
    )
}

/// What is to be there of Istio.
pub(super) fn istio_delivery(
    facts: &Facts,
    admitted: &Admitted,
    seat: &Seat,
    member: &MemberFacts,
) -> Option<IstioDelivery> {
    if seat.plane != Plane::Istio {
        return None;
    }
    let rules = &facts.istio;
    let cluster = &seat.claim.cluster;
    let seen = member.istio.as_ref();
    let doors = seen
        .filter(|_| seat.claim.role == Role::Region)
        .map(|seen| istio::doors(cluster, &facts.contract, seen))
        .unwrap_or_default();
    let guests: Vec<Guest<'_>> = peers(facts, admitted)
        .filter_map(|peer| {
            Some(Guest {
                cluster: &peer.seat.claim.cluster,
                caller: calls(&peer.seat.claim, &seat.claim)?,
                plane: peer.seat.plane,
            })
        })
        .collect();
    let domain = &facts.trust_domain;
    let entries = |backend: &str| istio::entries(domain, rules, &facts.contract, backend, &guests);
    Some(IstioDelivery {
        network: istio::network(cluster),
        revision: rules.revision.clone(),
        served: seen.is_some_and(|seen| !seen.istiods.is_empty()),
        injects: seen.is_some_and(|seen| injects(seen, &rules.revision, member)),
        discovery: rules.discovery,
        readers: remote::readers(rules.discovery, &guests),
        read_secrets: rules.read_secrets,
        flavour: rules.flavour,
        tracing: rules.tracing.clone(),
        doors: doors
            .into_values()
            .flatten()
            .map(|door| {
                let entries = entries(&door.backend.name);
                (door, entries)
            })
            .collect(),
    })
}

/// Whether pods are given sidecars by the istiod that is meant. One that is away for now takes nothing away.
fn injects(seen: &IstioFacts, revision: &str, member: &MemberFacts) -> bool {
    let before = || {
        let delivered = member.delivered.as_ref()?;
        Some(delivered.delivery.istio.as_ref()?.injects)
    };
    let mut meant = seen
        .istiods
        .iter()
        .filter(|istiod| istiod.revision == revision);
    meant.any(|istiod| istiod.ready || before() == Some(true))
}
