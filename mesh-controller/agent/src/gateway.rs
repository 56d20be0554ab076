//! The Envoy beside: what it is told, and what it says to that.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mesh_api::agent::{Host, MeshAgentSpec, Trust};
use mesh_ca::merge_crls;
use mesh_cluster::tasks::Tasks;
use mesh_dns::{Follower, Gateways, NameServer, Pace, StartError};
use mesh_xds::{
    NodeStatus, Store,
    gateway::{
        Admin, Allow, Backend, Behind, BootSpec, Built, Consume, GatewaySpec, Leaf as Material,
        Secrets, Serve, build, intake_hosts, service_hosts,
    },
    serve_uds,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    leaf::Leaf,
    lists::{Crls, Same, Worked},
    metrics::{Metrics, Region},
    places::{Places, places, targets},
    prober::Paths,
    report::Board,
    wanted::Wanted,
};

/// A path is probed when Envoy has accepted it, or after this long without that: then the probe says why not.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most of Envoy's words that are reported.
const WORDS: usize = 600;

/// How far Envoy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The generation of the `MeshAgent` that it runs, or has run.
    pub(crate) generation: Option<i64>,
}

/// What the driver of Envoy needs.
pub(crate) struct Gateway {
    /// Node ID of Envoy: the name of the pod.
    pub(crate) node: String,
    pub(crate) intake: SocketAddr,
    pub(crate) door: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) leaf: watch::Receiver<Option<Arc<Leaf>>>,
    /// For regions whose gateway is Istio's, where it is another leaf.
    pub(crate) shared: watch::Receiver<Option<Arc<Leaf>>>,
    pub(crate) places: watch::Sender<Option<Arc<Places>>>,
    pub(crate) paths: watch::Sender<Arc<Paths>>,
    pub(crate) accepted: watch::Sender<Accepted>,
    pub(crate) board: Board,
    pub(crate) metrics: Metrics,
}

impl Gateway {
    /// Starts serving, resolving and watching.
    ///
    /// # Errors
    ///
    /// When the system's resolver configuration cannot be used.
    pub(crate) fn start(self, tasks: &mut Tasks) -> Result<(), StartError> {
        let (follow, followed) = watch::channel(BTreeSet::new());
        let (resolver, gateways) = Follower::new(NameServer::System, Pace::default(), followed)?;
        tasks.spawn("resolver", resolver.run());
        let store = Arc::new(Store::new([self.node.clone()]));
        let (served, socket) = (Arc::clone(&store), self.socket.clone());
        tasks.spawn("xDS server", async move {
            if let Err(error) = serve_uds(&socket, served, std::future::pending()).await {
                tracing::error!(
                    error = mesh_core::text::chain(&error),
                    "failed to serve Envoy"
                );
            }
        });
        let Some(status) = store.status(&self.node) else {
            return Ok(());
        };
        let domain =
            cluster_domain(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let driver = Driver {
            it: self,
            store,
            status,
            follow,
            gateways,
            domain,
            log: Log::default(),
            lists: Worked::default(),
        };
        tasks.spawn("Envoy", driver.run());
        Ok(())
    }
}

/// Which generation of the `MeshAgent` stands behind which of the store.
#[derive(Debug, Default)]
struct Log {
    entries: BTreeMap<u64, i64>,
    since: BTreeMap<String, Instant>,
    left_out: Option<String>,
    refused: Option<String>,
    acked: Option<u64>,
}

impl Log {
    fn wrote(&mut self, stored: u64, generation: i64) {
        self.entries.insert(stored, generation);
    }

