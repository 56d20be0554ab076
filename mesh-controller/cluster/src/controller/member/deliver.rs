//! Doing in a member what is to be done: applying what it must hold, again and again, and taking everything back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Client, ResourceExt as _};
use mesh_api::{
    labels,
    render::{MemberSettings, is_static, member_objects, mesh_agent},
};
use mesh_core::{
    conditions::NAME_TAKEN,
    facts::{Delivered, Obstacle},
    plan::{Action, Delivery},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Bells, Common, Member};
use crate::{
    apply::{Batch, ObjectId, Outcome, Owner, Round, Writer},
    call::CallError,
    controller::look::{Terms, Wish},
    lease::jittered,
    watches::Patience,
};

/// Between rounds in which nothing is expected: what somebody changed of ours is mended within this. They only read.
const RESYNC: Duration = Duration::from_secs(30);
/// After a round that did not succeed.
const RETRY: Patience = Patience {
    first: Duration::from_millis(500),
    most: Duration::from_secs(5),
};
/// Between passes of leaving.
const PASS: Duration = Duration::from_millis(500);
/// How long leaving takes without being worth a word: namespaces need some seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Changes that come within this are one round.
const GATHER: Duration = Duration::from_millis(2);

/// What was delivered in this session, and whether everything else was taken away since.
#[derive(Default)]
struct Memory {
    pruned: Option<BTreeSet<ObjectId>>,
    /// The time to the first object was told.
    timed: bool,
}

