//! The task of one member: finds the way to its API server, keeps the connection, reports what it sees there, and does
//! there what is to be done. Each member has its own; none waits for another.

mod deliver;
mod istio;
mod leftovers;
mod observe;
mod remote;
mod requests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt as _};
use mesh_api::read::{self, ClusterAccess};
use mesh_core::facts::{Access, MemberKey, Obstacle, Reach};
use tokio::sync::{Notify, watch};

use super::{
    ControllerSettings,
    index::{Index, Observed},
    look::{Door, SOURCE_GONE, Wish},
    remote::Ways,
};
use crate::{
    apply::Gate,
    call::{CallError, call},
    client,
    lease::{Claim, jittered},
    metrics::Metrics,
    watches::Patience,
};

/// Between two questions whether the API server is still there.
const PULSE: Duration = Duration::from_secs(3);
/// How long it may take to answer that question.
const PULSE_ANSWER: Duration = Duration::from_secs(3);
/// Between attempts to reach it: one that is back is seen within this.
const KNOCK: Patience = Patience {
    first: Duration::from_millis(250),
    most: Duration::from_secs(5),
};
/// How long watches of a new member wait for the first object in it.
const FIRST: Duration = Duration::from_millis(500);
/// Where every cluster's identity is: nobody deletes this namespace.
const IDENTITY: &str = "kube-system";

/// What all members' tasks share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) management: Client,
    pub(crate) index: Arc<Index>,
    pub(crate) settings: Arc<ControllerSettings>,
    pub(crate) install: String,
    pub(crate) claim: Claim,
    pub(crate) metrics: Metrics,
    pub(crate) ways: Ways,
}

impl Common {
    pub(crate) fn gate(&self) -> Gate {
        let claim = self.claim.clone();
        Arc::new(move || claim.is_current())
    }
}

/// One member.
pub(crate) struct Member {
    pub(crate) common: Common,
    pub(crate) key: MemberKey,
    pub(crate) wish: watch::Receiver<Wish>,
    /// The last way that worked, for the time when its source is gone before we have left.
    last: Option<ClusterAccess>,
}

/// A way that was opened.
struct Way {
    client: Client,
    /// What it was opened with; none for management.
    access: Option<ClusterAccess>,
}

impl Way {
    fn server(&self) -> String {
        self.access.as_ref().map_or_else(
            || "the API server".to_owned(),
            |access| access.server.clone(),
        )
    }
}

/// Why a session ended.
enum End {
    /// The API server is lost.
    Lost(Obstacle),
    /// Another way is to be taken.
    Moved,
}

