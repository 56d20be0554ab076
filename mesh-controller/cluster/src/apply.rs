//! The only writer of objects that are rendered: it applies, prunes and withdraws what is ours, and refuses
//! what is foreign.
//!
//! Ours is what carries our three labels: made by us, by this install, for this member. Nothing else is ever changed
//! or deleted. Two kinds may be there before us and are then used as they are: namespaces and the CRD.

mod guest;
mod intact;
mod leave;
mod prune;
mod remote;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams},
};
use mesh_api::{
    GROUP, TELEMETRY_NAMESPACE, labels,
    render::{ManagedKind, Rendered},
};
use mesh_core::{conditions::NAME_TAKEN, facts::Obstacle, text::hex};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub(crate) use self::remote::is_intact as remote_is_intact;
pub use self::{intact::intact, leave::Remains};
use crate::call::{CallError, call, call_opt};

/// How long one round over all objects of a member may take.
pub const ROUND: Duration = Duration::from_secs(20);

/// Whether this process may write now. Asked before every single write.
pub type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

/// A gate that is always open.
#[must_use]
pub fn open_gate() -> Gate {
    Arc::new(|| true)
}

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: ManagedKind,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl From<&Rendered> for ObjectId {
    fn from(object: &Rendered) -> Self {
        Self {
            kind: object.kind,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.kind, self.name),
            None => write!(f, "{} {}", self.kind.kind, self.name),
        }
    }
}

/// Whose the objects are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// UID of this install.
    pub install: String,
    /// UID of the `MeshMember`.
    pub member: String,
    /// UIDs of the other members of this install; what carries another UID of this install is left over from a member that is no more,
    /// and is taken over.
    pub others: Arc<BTreeSet<String>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Ours,
    Foreign,
}

impl Owner {
    fn standing(&self, meta: &ObjectMeta) -> Standing {
        let label = |name: &str| {
            meta.labels
                .as_ref()
                .and_then(|l| l.get(name))
                .map(String::as_str)
        };
        let ours = label(labels::MANAGED_BY) == Some(labels::MANAGED_BY_US)
            && label(labels::INSTALL) == Some(&self.install)
            && label(labels::MEMBER)
                .is_some_and(|member| member == self.member || !self.others.contains(member));
        if ours {
            Standing::Ours
        } else {
            Standing::Foreign
        }
    }

    /// Selects what is ours.
    fn selector(&self) -> String {
        format!(
            "{}={},{}={},{}={}",
            labels::MANAGED_BY,
            labels::MANAGED_BY_US,
            labels::INSTALL,
            self.install,
            labels::MEMBER,
            self.member
        )
    }
}

/// What became of one object.
#[derive(Debug)]
pub enum Outcome {
    /// It was written.
    Written,
    /// It is as it should be.
    Unchanged,
    /// It is there, it is not ours, and that is fine.
    Shared,
    /// It is there, and it is not ours.
    Refused(Obstacle),
    /// It could not be written.
    Failed(CallError),
}

/// Not applied yet.
#[derive(Debug)]
pub enum Prepared {}
/// Applied, as far as that was possible.
#[derive(Debug)]
pub enum Done {}

/// Objects that belong together. Only a batch that is done says what may be pruned.
#[derive(Debug)]
pub struct Batch<S> {
    objects: Vec<Rendered>,
    /// The API server answered to the end.
    answered: bool,
    stage: PhantomData<S>,
}

impl Batch<Prepared> {
    /// Objects in the order in which they are to be applied.
    #[must_use]
    pub fn new(objects: Vec<Rendered>) -> Self {
        Self {
            objects,
            answered: false,
            stage: PhantomData,
        }
    }
}

impl Batch<Done> {
    fn keeps(&self, id: &ObjectId) -> bool {
        self.objects
            .iter()
            .any(|object| ObjectId::from(object) == *id)
    }
}

/// What became of a batch.
#[derive(Debug)]
pub struct Round {
    /// The batch, for [`Writer::prune`].
    pub done: Batch<Done>,
    /// By object.
    pub outcomes: Vec<(ObjectId, Outcome)>,
    /// `metadata.generation` by object, of those that are as they should be.
    pub generations: BTreeMap<ObjectId, i64>,
}

