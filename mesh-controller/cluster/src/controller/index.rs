//! Everything the controller knows, in one place. Synchronous: whoever learns something puts it here, and rings.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Resource, api::PartialObjectMeta};
use mesh_api::{
    foreign::{ClusterDeployment, ClusterTemplate, Credential},
    member::MeshMember,
    mesh::Mesh,
    read,
};
use mesh_core::{
    facts::{Access, AgentFacts, Anchor, Crl, Delivered, MemberKey, Obstacle, Reach, Target},
    istio::IstioFacts,
    leftovers::Found,
    names::ClusterName,
    remote::RemoteFacts,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    vault::{Root, TOKEN_AWAY},
    watches::{Key, Seen},
};

/// Objects of one kind, as a watch sees them.
#[derive(Debug)]
pub(crate) struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Those that exist and cannot be read: nothing is concluded from their absence above.
    unreadable: BTreeSet<Key>,
    /// The watch has listed them at least once.
    listed: bool,
    /// There is no such kind.
    absent: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            listed: false,
            absent: false,
        }
    }
}

impl<K: Resource> Store<K> {
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    /// It exists and cannot be read.
    pub(crate) fn is_unreadable(&self, key: &Key) -> bool {
        self.unreadable.contains(key)
    }

    /// What is not here is not there.
    pub(crate) fn is_warm(&self) -> bool {
        self.listed
    }

    /// There is nothing to wait for: it was listed, or the kind does not exist. Says nothing about what is gone.
    pub(crate) fn is_settled(&self) -> bool {
        self.listed || self.absent
    }

    /// Takes in what a watch saw, or what a write returned; says whether anything changed.
    pub(crate) fn see(&mut self, seen: Seen<K>) -> bool {
        match seen {
            Seen::Applied(object) => {
                self.unreadable.remove(&Key::of(&object));
                self.put(object)
            }
            Seen::Deleted(key) => {
                let known = self.objects.remove(&key).is_some();
                self.unreadable.remove(&key) || known
            }
            Seen::All { objects, refused } => {
                self.unreadable = refused.into_iter().map(|refusal| refusal.key).collect();
                let readable = objects.iter().map(Key::of);
                let kept: BTreeSet<Key> = readable.chain(self.unreadable.iter().cloned()).collect();
                let before = self.objects.len();
                self.objects.retain(|key, _| kept.contains(key));
                let mut changed = !self.listed || self.objects.len() != before;
                self.listed = true;
                self.absent = false;
                for object in objects {
                    changed |= self.put(object);
                }
                changed
            }
            // What was known of it still holds.
            Seen::Refused(refusal) => {
                self.unreadable.insert(refusal.key);
                false
            }
            Seen::Interrupted { absent, .. } => {
                let changed = absent != self.absent && !self.listed;
                self.absent = absent;
                changed
            }
        }
    }

    fn put(&mut self, object: K) -> bool {
        let key = Key::of(&object);
        if let Some(known) = self.objects.get(&key) {
            let same = known.meta().uid == object.meta().uid;
            if same
                && !is_newer(
                    known.meta().resource_version.as_deref(),
                    object.meta().resource_version.as_deref(),
                )
            {
                return false;
            }
        }
        self.objects.insert(key, Arc::new(object));
        true
    }
}

/// A watch may still tell of a state before our own last write. Versions of one kind are numbers that grow (Kubernetes
/// guarantees it since 1.35, and has always done so for what is stored in etcd).
fn is_newer(known: Option<&str>, new: Option<&str>) -> bool {
    match (
        known.and_then(|v| v.parse::<u64>().ok()),
        new.and_then(|v| v.parse::<u64>().ok()),
    ) {
        (Some(known), Some(new)) => new > known,
        (_, _) => known != new,
    }
}

