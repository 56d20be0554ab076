//! From what is known to what must be true next.
//!
//! [`plan`] is total: what is wrong with a member is part of its plan, never an error, and never the
//! business of another member. Same facts, same plan.

pub mod generations;
mod istio;
mod lists;
mod remotes;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use self::istio::{IstioDelivery, Through};
use self::{
    generations::{Generations, Known, generations},
    istio::{istio_delivery, through},
    lists::Lists,
};
pub(crate) use self::{
    istio::hosts,
    remotes::{refusal, takes},
};
use crate::{
    conditions::{self, PathReport, Verdict},
    contract::{Caller, Contract},
    facts::{
        Access, Anchor, Claim, Facts, Life, MemberFacts, MemberKey, Obstacle, Reach, Role,
        RootFacts, Target,
    },
    istio::{Host, Plane, gateway_account},
    leftovers::{self, Leftover},
    names::{ClusterName, MeshName, SpiffeId, TrustDomain},
    peer,
    remote::Pairs,
};

/// What must be true of each member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// By member.
    pub members: BTreeMap<MemberKey, MemberPlan>,
    /// When to plan again even if nothing happens until then.
    pub wake_at: Option<Timestamp>,
}

/// What must be true of one member, and what is told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPlan {
    /// What is to be done.
    pub action: Action,
    /// The conditions, in their order; the first that is not true says why.
    pub verdicts: Vec<Verdict>,
    /// The paths that begin in this member.
    pub paths: Vec<PathReport>,
    /// Who its Envoy is, if it may be a member.
    pub identity: Option<SpiffeId>,
    /// How it is called through Istio's gateway, as last known; to be remembered.
    pub hosts: BTreeMap<String, Host>,
    /// The remote secrets that are to be there, if it is delivered to.
    pub remotes: Pairs,
    /// What others have left there; none: what was said before stays.
    pub leftovers: Option<Vec<Leftover>>,
    /// The generations of its intermediate. The one it signs with must be recorded before the member is told of it.
    pub generations: Generations,
    /// False while too little is known to say anything: what was said before stays.
    pub settled: bool,
}

/// What is to be done in a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing may be done there.
    Wait,
    /// These things must be there.
    Deliver(Box<Delivery>),
    /// Everything of ours must go from there.
    Withdraw,
    /// Nothing of ours is left, or nobody waits for it: let go of the object.
    Release,
}

/// Everything that must be in a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The mesh.
    pub mesh: MeshName,
    /// The member.
    pub cluster: ClusterName,
    /// Its role.
    pub role: Role,
    /// What carries its links.
    pub plane: Plane,
    /// The trust domain of its certificates: its own, or in the Istio plane the mesh's.
    pub trust_domain: TrustDomain,
    /// Who its Envoy is.
    pub identity: SpiffeId,
    /// Who its Envoy is to regions in the Istio plane, where that is somebody else and there are any.
    pub shared_identity: Option<SpiffeId>,
    /// What is to be there of Istio, in the Istio plane.
    pub istio: Option<IstioDelivery>,
    /// The root its intermediate comes from.
    pub root: RootFacts,
    /// The generation of its intermediate that it signs with.
    pub signer: u32,
    /// The generation that it is to hold besides.
    pub prepare: Option<u32>,
    /// Whether others reach it: then it has a gateway Service.
    pub gateway: bool,
    /// The certificates it trusts each other member by.
    pub trusts: BTreeMap<ClusterName, Trust>,
    /// Who may call its gateway.
    pub serve: BTreeMap<ClusterName, Caller>,
    /// The regions it calls.
    pub consume: BTreeMap<ClusterName, Consume>,
    /// What callers may ask.
    pub contract: Contract,
    /// What is done about regions that do not answer.
    pub dead_peer: peer::Rules,
    /// Revocation lists: the root's, and those of the members it meets, by the key that signed them.
    pub crls: BTreeMap<String, String>,
}

/// How a member knows another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The other's trust domain.
    pub trust_domain: TrustDomain,
    /// Who the other's Envoy is.
    pub identity: SpiffeId,
    /// The other's intermediates.
    pub anchors: Vec<Anchor>,
    /// Another one whenever an intermediate of the other was revoked: what it let in is drained then.
    pub epoch: u64,
}

