//! What is reported, and when: on a change of meaning, and never only because time has passed.

mod board;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mesh_api::agent::Replica;
use mesh_cluster::{
    agent_io::{AgentIoError, Intent, OwnCluster, PodSeen, Seen, Shared},
    tasks::Tasks,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub(crate) use self::board::{Board, Cacerts, Draft, Lists, Workloads};
use crate::{jitter, prober};

/// A restarted agent waits this long for the whole picture, before it takes back what it said in its life before.
const GRACE: Duration = Duration::from_secs(3);
/// Changes that come this close together are written as one.
const TOGETHER: Duration = Duration::from_millis(15);
/// Nothing is written twice within this time; the watch has shown it by then.
const REPEAT: Duration = Duration::from_secs(10);

/// How often something is tried on top of what stands there, while others write there too.
const TRIES: u32 = 5;

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

/// The pods that report.
#[derive(Clone, Debug)]
pub(crate) struct Living {
    /// Of the agent.
    pub(crate) agents: watch::Receiver<Seen<PodSeen>>,
    /// Those that only probe.
    pub(crate) probers: watch::Receiver<Seen<PodSeen>>,
}

impl Living {
    fn seen(&mut self) -> (Seen<PodSeen>, Seen<PodSeen>) {
        let agents = self.agents.borrow_and_update().clone();
        (agents, self.probers.borrow_and_update().clone())
    }
}

/// Those who have reported and are not among the living any more: agents, and pods that only probe, each by its own list, once
/// that is whole.
fn gone<'a>(
    replicas: &'a [Replica],
    own: &str,
    [agents, probers]: [Option<&BTreeMap<String, PodSeen>>; 2],
) -> Vec<&'a str> {
    let lives = |replica: &Replica| {
        let list = if replica.sidecar { probers } else { agents };
        list.is_none_or(|list| list.contains_key(&replica.pod))
    };
    let others = replicas.iter().filter(|replica| replica.pod != own);
    others
        .filter(|it| !lives(it))
        .map(|it| it.pod.as_str())
        .collect()
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
    /// Starts all that an agent writes into the status.
    pub(crate) fn start(self, living: Living, tasks: &mut Tasks) {
        tasks.spawn("report of this replica", self.clone().replica());
        tasks.spawn("report of the intermediate", self.clone().shared());
        tasks.spawn("reports of pods that are gone", self.bury(living));
    }

    /// Starts all that a pod writes there that only probes: nothing that is shared, and it takes nothing over from anybody.
    pub(crate) fn start_probes(self, tasks: &mut Tasks) {
        tasks.spawn("report of this pod", self.replica());
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
                        .filter(|c| !said.sidecar || prober::host(c).is_some())
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
    async fn bury(mut self, mut living: Living) {
        loop {
            let (agents, probers) = living.seen();
            if let Some(intent) = present(&mut self.intents) {
                let alive = [agents.as_deref(), probers.as_deref()];
                for pod in gone(&intent.status.replicas, &self.pod, alive) {
                    if let Err(error) = self.bury_one(pod).await {
                        complain(&error, 0);
                    }
                }
            }
            // Survivors take turns by chance; the second finds nothing to do.
            sleep(jitter::around(Duration::from_secs(2))).await;
            let news = async {
                tokio::select! {
                    gone = living.probers.changed() => gone.ok(),
                    news = wait(&mut self.intents, &mut living.agents, Duration::from_mins(1)) => news,
                }
            };
            if news.await.is_none() {
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