    /// The newest that is behind what was acknowledged.
    fn accepted(&mut self, acked: Option<u64>) -> Option<i64> {
        let acked = acked?;
        let newest = self
            .entries
            .range(..=acked)
            .next_back()
            .map(|(at, generation)| (*at, *generation));
        if let Some((at, _)) = newest {
            self.entries.retain(|stored, _| *stored >= at);
        }
        newest.map(|(_, generation)| generation)
    }
}

struct Driver {
    it: Gateway,
    store: Arc<Store>,
    status: watch::Receiver<NodeStatus>,
    follow: watch::Sender<BTreeSet<mesh_dns::Target>>,
    gateways: watch::Receiver<Arc<Gateways>>,
    domain: String,
    log: Log,
    /// The revocation lists of members, by cluster.
    lists: Worked<Same, BTreeMap<String, String>>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.tell();
            self.listen();
            tokio::select! {
                gone = self.it.wanted.changed() => if gone.is_err() { return },
                gone = self.it.leaf.changed() => if gone.is_err() { return },
                gone = self.it.shared.changed() => if gone.is_err() { return },
                gone = self.gateways.changed() => if gone.is_err() { return },
                gone = self.status.changed() => if gone.is_err() { return },
                () = sleep(PATIENCE) => {}
            }
        }
    }

    /// Tells Envoy what it is to have.
    fn tell(&mut self) {
        let wanted = self.it.wanted.borrow_and_update().clone();
        let leaf = self.it.leaf.borrow_and_update().clone();
        let gateways = Arc::clone(&self.gateways.borrow_and_update());
        let Some(wanted) = wanted else { return };
        let targets = targets(&wanted.spec.consume);
        self.follow.send_if_modified(|known| {
            let other = *known != targets;
            if other {
                *known = targets;
            }
            other
        });
        let places = places(&wanted.spec.consume, &gateways);
        self.it.board.unresolved(places.unresolved.clone());
        self.it.places.send_if_modified(|known| {
            let other = known.as_deref() != Some(&places);
            if other {
                *known = Some(Arc::new(places.clone()));
            }
            other
        });
        for region in &wanted.spec.consume {
            let since = places
                .stale
                .get(&region.region)
                .copied()
                .unwrap_or_default();
            let label = Region {
                region: region.region.clone(),
            };
            self.it
                .metrics
                .resolution_stale
                .get_or_create(&label)
                .set(since);
        }
        // Without a certificate there is nothing that Envoy could do, and nothing it could accept.
        let Some(leaf) = leaf else { return };
        let spec = spec(
            &wanted.spec,
            &places,
            [self.it.intake, self.it.door],
            &self.domain,
        );
        let now = Timestamp::now();
        let from = Same(Arc::clone(&wanted));
        let lists = self.lists.get(from, now, || lists(&wanted.spec, now));
        let shared = self.it.shared.borrow_and_update().clone();
        let shared = if wanted.shared.is_some() {
            shared
        } else {
            Some(Arc::clone(&leaf))
        };
        let secrets = secrets(&wanted.spec, [Some(leaf), shared], lists.clone());
        let Built { snapshot, left_out } = build(&spec, &secrets);
        self.log.left_out = told(left_out.iter().map(ToString::to_string));
        match self.store.set(&self.it.node, snapshot) {
            Ok(stored) => self.log.wrote(stored, wanted.generation),
            Err(error) => {
                let words = mesh_core::text::chain(&error);
                tracing::error!(error = words, "failed to hand a configuration to Envoy");
                self.log.left_out = Some(words);
            }
        }
    }

    /// Takes note of what Envoy says.
    fn listen(&mut self) {
        let status = self.status.borrow_and_update().clone();
        let metrics = &self.it.metrics;
        if status.acked > self.log.acked {
            metrics.xds_accepts.inc();
            self.log.acked = status.acked;
        }
        let accepted = self.log.accepted(status.acked);
        let refused = told(
            status
                .nacks
                .iter()
                .map(|nack| format!("{} {}: {}", nack.kind, nack.names.join(", "), nack.message)),
        );
        let words = match (&refused, &self.log.left_out) {
            (Some(refused), Some(left_out)) => Some(format!("{refused}; {left_out}")),
            (words, None) | (None, words) => words.clone(),
        };
        if let Some(accepted) = accepted {
            metrics.xds_accepted.set(accepted);
        }
        self.it.board.envoy(accepted, words);
        self.it.accepted.send_if_modified(|known| {
            let generation = accepted.or(known.generation);
            let more = generation != known.generation;
            known.generation = generation;
            more
        });
        if refused != self.log.refused {
            if let Some(words) = &refused {
                metrics.xds_refusals.inc();
                tracing::warn!(words, "Envoy refuses its configuration");
            }
            self.log.refused = refused;
        }
        self.paths(status.acked, accepted);
    }

    /// Says which paths can be probed.
    fn paths(&mut self, acked: Option<u64>, accepted: Option<i64>) {
        let wanted = self.it.wanted.borrow().clone();
        let (Some(wanted), true) = (wanted, self.it.leaf.borrow().is_some()) else {
            return;
        };
        let consume = &wanted.spec.consume;
        self.log
            .since
            .retain(|region, _| consume.iter().any(|c| c.region == *region));
        let mut ready = BTreeMap::new();
        for consume in consume {
            let since = *self
                .log
                .since
                .entry(consume.region.clone())
                .or_insert_with(Instant::now);
            let known = self.it.paths.borrow().consume.contains_key(&consume.region);
            if known || accepted == Some(wanted.generation) || since.elapsed() >= PATIENCE {
                ready.insert(consume.region.clone(), consume.clone());
            }
        }
        let paths = Paths {
            consume: ready,
            accepted: acked.unwrap_or_default(),
        };
        self.it.paths.send_if_modified(|known| {
            let other = **known != paths;
            if other {
                *known = Arc::new(paths);
            }
            other
        });
    }
}

/// Several sentences as one of a length that fits into a status.
fn told(words: impl Iterator<Item = String>) -> Option<String> {
    let text = words.collect::<Vec<_>>().join("; ");
    let text = mesh_core::text::line(&text, WORDS);
    if text.is_empty() { None } else { Some(text) }
}

