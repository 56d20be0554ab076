//! Writes on management what is to be written: only while this replica leads, several objects at a time, one job per
//! object, with growing pauses for what fails.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use mesh_api::{labels, member::MeshMember, mesh::Mesh};
use mesh_core::facts::MemberKey;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::{
    index::Index,
    register::{Job, JobId, Jobs, changes, news, news_of_peers},
};
use crate::{
    call::{CallError, call},
    lease::Claim,
    watches::{Key, Seen},
};

/// Jobs under way at a time.
const HANDS: usize = 16;
/// Pause after a failure, doubled with each further one.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// Writes of one object's status within [`WINDOW`]: several enrolments and faults a minute fit. A member that changes its word all
/// the time is heard this often and no more.
const BURST: usize = 60;
/// See [`BURST`].
const WINDOW: Duration = Duration::from_mins(1);

/// When an object was written last, as far back as it matters.
#[derive(Debug, Default)]
struct Budget(VecDeque<Instant>);

impl Budget {
    /// From when on it may be written again; none = now.
    fn next(&self, now: Instant) -> Option<Instant> {
        let oldest = self.0.front().filter(|_| self.0.len() >= BURST)?;
        let at = oldest.checked_add(WINDOW)?;
        (at > now).then_some(at)
    }

    fn spend(&mut self, now: Instant) {
        while self.0.len() >= BURST {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }
}

/// Writes on management.
pub(crate) struct Registrar {
    pub(crate) client: Client,
    pub(crate) index: Arc<Index>,
    pub(crate) claim: Claim,
    pub(crate) recorder: Recorder,
}

struct Failed {
    times: u32,
    until: Instant,
}

impl Registrar {
    pub(crate) fn new(client: Client, index: Arc<Index>, claim: Claim, pod: &str) -> Self {
        let reporter = Reporter {
            controller: labels::CONTROLLER.to_owned(),
            instance: Some(pod.to_owned()),
        };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            index,
            claim,
            recorder,
        }
    }

