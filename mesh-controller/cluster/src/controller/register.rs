//! What is to be written on management: members, their removal, what is told about them and about meshes. What is to
//! be written is a comparison of a look with what stands there, so nothing is written twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use kube::ResourceExt as _;
use mesh_api::{
    labels,
    member::{MeshMember, MeshMemberStatus},
    mesh::{MeshStatus, RootStatus},
    read,
    render::{MemberView, MeshView, WARNING, member_status, mesh_member, mesh_status},
};
use mesh_core::{
    conditions::{PEER_DEAD, State as Truth},
    facts::MemberKey,
    plan::Action,
};

use super::{
    index::State,
    look::{Asked, KUBECONFIG, Look, Told},
};
use crate::{vault::ROOT_PENDING, watches::Key};

/// Something to be written on management.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Make a member, or mend its spec.
    Enrol(Box<MeshMember>),
    /// Delete a member: it leaves.
    Dismiss { uid: Option<String> },
    /// Let go of a member: its finalizer goes.
    Release {
        version: Option<String>,
        finalizers: Vec<String>,
    },
    /// Tell about a member.
    Tell {
        uid: Option<String>,
        before: Box<MeshMemberStatus>,
        status: Box<MeshMemberStatus>,
    },
    /// Tell about a mesh.
    TellMesh {
        uid: Option<String>,
        before: Box<MeshStatus>,
        status: Box<MeshStatus>,
    },
}

/// Which object, and which part of it. Of each only one job is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum JobId {
    /// The object itself.
    Member(MemberKey),
    /// Its status.
    MemberStatus(MemberKey),
    /// Status of a mesh.
    MeshStatus(String),
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(key) => write!(f, "MeshMember {key}"),
            Self::MemberStatus(key) => write!(f, "status of MeshMember {key}"),
            Self::MeshStatus(name) => write!(f, "status of Mesh {name}"),
        }
    }
}

pub(crate) type Jobs = BTreeMap<JobId, Job>;

/// All that is to be written after a look.
pub(crate) fn jobs(state: &State, look: &Look, now: Timestamp) -> Jobs {
    let mut jobs = Jobs::new();
    if !state.is_warm() {
        return jobs;
    }
    for key in &look.dismissed {
        let uid = state
            .members
            .get(&Key::new(&key.namespace, &key.name))
            .and_then(|object| object.uid());
        jobs.insert(JobId::Member(key.clone()), Job::Dismiss { uid });
    }
    for (key, asked) in &look.asked {
        let live = state.members.get(&Key::new(&key.namespace, &key.name));
        if let Some(job) = enrolment(asked, live.map(AsRef::as_ref)) {
            jobs.entry(JobId::Member(key.clone())).or_insert(job);
        }
    }
    for (key, told) in &look.told {
        if released(told) {
            let finalizers = told
                .object
                .finalizers()
                .iter()
                .filter(|f| *f != labels::FINALIZER)
                .cloned()
                .collect();
            let version = told.object.resource_version();
            jobs.insert(
                JobId::Member(key.clone()),
                Job::Release {
                    version,
                    finalizers,
                },
            );
        } else if let Some(job) = telling(told, now) {
            jobs.insert(JobId::MemberStatus(key.clone()), job);
        }
    }
    jobs.extend(mesh_jobs(state, look, now));
    jobs
}