impl Round {
    /// What stands in the way, in the order of the batch.
    #[must_use]
    pub fn hindrances(&self) -> Vec<Obstacle> {
        let mut hindrances: Vec<Obstacle> = self
            .outcomes
            .iter()
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Refused(why) => Some(why.clone()),
                Outcome::Failed(error) => Some(error.obstacle()),
                Outcome::Written | Outcome::Unchanged | Outcome::Shared => None,
            })
            .collect();
        if hindrances.is_empty() && !self.done.answered {
            hindrances.push(Obstacle::new(
                "Timeout",
                format!("applying everything took longer than {} s", ROUND.as_secs()),
            ));
        }
        hindrances
    }

    /// Whether this replica turned out not to lead: then nothing is to be concluded from it.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.outcomes
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Failed(CallError::NotLeading { .. })))
    }
}

/// Writes objects into one cluster, for one owner.
pub struct Writer {
    client: Client,
    manager: &'static str,
    owner: Owner,
    gate: Gate,
    /// What was last seen to be right, by object: hash of what we want, and the object's `resourceVersion`.
    settled: Mutex<BTreeMap<ObjectId, (String, String)>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("manager", &self.manager)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Nothing is asked or written yet.
    #[must_use]
    pub fn new(client: Client, manager: &'static str, owner: Owner, gate: Gate) -> Self {
        Self {
            client,
            manager,
            owner,
            gate,
            settled: Mutex::default(),
        }
    }