/// What was observed of one member in its cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    pub(crate) access: Access,
    pub(crate) reach: Reach,
    pub(crate) delivered: Option<Delivered>,
    pub(crate) hindrances: Vec<Obstacle>,
    pub(crate) agent: Option<AgentFacts>,
    /// None: not seen since this process began, so what status remembers holds.
    pub(crate) anchors: Option<Vec<Anchor>>,
    /// The generations that its agent reports to hold, and when half of the life of each is over.
    pub(crate) held: BTreeMap<u32, Timestamp>,
    /// The same, of their revocation lists.
    pub(crate) lists: Option<Vec<Crl>>,
    /// The same.
    pub(crate) gateway: Option<BTreeSet<Target>>,
    /// What is seen of Istio there, in the Istio plane.
    pub(crate) istio: Option<IstioFacts>,
    /// What has to do with remote secrets; what a person says about it stands in the object.
    pub(crate) remote: RemoteFacts,
    /// What others have left there, once it was looked for.
    pub(crate) leftovers: Option<BTreeSet<Found>>,
    /// Nothing of ours is left there.
    pub(crate) withdrawn: bool,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            access: Access::Unknown,
            reach: Reach::Unknown,
            delivered: None,
            hindrances: Vec::new(),
            agent: None,
            anchors: None,
            held: BTreeMap::new(),
            lists: None,
            gateway: None,
            istio: None,
            remote: RemoteFacts::default(),
            leftovers: None,
            withdrawn: false,
        }
    }
}

/// Everything known.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) meshes: Store<Mesh>,
    pub(crate) members: Store<MeshMember>,
    pub(crate) deployments: Store<ClusterDeployment>,
    pub(crate) credentials: Store<Credential>,
    pub(crate) templates: Store<ClusterTemplate>,
    pub(crate) configs: Store<ConfigMap>,
    pub(crate) secrets: Store<PartialObjectMeta<Secret>>,
    pub(crate) roots: BTreeMap<String, Result<Root, Obstacle>>,
    /// The list that each root signed last, until it is recorded; newer than what is recorded.
    pub(crate) signed: BTreeMap<String, Arc<str>>,
    pub(crate) observed: BTreeMap<MemberKey, Observed>,
    /// When a cluster was first seen to ask for membership, until something is in it.
    pub(crate) asked: BTreeMap<MemberKey, Instant>,
}

impl State {
    /// The certificates that members of a mesh are known by, and whose they are.
    pub(crate) fn certificates(&self, mesh: &str) -> Vec<(ClusterName, Anchor)> {
        let mut found = Vec::new();
        for (key, object) in self.members.iter() {
            let Ok(cluster) = object.spec.cluster.parse::<ClusterName>() else {
                continue;
            };
            if object.spec.mesh != mesh {
                continue;
            }
            let key = MemberKey {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            };
            let seen = self
                .observed
                .get(&key)
                .and_then(|seen| seen.anchors.clone());
            let remembered = object
                .status
                .as_ref()
                .map(|status| read::remembered(status).0);
            let all = remembered.into_iter().chain(seen).flatten();
            found.extend(all.map(|anchor| (cluster.clone(), anchor)));
        }
        found
    }

    /// Everything that is surely there has been listed. The kinds of k0rdent may be missing.
    pub(crate) fn is_warm(&self) -> bool {
        self.meshes.is_warm()
            && self.members.is_warm()
            && self.configs.is_warm()
            && self.secrets.is_warm()
    }
}

/// The state, and the bell that says that it changed.
#[derive(Debug, Default)]
pub(crate) struct Index {
    state: Mutex<State>,
    /// Grows with every ring.
    version: AtomicU64,
    bell: Notify,
}

impl Index {
    /// Changes the state; rings when `change` says that something changed.
    pub(crate) fn learn(&self, change: impl FnOnce(&mut State) -> bool) {
        let changed = change(&mut self.state.lock());
        if changed {
            self.ring();
        }
    }

    /// Reports on one member.
    pub(crate) fn report(&self, key: &MemberKey, change: impl FnOnce(&mut Observed)) {
        self.learn(|state| {
            let observed = state.observed.entry(key.clone()).or_default();
            let before = observed.clone();
            change(observed);
            *observed != before
        });
    }

    /// A root that should sign did not.
    pub(crate) fn root_fails(&self, mesh: &str, why: &Obstacle) {
        if why.reason != TOKEN_AWAY {
            return;
        }
        self.learn(|state| match state.roots.get_mut(mesh) {
            Some(Ok(root)) if root.signer.is_ok() => {
                root.signer = Err(why.clone());
                true
            }
            Some(_) | None => false,
        });
    }

    /// Reads the state. Nothing is awaited while it is read.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock())
    }

    /// Waits until something changed since the last time this was awaited.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Rings although nothing changed.
    pub(crate) fn ring(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
        self.bell.notify_one();
    }

    /// How often it rang. A look that read this before it read the state knows everything learned until then.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests;