/// How a member calls a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// What it calls as.
    pub caller: Caller,
    /// The name of the region's Service.
    pub service: String,
    /// Where the region's gateway is; empty as long as nobody knows.
    pub targets: BTreeSet<Target>,
    /// What stands at the region's gateway.
    pub through: Through,
}

/// Decides what must be true next in one mesh.
#[must_use]
pub fn plan(facts: &Facts, now: Timestamp) -> Plan {
    let admitted = admit(facts);
    let members: BTreeMap<MemberKey, MemberPlan> = facts
        .members
        .iter()
        .map(|(key, member)| {
            let planned = match admitted.get(key) {
                Some(Admission::Holds(seat)) => enrolled(
                    Scene {
                        facts,
                        admitted: &admitted,
                        now,
                    },
                    seat,
                    member,
                ),
                Some(Admission::Refused(why)) => refused(member, why),
                None => leaving(member),
            };
            (key.clone(), planned)
        })
        .collect();
    let wake_at = facts
        .members
        .values()
        .filter_map(|member| conditions::grace_ends(member, now))
        .chain(
            members
                .values()
                .filter_map(|planned: &MemberPlan| planned.generations.wake_at),
        )
        .chain(
            members
                .values()
                .flat_map(|planned| planned.remotes.values().filter_map(|pair| pair.wake_at)),
        )
        .min();
    Plan { members, wake_at }
}

/// What one member is planned against.
#[derive(Clone, Copy)]
struct Scene<'a> {
    facts: &'a Facts,
    admitted: &'a Admitted,
    now: Timestamp,
}

/// A member's place in the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) claim: Claim,
    pub(crate) plane: Plane,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) identity: SpiffeId,
    pub(crate) service: String,
    /// Others that claim the same ID, and were refused.
    pub(crate) contested_by: Vec<MemberKey>,
}

#[derive(Clone, Debug)]
enum Admission {
    Holds(Box<Seat>),
    Refused(Obstacle),
}

type Admitted = BTreeMap<MemberKey, Admission>;

/// Who is in. A name is checked before anything is made, so that nothing is ever half enrolled.
fn admit(facts: &Facts) -> Admitted {
    let mut order: Vec<_> = facts
        .members
        .iter()
        .filter(|(_, member)| member.life == Life::Active)
        .collect();
    // Whom the root has signed for keeps its seat; among the others, the elder has it.
    order.sort_by_key(|(key, member)| (member.anchors.is_empty(), member.created, (*key).clone()));
    let mut holders: BTreeMap<ClusterName, MemberKey> = BTreeMap::new();
    let mut clusters: BTreeMap<&str, MemberKey> = BTreeMap::new();
    let mut admitted = Admitted::new();
    for (key, member) in order {
        let admission = match seat(facts, member) {
            Err(why) => Admission::Refused(why),
            Ok(seat) => match holders.get(&seat.claim.cluster) {
                Some(holder) => {
                    if let Some(Admission::Holds(held)) = admitted.get_mut(holder) {
                        held.contested_by.push(key.clone());
                    }
                    Admission::Refused(Obstacle::new(
                        "ClusterIdTaken",
                        format!(
                            "cluster ID {:?} belongs to MeshMember {holder}, which was there before",
                            seat.claim.cluster.as_str()
                        ),
                    ))
                }
                None => settle(key, member, seat, &mut holders, &mut clusters),
            },
        };
        admitted.insert(key.clone(), admission);
    }
    admitted
}

/// Gives a free ID to whoever asks for it, unless its cluster has a seat already.
fn settle<'a>(
    key: &MemberKey,
    member: &'a MemberFacts,
    seat: Seat,
    holders: &mut BTreeMap<ClusterName, MemberKey>,
    clusters: &mut BTreeMap<&'a str, MemberKey>,
) -> Admission {
    if let Some(other) = same_cluster(member, clusters) {
        let message =
            format!("the kubeconfig leads to the cluster that MeshMember {other} already enrolled");
        return Admission::Refused(Obstacle::new("ClusterTaken", message));
    }
    holders.insert(seat.claim.cluster.clone(), key.clone());
    if let Reach::Answers { cluster_uid } = &member.reach {
        clusters.insert(cluster_uid, key.clone());
    }
    Admission::Holds(Box::new(seat))
}