impl Member {
    /// Does what is to be done, for as long as the session lasts.
    pub(super) async fn deliver(&self, client: &Client, bells: &Bells) {
        let owner = Owner {
            install: self.common.install.clone(),
            ..Owner::default()
        };
        let mut writer = Writer::new(
            client.clone(),
            labels::CONTROLLER,
            owner,
            self.common.gate(),
        );
        let mut wish = self.wish.clone();
        let mut claim = self.common.claim.clone();
        let mut memory = Memory::default();
        let mut retries = RETRY.delays();
        loop {
            let now = wish.borrow_and_update().clone();
            let next = match self.act(&mut writer, &now, &mut memory, bells).await {
                Some(true) => {
                    retries = RETRY.delays();
                    Some(jittered(RESYNC))
                }
                Some(false) => retries.next(),
                None => None,
            };
            let next = next.map(|pause| Instant::now() + pause);
            let pause = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = other_work(&mut wish, &now) => retries = RETRY.delays(),
                () = claim.changed() => {}
                () = bells.drift.notified() => {}
                () = pause => {}
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Acts once. None: there is nothing to do until something changes. Otherwise, whether all went well.
    async fn act(
        &self,
        writer: &mut Writer,
        wish: &Wish,
        memory: &mut Memory,
        bells: &Bells,
    ) -> Option<bool> {
        let member = wish.member.as_ref()?;
        if !self.common.claim.is_current() {
            return None;
        }
        writer.set_owner(Owner {
            install: self.common.install.clone(),
            member: member.clone(),
            others: self.others(member),
        });
        match (&wish.action, &wish.terms) {
            (Action::Deliver(delivery), Some(terms)) => Some(
                self.round(writer, (delivery, terms, wish), memory, bells)
                    .await,
            ),
            (Action::Withdraw, _) => self.leave(writer).await,
            (Action::Deliver(_), None) | (Action::Wait | Action::Release, _) => None,
        }
    }

    /// UIDs of the other members of this install.
    fn others(&self, member: &str) -> Arc<BTreeSet<String>> {
        let uids = self.common.index.read(|state| {
            state
                .members
                .iter()
                .filter_map(|(_, object)| object.uid())
                .filter(|uid| uid != member)
                .collect()
        });
        Arc::new(uids)
    }

    async fn round(
        &self,
        writer: &Writer,
        (delivery, terms, wish): (&Delivery, &Terms, &Wish),
        memory: &mut Memory,
        bells: &Bells,
    ) -> bool {
        let settings = settings(
            &self.common,
            terms,
            wish.member.as_deref().unwrap_or_default(),
        );
        let objects = member_objects(delivery, &settings);
        let ids: BTreeSet<ObjectId> = objects.iter().map(ObjectId::from).collect();
        let mut asked = wish.asked.filter(|_| !memory.timed);
        let round = writer
            .apply_seen(Batch::new(objects), |outcome| {
                self.common.metrics.applied(outcome);
                if matches!(outcome, Outcome::Written) {
                    bells.written.notify_one();
                    bells.first.notify_one();
                    if let Some(asked) = asked.take() {
                        self.common.metrics.first_object(asked.elapsed());
                        tracing::info!(member = %self.key, millis = asked.elapsed().as_millis(), "First object");
                    }
                }
            })
            .await;
        memory.timed |= asked.is_none();
        if round.is_void() {
            return false;
        }
        let mut hindrances = round.hindrances();
        let complete = hindrances.iter().all(|why| why.reason == NAME_TAKEN);
        if complete && memory.pruned.as_ref() != Some(&ids) {
            let pruned = async {
                writer.prune(&round.done).await?;
                if terms.workloads.is_none() {
                    writer.leave_workloads().await?;
                }
                if !is_static(delivery) {
                    writer.leave_entries().await?;
                }
                Ok::<_, CallError>(())
            };
            match pruned.await {
                Ok(()) => memory.pruned = Some(ids),
                Err(error) => hindrances.push(error.obstacle()),
            }
        }
        self.told(&round, delivery, complete, hindrances.clone());
        hindrances.is_empty()
    }

    fn told(&self, round: &Round, delivery: &Delivery, complete: bool, hindrances: Vec<Obstacle>) {
        let generation = round
            .generations
            .iter()
            .find(|(id, _)| id.kind.kind == "MeshAgent")
            .map(|(_, generation)| *generation);
        self.report(|seen| {
            seen.hindrances = hindrances;
            seen.withdrawn = false;
            if let (true, Some(generation)) = (complete, generation) {
                let since = seen
                    .delivered
                    .as_ref()
                    .filter(|d| d.generation == generation)
                    .map(|d| d.since);
                let since = since.unwrap_or_else(Timestamp::now);
                seen.delivered = Some(Delivered {
                    delivery: delivery.clone(),
                    generation,
                    since,
                });
            }
        });
    }

    /// Takes everything back; repeated until nothing is found any more.
    async fn leave(&self, writer: &Writer) -> Option<bool> {
        let slow = Instant::now() + PATIENCE;
        loop {
            match writer.leave().await {
                Ok(remains) if remains.is_nothing() => {
                    self.report(|seen| {
                        seen.hindrances = Vec::new();
                        seen.withdrawn = true;
                    });
                    tracing::info!(member = %self.key, "Left the member");
                    return None;
                }
                Ok(remains) => {
                    let going = remains.going.filter(|_| Instant::now() >= slow);
                    let told = going
                        .map(|id| Obstacle::new("BeingDeleted", format!("{id} is being deleted")));
                    self.report(|seen| seen.hindrances = told.into_iter().collect());
                    tokio::time::sleep(PASS).await;
                }
                Err(error) => {
                    let why = error.obstacle();
                    tracing::warn!(member = %self.key, why = mesh_core::text::chain(&error), "Failed to leave");
                    self.report(|seen| seen.hindrances = vec![why]);
                    return Some(false);
                }
            }
        }
    }
}

/// Returns when something else is to be done.
async fn other_work(wish: &mut watch::Receiver<Wish>, before: &Wish) {
    let same = |now: &Wish| {
        now.action == before.action && now.terms == before.terms && now.member == before.member
    };
    loop {
        if !same(&wish.borrow_and_update()) {
            return;
        }
        if wish.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn settings(common: &Common, terms: &Terms, member: &str) -> MemberSettings {
    MemberSettings {
        image: common.settings.image.clone(),
        envoy_image: common.settings.envoy_image.clone(),
        envoy_bootstrap: common.settings.envoy_bootstrap.clone(),
        pull_secrets: common.settings.pull_secrets.clone(),
        install: common.install.clone(),
        member: member.to_owned(),
        replicas: terms.replicas,
        leaf_seconds: terms.leaf_seconds,
        intermediate_seconds: terms.intermediate_seconds,
        workloads: terms.workloads.clone(),
        log: common.settings.log.clone(),
    }
}

/// The generations of the intermediate that the member is told to hold.
pub(super) fn generations(
    common: &Common,
    delivery: &Delivery,
    terms: &Terms,
    member: &str,
) -> Vec<u32> {
    let spec = mesh_agent(delivery, &settings(common, terms, member));
    [Some(spec.signer_generation), spec.prepare_generation]
        .into_iter()
        .flatten()
        .collect()
}
