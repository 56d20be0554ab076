//! What is told about members and meshes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use mesh_core::{
    conditions::{State, Verdict},
    facts::{MemberFacts, Obstacle, Reach},
    istio::{Host, Plane},
    plan::MemberPlan,
    revocation::Revocation,
};

use crate::{
    NAMESPACE,
    agent::Crl,
    labels,
    member::{
        self, Address, Intermediate, MeshMember, MeshMemberSpec, MeshMemberStatus, Path, Source,
    },
    mesh::{MeshStatus, RevocationStatus, RootStatus},
    read::Membership,
};

/// A `MeshMember` as its source asks for it: the fields that are ours, labels and finalizer.
#[must_use]
pub fn mesh_member(source: &Source, membership: &Membership) -> MeshMember {
    let spec = MeshMemberSpec {
        mesh: membership.mesh.clone(),
        cluster: source.name.clone(),
        role: membership.role,
        region: membership.region.clone(),
        source: source.clone(),
        overrides: None,
    };
    let labels = [(
        labels::MANAGED_BY.to_owned(),
        labels::MANAGED_BY_US.to_owned(),
    )];
    MeshMember {
        metadata: ObjectMeta {
            name: Some(source.name.clone()),
            namespace: Some(source.namespace.clone()),
            labels: Some(labels.into_iter().collect()),
            finalizers: Some(vec![labels::FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// What the status of a member is made from.
#[derive(Clone, Copy, Debug)]
pub struct MemberView<'a> {
    /// What is planned and told.
    pub plan: &'a MemberPlan,
    /// What is known.
    pub facts: &'a MemberFacts,
    /// `metadata.generation` of the object.
    pub generation: Option<i64>,
}

/// The status of a member. What did not change keeps its time, so that equal means nothing to write.
#[must_use]
pub fn member_status(
    view: MemberView<'_>,
    before: &MeshMemberStatus,
    now: Timestamp,
) -> MeshMemberStatus {
    let MemberView {
        plan,
        facts,
        generation,
    } = view;
    let conditions = conditions(&plan.verdicts, &before.conditions, generation, now);
    // What is known to be wrong comes before what nobody looked at.
    let of = |state| plan.verdicts.iter().find(|v| v.state == state);
    let first = of(State::False).or_else(|| of(State::Unknown));
    let ready = plan
        .paths
        .iter()
        .filter(|path| path.state == State::True)
        .count();
    let addresses = facts
        .gateway
        .iter()
        .map(|t| Address {
            host: t.host.clone(),
            port: t.port,
        })
        .collect();
    let gateway: Vec<String> = facts
        .gateway
        .iter()
        .map(|t| format!("{}:{}", t.host, t.port))
        .collect();
    MeshMemberStatus {
        observed_generation: generation,
        why: first.map(|v| format!("{}: {}: {}", v.kind.as_str(), v.reason, v.message)),
        paths_ready: (!plan.paths.is_empty()).then(|| format!("{ready}/{}", plan.paths.len())),
        cluster_uid: before.cluster_uid.clone().or_else(|| match &facts.reach {
            // Whoever is refused may not sit on a cluster.
            Reach::Answers { cluster_uid }
                if facts.delivered.is_some() || !facts.anchors.is_empty() =>
            {
                Some(cluster_uid.clone())
            }
            Reach::Answers { .. } | Reach::Unknown | Reach::Lost(_) => None,
        }),
        identity: plan
            .identity
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| before.identity.clone()),
        gateway: (!gateway.is_empty()).then(|| gateway.join(",")),
        addresses,
        hosts: hosts(plan),
        intermediates: facts
            // Also what is revoked: it says whose it was.
            .trusted_by(&BTreeSet::new())
            .into_iter()
            .map(|anchor| Intermediate {
                generation: anchor.generation,
                fingerprint: anchor.fingerprint,
                serial: anchor.serial,
                not_before: anchor.not_before.to_string(),
                not_after: anchor.not_after.to_string(),
                certificate: anchor.certificate,
            })
            .collect(),
        crls: facts
            .crls
            .iter()
            .map(|crl| Crl {
                issuer: crl.issuer.clone(),
                list: crl.list.clone(),
            })
            .collect(),
        signer_generation: Some(plan.generations.sign)
            .max(before.signer_generation)
            .filter(|sign| *sign > 1),
        paths: path_lines(plan),
        conditions,
    }
}

/// How a member is called through Istio's gateway, to be remembered.
fn hosts(plan: &MemberPlan) -> Vec<member::Host> {
    let host = |(backend, host): (&String, &Host)| member::Host {
        backend: backend.clone(),
        service: host.service.clone(),
        port: host.port,
        protocol: super::intent::protocol(host.protocol),
        accounts: host.accounts.iter().cloned().collect(),
    };
    plan.hosts.iter().map(host).collect()
}

/// The paths of a member as they stand in its status.
#[must_use]
pub fn path_lines(plan: &MemberPlan) -> Vec<Path> {
    plan.paths
        .iter()
        .map(|path| Path {
            region: path.region.to_string(),
            service: path.service.clone(),
            ready: word(path.state).to_owned(),
            reason: path.reason.clone(),
            message: path.message.clone(),
            since: path.since.map(|at| at.to_string()),
            dead_since: path.dead.map(|dead| dead.since.to_string()),
            withdrawn: path.dead.is_some_and(|dead| dead.withdrawn),
        })
        .collect()
}

fn word(state: State) -> &'static str {
    match state {
        State::True => "True",
        State::False => "False",
        State::Unknown => "Unknown",
    }
}

fn conditions(
    verdicts: &[Verdict],
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    verdicts
        .iter()
        .map(|verdict| {
            let (kind, status) = (verdict.kind.as_str(), word(verdict.state));
            condition(
                &Said {
                    kind,
                    status,
                    reason: &verdict.reason,
                    message: &verdict.message,
                },
                before,
                generation,
                now,
            )
        })
        .collect()
}

struct Said<'a> {
    kind: &'a str,
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

/// A condition; its time changes with its status, as Kubernetes wants.
fn condition(
    said: &Said<'_>,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let since = before
        .iter()
        .find(|old| old.type_ == said.kind && old.status == said.status)
        .map_or_else(
            || Time(whole_seconds(now)),
            |old| old.last_transition_time.clone(),
        );
    Condition {
        type_: said.kind.to_owned(),
        status: said.status.to_owned(),
        reason: said.reason.to_owned(),
        // Kubernetes refuses longer ones.
        message: said.message.chars().take(32_000).collect(),
        last_transition_time: since,
        observed_generation: generation,
    }
}

/// The API server keeps whole seconds; more would be read back as a difference.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// What the status of a mesh is made from.
#[derive(Clone, Copy, Debug)]
pub struct MeshView<'a> {
    /// Its root, or why it cannot sign.
    pub root: &'a Result<RootStatus, Obstacle>,
    /// Of each member, whether it is ready.
    pub members: &'a [bool],
    /// How far revocations have come.
    pub revocations: &'a [Revocation],
    /// The root's revocation list, if there is a new one.
    pub crl: Option<&'a str>,
    /// What carries the links of its members.
    pub plane: Plane,
    /// `metadata.generation` of the object.
    pub generation: Option<i64>,
}

/// The status of a mesh.
#[must_use]
pub fn mesh_status(view: MeshView<'_>, before: &MeshStatus, now: Timestamp) -> MeshStatus {
    let MeshView {
        root,
        members,
        revocations,
        crl,
        plane,
        generation,
    } = view;
    let ready = members.iter().filter(|ready| **ready).count();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let (status, reason, message) = match root {
        Ok(root) => ("True", "Ready", root_message(root)),
        Err(why) => ("False", why.reason.as_str(), why.message.clone()),
    };
    let said = Said {
        kind: "RootReady",
        status,
        reason,
        message: &message,
    };
    MeshStatus {
        observed_generation: generation,
        data_plane: Some(super::intent::data_plane(plane)),
        // What was recorded stays recorded: a root that is missing now is missed, not forgotten.
        root: root.as_ref().ok().cloned().or_else(|| before.root.clone()),
        revocations: revocations.iter().map(revocation).collect(),
        crl: crl.map(str::to_owned).or_else(|| before.crl.clone()),
        members: count(members.len()),
        ready_members: count(ready),
        conditions: vec![condition(&said, &before.conditions, generation, now)],
    }
}

fn root_message(root: &RootStatus) -> String {
    let base = format!("generation {}, until {}", root.generation, root.not_after);
    match root
        .findings
        .first()
        .filter(|worst| worst.severity == WARNING)
    {
        Some(worst) => format!("{base}; {}: {}", worst.what, worst.costs),
        None => base,
    }
}

/// Severity of a finding that a person should act on.
pub const WARNING: &str = "Warning";

/// Most members that are named in one revocation.
const NAMED: usize = 10;

fn revocation(known: &Revocation) -> RevocationStatus {
    let found = known.found.as_ref();
    RevocationStatus {
        serial: known.serial.clone(),
        cluster: found.map(|found| found.cluster.to_string()),
        generation: found.map(|found| found.generation),
        key: found.and_then(|found| found.key.clone()),
        since: whole_seconds(known.since).to_string(),
        done_after_seconds: known
            .done_after
            .map(|after| u32::try_from(after.as_secs()).unwrap_or_default()),
        waiting_for: known
            .waiting_for
            .iter()
            .take(NAMED)
            .map(ToString::to_string)
            .collect(),
        until: whole_seconds(known.until).to_string(),
        note: (!known.wished).then(|| {
            "spec.revoked does not name it any more; it stays revoked until it has ended".to_owned()
        }),
    }
}

/// The management cluster as a source of members.
#[must_use]
pub fn management_source(uid: &str) -> Source {
    Source {
        kind: "Management".to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: labels::MANAGEMENT.to_owned(),
        uid: uid.to_owned(),
    }
}

/// The membership of the management cluster itself.
#[must_use]
pub fn management_membership(mesh: &str, overrides: Option<&member::Overrides>) -> Membership {
    let claim = crate::read::claim(
        labels::MANAGEMENT,
        member::Role::Management,
        None,
        overrides,
    );
    Membership {
        mesh: mesh.to_owned(),
        role: member::Role::Management,
        region: None,
        claim,
    }
}