    /// Whose the objects are, from now on.
    pub fn set_owner(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Applies a batch, object by object. One that fails does not hinder the next, unless it is a namespace or the API server is lost.
    pub async fn apply(&self, batch: Batch<Prepared>) -> Round {
        self.apply_seen(batch, |_| ()).await
    }

    /// [`Writer::apply`], and tells of each object as soon as it is settled.
    pub async fn apply_seen(
        &self,
        batch: Batch<Prepared>,
        mut seen: impl FnMut(&Outcome) + Send,
    ) -> Round {
        let end = Instant::now() + ROUND;
        let mut queue: VecDeque<&Rendered> = batch.objects.iter().collect();
        let (mut outcomes, mut generations, mut answered) = (Vec::new(), BTreeMap::new(), true);
        while let Some(object) = queue.pop_front() {
            let id = ObjectId::from(object);
            let Ok((outcome, generation)) = tokio::time::timeout_at(end, self.settle(object)).await
            else {
                answered = false;
                break;
            };
            if let Outcome::Failed(error) = &outcome {
                // A kind of ours is served a moment after its CRD was written.
                if error.is_not_found() && id.kind.api_version.starts_with(GROUP) {
                    queue.push_back(object);
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    continue;
                }
                let stop = error.trouble().is_loss()
                    || id.kind.kind == "Namespace"
                    || matches!(error, CallError::NotLeading { .. });
                answered = answered && !error.trouble().is_loss();
                if stop {
                    seen(&outcome);
                    outcomes.push((id, outcome));
                    break;
                }
            }
            seen(&outcome);
            generations.extend(generation.map(|generation| (id.clone(), generation)));
            outcomes.push((id, outcome));
        }
        let done = Batch {
            objects: batch.objects,
            answered,
            stage: PhantomData,
        };
        Round {
            done,
            outcomes,
            generations,
        }
    }

    /// Applies one object, if it needs it.
    async fn settle(&self, object: &Rendered) -> (Outcome, Option<i64>) {
        match self.try_settle(object).await {
            Ok(settled) => settled,
            Err(error) => (Outcome::Failed(error), None),
        }
    }

    async fn try_settle(&self, object: &Rendered) -> Result<(Outcome, Option<i64>), CallError> {
        let id = ObjectId::from(object);
        let api = self.api(&id);
        let (body, hash) = stamped(&object.body);
        let live = call_opt("get", &id, api.get_opt(&id.name)).await?.flatten();
        let Some(live) = live else {
            // Not forced: whoever is faster than we are keeps his object.
            let written = self.write(&api, &id, &body, false).await?;
            return Ok(self.note(&id, hash, &written, Outcome::Written));
        };
        let meta = &live.metadata;
        if self.owner.standing(meta) == Standing::Foreign {
            if id.kind.kind == "Namespace" && meta.deletion_timestamp.is_none() {
                return Ok((self.visit(&id, &body, meta).await?, None));
            }
            let shared =
                id.kind.kind == "CustomResourceDefinition" && meta.deletion_timestamp.is_none();
            return Ok((
                if shared {
                    Outcome::Shared
                } else {
                    Outcome::Refused(refusal(&id, meta))
                },
                None,
            ));
        }
        if meta.deletion_timestamp.is_some() {
            return Ok((
                Outcome::Refused(Obstacle::new(
                    "BeingDeleted",
                    format!("{id} is being deleted"),
                )),
                None,
            ));
        }
        let version = meta.resource_version.clone().unwrap_or_default();
        let known = self
            .settled
            .lock()
            .get(&id)
            .is_some_and(|(h, v)| *h == hash && *v == version);
        let whole = serde_json::to_value(&live).unwrap_or_default();
        if known || intact(&body, &whole, self.manager) {
            return Ok(self.note(&id, hash, &live, Outcome::Unchanged));
        }
        let mut fenced = body;
        if let (Some(uid), Some(meta)) = (
            &meta.uid,
            fenced
                .pointer_mut("/metadata")
                .and_then(Value::as_object_mut),
        ) {
            meta.insert("uid".to_owned(), json!(uid));
        }
        let written = self.write(&api, &id, &fenced, true).await?;
        let outcome = if written.metadata.resource_version.as_deref() == Some(&version) {
            Outcome::Unchanged
        } else {
            Outcome::Written
        };
        Ok(self.note(&id, hash, &written, outcome))
    }

    fn note(
        &self,
        id: &ObjectId,
        hash: String,
        live: &DynamicObject,
        outcome: Outcome,
    ) -> (Outcome, Option<i64>) {
        let version = live.meta().resource_version.clone().unwrap_or_default();
        self.settled.lock().insert(id.clone(), (hash, version));
        (outcome, live.meta().generation)
    }

    async fn write(
        &self,
        api: &Api<DynamicObject>,
        id: &ObjectId,
        body: &Value,
        force: bool,
    ) -> Result<DynamicObject, CallError> {
        self.allowed("apply", id)?;
        let params = PatchParams {
            force,
            ..PatchParams::apply(self.manager)
        };
        tracing::debug!(object = %id, "Applying");
        call(
            "apply",
            id,
            api.patch(&id.name, &params, &Patch::Apply(body)),
        )
        .await
    }

    fn allowed(&self, verb: &'static str, object: &impl ToString) -> Result<(), CallError> {
        if (self.gate)() {
            Ok(())
        } else {
            Err(CallError::NotLeading {
                verb,
                object: object.to_string(),
            })
        }
    }

    fn api(&self, id: &ObjectId) -> Api<DynamicObject> {
        let resource = resource(id.kind);
        match &id.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

pub(crate) fn resource(kind: ManagedKind) -> ApiResource {
    let (group, version) = kind
        .api_version
        .split_once('/')
        .unwrap_or(("", kind.api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version.to_owned(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}

/// The body with the hash of itself on it: a field that we no longer want changes the hash, and so is taken away.
fn stamped(body: &Value) -> (Value, String) {
    let digest = Sha256::digest(body.to_string().as_bytes());
    let hash: String = hex(&digest).chars().take(32).collect();
    let mut body = body.clone();
    if let Some(meta) = body.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(labels::APPLIED.to_owned(), json!(hash));
        }
    }
    (body, hash)
}

fn refusal(id: &ObjectId, meta: &ObjectMeta) -> Obstacle {
    let name = id.kind.kind == "Service" && id.namespace.as_deref() == Some(TELEMETRY_NAMESPACE);
    let reason = if name { NAME_TAKEN } else { "ForeignObject" };
    let by = meta
        .labels
        .as_ref()
        .and_then(|l| l.get(labels::MANAGED_BY))
        .map(String::as_str);
    let message = match by {
        Some(labels::MANAGED_BY_US) => {
            format!("{id} belongs to another install of kof-istio, or to another member")
        }
        Some(by) => format!("{id} exists and is managed by {by}; it is not touched"),
        None => format!("{id} exists and was not made by kof-istio; it is not touched"),
    };
    Obstacle::new(reason, message)
}

#[cfg(test)]
mod tests;