impl Member {
    pub(crate) fn new(common: Common, key: MemberKey, wish: watch::Receiver<Wish>) -> Self {
        Self {
            common,
            key,
            wish,
            last: None,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut delays = KNOCK.delays();
        loop {
            let door = self.wish.borrow_and_update().door.clone();
            if door == Door::Unneeded {
                if self.wish.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let lost = match self.open(&door).await {
                Err(why) => {
                    self.report(|seen| {
                        seen.access = Access::Refused(why.clone());
                        seen.reach = Reach::Lost(why);
                    });
                    None
                }
                Ok(way) => {
                    self.report(|seen| seen.access = Access::Found);
                    match Box::pin(self.visit(way, &door)).await {
                        End::Moved => {
                            delays = KNOCK.delays();
                            continue;
                        }
                        End::Lost(why) => Some(why),
                    }
                }
            };
            if let Some(why) = lost {
                self.report(|seen| seen.reach = Reach::Lost(why));
            }
            let pause = delays.next().unwrap_or(KNOCK.most);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = moved(&mut self.wish, &door) => delays = KNOCK.delays(),
            }
        }
    }

    fn report(&self, change: impl FnOnce(&mut Observed)) {
        self.common.index.report(&self.key, change);
    }

    async fn open(&mut self, door: &Door) -> Result<Way, Obstacle> {
        match door {
            Door::Management => Ok(Way {
                client: self.common.management.clone(),
                access: None,
            }),
            Door::Unneeded => Err(Obstacle::new("Unneeded", "nobody is to go there")),
            // A member that leaves when its source and Secret are gone already: what worked may still work.
            Door::Closed(why) => match self
                .last
                .clone()
                .filter(|_| is_gone(why) && self.is_leaving())
            {
                Some(access) => Ok(Way {
                    client: client::connect(&access)?,
                    access: Some(access),
                }),
                None => Err(why.clone()),
            },
            Door::Secret { .. } => {
                let access = self.access(door).await?;
                Ok(Way {
                    client: client::connect(&access)?,
                    access: Some(access),
                })
            }
        }
    }

    fn is_leaving(&self) -> bool {
        let key = crate::watches::Key::new(&self.key.namespace, &self.key.name);
        self.common.index.read(|state| {
            state
                .members
                .get(&key)
                .is_some_and(|object| object.metadata.deletion_timestamp.is_some())
        })
    }

    /// Reads the kubeconfig.
    async fn access(&self, door: &Door) -> Result<ClusterAccess, Obstacle> {
        let Door::Secret { reference, .. } = door else {
            return Err(Obstacle::new("KubeconfigMissing", "there is no Secret"));
        };
        let api: Api<Secret> =
            Api::namespaced(self.common.management.clone(), &reference.namespace);
        let secret = call("get", reference, api.get(&reference.name))
            .await
            .map_err(|error| {
                if error.is_not_found() {
                    Obstacle::new("KubeconfigMissing", format!("{reference} does not exist"))
                } else {
                    error.obstacle()
                }
            })?;
        read::kubeconfig(reference, &secret.data.unwrap_or_default())
    }

    /// Connects and stays until the API server is lost or another way is to be taken.
    async fn visit(&mut self, way: Way, door: &Door) -> End {
        let uid = match identity(&way.client).await {
            Ok(uid) => uid,
            Err(error) => return End::Lost(error.obstacle_of(&way.server())),
        };
        let expected = self.wish.borrow().expected.clone();
        if let Some(expected) = expected.filter(|expected| *expected != uid) {
            let message = format!(
                "the kubeconfig leads to cluster {uid}, but this member is cluster {expected}; nothing is written there \
                 (a cluster that was built anew must be removed from the mesh first)"
            );
            return End::Lost(Obstacle::new("WrongCluster", message));
        }
        self.last.clone_from(&way.access);
        self.report(|seen| {
            seen.reach = Reach::Answers {
                cluster_uid: uid.clone(),
            }
        });
        let server = way.access.as_ref().map(read::server);
        self.report(|seen| seen.remote.server = server);
        let _open = self.common.ways.open(&self.key, &way.client);
        tracing::debug!(member = %self.key, "Connected");
        let bells = Bells::default();
        let mut wish = self.wish.clone();
        tokio::select! {
            // The first object goes first: it has the connection that is open already.
            biased;
            () = self.deliver(&way.client, &bells) => End::Moved,
            () = self.elsewhere(&way, door, &mut wish) => End::Moved,
            why = self.watch(&way, &bells) => why,
        }
    }

    /// Watches what there is to see in the member, and whether it is still there.
    async fn watch(&self, way: &Way, bells: &Bells) -> End {
        let client = &way.client;
        if self.wish.borrow().asked.is_some() {
            // Nothing of ours is there to be seen before.
            let first = tokio::time::timeout(FIRST, bells.first.notified()).await;
            tracing::trace!(member = %self.key, seen = first.is_ok(), "Begins to watch");
        }
        tokio::select! {
            error = pulse(client) => End::Lost(error.obstacle_of(&way.server())),
            () = self.watch_agent(client, bells) => End::Moved,
            () = self.watch_plane(client, bells) => End::Moved,
            () = self.answer_requests(client) => End::Moved,
            () = self.keep_remotes(client) => End::Moved,
            () = self.look_for_leftovers(client) => End::Moved,
        }
    }

    /// Returns when the way that is to be taken is another than this one.
    async fn elsewhere(&self, way: &Way, door: &Door, wish: &mut watch::Receiver<Wish>) {
        let mut door = door.clone();
        loop {
            moved(wish, &door).await;
            door = wish.borrow_and_update().door.clone();
            match &door {
                Door::Management => {}
                Door::Unneeded => return,
                Door::Closed(why) => {
                    // One whose source is gone is about to leave.
                    let leaves = why.reason == SOURCE_GONE || (is_gone(why) && self.is_leaving());
                    if !leaves {
                        return;
                    }
                }
                // A Secret that changed without leading elsewhere is no reason to leave.
                Door::Secret { .. } => match (self.access(&door).await, &way.access) {
                    (Ok(new), Some(old)) if new.fingerprint == old.fingerprint => {}
                    (_, _) => return,
                },
            }
        }
    }
}

/// What parts of a session tell each other.
#[derive(Default)]
struct Bells {
    /// Something of ours may have been changed by somebody else.
    drift: Notify,
    /// Something was written.
    written: Notify,
    /// The first object was written.
    first: Notify,
}

/// Returns when the door is another one.
async fn moved(wish: &mut watch::Receiver<Wish>, door: &Door) {
    while wish.borrow_and_update().door == *door {
        if wish.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What leads there was taken away, which says nothing against going there once more.
fn is_gone(why: &Obstacle) -> bool {
    matches!(
        why.reason.as_str(),
        SOURCE_GONE | "KubeconfigMissing" | "TemplateMissing" | "CredentialMissing"
    )
}

/// Which cluster it is.
async fn identity(client: &Client) -> Result<String, CallError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = call("get", "Namespace kube-system", api.get_metadata(IDENTITY)).await?;
    Ok(namespace.uid().unwrap_or_default())
}

/// Returns when the API server does not answer any more: twice in a row, so that one lost packet is no loss.
async fn pulse(client: &Client) -> CallError {
    let mut missed = false;
    loop {
        if !missed {
            tokio::time::sleep(jittered(PULSE)).await;
        }
        let answer = tokio::time::timeout(PULSE_ANSWER, client.apiserver_version()).await;
        let object = || "the version of the API server".to_owned();
        let error = match answer {
            Ok(Ok(_)) => {
                missed = false;
                continue;
            }
            Ok(Err(source)) => CallError::Api {
                verb: "get",
                object: object(),
                source: Box::new(source),
            },
            Err(_elapsed) => CallError::Timeout {
                verb: "get",
                object: object(),
            },
        };
        if missed {
            return error;
        }
        missed = true;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
