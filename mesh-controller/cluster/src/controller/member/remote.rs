//! The remote secrets of a member: what is there of them, and doing what is to be done about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, ResourceExt as _, api::PartialObjectMeta};
use mesh_api::{NAMESPACE, labels, read};
use mesh_core::{
    facts::Obstacle,
    istio::{Discovery, Plane},
    names::ClusterName,
    plan::Action,
    remote::{Pair, Pairs, SecretFacts, Server, Step, secret_name},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::Member;
use crate::{
    apply::{Owner, Writer, remote_is_intact},
    controller::{
        index::Store,
        look::Wish,
        remote::{Region, Scribe},
    },
    lease::jittered,
    watches::{Filter, Patience, Seen, follow_metadata},
};

/// Between looks at the accounts in regions: a token dies with its account.
const ACCOUNTS: Duration = Duration::from_secs(30);
/// After something that did not succeed.
const RETRY: Patience = Patience {
    first: Duration::from_millis(500),
    most: Duration::from_secs(15),
};
/// A plan that knows of a write comes within this.
const SETTLED: Duration = Duration::from_secs(5);
/// Most regions that are asked at a time.
const AT_ONCE: usize = 8;

/// A secret that is to be written.
type Due = (ClusterName, Pair, Server);

/// What is known of the remote secrets there.
#[derive(Default)]
struct Books {
    secrets: Store<PartialObjectMeta<Secret>>,
    /// By name: the version that was looked at closely, and whether it was ours alone.
    looked: BTreeMap<String, (String, bool)>,
    /// What was done last for a region, until a plan has heard of it.
    done: BTreeMap<ClusterName, (Pair, Instant)>,
}

impl Books {
    /// Those of ours whose present version nobody has looked at closely.
    fn unknown(&self, owner: &Owner) -> Vec<String> {
        let ours = self
            .secrets
            .iter()
            .filter(|(_, secret)| owner.owns(&secret.metadata));
        let known = |name: &str, version: &str| {
            self.looked
                .get(name)
                .is_some_and(|(known, _)| known == version)
        };
        ours.map(|(key, secret)| (key.name.clone(), version(&secret.metadata)))
            .filter(|(name, version)| !known(name, version))
            .map(|(name, _)| name)
            .collect()
    }

    fn look(&mut self, name: &str, meta: &ObjectMeta) {
        let key = meta
            .annotations
            .as_ref()
            .and_then(|all| all.get(labels::REMOTE_CLUSTER));
        let intact = key.is_some_and(|key| remote_is_intact(meta, key));
        self.looked.insert(name.to_owned(), (version(meta), intact));
    }

    fn facts(&self, owner: &Owner) -> Option<BTreeMap<String, SecretFacts>> {
        let fact = |name: &String, secret: &PartialObjectMeta<Secret>| {
            let meta = &secret.metadata;
            // What nobody has looked at closely yet is taken for what it was.
            let intact = self.looked.get(name).is_none_or(|(_, intact)| *intact);
            read::remote_secret(meta, owner.owns(meta), intact)
        };
        let secrets = self.secrets.iter();
        self.secrets.is_warm().then(|| {
            secrets
                .map(|(key, secret)| (key.name.clone(), fact(&key.name, secret)))
                .collect()
        })
    }

    /// The secrets to be written, but those that were and no plan knows it yet.
    fn due(&mut self, pairs: &Pairs) -> Vec<Due> {
        self.done
            .retain(|region, (pair, at)| pairs.get(region) == Some(pair) && at.elapsed() < SETTLED);
        let open = |(region, pair): (&ClusterName, &Pair)| match &pair.step {
            Step::Write(server) if !self.done.contains_key(region) => {
                Some((region.clone(), pair.clone(), server.clone()))
            }
            Step::Write(_) | Step::Keep | Step::Wait(_) => None,
        };
        pairs.iter().filter_map(open).collect()
    }
}

fn version(meta: &ObjectMeta) -> String {
    meta.resource_version.clone().unwrap_or_default()
}

impl Member {
    /// Keeps the remote secrets of the member, for as long as the session lasts.
    pub(super) async fn keep_remotes(&self, client: &Client) {
        let mut wish = self.wish.clone();
        let reads = |wish: &Wish| {
            let terms = wish.terms.as_ref()?;
            Some(terms.plane == Plane::Istio && terms.discovery == Discovery::RemoteSecrets)
        };
        loop {
            let now = reads(&wish.borrow_and_update());
            let other = async {
                while reads(&wish.borrow_and_update()) == now {
                    if wish.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
            };
            tokio::select! {
                () = other => {}
                () = self.keep_in_plane(client, now) => {}
            }
        }
    }

    async fn keep_in_plane(&self, client: &Client, reads: Option<bool>) {
        match reads {
            None => return std::future::pending().await,
            Some(false) => return self.clear_remotes(client).await,
            Some(true) => {}
        }
        let books = Mutex::new(Books::default());
        let bell = Notify::new();
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), NAMESPACE);
        let filter = Filter {
            labels: Some(format!("{}=true", labels::MULTI_CLUSTER)),
            fields: None,
        };
        let watching = follow_metadata(api, filter, Patience::SHORT, |seen| {
            if let Seen::Interrupted { why, .. } = &seen
                && !books.lock().secrets.is_warm()
            {
                self.report(|observed| observed.remote.unseen = Some(why.clone()));
            }
            if books.lock().secrets.see(seen) {
                self.note_remotes(&books.lock());
                bell.notify_one();
            }
        });
        tokio::select! {
            () = watching => {}
            () = self.settle_remotes(client, (&books, &bell)) => {}
        }
    }

    /// Takes away what is left from when its plane or discovery was another; nothing comes into being any more.
    async fn clear_remotes(&self, client: &Client) {
        self.report(|seen| seen.remote.secrets = None);
        let mut wish = self.wish.clone();
        let mut retries = RETRY.delays();
        loop {
            let now = wish.borrow_and_update().clone();
            let ready = matches!(now.action, Action::Deliver(_)) && self.common.claim.is_current();
            if let (true, Some(owner)) = (ready, self.owner()) {
                let writer = Writer::new(
                    client.clone(),
                    labels::CONTROLLER,
                    owner,
                    self.common.gate(),
                );
                match writer.prune_remotes(&BTreeSet::new()).await {
                    Ok(_) => return std::future::pending().await,
                    Err(error) => {
                        tracing::warn!(member = %self.key, why = mesh_core::text::chain(&error), "Failed to take away remote secrets");
                    }
                }
            }
            let pause = retries.next().unwrap_or(RETRY.most);
            tokio::select! {
                () = other_pairs(&mut wish, &now) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn note_remotes(&self, books: &Books) {
        let Some(owner) = self.owner() else {
            return;
        };
        let secrets = books.facts(&owner);
        self.report(|seen| {
            if secrets.is_some() {
                seen.remote.unseen = None;
            }
            seen.remote.secrets = secrets;
        });
    }

    fn owner(&self) -> Option<Owner> {
        let member = self.wish.borrow().member.clone()?;
        let uids = self.common.index.read(|state| {
            let uids = state.members.iter().filter_map(|(_, object)| object.uid());
            uids.filter(|uid| *uid != member)
                .collect::<BTreeSet<String>>()
        });
        Some(Owner {
            install: self.common.install.clone(),
            member,
            others: Arc::new(uids),
        })
    }

    /// Does what is to be done, again and again.
    async fn settle_remotes(&self, client: &Client, (books, bell): (&Mutex<Books>, &Notify)) {
        let (mut wish, mut claim) = (self.wish.clone(), self.common.claim.clone());
        let mut retries = RETRY.delays();
        let mut accounts = Instant::now();
        loop {
            let now = wish.borrow_and_update().clone();
            let failed = !self.settle_once(client, &now, books).await;
            if Instant::now() >= accounts && self.common.claim.is_current() {
                self.see_accounts(&now).await;
                accounts = Instant::now() + jittered(ACCOUNTS);
            }
            let pause = if failed {
                retries.next().unwrap_or(RETRY.most)
            } else {
                accounts - Instant::now()
            };
            if !failed {
                retries = RETRY.delays();
            }
            tokio::select! {
                () = other_pairs(&mut wish, &now) => retries = RETRY.delays(),
                () = claim.changed() => {}
                () = bell.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does once what is to be done; says whether all went well.
    async fn settle_once(&self, client: &Client, wish: &Wish, books: &Mutex<Books>) -> bool {
        let (Some(owner), Action::Deliver(delivery)) = (self.owner(), &wish.action) else {
            return true;
        };
        if !self.common.claim.is_current() {
            return true;
        }
        self.note_remotes(&books.lock());
        let writer = Writer::new(
            client.clone(),
            labels::CONTROLLER,
            owner.clone(),
            self.common.gate(),
        );
        let mut well = true;
        let unknown = books.lock().unknown(&owner);
        for name in unknown {
            match writer.remote_meta(&name).await {
                Ok(Some(meta)) => books.lock().look(&name, &meta),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(member = %self.key, why = mesh_core::text::chain(&error), "Cannot look at a remote secret");
                    well = false;
                }
            }
        }
        let kept: BTreeSet<String> = wish.remotes.keys().map(secret_name).collect();
        let surplus = {
            let books = books.lock();
            let mut secrets = books.secrets.iter();
            secrets.any(|(key, secret)| owner.owns(&secret.metadata) && !kept.contains(&key.name))
        };
        if surplus && let Err(error) = writer.prune_remotes(&kept).await {
            tracing::warn!(member = %self.key, why = mesh_core::text::chain(&error), "Failed to take away a remote secret");
            well = false;
        }
        well &= self
            .write_due((&writer, &delivery.cluster), &owner, &wish.remotes, books)
            .await;
        self.note_remotes(&books.lock());
        well
    }

    async fn write_due(
        &self,
        (writer, consumer): (&Writer, &ClusterName),
        owner: &Owner,
        pairs: &Pairs,
        books: &Mutex<Books>,
    ) -> bool {
        let due = books.lock().due(pairs);
        let gate = self.common.gate();
        let scribe = Scribe {
            writer,
            gate: &gate,
            metrics: &self.common.metrics,
            install: &owner.install,
            member: &owner.member,
        };
        let one = |due: &Due| Box::pin(self.write_one(&scribe, consumer, due.clone()));
        let all: Vec<_> = due.iter().map(one).collect();
        let mut outcomes = stream::iter(all).buffer_unordered(AT_ONCE);
        let mut failed: BTreeMap<ClusterName, Obstacle> = BTreeMap::new();
        while let Some((region, pair, outcome)) = outcomes.next().await {
            match outcome {
                Ok(meta) => {
                    // The account was seen just now, perhaps another than before.
                    let reader = read::remote_secret(&meta, true, true).reader;
                    let readers = reader.map(|uid| (region.clone(), uid));
                    self.report(|seen| seen.remote.readers.extend(readers));
                    let mut books = books.lock();
                    let name = secret_name(&region);
                    books.look(&name, &meta);
                    books.secrets.see(Seen::Applied(PartialObjectMeta {
                        metadata: ObjectMeta {
                            managed_fields: None,
                            ..meta
                        },
                        ..PartialObjectMeta::default()
                    }));
                    books.done.insert(region, (pair, Instant::now()));
                }
                Err(why) => {
                    tracing::warn!(member = %self.key, %region, reason = why.reason, why = why.message, "Failed to write a remote secret");
                    failed.insert(region, why);
                }
            }
        }
        let well = failed.is_empty();
        self.report(|seen| seen.remote.failed = failed);
        well
    }

    async fn write_one(
        &self,
        scribe: &Scribe<'_>,
        consumer: &ClusterName,
        (region, pair, server): Due,
    ) -> (ClusterName, Pair, Result<ObjectMeta, Obstacle>) {
        let Some(client) = self.common.ways.to(&pair.member) else {
            let message = format!("region {region} is not connected, so no token can be had there");
            return (region, pair, Err(Obstacle::new("RegionAway", message)));
        };
        let at = Region {
            client: &client,
            name: &region,
            consumer,
            install: scribe.install,
        };
        let outcome = scribe.write(&at, &server, pair.life).await;
        (region, pair, outcome)
    }

    async fn account_in(
        &self,
        region: &ClusterName,
        pair: &Pair,
        consumer: &ClusterName,
    ) -> Option<(ClusterName, String)> {
        let client = self.common.ways.to(&pair.member)?;
        let at = Region {
            client: &client,
            name: region,
            consumer,
            install: &self.common.install,
        };
        Some((region.clone(), at.reader().await.ok()??))
    }

    /// Looks which accounts the tokens must be of.
    async fn see_accounts(&self, wish: &Wish) {
        let Action::Deliver(delivery) = &wish.action else {
            return;
        };
        let look = |(region, pair)| Box::pin(self.account_in(region, pair, &delivery.cluster));
        let looks: Vec<_> = wish.remotes.iter().map(look).collect();
        let seen: Vec<Option<(ClusterName, String)>> = stream::iter(looks)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let seen: BTreeMap<ClusterName, String> = seen.into_iter().flatten().collect();
        self.report(|observed| observed.remote.readers.extend(seen));
    }
}

/// Returns when something else is to be done.
async fn other_pairs(wish: &mut watch::Receiver<Wish>, before: &Wish) {
    let deliver = |wish: &Wish| matches!(wish.action, Action::Deliver(_));
    loop {
        let same = {
            let now = wish.borrow_and_update();
            now.remotes == before.remotes
                && now.member == before.member
                && deliver(&now) == deliver(before)
        };
        if !same {
            return;
        }
        if wish.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests;