fn same_cluster<'a>(
    member: &MemberFacts,
    clusters: &'a BTreeMap<&str, MemberKey>,
) -> Option<&'a MemberKey> {
    match &member.reach {
        Reach::Answers { cluster_uid } => clusters.get(cluster_uid.as_str()),
        Reach::Unknown | Reach::Lost(_) => None,
    }
}

fn seat(facts: &Facts, member: &MemberFacts) -> Result<Seat, Obstacle> {
    let claim = member.claim.clone()?;
    let bad = |error: crate::names::NameError| Obstacle::new("BadName", error.to_string());
    // Also for those that have no Service of their own today: a role may change, a name may not.
    let service = match claim.role {
        Role::Region => claim.cluster.service().map_err(bad)?,
        Role::Management | Role::Child => {
            format!("{}{}", claim.cluster, crate::names::SERVICE_SUFFIX)
        }
    };
    let plane = claim.plane.unwrap_or(facts.plane);
    let (trust_domain, identity) = match plane {
        Plane::Envoy => {
            let own = facts.trust_domain.of_member(&claim.cluster).map_err(bad)?;
            let identity = own.workload("istio-system", "mesh-gateway");
            (own, identity)
        }
        Plane::Istio => (
            facts.trust_domain.clone(),
            shared_identity(facts, &claim.cluster),
        ),
    };
    Ok(Seat {
        claim,
        plane,
        trust_domain,
        identity,
        service,
        contested_by: Vec::new(),
    })
}

/// Who a member's Envoy is in the trust domain that all members of the Istio plane share.
fn shared_identity(facts: &Facts, cluster: &ClusterName) -> SpiffeId {
    let account = gateway_account(cluster);
    facts.trust_domain.workload("istio-system", &account)
}

/// The other end of a link, as far as planning needs it.
pub(crate) struct Peer<'a> {
    pub(crate) key: &'a MemberKey,
    pub(crate) seat: &'a Seat,
    pub(crate) facts: &'a MemberFacts,
}

impl Peer<'_> {
    /// Whether every replica of it believes in this certificate of that member.
    pub(crate) fn believes(&self, cluster: &ClusterName, anchor: &Anchor) -> bool {
        // Sidecars believe whatever leads to the root.
        if self.seat.plane == Plane::Istio && self.seat.claim.role == Role::Region {
            return true;
        }
        let Some(delivered) = &self.facts.delivered else {
            return false;
        };
        let trust = delivered.delivery.trusts.get(cluster);
        let replicas = || self.facts.agent.iter().flat_map(|a| a.replicas.values());
        trust.is_some_and(|trust| {
            trust
                .anchors
                .iter()
                .any(|a| a.fingerprint == anchor.fingerprint)
        }) && replicas().next().is_some()
            && replicas().all(|replica| replica.accepted >= Some(delivered.generation))
    }
}

fn peers<'a>(facts: &'a Facts, admitted: &'a Admitted) -> impl Iterator<Item = Peer<'a>> {
    facts
        .members
        .iter()
        .filter_map(|(key, member)| match admitted.get(key) {
            Some(Admission::Holds(seat)) => Some(Peer {
                key,
                seat,
                facts: member,
            }),
            Some(Admission::Refused(_)) | None => None,
        })
}

pub(crate) fn calls(caller: &Claim, region: &Claim) -> Option<Caller> {
    match (caller.role, region.role) {
        (Role::Management, Role::Region) => Some(Caller::Management),
        (Role::Child, Role::Region) if caller.region.as_ref() == Some(&region.cluster) => {
            Some(Caller::Child)
        }
        (Role::Management | Role::Region | Role::Child, _) => None,
    }
}

