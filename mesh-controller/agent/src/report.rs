//! What is reported, and when: on a change of meaning, and never only because time has passed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mesh_api::{
    agent::{
        self as api, Crl, LedgerEntry, MeshAgentStatus, Replica, ReplicaPath, WorkloadsStatus,
    },
    member::Intermediate,
};
use mesh_cluster::{
    agent_io::{AgentIoError, Intent, OwnCluster, PodSeen, Seen, Shared},
    tasks::Tasks,
};
use mesh_core::{facts::Obstacle, probe};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{jitter, ledger::Book};

/// A restarted agent waits this long for the whole picture, before it takes back what it said in its life before.
const GRACE: Duration = Duration::from_secs(3);
/// Changes that come this close together are written as one.
const TOGETHER: Duration = Duration::from_millis(15);
/// Nothing is written twice within this time; the watch has shown it by then.
const REPEAT: Duration = Duration::from_secs(10);

/// Most namespaces that are named.
const NAMED: usize = 10;
/// How often something is tried on top of what stands there, while others write there too.
const TRIES: u32 = 5;

/// What this replica has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Draft {
    accepted: Option<i64>,
    rejected: Option<String>,
    paths: BTreeMap<String, probe::State>,
    unresolved: BTreeMap<String, Obstacle>,
    looked: bool,
    intermediates: Option<Vec<Intermediate>>,
    obstacle: Option<Obstacle>,
    unreadable: Option<Obstacle>,
    workloads: Option<Workloads>,
    crls: Option<Vec<Crl>>,
    cacerts: Option<Cacerts>,
    lists: Option<Lists>,
}

/// What istiod signs with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cacerts {
    /// The generation in the Secret.
    pub(crate) generation: Option<u32>,
    /// How many certificates the lists in it name, if there are any.
    pub(crate) revoked: Option<u32>,
    /// What is not as it should be.
    pub(crate) why: Option<Obstacle>,
}

/// The revocation lists that proxies are given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lists {
    /// How many certificates they name, once they stand in every namespace.
    pub(crate) revoked: Option<u32>,
    /// Namespaces whose map belongs to somebody else.
    pub(crate) foreign: Vec<String>,
    /// What is not as it should be.
    pub(crate) obstacle: Option<Obstacle>,
}

/// What workloads are given; nothing of it is known before it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Workloads {
    /// Nobody is given anything.
    None,
    /// These roots stand in every namespace.
    Given {
        /// Generation of the bundle, once it stands everywhere.
        bundle: Option<u32>,
        /// Namespaces whose map belongs to somebody else.
        foreign: Vec<String>,
        /// What is not as it should be.
        obstacle: Option<Obstacle>,
    },
}

impl Workloads {
    /// What was not looked at yet stays as it stands.
    fn status(&self, draft: &Draft, before: Option<&WorkloadsStatus>) -> Option<WorkloadsStatus> {
        match self {
            Self::None => None,
            Self::Given {
                bundle,
                foreign,
                obstacle,
            } => {
                let (cacerts, lists) = (draft.cacerts.as_ref(), draft.lists.as_ref());
                let reasons = [
                    obstacle.as_ref(),
                    cacerts.and_then(|it| it.why.as_ref()),
                    lists.and_then(|it| it.obstacle.as_ref()),
                ];
                let named = |names: &[String]| names.iter().take(NAMED).cloned().collect();
                let revoked = || before?.revoked;
                Some(WorkloadsStatus {
                    bundle: *bundle,
                    foreign: named(foreign),
                    cacerts: match cacerts {
                        Some(cacerts) => cacerts.generation,
                        None => before.and_then(|before| before.cacerts),
                    },
                    revoked: match (cacerts, lists) {
                        // They do not stand everywhere.
                        (_, Some(lists)) if !lists.foreign.is_empty() => None,
                        (Some(cacerts), Some(lists)) => lists.revoked.or(cacerts.revoked),
                        (_, _) => revoked(),
                    },
                    foreign_lists: match (lists, before) {
                        (Some(lists), _) => named(&lists.foreign),
                        (None, Some(before)) => before.foreign_lists.clone(),
                        (None, None) => Vec::new(),
                    },
                    obstacle: reasons.into_iter().flatten().next().map(told),
                })
            }
        }
    }
}

