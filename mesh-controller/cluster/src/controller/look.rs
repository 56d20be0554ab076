//! One look at everything: from the state to facts, from facts to plans, from plans to what each member's task is to
//! do and what is to be written on management. Pure.

mod eye;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use mesh_api::{
    member::MeshMember,
    read::{self, Membership, MeshRules, SecretRef, WorkloadRules},
};
use mesh_core::{
    facts::{Facts, MemberFacts, MemberKey, Obstacle},
    istio::{Discovery, Plane},
    names::{ClusterName, MeshName},
    plan::{Action, MemberPlan, plan},
    remote::Pairs,
    revocation::{Revocation, epochs},
};
use tokio::time::Instant;

use self::eye::Eye;
use super::index::State;
use crate::{
    vault::{ROOT_PENDING, Root},
    watches::Key,
};

/// Kind of the management cluster as a source.
pub(crate) const MANAGEMENT: &str = "Management";
/// Kind of k0rdent's lifecycle objects.
pub(crate) const DEPLOYMENT: &str = "ClusterDeployment";
/// Reason while a member's lifecycle object is gone, and the member not dismissed yet or without a way to it.
pub(crate) const SOURCE_GONE: &str = "SourceGone";
/// On a `MeshMember`: the Secret its kubeconfig was last taken from, `namespace/name`, for the time when its source is gone.
pub(crate) const KUBECONFIG: &str = "mesh.kof.k0rdent.mirantis.com/kubeconfig";

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub(crate) struct Constants {
    /// UID of this install.
    pub(crate) install: String,
    /// Management is a member itself.
    pub(crate) management_member: bool,
    /// Its mesh.
    pub(crate) management_mesh: String,
}

/// The way to a member's API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// It is our own.
    Management,
    /// By a kubeconfig; the version changes when the Secret does.
    Secret {
        reference: SecretRef,
        version: String,
    },
    /// Not by any.
    Closed(Obstacle),
    /// Nobody is to go there.
    Unneeded,
}

/// What the objects of a member are rendered and its requests signed with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Terms {
    pub(crate) mesh: MeshName,
    pub(crate) cluster: ClusterName,
    pub(crate) root: Root,
    pub(crate) replicas: i32,
    pub(crate) leaf_seconds: u32,
    pub(crate) intermediate_seconds: u32,
    pub(crate) workloads: Option<WorkloadRules>,
    /// What carries the member's links.
    pub(crate) plane: Plane,
    /// The revision of istiod that is meant.
    pub(crate) revision: String,
    /// How istiods learn of regions.
    pub(crate) discovery: Discovery,
}

/// What the task of one member is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    pub(crate) door: Door,
    /// The cluster that it must be.
    pub(crate) expected: Option<String>,
    /// UID of the `MeshMember`, once it stands there with our finalizer: before that nothing is written in the member.
    pub(crate) member: Option<String>,
    pub(crate) action: Action,
    /// The remote secrets that are to be there.
    pub(crate) remotes: Pairs,
    pub(crate) terms: Option<Terms>,
    /// When the cluster asked, if nothing is in it yet.
    pub(crate) asked: Option<Instant>,
}

/// One member as it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) object: Arc<MeshMember>,
    pub(crate) plan: MemberPlan,
    pub(crate) facts: MemberFacts,
    pub(crate) mesh: MeshName,
    pub(crate) withdrawn: bool,
    /// The root of its mesh is about to be opened: nothing to tell yet.
    pub(crate) pending: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) wishes: BTreeMap<MemberKey, Wish>,
    pub(crate) told: BTreeMap<MemberKey, Told>,
    /// What lifecycle objects ask for.
    pub(crate) asked: BTreeMap<MemberKey, Asked>,
    /// Members whose lifecycle object no longer asks for it.
    pub(crate) dismissed: BTreeSet<MemberKey>,
    /// How far revocations have come, by mesh.
    pub(crate) revocations: BTreeMap<String, Vec<Revocation>>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// What a lifecycle object asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) source: mesh_api::member::Source,
    pub(crate) membership: Membership,
    pub(crate) kubeconfig: Option<SecretRef>,
}