#[expect(clippy::too_many_lines, reason = "one object, field by field")]
fn delivery(
    facts: &Facts,
    admitted: &Admitted,
    (seat, member, root): (&Seat, &MemberFacts, &RootFacts),
    (signs, generations): (u32, &Generations),
) -> Delivery {
    let mut trusts = BTreeMap::new();
    let mut serve = BTreeMap::new();
    let mut consume = BTreeMap::new();
    let mut crls = Lists::new(facts.crl.as_ref());
    for peer in peers(facts, admitted) {
        let name = &peer.seat.claim.cluster;
        let anchors = peer.facts.trusted_by(&facts.revoked);
        let trusted = !anchors.is_empty();
        if let Some(caller) = calls(&peer.seat.claim, &seat.claim)
            && trusted
        {
            // Behind Istio's gateway the sidecars judge, by policies.
            if seat.plane == Plane::Envoy {
                serve.insert(name.clone(), caller);
            }
        } else if let Some(caller) = calls(&seat.claim, &peer.seat.claim) {
            let targets = gateway(&peer);
            consume.insert(
                name.clone(),
                Consume {
                    caller,
                    service: peer.seat.service.clone(),
                    targets,
                    through: through(facts, &peer, caller),
                },
            );
        } else {
            continue;
        }
        crls.extend(&peer.facts.crls);
        if trusted {
            trusts.insert(
                name.clone(),
                Trust {
                    trust_domain: peer.seat.trust_domain.clone(),
                    identity: peer.seat.identity.clone(),
                    anchors,
                    epoch: facts.epochs.get(name).copied().unwrap_or_default(),
                },
            );
        }
    }
    let shares = seat.plane == Plane::Envoy
        && consume
            .values()
            .any(|c| matches!(c.through, Through::Istio { .. }));
    Delivery {
        mesh: facts.mesh.clone(),
        cluster: seat.claim.cluster.clone(),
        role: seat.claim.role,
        plane: seat.plane,
        trust_domain: seat.trust_domain.clone(),
        identity: seat.identity.clone(),
        shared_identity: shares.then(|| shared_identity(facts, &seat.claim.cluster)),
        istio: istio_delivery(facts, admitted, seat, member),
        root: root.clone(),
        signer: signs,
        // A switch that is decided and not recorded yet: until it is, the next stays prepared.
        prepare: generations
            .prepare
            .or_else(|| (generations.sign > signs).then_some(generations.sign)),
        gateway: seat.claim.role == Role::Region && seat.plane == Plane::Envoy,
        trusts,
        serve,
        consume,
        contract: facts.contract.clone(),
        dead_peer: facts.dead_peer,
        crls: crls.within(),
    }
}

fn gateway(peer: &Peer<'_>) -> BTreeSet<Target> {
    let claimed = &peer.seat.claim.gateway_override;
    if claimed.is_empty() {
        peer.facts.gateway.clone()
    } else {
        claimed.clone()
    }
}

fn enrolled(scene: Scene<'_>, seat: &Seat, member: &MemberFacts) -> MemberPlan {
    let Scene {
        facts,
        admitted,
        now,
    } = scene;
    let links = links(facts, admitted, seat);
    let generations = decide(facts, seat, member, &links, now);
    let signs = member.signs.max(1);
    // What nobody has looked at may not be planned away.
    let looked = seat.plane == Plane::Envoy || member.istio.is_some();
    let action = match (&facts.root, &member.access, &member.reach) {
        (Ok(root), Access::Found, Reach::Answers { .. }) if looked => Action::Deliver(Box::new(
            delivery(facts, admitted, (seat, member, root), (signs, &generations)),
        )),
        (_, _, _) => Action::Wait,
    };
    let regions: BTreeMap<ClusterName, Peer<'_>> = peers(facts, admitted)
        .filter(|peer| calls(&seat.claim, &peer.seat.claim).is_some())
        .map(|peer| (peer.seat.claim.cluster.clone(), peer))
        .collect();
    let remotes = remotes::pairs(facts, (seat, member), &regions, now);
    let view = conditions::View {
        facts,
        seat,
        member,
        regions: &regions,
        links: &links,
        generations: &generations,
        pairs: &remotes,
        now,
    };
    let verdicts = view.verdicts();
    let paths = view.paths();
    MemberPlan {
        settled: settled(member, &action, looked) && remotes::settled(member, &remotes),
        action,
        verdicts,
        paths,
        identity: Some(seat.identity.clone()),
        hosts: hosts(facts, seat, member),
        remotes,
        leftovers: left(scene, seat, member),
        generations,
    }
}