/// Where every part of the agent puts what it has to say.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    draft: Arc<watch::Sender<Draft>>,
    /// What may be handed out.
    pub(crate) ledger: Book,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            draft: Arc::new(watch::Sender::default()),
            ledger: Book::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Draft)) {
        self.draft.send_if_modified(|draft| {
            let before = draft.clone();
            change(draft);
            *draft != before
        });
    }

    /// The generation that Envoy accepted whole, and what it refused last.
    pub(crate) fn envoy(&self, accepted: Option<i64>, rejected: Option<String>) {
        self.change(|draft| {
            draft.accepted = accepted.or(draft.accepted);
            draft.rejected = rejected;
        });
    }

    /// The state of one path.
    pub(crate) fn path(&self, region: &str, state: &probe::State) {
        self.change(|draft| {
            draft.paths.insert(region.to_owned(), state.clone());
        });
    }

    /// Forgets all paths but those to these regions.
    pub(crate) fn only(&self, regions: &[String]) {
        self.change(|draft| draft.paths.retain(|region, _| regions.contains(region)));
    }

    /// Gateways without an address, by region.
    pub(crate) fn unresolved(&self, unresolved: BTreeMap<String, Obstacle>) {
        self.change(|draft| draft.unresolved = unresolved);
    }

    /// Tells when something new is said.
    pub(crate) fn news(&self) -> watch::Receiver<Draft> {
        self.draft.subscribe()
    }

    /// What in the `MeshAgent` cannot be read.
    pub(crate) fn unreadable(&self, why: Option<Obstacle>) {
        self.change(|draft| draft.unreadable = why);
    }

    /// The intermediates that are held, and what is the matter with them. When none is held, what was reported
    /// before stays: peers go on trusting it until there is another, since Envoy may still use it.
    pub(crate) fn intermediates(&self, held: &[Intermediate], obstacle: Option<&Obstacle>) {
        self.change(|draft| {
            if !held.is_empty() {
                draft.intermediates = Some(held.to_vec());
            }
            draft.looked = true;
            draft.obstacle = obstacle.cloned();
        });
    }

    /// The revocation lists of the intermediates. When there is none, those reported before stay.
    pub(crate) fn crls(&self, crls: &[Crl]) {
        self.change(|draft| {
            if !crls.is_empty() {
                draft.crls = Some(crls.to_vec());
            }
        });
    }

    /// What workloads are given.
    pub(crate) fn workloads(&self, workloads: Workloads) {
        self.change(|draft| draft.workloads = Some(workloads));
    }

    /// Nobody is given anything any more, lists neither.
    pub(crate) fn no_workloads(&self) {
        self.change(|draft| {
            draft.workloads = Some(Workloads::None);
            draft.lists = Some(Lists::default());
        });
    }

    /// What istiod signs with.
    pub(crate) fn cacerts(&self, cacerts: Cacerts) {
        self.change(|draft| draft.cacerts = Some(cacerts));
    }

    /// The revocation lists that proxies are given.
    pub(crate) fn lists(&self, lists: Lists) {
        self.change(|draft| draft.lists = Some(lists));
    }

    /// What this replica has to say now.
    pub(crate) fn said(&self) -> Draft {
        self.draft.borrow().clone()
    }

    /// What stands in the way of the intermediate, when nothing about it could be read.
    pub(crate) fn obstacle(&self, obstacle: Obstacle) {
        self.change(|draft| draft.obstacle = Some(obstacle));
    }
}

impl Draft {
    /// The intermediates that are held.
    pub(crate) fn held(&self) -> &[Intermediate] {
        self.intermediates.as_deref().unwrap_or_default()
    }

    /// Only what is said of the own intermediates and their lists.
    pub(crate) fn about_own(self) -> Self {
        Self {
            intermediates: self.intermediates,
            crls: self.crls,
            ..Self::default()
        }
    }

    /// Their revocation lists.
    pub(crate) fn crls(&self) -> &[Crl] {
        self.crls.as_deref().unwrap_or_default()
    }

    /// What all replicas say as one. What this one does not know yet stays as it stands: also the intermediates when
    /// none is held.
    fn shared(&self, before: &MeshAgentStatus) -> Shared {
        let obstacle = self.unreadable.as_ref().or(self.obstacle.as_ref());
        let known = self.workloads.as_ref();
        Shared {
            intermediates: self
                .intermediates
                .clone()
                .unwrap_or_else(|| before.intermediates.clone()),
            obstacle: obstacle.map(told),
            crls: self.crls.clone().unwrap_or_else(|| before.crls.clone()),
            workloads: known.map_or_else(
                || before.workloads.clone(),
                |known| known.status(self, before.workloads.as_ref()),
            ),
        }
    }

    fn replica(&self, pod: &str, version: &str, ledger: Vec<LedgerEntry>) -> Replica {
        Replica {
            pod: pod.to_owned(),
            version: version.to_owned(),
            accepted_generation: self.accepted,
            rejected: self.rejected.clone(),
            ledger,
            paths: self
                .paths
                .iter()
                .map(|(region, state)| self.path(region, state))
                .collect(),
            // Nobody here asks istiod yet.
            remotes: Vec::new(),
        }
    }

