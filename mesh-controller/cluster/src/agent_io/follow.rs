//! Watches: each keeps one small picture of what is there, and tells only when the picture changes.

use std::{collections::BTreeMap, fmt::Debug, future::Future, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::watcher::{self, Config, Event},
};
use mesh_api::labels;
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    OwnCluster,
    seen::{self, CsrSeen, Intent, PodSeen, ServiceSeen, Slice},
};

/// What a watch has seen, by name; nothing until everything was listed once.
pub type Seen<V> = Option<Arc<BTreeMap<String, V>>>;

/// Longest that a list may take before it is begun anew.
pub(super) const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// Seconds after which a watch is begun anew: how soon a connection that died in silence is noticed.
pub(super) const WATCH_SECS: u32 = 60;

impl OwnCluster {
    /// Follows the `MeshAgent`. The future ends only when nobody listens any more.
    pub fn follow_intent(
        &self,
        to: watch::Sender<Seen<Intent>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        follow(
            self.agents(),
            named(labels::MESH_AGENT),
            (name, seen::intent),
            to,
        )
    }

    /// Follows the requests for intermediates.
    pub fn follow_requests(
        &self,
        to: watch::Sender<Seen<CsrSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let config = Config::default().fields(&format!("spec.signerName={}", labels::SIGNER));
        follow(self.requests(), config, (name, seen::csr), to)
    }

    /// Follows the pods of the agent.
    pub fn follow_pods(
        &self,
        to: watch::Sender<Seen<PodSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.follow_app(labels::AGENT_NAME, to)
    }

    /// Follows the pods that only probe.
    pub fn follow_probers(
        &self,
        to: watch::Sender<Seen<PodSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.follow_app(labels::PROBE_NAME, to)
    }

    /// Follows the pods of istiod, of whatever revision.
    pub fn follow_istiods(
        &self,
        to: watch::Sender<Seen<PodSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.follow_app("istiod", to)
    }

    fn follow_app(
        &self,
        app: &str,
        to: watch::Sender<Seen<PodSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let config = Config::default().labels(&format!("app={app}"));
        follow(self.pods(), config, (name, seen::pod), to)
    }

    /// Follows the telemetry Services that are ours.
    pub fn follow_services(
        &self,
        to: watch::Sender<Seen<ServiceSeen>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let config =
            Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_US));
        follow(self.services(), config, (name, seen::service), to)
    }

    /// Follows the endpoint slices that are ours.
    pub fn follow_slices(
        &self,
        to: watch::Sender<Seen<Slice>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let config = Config::default().labels(&format!(
            "{}={}",
            seen::SLICE_MANAGED_BY,
            labels::MANAGED_BY_US
        ));
        follow(self.slices(), config, (name, seen::slice), to)
    }
}

pub(super) fn named(name: &str) -> Config {
    Config::default().fields(&format!("metadata.name={name}"))
}

/// How long to wait after the given number of failures in a row: half a second, doubled up to eight, and up to a
/// quarter less, so that replicas do not ask in step.
pub(super) fn pause(failures: u32) -> Duration {
    let whole = 500_u64 << failures.min(4);
    let noise = u64::from(
        std::time::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .subsec_micros(),
    );
    Duration::from_millis(whole - noise % (whole / 4))
}

/// The name of an object.
fn name<K: Resource>(object: &K) -> String {
    object.name_any()
}

/// Keeps a picture of what is there: each object under its key, and what is read of it.
pub(super) async fn follow<K, V>(
    api: Api<K>,
    config: Config,
    (key, read): (fn(&K) -> String, impl Fn(&K) -> V + Send + Sync),
    to: watch::Sender<Seen<V>>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    V: Clone + PartialEq + Send + Sync,
{
    let config = config.timeout(WATCH_SECS);
    let mut failures = 0_u32;
    while !to.is_closed() {
        let mut stream = std::pin::pin!(watcher::watcher(api.clone(), config.clone()));
        let mut listing: Option<BTreeMap<String, V>> = None;
        let mut present: BTreeMap<String, V> = to.borrow().as_deref().cloned().unwrap_or_default();
        loop {
            // The watch notices by itself when its connection has died; a list does not.
            let next = if listing.is_some() {
                let Ok(next) = timeout(LIST_DEADLINE, stream.next()).await else {
                    tracing::warn!(kind = %K::kind(&()), "the own API server did not finish a list; asking anew");
                    break;
                };
                next
            } else {
                tokio::select! {
                    next = stream.next() => next,
                    () = to.closed() => return,
                }
            };
            let Some(event) = next else { break };
            match event {
                Ok(event) => {
                    // `Init` comes before anything was asked.
                    if failures > 0 && !matches!(event, Event::Init) {
                        tracing::info!(kind = %K::kind(&()), "the own API server answers again");
                        failures = 0;
                    }
                    take(event, (key, &read), &mut listing, &mut present);
                    if listing.is_none() {
                        publish(&to, &present);
                    }
                }
                Err(error) => {
                    listing = None;
                    if failures == 0 {
                        tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "failed to watch");
                    }
                    sleep(pause(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }
}

pub(super) fn take<K, V>(
    event: Event<K>,
    (key, read): (fn(&K) -> String, &impl Fn(&K) -> V),
    listing: &mut Option<BTreeMap<String, V>>,
    present: &mut BTreeMap<String, V>,
) {
    match event {
        Event::Init => *listing = Some(BTreeMap::new()),
        Event::InitApply(object) => {
            if let Some(listing) = listing {
                listing.insert(key(&object), read(&object));
            }
        }
        Event::InitDone => {
            if let Some(listed) = listing.take() {
                *present = listed;
            }
        }
        Event::Apply(object) => {
            present.insert(key(&object), read(&object));
        }
        Event::Delete(object) => {
            present.remove(&key(&object));
        }
    }
}

fn publish<V: Clone + PartialEq>(to: &watch::Sender<Seen<V>>, present: &BTreeMap<String, V>) {
    to.send_if_modified(|seen| {
        if seen.as_deref() == Some(present) {
            return false;
        }
        *seen = Some(Arc::new(present.clone()));
        true
    });
}