/// A member as it is asked for, unless it stands there so.
fn enrolment(asked: &Asked, live: Option<&MeshMember>) -> Option<Job> {
    let mut wanted = mesh_member(&asked.source, &asked.membership);
    let remembered = live
        .and_then(|live| live.annotations().get(KUBECONFIG))
        .cloned();
    let kubeconfig = asked
        .kubeconfig
        .as_ref()
        .map(|r| format!("{}/{}", r.namespace, r.name))
        .or(remembered);
    if let Some(kubeconfig) = kubeconfig {
        wanted
            .annotations_mut()
            .insert(KUBECONFIG.to_owned(), kubeconfig);
    }
    let Some(live) = live else {
        return Some(Job::Enrol(Box::new(wanted)));
    };
    if live.metadata.deletion_timestamp.is_some() || live.spec.source != wanted.spec.source {
        return None;
    }
    let holds = |has: &BTreeMap<String, String>, wants: &BTreeMap<String, String>| {
        wants.iter().all(|(k, v)| has.get(k) == Some(v))
    };
    let same = holds(live.labels(), wanted.labels())
        && holds(live.annotations(), wanted.annotations())
        && wanted
            .finalizers()
            .iter()
            .all(|f| live.finalizers().contains(f))
        && live.spec.mesh == wanted.spec.mesh
        && live.spec.role == wanted.spec.role
        && live.spec.region == wanted.spec.region;
    (!same).then(|| Job::Enrol(Box::new(wanted)))
}

fn released(told: &Told) -> bool {
    let leaving = told.object.metadata.deletion_timestamp.is_some();
    let held = told
        .object
        .finalizers()
        .iter()
        .any(|f| f == labels::FINALIZER);
    let over = match told.plan.action {
        Action::Release => true,
        Action::Withdraw => told.withdrawn,
        Action::Wait | Action::Deliver(_) => false,
    };
    leaving && held && over
}

fn telling(told: &Told, now: Timestamp) -> Option<Job> {
    if !told.plan.settled || told.pending {
        return None;
    }
    let before = told.object.status.clone().unwrap_or_default();
    let view = MemberView {
        plan: &told.plan,
        facts: &told.facts,
        generation: told.object.metadata.generation,
    };
    let status = member_status(view, &before, now);
    let uid = told.object.uid();
    (status != before).then(|| Job::Tell {
        uid,
        before: Box::new(before),
        status: Box::new(status),
    })
}

fn mesh_jobs(state: &State, look: &Look, now: Timestamp) -> Jobs {
    let mut jobs = Jobs::new();
    for (key, mesh) in state.meshes.iter() {
        let Some(opened) = state.roots.get(&key.name) else {
            continue;
        };
        let root = match opened {
            Ok(root) => match root.trouble(now) {
                None => Ok(root.status.clone()),
                Some(why) => Err(why),
            },
            // Somebody else is about to make it; that is nothing to tell.
            Err(why) if why.reason == ROOT_PENDING => continue,
            Err(why) => Err(why.clone()),
        };
        let members: Vec<&Told> = look
            .told
            .values()
            .filter(|told| told.mesh.as_str() == key.name)
            .collect();
        let ready = |told: &&Told| {
            if told.plan.settled {
                told.plan.verdicts.iter().all(|v| v.state == Truth::True)
            } else {
                was_ready(&told.object)
            }
        };
        let ready: Vec<bool> = members.iter().map(ready).collect();
        let before = mesh.status.clone().unwrap_or_default();
        let recorded = read::revocations(&before);
        let view = MeshView {
            root: &root,
            members: &ready,
            revocations: look.revocations.get(&key.name).unwrap_or(&recorded),
            crl: newer(state.signed.get(&key.name), before.crl.as_deref()),
            plane: read::data_plane(mesh.spec.data_plane),
            generation: mesh.metadata.generation,
        };
        let status = mesh_status(view, &before, now);
        if status != before {
            let job = Job::TellMesh {
                uid: mesh.uid(),
                before: Box::new(before),
                status: Box::new(status),
            };
            jobs.insert(JobId::MeshStatus(key.name.clone()), job);
        }
    }
    jobs
}

/// The list that was signed last, if it is newer than the one that is recorded.
fn newer<'a>(signed: Option<&'a Arc<str>>, recorded: Option<&str>) -> Option<&'a str> {
    let signed: &str = signed?.as_ref();
    let number = |list: &str| mesh_ca::crl_facts(list.as_bytes()).ok().map(|f| f.number);
    let same = recorded == Some(signed);
    (!same && number(signed) > recorded.and_then(number)).then_some(signed)
}