/// What others have left in a member.
fn left(scene: Scene<'_>, seat: &Seat, member: &MemberFacts) -> Option<Vec<Leftover>> {
    let Scene {
        facts, admitted, ..
    } = scene;
    let found = member.leftovers.as_ref()?;
    let clusters = peers(facts, admitted).map(|peer| peer.seat.claim.cluster.clone());
    let root = facts.root_secret.as_deref();
    let scene = leftovers::Scene {
        own: &seat.claim.cluster,
        clusters: &clusters.collect(),
        root: root.filter(|_| seat.claim.role == Role::Management),
    };
    Some(leftovers::leftovers(found, &scene))
}

/// The members that verify this one, or are verified by it.
fn links<'a>(facts: &'a Facts, admitted: &'a Admitted, seat: &Seat) -> Vec<Peer<'a>> {
    peers(facts, admitted)
        .filter(|peer| {
            let (own, other) = (&seat.claim, &peer.seat.claim);
            calls(own, other).is_some() || calls(other, own).is_some()
        })
        .collect()
}

/// Decides about the generations of one member.
fn decide(
    facts: &Facts,
    seat: &Seat,
    member: &MemberFacts,
    links: &[Peer<'_>],
    now: Timestamp,
) -> Generations {
    let cluster = &seat.claim.cluster;
    let accepted = member
        .anchors
        .iter()
        .filter(|anchor| links.iter().all(|peer| peer.believes(cluster, anchor)))
        .map(|anchor| anchor.generation)
        .collect();
    generations(
        Known {
            signs: member.signs,
            held: &member.anchors,
            revoked: &facts.revoked,
            accepted: &accepted,
            root_ends: facts.root.as_ref().ok().and_then(|root| root.ends),
            seed: cluster.as_str(),
        },
        now,
    )
}

/// Whether there is something to say: what was refused, what was lost, or one whole round in the member.
fn settled(member: &MemberFacts, action: &Action, looked: bool) -> bool {
    match (&member.access, &member.reach) {
        (Access::Unknown, _) | (Access::Found, Reach::Unknown) => false,
        (Access::Refused(_), _) | (_, Reach::Lost(_)) => true,
        (Access::Found, Reach::Answers { .. }) => {
            looked && *action == Action::Wait
                || member.delivered.is_some()
                || !member.hindrances.is_empty()
        }
    }
}

fn refused(member: &MemberFacts, why: &Obstacle) -> MemberPlan {
    MemberPlan {
        action: Action::Wait,
        verdicts: conditions::refused(&member.access, &member.reach, why),
        paths: Vec::new(),
        identity: None,
        hosts: member.hosts.clone(),
        remotes: Pairs::new(),
        leftovers: None,
        generations: kept(member),
        settled: true,
    }
}

/// Nothing is decided: the number that is known stays.
fn kept(member: &MemberFacts) -> Generations {
    Generations {
        sign: member.signs.max(1),
        ..Generations::default()
    }
}

/// A leaving member has no seat: every peer has already forgotten it when this is read.
fn leaving(member: &MemberFacts) -> MemberPlan {
    let Life::Leaving { forced, gone, .. } = member.life else {
        return refused(
            member,
            &Obstacle::new("Unknown", "the member is neither active nor leaving"),
        );
    };
    let never_delivered = member.claim.is_err() && member.delivered.is_none();
    let action = match &member.reach {
        _ if forced || gone || never_delivered => Action::Release,
        Reach::Answers { .. } => Action::Withdraw,
        Reach::Unknown | Reach::Lost(_) => Action::Wait,
    };
    MemberPlan {
        verdicts: conditions::leaving(member, &action),
        action,
        paths: Vec::new(),
        identity: None,
        hosts: member.hosts.clone(),
        remotes: Pairs::new(),
        leftovers: None,
        generations: kept(member),
        settled: member.reach != Reach::Unknown,
    }
}

#[cfg(test)]
mod tests;