/// Looks.
pub(crate) fn look(state: &State, constants: &Constants, now: Timestamp) -> Look {
    let eye = Eye { state, constants };
    let asked = eye.asked();
    let rules: BTreeMap<String, Result<MeshRules, Obstacle>> = state
        .meshes
        .iter()
        .map(|(key, mesh)| (key.name.clone(), read::mesh(mesh)))
        .collect();
    let mut meshes: BTreeMap<MeshName, BTreeMap<MemberKey, MemberFacts>> = BTreeMap::new();
    // Also those without members.
    for mesh in rules.values().filter_map(|rules| rules.as_ref().ok()) {
        meshes.entry(mesh.name.clone()).or_default();
    }
    for (key, object) in state.members.iter() {
        let key = member_key(key);
        let (mesh, facts) = eye.member(&key, object, asked.get(&key));
        meshes.entry(mesh).or_default().insert(key, facts);
    }
    let mut found = Look {
        dismissed: eye.dismissed(&asked),
        ..Look::default()
    };
    for (mesh, members) in meshes {
        let rules = rules.get(mesh.as_str());
        let mut facts = eye.facts(&mesh, rules, members);
        let revocations = eye.revocations(&facts, rules.and_then(|r| r.as_ref().ok()), now);
        facts.epochs = epochs(&revocations);
        found
            .revocations
            .insert(mesh.as_str().to_owned(), revocations);
        let planned = plan(&facts, now);
        found.wake_at = [found.wake_at, planned.wake_at].into_iter().flatten().min();
        let root = state
            .roots
            .get(mesh.as_str())
            .and_then(|root| root.as_ref().ok())
            .filter(|_| facts.root.is_ok());
        let pending = facts
            .root
            .as_ref()
            .is_err_and(|why| why.reason == ROOT_PENDING);
        let Facts { members, .. } = facts;
        for ((key, facts), plan) in members.into_iter().zip(planned.members.into_values()) {
            let Some(object) = state.members.get(&Key::new(&key.namespace, &key.name)) else {
                continue;
            };
            let terms = root
                .zip(rules.and_then(|r| r.as_ref().ok()))
                .and_then(|(root, rules)| terms(&mesh, root, rules, &facts));
            let wish = eye.wish(&key, object, asked.get(&key), (&plan, terms));
            found.wishes.insert(key.clone(), wish);
            let withdrawn = state.observed.get(&key).is_some_and(|o| o.withdrawn);
            let told = Told {
                object: Arc::clone(object),
                plan,
                facts,
                mesh: mesh.clone(),
                withdrawn,
                pending,
            };
            found.told.insert(key, told);
        }
    }
    for (key, asked) in &asked {
        if !found.wishes.contains_key(key) {
            found.wishes.insert(key.clone(), eye.first_wish(key, asked));
        }
    }
    found.asked = asked;
    found
}

fn terms(mesh: &MeshName, root: &Root, rules: &MeshRules, facts: &MemberFacts) -> Option<Terms> {
    let claim = facts.claim.as_ref().ok()?;
    let plane = claim.plane.unwrap_or(rules.plane);
    Some(Terms {
        mesh: mesh.clone(),
        cluster: claim.cluster.clone(),
        root: root.clone(),
        replicas: rules.replicas,
        leaf_seconds: rules.leaf_life.as_secs(),
        intermediate_seconds: rules.intermediate_life.as_secs(),
        workloads: rules.workloads_in(plane),
        plane,
        revision: rules.istio.revision.clone(),
        discovery: rules.istio.discovery,
    })
}

pub(crate) fn member_key(key: &Key) -> MemberKey {
    MemberKey {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

#[cfg(test)]
mod tests;