    fn path(&self, region: &str, state: &probe::State) -> ReplicaPath {
        let (ready, reason, message) = match &state.outcome {
            Ok(()) => (
                true,
                "Answered".to_owned(),
                "requests come through".to_owned(),
            ),
            Err(failure) => (
                false,
                failure.class.as_str().to_owned(),
                failure.message.clone(),
            ),
        };
        ReplicaPath {
            region: region.to_owned(),
            ready,
            reason,
            message,
            since: whole_second(state.since).to_string(),
            unresolved: self.unresolved.get(region).map(told),
        }
    }
}

/// What stands in the name of a pod.
fn of<'a>(replicas: &'a [Replica], pod: &str) -> Option<&'a Replica> {
    replicas.iter().find(|replica| replica.pod == pod)
}

/// A path that is as an earlier life of this pod has told is so since then.
fn since_before(mut replica: Replica, told: Option<&Replica>) -> Replica {
    for path in &mut replica.paths {
        let before = told.and_then(|told| told.paths.iter().find(|p| p.region == path.region));
        if let Some(before) = before
            && (before.ready, &before.reason) == (path.ready, &path.reason)
            && before.since < path.since
        {
            path.since.clone_from(&before.since);
        }
    }
    replica
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn told(obstacle: &Obstacle) -> api::Obstacle {
    api::Obstacle {
        reason: obstacle.reason.clone(),
        message: obstacle.message.clone(),
    }
}

/// Writes the reports.
#[derive(Clone)]
pub(crate) struct Reporter {
    pub(crate) cluster: OwnCluster,
    pub(crate) pod: String,
    pub(crate) version: String,
    pub(crate) board: Board,
    pub(crate) intents: watch::Receiver<Seen<Intent>>,
}

/// The `MeshAgent`, if it is there to stay.
pub(crate) fn present(intents: &mut watch::Receiver<Seen<Intent>>) -> Option<Intent> {
    let seen = intents.borrow_and_update().clone()?;
    seen.values()
        .next()
        .filter(|intent| !intent.leaving)
        .cloned()
}

impl Reporter {
    /// Starts all that is written into the status.
    pub(crate) fn start(self, pods: watch::Receiver<Seen<PodSeen>>, tasks: &mut Tasks) {
        tasks.spawn("report of this replica", self.clone().replica());
        tasks.spawn("report of the intermediate", self.clone().shared());
        tasks.spawn("reports of pods that are gone", self.bury(pods));
    }

    /// Reports what this replica sees, for ever.
    async fn replica(mut self) {
        let mut draft = self.board.draft.subscribe();
        let mut wishes = self.board.ledger.wishes();
        let mut begun: Option<Instant> = None;
        let mut last: Option<(Replica, Instant)> = None;
        let mut failures = 0;
        loop {
            let mut pause = REPEAT;
            self.board
                .ledger
                .stands_in(object(&self.intents).as_deref());
            wishes.mark_unchanged();
            if let Some(intent) = present(&mut self.intents) {
                let begun = *begun.get_or_insert_with(Instant::now);
                let mine = of(&intent.status.replicas, &self.pod);
                if let Some(mine) = mine {
                    self.board.ledger.confirm(mine);
                }
                let said = draft.borrow_and_update().clone();
                let whole = said.accepted.is_some()
                    && intent
                        .spec
                        .consume
                        .iter()
                        .all(|c| said.paths.contains_key(&c.region));
                let now = Timestamp::now();
                let hurry = mine.is_none() || self.board.ledger.is_behind(now);
                let replica = self.told(&said, mine, now);
                if !whole && !hurry && begun.elapsed() < GRACE {
                    pause = GRACE;
                } else if mine != Some(&replica) && !is_recent(last.as_ref(), &replica) {
                    match self.write(&said).await {
                        Ok(()) => {
                            failures = 0;
                            last = Some((replica, Instant::now()));
                        }
                        Err(error) => {
                            complain(&error, failures);
                            failures += 1;
                            pause = jitter::backoff(failures);
                        }
                    }
                }
            }
            let news = async {
                tokio::select! {
                    gone = wishes.changed() => gone.ok(),
                    news = wait(&mut self.intents, &mut draft, pause) => news,
                }
            };
            if news.await.is_none() {
                return;
            }
        }
    }

    /// What is to stand in the name of this pod, on top of what does.
    fn told(&self, said: &Draft, mine: Option<&Replica>, now: Timestamp) -> Replica {
        let ledger = self.board.ledger.lines(mine, now);
        since_before(said.replica(&self.pod, &self.version, ledger), mine)
    }

    /// Writes it on top of what stands there now, and takes note of the ledger that was written.
    async fn write(&self, said: &Draft) -> Result<(), AgentIoError> {
        let mut tries = 0;
        loop {
            let Some(read) = self.cluster.read_replicas().await? else {
                return Ok(());
            };
            let mine = of(&read.replicas, &self.pod);
            let replica = self.told(said, mine, Timestamp::now());
            let written = if mine == Some(&replica) {
                Ok(read)
            } else {
                self.cluster.report_replica(&read, &replica).await
            };
            match written {
                Ok(written) => {
                    if let Some(mine) = of(&written.replicas, &self.pod) {
                        self.board.ledger.confirm(mine);
                    }
                    return Ok(());
                }
                Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reports the intermediates, for ever. All replicas do, each only what is not reported yet.
    async fn shared(mut self) {
        let mut draft = self.board.draft.subscribe();
        let mut last = None;
        let mut failures = 0;
        loop {
            let mut pause = REPEAT;
            let said = draft.borrow_and_update().clone();
            if let Some(intent) = present(&mut self.intents)
                && (said.looked || said.obstacle.is_some() || said.unreadable.is_some())
            {
                let about = said.shared(&intent.status);
                let status = &intent.status;
                let standing = Shared {
                    intermediates: status.intermediates.clone(),
                    obstacle: status.obstacle.clone(),
                    crls: status.crls.clone(),
                    workloads: status.workloads.clone(),
                };
                if about != standing && !is_recent(last.as_ref(), &about) {
                    match self.cluster.report_shared(&about).await {
                        Ok(()) => {
                            failures = 0;
                            last = Some((about, Instant::now()));
                        }
                        Err(error) => {
                            complain(&error, failures);
                            failures += 1;
                            pause = jitter::backoff(failures);
                        }
                    }
                }
            }
            if wait(&mut self.intents, &mut draft, pause).await.is_none() {
                return;
            }
        }
    }

    /// Takes back what pods reported that are no more, for ever.
    async fn bury(mut self, mut pods: watch::Receiver<Seen<PodSeen>>) {
        loop {
            let alive = pods.borrow_and_update().clone();
            if let (Some(intent), Some(alive)) = (present(&mut self.intents), alive) {
                let gone = intent
                    .status
                    .replicas
                    .iter()
                    .map(|r| &r.pod)
                    .filter(|p| **p != self.pod && !alive.contains_key(*p));
                for pod in gone {
                    if let Err(error) = self.bury_one(pod).await {
                        complain(&error, 0);
                    }
                }
            }
            // Survivors take turns by chance; the second finds nothing to do.
            sleep(jitter::around(Duration::from_secs(2))).await;
            if wait(&mut self.intents, &mut pods, Duration::from_mins(1))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Forgets a replica, once its pod is gone and what of its ledger is alive stands in the own name.
    async fn bury_one(&self, pod: &str) -> Result<(), AgentIoError> {
        // A watch may be late; the API server itself must say so.
        if self.cluster.pod_exists(pod).await? {
            return Ok(());
        }
        // Read after the pod was gone: nobody adds to its ledger any more.
        let Some(read) = self.cluster.read_replicas().await? else {
            return Ok(());
        };
        let Some(dead) = of(&read.replicas, pod) else {
            return Ok(());
        };
        let mine = of(&read.replicas, &self.pod);
        if !self.board.ledger.may_forget(dead, mine, Timestamp::now()) {
            return Ok(());
        }
        match self.cluster.forget_replica(&read, pod).await {
            // Somebody wrote meanwhile: another look decides.
            Err(error) if error.is_conflict() => Ok(()),
            outcome => outcome,
        }
    }
}

/// UID of the `MeshAgent` that is there, as far as that is known.
fn object(intents: &watch::Receiver<Seen<Intent>>) -> Option<String> {
    let seen = intents.borrow().clone()?;
    seen.values().next().map(|intent| intent.uid.clone())
}

fn is_recent<T: PartialEq>(last: Option<&(T, Instant)>, now: &T) -> bool {
    last.is_some_and(|(written, at)| written == now && at.elapsed() < REPEAT)
}

fn complain(error: &AgentIoError, failures: u32) {
    if failures == 0 {
        tracing::warn!(error = error as &dyn std::error::Error, "failed to report");
    }
}

/// Waits for news from either, or until the pause is over; nothing if nobody can bring news any more.
async fn wait<A: Send + Sync, B: Send + Sync>(
    a: &mut watch::Receiver<A>,
    b: &mut watch::Receiver<B>,
    pause: Duration,
) -> Option<()> {
    let news = async {
        tokio::select! {
            gone = a.changed() => gone,
            gone = b.changed() => gone,
        }
    };
    match timeout(pause, news).await {
        Ok(Ok(())) => {
            sleep(TOGETHER).await;
            Some(())
        }
        Ok(Err(_closed)) => None,
        Err(_elapsed) => Some(()),
    }
}

#[cfg(test)]
mod tests;