fn was_ready(object: &MeshMember) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Conditions that changed in a way that is worth an event: `(type, status, reason, message)`.
pub(crate) fn changes<'a>(
    before: &'a [k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    after: &'a [k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) -> Vec<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let first_false = after
        .iter()
        .find(|c| c.status != "True")
        .map(|c| c.type_.as_str());
    let mut kinds = BTreeSet::new();
    after
        .iter()
        // It has events of its own, one for each region.
        .filter(|now| now.reason != PEER_DEAD)
        .filter(|now| {
            let was = before.iter().find(|c| c.type_ == now.type_);
            match now.status.as_str() {
                "True" => {
                    was.is_some_and(|was| was.status != "True")
                        || (was.is_none() && first_false.is_none())
                }
                // What follows from the first is no news.
                "False" if Some(now.type_.as_str()) == first_false => {
                    was.is_none_or(|was| was.status != "False" || was.reason != now.reason)
                }
                _ => false,
            }
        })
        .filter(|now| kinds.insert(now.type_.as_str()))
        .collect()
}

/// Something that happened to a mesh or a member and is worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) note: String,
}

/// What happened to a mesh besides its conditions: a root was adopted with something to say about it, a revocation began or ended.
pub(crate) fn news(before: &MeshStatus, after: &MeshStatus) -> Vec<News> {
    let mut news = Vec::new();
    let root = after.root.as_ref().filter(|_| before.root.is_none());
    if let Some(findings) = root.and_then(warnings) {
        news.push(News {
            warning: true,
            reason: "RootAdopted",
            note: format!("the root was adopted as it is; {findings}"),
        });
    }
    for now in &after.revocations {
        let was = before
            .revocations
            .iter()
            .find(|was| was.serial == now.serial);
        let whose = now
            .cluster
            .as_ref()
            .map_or_else(|| "of no known member".to_owned(), |c| format!("of {c}"));
        if was.is_none() {
            let note = format!(
                "serial {} {whose} is revoked; {} members may still believe it",
                now.serial,
                now.waiting_for.len()
            );
            news.push(News {
                warning: true,
                reason: "Revoking",
                note,
            });
        }
        if let (Some(after), None) = (
            now.done_after_seconds,
            was.and_then(|w| w.done_after_seconds),
        ) {
            let note = format!(
                "nobody believes serial {} {whose} any more, after {after} s",
                now.serial
            );
            news.push(News {
                warning: false,
                reason: "Revoked",
                note,
            });
        }
        if let (Some(note), Some(None)) = (&now.note, was.map(|was| &was.note)) {
            news.push(News {
                warning: true,
                reason: "RevocationStays",
                note: format!("serial {}: {note}", now.serial),
            });
        }
    }
    news
}

/// What happened to the regions that a member calls: one is dead, its endpoints went, it is back. What became of a path that is gone
/// itself is no news.
pub(crate) fn news_of_peers(before: &MeshMemberStatus, after: &MeshMemberStatus) -> Vec<News> {
    let mut news = Vec::new();
    for now in &after.paths {
        let was = before.paths.iter().find(|was| was.region == now.region);
        let (was_dead, was_withdrawn) = was.map_or((false, false), |was| {
            (was.dead_since.is_some(), was.withdrawn)
        });
        let (warning, reason) = match now.dead_since {
            Some(_) if !was_dead => (true, PEER_DEAD),
            Some(_) if now.withdrawn && !was_withdrawn => (true, "PeerWithdrawn"),
            None if was_dead => (false, "PeerReturned"),
            Some(_) | None => continue,
        };
        let note = format!("path to region {}: {}", now.region, now.message);
        news.push(News {
            warning,
            reason,
            note,
        });
    }
    news
}

/// What is the matter with a root, and worth a warning.
fn warnings(root: &RootStatus) -> Option<String> {
    let found: Vec<String> = root
        .findings
        .iter()
        .filter(|finding| finding.severity == WARNING)
        .map(|finding| format!("{}: {}", finding.what, finding.costs))
        .collect();
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests;
