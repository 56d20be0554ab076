//! The controller: what it watches on management becomes facts, facts become a plan, and the plan is carried out in each
//! member by a task of its own, and written down on management.
//!
//! | room | what it does |
//! |---|---|
//! | `feeds` | watches on management, into the index |
//! | `index` | everything known |
//! | `look` | from everything known to what is to be done; pure |
//! | `roots` | keeps the roots open |
//! | `member` | one task per member: connects, observes, delivers, signs, leaves |
//! | `remote` | who gets into which region, for remote secrets |
//! | `register`, `registrar` | what is to be written on management, and writing it |

mod endings;
mod feeds;
mod index;
mod look;
mod member;
mod register;
mod registrar;
mod remote;
mod roots;
mod sign;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _};
use mesh_core::{
    conditions::State as Truth,
    facts::{MemberKey, Reach},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use self::{
    endings::endings,
    index::{Index, State},
    look::{Constants, Look, Wish, look},
    member::{Common, Member},
    register::Jobs,
    registrar::Registrar,
    remote::Ways,
    roots::Roots,
};
use crate::{
    call::{CallError, call},
    lease::{self, Claim},
    metrics::{Metrics, Reached, Station},
    tasks::{TaskError, Tasks},
    vault::Vault,
    watches::{Key, Patience},
};

/// What a deployment decides.
#[derive(Clone, Debug)]
pub struct ControllerSettings {
    /// Namespace of the controller: its Lease and the roots are there.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Image of the agents: our own.
    pub image: String,
    /// Image of the Envoys beside them.
    pub envoy_image: String,
    /// Envoy's bootstrap, JSON.
    pub envoy_bootstrap: String,
    /// Names of Secrets in members to pull images with.
    pub pull_secrets: Vec<String>,
    /// Log filter of the agents.
    pub log: String,
    /// Whether management is a member itself.
    pub management_member: bool,
    /// The mesh that management is in.
    pub management_mesh: String,
    /// The driver of PKCS#11 tokens, for roots whose keys are in one.
    pub pkcs11_module: Option<PathBuf>,
}

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Management does not say who it is.
    #[error("failed to identify the management cluster")]
    Identify(#[source] CallError),
    /// A part of it ended.
    #[error("failed to keep the controller running")]
    Task(#[source] TaskError),
}

/// Whether the controller does what it is there for.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Option<Arc<Index>>>>);

impl Readiness {
    /// Whether everything on management was seen once.
    ///
    /// # Errors
    ///
    /// What is still missing.
    pub fn check(&self) -> Result<(), String> {
        let index = self
            .0
            .lock()
            .clone()
            .ok_or("not connected to the management cluster yet")?;
        let missing = |state: &State| {
            let kinds = [
                ("meshes", state.meshes.is_warm()),
                ("members", state.members.is_warm()),
                ("configs of children", state.configs.is_warm()),
                ("secrets", state.secrets.is_warm()),
            ];
            kinds
                .into_iter()
                .find(|(_, warm)| !warm)
                .map(|(kind, _)| kind)
        };
        match index.read(missing) {
            None => Ok(()),
            Some(kind) => Err(format!("{kind} were not listed yet")),
        }
    }
}

/// Runs the controller until `shutdown`, then lets go of the Lease.
///
/// # Errors
///
/// When a part of it ends that should not.
pub async fn run(
    client: Client,
    settings: ControllerSettings,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ControllerError> {
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    let install = tokio::select! {
        install = identify(&client) => install?,
        () = &mut shutdown => return Ok(()),
    };
    let index = Arc::new(Index::default());
    *readiness.0.lock() = Some(Arc::clone(&index));
    let mut tasks = Tasks::new();
    let (claim, contend) = lease::contend(
        client.clone(),
        &settings.namespace,
        &settings.pod,
        until(stopped),
    );
    let mut contender = JoinSet::new();
    contender.spawn(contend);
    feeds::spawn(&mut tasks, &client, &index);
    let looked = Arc::new(Notify::new());
    let (jobs, todo) = watch::channel((0, Jobs::new()));
    let registrar = Registrar::new(
        client.clone(),
        Arc::clone(&index),
        claim.clone(),
        &settings.pod,
    );
    tasks.spawn("registrar", registrar.run(todo));
    let roots = Roots {
        vault: Vault {
            client: client.clone(),
            namespace: settings.namespace.clone(),
            module: settings.pkcs11_module.clone(),
        },
        index: Arc::clone(&index),
        claim: claim.clone(),
        looked: Arc::clone(&looked),
    };
    tasks.spawn("roots", roots.run());
    let constants = Constants {
        install: install.clone(),
        management_member: settings.management_member,
        management_mesh: settings.management_mesh.clone(),
    };
    let common = Common {
        management: client,
        index,
        settings: Arc::new(settings),
        install,
        claim: claim.clone(),
        metrics,
        ways: Ways::default(),
    };
    tasks.spawn("gauge of leading", gauge(claim, common.metrics.clone()));
    tasks.spawn("look", looking(common, constants, jobs, looked));
    tokio::select! {
        ended = tasks.ended() => Err(ControllerError::Task(ended)),
        Some(_) = contender.join_next() => Err(ControllerError::Task(TaskError::Ended { name: "lease" })),
        () = &mut shutdown => {
            // Nothing is written any more once the Lease is free.
            drop(tasks);
            stop.send_replace(true);
            while contender.join_next().await.is_some() {}
            Ok(())
        }
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    while !*stopped.borrow_and_update() {
        if stopped.changed().await.is_err() {
            return;
        }
    }
}

/// UID of this install: that of the management cluster. Waits for as long as management does not answer.
async fn identify(client: &Client) -> Result<String, ControllerError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let mut delays = Patience::SHORT.delays();
    loop {
        match call(
            "get",
            "Namespace kube-system",
            api.get_metadata("kube-system"),
        )
        .await
        {
            Ok(namespace) => return Ok(namespace.uid().unwrap_or_default()),
            Err(error) if error.trouble() == crate::call::Trouble::Forbidden => {
                return Err(ControllerError::Identify(error));
            }
            Err(error) => tracing::warn!(
                why = mesh_core::text::chain(&error),
                "Management does not answer"
            ),
        }
        tokio::time::sleep(delays.next().unwrap_or(Patience::SHORT.most)).await;
    }
}

async fn gauge(mut claim: Claim, metrics: Metrics) {
    loop {
        metrics.leading(claim.is_current());
        claim.changed().await;
    }
}

/// Looks whenever something changed, and hands out what is to be done.
async fn looking(
    common: Common,
    constants: Constants,
    jobs: watch::Sender<(u64, Jobs)>,
    looked: Arc<Notify>,
) {
    let mut members = Members {
        common: common.clone(),
        tasks: JoinSet::new(),
        known: BTreeMap::new(),
    };
    loop {
        let now = Timestamp::now();
        let version = common.index.version();
        let (found, todo) = common.index.read(|state| {
            let found = look(state, &constants, now);
            let todo = register::jobs(state, &found, now);
            common.metrics.endings(endings(state, &found).into_iter());
            (found, todo)
        });
        common.metrics.looked();
        count(&common.metrics, &found);
        common.index.learn(|state| {
            remember(state, &found);
            false
        });
        let wake_at = found.wake_at;
        members.publish(found.wishes);
        jobs.send_replace((version, todo));
        looked.notify_one();
        tokio::select! {
            () = common.index.rung() => {}
            () = wake(wake_at, now) => {}
        }
    }
}

async fn wake(at: Option<Timestamp>, now: Timestamp) {
    match at {
        Some(at) => {
            let left = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
            tokio::time::sleep(left + Duration::from_millis(10)).await;
        }
        None => std::future::pending().await,
    }
}

/// Keeps what belongs to members that are there, and notes when clusters ask.
fn remember(state: &mut State, found: &Look) {
    state
        .observed
        .retain(|key, _| found.wishes.contains_key(key));
    let there = |state: &State, key: &MemberKey| {
        state
            .members
            .get(&Key::new(&key.namespace, &key.name))
            .is_some()
    };
    let fresh: Vec<MemberKey> = found
        .asked
        .keys()
        .filter(|key| !there(state, key))
        .cloned()
        .collect();
    // What was there when this process began did not ask just now.
    let warm = state.is_warm();
    for key in fresh.into_iter().filter(|_| warm) {
        state.asked.entry(key).or_insert_with(Instant::now);
    }
    let done = |key: &MemberKey| {
        state
            .observed
            .get(key)
            .is_some_and(|o| o.delivered.is_some())
    };
    let over: Vec<MemberKey> = state
        .asked
        .keys()
        .filter(|key| done(key) || !found.asked.contains_key(*key))
        .cloned()
        .collect();
    for key in over {
        state.asked.remove(&key);
    }
}

fn count(metrics: &Metrics, found: &Look) {
    metrics.members(found.told.values().map(|told| {
        let first = told
            .plan
            .verdicts
            .iter()
            .find(|verdict| verdict.state != Truth::True);
        let reached = match told.facts.reach {
            Reach::Unknown => Reached::Unknown,
            Reach::Answers { .. } => Reached::Answers,
            Reach::Lost(_) => Reached::Lost,
        };
        (
            first.map_or(Station::Ready, |verdict| verdict.kind.into()),
            reached,
        )
    }));
}

/// The tasks of all members.
struct Members {
    common: Common,
    tasks: JoinSet<()>,
    known: BTreeMap<MemberKey, (watch::Sender<Wish>, AbortHandle)>,
}

impl Members {
    /// Tells each task what is to be done, starts new ones and ends those that have nobody to care for.
    fn publish(&mut self, wishes: BTreeMap<MemberKey, Wish>) {
        self.known.retain(|key, (_, task)| {
            let kept = wishes.contains_key(key);
            if !kept {
                tracing::debug!(member = %key, "No longer cared for");
                task.abort();
            }
            kept
        });
        for (key, wish) in wishes {
            if let Some((sender, _)) = self.known.get(&key) {
                sender.send_if_modified(|known| {
                    let changed = *known != wish;
                    *known = wish;
                    changed
                });
            } else {
                let (sender, receiver) = watch::channel(wish);
                let member = Member::new(self.common.clone(), key.clone(), receiver);
                let task = self.tasks.spawn(member.run());
                self.known.insert(key, (sender, task));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}
