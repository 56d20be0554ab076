//! Which remote secrets are to be in a consumer.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Peer, Seat};
use crate::{
    facts::{Facts, MemberFacts, Obstacle, Reach},
    istio::{self, Discovery, Plane},
    names::ClusterName,
    remote::{Link, Pair, Pairs, server, stock_name, takeover, unfit},
};

/// The remote secrets of one consumer; `regions` are those that it calls, and nobody else's API server is ever read.
pub(super) fn pairs(
    facts: &Facts,
    (seat, member): (&Seat, &MemberFacts),
    regions: &BTreeMap<ClusterName, Peer<'_>>,
    now: Timestamp,
) -> Pairs {
    if facts.istio.discovery != Discovery::RemoteSecrets || seat.plane != Plane::Istio {
        return Pairs::new();
    }
    let consumer = &seat.claim.cluster;
    let life = takes(member).life(facts.istio.token_life);
    let pair = |(region, peer): (&ClusterName, &Peer<'_>)| {
        let refusal = refusal(facts, seat, member, (region, regions));
        let link = Link {
            consumer,
            region,
            facts: &member.remote,
            server: &server(region, &peer.facts.remote),
            refusal: refusal.as_ref(),
            istiod: member
                .istio
                .as_ref()
                .is_some_and(|seen| !seen.istiods.is_empty()),
            account: has_account(peer, consumer),
        };
        let pair = Pair {
            member: peer.key.clone(),
            step: link.step(now),
            life,
            wake_at: link.wake_at(now),
        };
        (region.clone(), pair)
    };
    let reads = |(_, peer): &(&ClusterName, &Peer<'_>)| peer.seat.plane == Plane::Istio;
    regions.iter().filter(reads).map(pair).collect()
}

/// Whether there is something to say about them: they were looked for, or could not be.
pub(super) fn settled(member: &MemberFacts, pairs: &Pairs) -> bool {
    pairs.is_empty()
        || member.remote.secrets.is_some()
        || member.remote.unseen.is_some()
        || !matches!(member.reach, Reach::Answers { .. })
}

/// How the istiods of a member take a changed secret: each of them reads all secrets, so the one that does it worst decides.
pub(crate) fn takes(member: &MemberFacts) -> crate::remote::Takeover {
    let istiods = member.istio.iter().flat_map(|seen| &seen.istiods);
    let versions = istiods.map(|istiod| istiod.version.as_deref());
    takeover(
        versions
            .min_by_key(|version| version.and_then(istio::release))
            .flatten(),
    )
}

fn has_account(region: &Peer<'_>, consumer: &ClusterName) -> bool {
    let delivered = region.facts.delivered.as_ref();
    let istio = delivered.and_then(|delivered| delivered.delivery.istio.as_ref());
    istio.is_some_and(|istio| istio.readers.contains(consumer))
}

/// Why the istiods of a consumer must not be given this region.
pub(crate) fn refusal(
    facts: &Facts,
    seat: &Seat,
    member: &MemberFacts,
    pair: (&ClusterName, &BTreeMap<ClusterName, Peer<'_>>),
) -> Option<Obstacle> {
    let istiods = member.istio.as_ref().map(|seen| seen.istiods.as_slice());
    unfit(istiods.unwrap_or_default(), facts.istio.read_secrets)
        .or_else(|| collision(seat, member, pair))
}

/// What would make istiod mistake one cluster for another.
fn collision(
    seat: &Seat,
    member: &MemberFacts,
    (region, regions): (&ClusterName, &BTreeMap<ClusterName, Peer<'_>>),
) -> Option<Obstacle> {
    let own = &seat.claim.cluster;
    let local = member.istio.iter().flat_map(|seen| &seen.istiods);
    let mut local = local.map(|istiod| istiod.cluster.as_deref().unwrap_or("Kubernetes"));
    if region == own || local.any(|id| id == region.as_str()) {
        let message = format!(
            "istiod of {own} takes cluster ID {region} for its own: set global.multiCluster.clusterName of Istio's charts"
        );
        return Some(Obstacle::new("RemoteSecretOwnId", message));
    }
    let stock = stock_name(region);
    let mut secrets = member.remote.secrets.iter().flatten();
    // What its data says was looked for now and then, that it is there is known now.
    let leads = |name: &str| {
        let mut found = member.leftovers.iter().flatten();
        found.any(|it| it.name == name && it.leads_to(region))
    };
    let is_foreign = |(name, secret): &(&String, &crate::remote::SecretFacts)| {
        let said = secret.cluster.as_deref() == Some(region.as_str());
        !secret.ours && (said || **name == stock || leads(name))
    };
    if let Some((name, _)) = secrets.find(is_foreign) {
        let message = format!(
            "Secret istio-system/{name} leads istiod to cluster {region} already and is not ours; of two for one ID istiod ignores one: delete it"
        );
        return Some(Obstacle::new("RemoteSecretForeign", message));
    }
    let network = |cluster: &ClusterName, facts: &MemberFacts| {
        let seen = facts.istio.as_ref().and_then(|seen| seen.network.clone());
        seen.unwrap_or_else(|| istio::network(cluster))
    };
    let here = network(region, regions.get(region)?.facts);
    let others = regions
        .iter()
        .filter(|(name, peer)| *name != region && peer.seat.plane == Plane::Istio);
    let others = others
        .map(|(name, peer)| (name, peer.facts))
        .chain([(own, member)]);
    let twice = others
        .into_iter()
        .find(|(name, facts)| network(name, facts) == here);
    twice.map(|(other, _)| {
        let message = format!(
            "{region} and {other} are both labelled topology.istio.io/network={here}: istiod would call pods of one from the other"
        );
        Obstacle::new("RemoteNetworkTwice", message)
    })
}