    /// Runs for ever.
    pub(crate) async fn run(self, mut jobs: watch::Receiver<(u64, Jobs)>) {
        let this = Arc::new(self);
        let mut claim = this.claim.clone();
        let mut busy: BTreeSet<JobId> = BTreeSet::new();
        let mut failed: BTreeMap<JobId, Failed> = BTreeMap::new();
        let mut budgets: BTreeMap<JobId, Budget> = BTreeMap::new();
        // What was just written must be looked at before more is written.
        let mut stale: BTreeMap<JobId, u64> = BTreeMap::new();
        let mut work: FuturesUnordered<BoxFuture<'static, (JobId, bool)>> = FuturesUnordered::new();
        loop {
            let mut next = None;
            if this.claim.is_current() {
                let now = Instant::now();
                let (known, todo) = jobs.borrow_and_update().clone();
                failed.retain(|id, _| todo.contains_key(id));
                stale.retain(|_, after| known < *after);
                budgets
                    .retain(|_, budget| budget.0.back().is_some_and(|last| now - *last < WINDOW));
                for (id, job) in todo {
                    if busy.contains(&id) || stale.contains_key(&id) || work.len() >= HANDS {
                        continue;
                    }
                    if let Some(pause) = failed.get(&id).filter(|failed| failed.until > now) {
                        next = Some(next.map_or(pause.until, |at: Instant| at.min(pause.until)));
                        continue;
                    }
                    if matches!(job, Job::Tell { .. } | Job::TellMesh { .. }) {
                        let budget = budgets.entry(id.clone()).or_default();
                        if let Some(at) = budget.next(now) {
                            next = Some(next.map_or(at, |other: Instant| at.min(other)));
                            continue;
                        }
                        budget.spend(now);
                    }
                    busy.insert(id.clone());
                    let this = Arc::clone(&this);
                    work.push(async move { (id.clone(), this.attempt(&id, job).await) }.boxed());
                }
            } else {
                jobs.mark_unchanged();
            }
            let pause = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = jobs.changed() => if changed.is_err() { return },
                () = claim.changed() => {}
                Some((id, done)) = work.next() => {
                    busy.remove(&id);
                    if done {
                        failed.remove(&id);
                    } else {
                        let times = failed.get(&id).map_or(0, |f| f.times).saturating_add(1);
                        let pause = PAUSE.saturating_mul(1 << times.min(7)).min(LONGEST);
                        failed.insert(id.clone(), Failed { times, until: Instant::now() + pause });
                    }
                    this.index.ring();
                    stale.insert(id, this.index.version());
                }
                () = pause => {}
            }
        }
    }

    async fn attempt(&self, id: &JobId, job: Job) -> bool {
        match self.write(id, job).await {
            Ok(()) => true,
            // Somebody changed it meanwhile: the next look sees what.
            Err(error) if error.is_conflict() || error.is_not_found() => {
                tracing::debug!(%id, why = mesh_core::text::chain(&error), "Looking again");
                false
            }
            Err(error) => {
                tracing::warn!(%id, why = mesh_core::text::chain(&error), "Failed to write");
                false
            }
        }
    }

    fn allowed(&self, verb: &'static str, id: &JobId) -> Result<(), CallError> {
        if self.claim.is_current() {
            Ok(())
        } else {
            Err(CallError::NotLeading {
                verb,
                object: id.to_string(),
            })
        }
    }

    async fn write(&self, id: &JobId, job: Job) -> Result<(), CallError> {
        match (id, job) {
            (JobId::Member(key), Job::Enrol(object)) => self.enrol(id, key, &object).await,
            (JobId::Member(key), Job::Dismiss { uid }) => self.dismiss(id, key, uid).await,
            (
                JobId::Member(key),
                Job::Release {
                    version,
                    finalizers,
                },
            ) => {
                let body =
                    json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } });
                self.release(id, key, &body).await
            }
            (
                JobId::MemberStatus(key),
                Job::Tell {
                    uid,
                    before,
                    status,
                },
            ) => {
                let body = json!({
                    "apiVersion": MeshMember::api_version(&()), "kind": "MeshMember",
                    "metadata": { "name": key.name, "namespace": key.namespace, "uid": uid },
                    "status": status,
                });
                let api = self.members(key);
                let told = self.tell(&api, (id, &key.name), &body).await?;
                self.index
                    .learn(|state| state.members.see(Seen::Applied(told.clone())));
                self.publish(&told, &before.conditions, &status.conditions)
                    .await;
                for news in news_of_peers(&before, &status) {
                    self.send(&told, &event(news.warning, news.reason, "Peer", &news.note))
                        .await;
                }
                Ok(())
            }
            (
                JobId::MeshStatus(name),
                Job::TellMesh {
                    uid,
                    before,
                    status,
                },
            ) => {
                let body = json!({
                    "apiVersion": Mesh::api_version(&()), "kind": "Mesh",
                    "metadata": { "name": name, "uid": uid },
                    "status": status,
                });
                let told = self
                    .tell(&Api::<Mesh>::all(self.client.clone()), (id, name), &body)
                    .await?;
                self.index
                    .learn(|state| state.meshes.see(Seen::Applied(told.clone())));
                self.publish(&told, &before.conditions, &status.conditions)
                    .await;
                for news in news(&before, &status) {
                    self.send(&told, &event(news.warning, news.reason, "Mesh", &news.note))
                        .await;
                }
                Ok(())
            }
            (_, _) => Ok(()),
        }
    }

    async fn enrol(
        &self,
        id: &JobId,
        key: &MemberKey,
        object: &MeshMember,
    ) -> Result<(), CallError> {
        self.allowed("apply", id)?;
        let params = PatchParams::apply(labels::CONTROLLER).force();
        let body = body(object, "MeshMember");
        let api = self.members(key);
        let written = call(
            "apply",
            id,
            api.patch(&key.name, &params, &Patch::Apply(&body)),
        )
        .await?;
        tracing::info!(member = %key, "Enrolled");
        self.index
            .learn(|state| state.members.see(Seen::Applied(written)));
        Ok(())
    }

    async fn dismiss(
        &self,
        id: &JobId,
        key: &MemberKey,
        uid: Option<String>,
    ) -> Result<(), CallError> {
        self.allowed("delete", id)?;
        let preconditions = Some(Preconditions {
            uid,
            resource_version: None,
        });
        let params = DeleteParams {
            preconditions,
            ..DeleteParams::default()
        };
        let answer = call("delete", id, self.members(key).delete(&key.name, &params)).await?;
        tracing::info!(member = %key, "Dismissed");
        if let Some(object) = answer.left() {
            self.index
                .learn(|state| state.members.see(Seen::Applied(object)));
        }
        Ok(())
    }

    async fn release(&self, id: &JobId, key: &MemberKey, body: &Value) -> Result<(), CallError> {
        self.allowed("release", id)?;
        let params = PatchParams {
            field_manager: Some(labels::CONTROLLER.to_owned()),
            ..PatchParams::default()
        };
        let left = call(
            "release",
            id,
            self.members(key)
                .patch(&key.name, &params, &Patch::Merge(body)),
        )
        .await?;
        tracing::info!(member = %key, "Released");
        // The last finalizer is gone, and so is the object.
        let gone = left.finalizers().is_empty();
        let seen = if gone {
            Seen::Deleted(Key::of(&left))
        } else {
            Seen::Applied(left)
        };
        self.index.learn(|state| state.members.see(seen));
        Ok(())
    }

    async fn tell<K>(
        &self,
        api: &Api<K>,
        (id, name): (&JobId, &str),
        body: &Value,
    ) -> Result<K, CallError>
    where
        K: Clone + std::fmt::Debug + DeserializeOwned + Send,
    {
        self.allowed("tell", id)?;
        let params = PatchParams::apply(labels::CONTROLLER).force();
        call(
            "tell",
            id,
            api.patch_status(name, &params, &Patch::Apply(body)),
        )
        .await
    }

    fn members(&self, key: &MemberKey) -> Api<MeshMember> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Events on changes only. One that is lost is no loss: status says the same.
    async fn publish<K: Resource<DynamicType = ()> + Sync>(
        &self,
        object: &K,
        before: &[Condition],
        after: &[Condition],
    ) {
        for condition in changes(before, after) {
            let note = format!("{}: {}", condition.type_, condition.message);
            let warning = condition.status != "True";
            self.send(
                object,
                &event(warning, &condition.reason, &condition.type_, &note),
            )
            .await;
        }
    }

    async fn send<K: Resource<DynamicType = ()> + Sync>(&self, object: &K, event: &Event) {
        if !self.claim.is_current() {
            return;
        }
        let reference = object.object_ref(&());
        let sent = call(
            "create",
            "an event",
            self.recorder.publish(event, &reference),
        )
        .await;
        if let Err(error) = sent {
            tracing::debug!(
                why = mesh_core::text::chain(&error),
                "Failed to publish an event"
            );
        }
    }
}

/// An event; Kubernetes refuses longer notes.
fn event(warning: bool, reason: &str, action: &str, note: &str) -> Event {
    Event {
        type_: if warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: reason.to_owned(),
        note: Some(note.chars().take(1000).collect()),
        action: action.to_owned(),
        secondary: None,
    }
}

/// An object to be applied: without the fields that serde writes as null.
fn body<K: serde::Serialize>(object: &K, kind: &str) -> Value {
    let mut body = serde_json::to_value(object).unwrap_or_default();
    if let Some(map) = body.as_object_mut() {
        map.retain(|_, value| !value.is_null());
        map.entry("kind").or_insert_with(|| json!(kind));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_never_stops_talking_is_heard_so_often_and_no_more() {
        let start = Instant::now();
        let mut budget = Budget::default();
        let mut written = 0;
        for tenth in 0..3000 {
            let now = start + Duration::from_millis(100 * tenth);
            if budget.next(now).is_none() {
                budget.spend(now);
                written += 1;
            }
        }
        // Five minutes.
        assert_eq!(written, 5 * BURST);
        assert_eq!(budget.next(start + Duration::from_mins(10)), None);
    }
}