/// What Envoy is to do, in the words of `mesh_xds`.
fn spec(wanted: &MeshAgentSpec, places: &Places, at: [SocketAddr; 2], domain: &str) -> GatewaySpec {
    let [intake, gateway] = at;
    let grpc = |backend: &str| {
        let named = wanted.backends.iter().find(|b| b.name == backend);
        named.is_some_and(|b| b.protocol == mesh_api::mesh::Protocol::Grpc)
    };
    let backends: Vec<Backend> = wanted
        .backends
        .iter()
        .map(|b| Backend {
            name: b.name.clone(),
            host: format!("{}.{}.svc.{domain}", b.service, b.namespace),
            port: b.port,
        })
        .collect();
    let serve = wanted.serve.iter().map(|serve| Serve {
        caller: serve.caller.clone(),
        epoch: serve.epoch,
        sni: serve.sni.clone(),
        identities: serve.identities.clone(),
        region: wanted.cluster.clone(),
        backends: backends.clone(),
        allow: serve
            .grants
            .iter()
            .map(|grant| Allow {
                prefix: grant.prefix.clone(),
                backend: grant.backend.clone(),
                grpc: grpc(&grant.backend),
            })
            .collect(),
    });
    let consume = wanted.consume.iter().map(|consume| Consume {
        region: consume.region.clone(),
        hosts: intake_hosts(&consume.region, domain),
        sni: consume.sni.clone(),
        server_identity: consume.identity.clone(),
        istio: (!consume.hosts.is_empty()).then(|| {
            let hosts = consume.hosts.iter();
            hosts.map(|host| behind(host, domain)).collect()
        }),
        endpoints: places
            .addresses
            .get(&consume.region)
            .into_iter()
            .flatten()
            .copied()
            .collect(),
    });
    GatewaySpec {
        cluster: wanted.cluster.clone(),
        intake,
        gateway,
        serve: serve.collect(),
        consume: consume.collect(),
    }
}

/// A service behind Istio's gateway.
fn behind(host: &Host, domain: &str) -> Behind {
    Behind {
        service: host.service.clone(),
        hosts: service_hosts(&host.service, domain),
        sni: host.sni.clone(),
        identities: host.identities.clone(),
        prefixes: host.prefixes.clone(),
        grpc: host.protocol == mesh_api::mesh::Protocol::Grpc,
    }
}

fn secrets(
    wanted: &MeshAgentSpec,
    [own, shared]: [Option<Arc<Leaf>>; 2],
    lists: BTreeMap<String, String>,
) -> Secrets {
    let material = |leaf: Arc<Leaf>| Material::new(leaf.chain.clone(), leaf.key.pem().as_str());
    let anchors = wanted.trusts.iter().map(|trust| {
        let texts: Vec<&str> = trust
            .certificates
            .iter()
            .map(|text| text.trim_end())
            .collect();
        (trust.cluster.clone(), format!("{}\n", texts.join("\n")))
    });
    Secrets {
        default: own.map(material),
        shared: shared.map(material),
        anchors: anchors.collect(),
        lists,
    }
}

/// The revocation lists of members, by cluster: only where each certificate of a member has a living one. Envoy refuses everybody
/// whose issuer has none, or one that has ended. And when to look again.
fn lists(wanted: &MeshAgentSpec, now: Timestamp) -> (BTreeMap<String, String>, Option<Timestamp>) {
    let mut crls = Crls::new(&wanted.crls, now);
    let complete = |trust: &Trust| {
        // Each is looked at, so that it is known when each ends.
        let good: Vec<_> = trust.certificates.iter().map(|it| crls.good(it)).collect();
        let good: Vec<_> = good.into_iter().collect::<Option<_>>()?;
        let texts = good.iter().map(|list| list.text.as_str());
        let text = merge_crls(texts).ok().filter(|text| !text.is_empty())?;
        Some((trust.cluster.clone(), text))
    };
    let lists = wanted.trusts.iter().filter_map(complete).collect();
    (lists, crls.again())
}

/// The domain of this cluster's Services, from the search list of its pods.
fn cluster_domain(resolv_conf: &str) -> String {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .flat_map(str::split_whitespace)
        .find_map(|entry| entry.strip_prefix("svc."))
        .map_or("cluster.local", |domain| domain.trim_end_matches('.'))
        .to_owned()
}

/// The configuration that Envoy starts with, JSON. The node is the name of the pod; Envoy's `--service-node` says
/// it, in place of what is written here.
#[must_use]
pub fn bootstrap(socket: &Path, node: &str, admin_port: u16) -> String {
    let spec = BootSpec {
        node_id: node.to_owned(),
        cluster: mesh_api::labels::GATEWAY_NAME.to_owned(),
        socket: socket.to_owned(),
        admin: Admin::Loopback(admin_port),
        ready: None,
    };
    mesh_xds::gateway::bootstrap(&spec).to_string()
}

#[cfg(test)]
mod tests;
