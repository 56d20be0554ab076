//! Whether the istiods of this cluster read the regions that they are led to by remote secrets. They are asked as their proxies ask them:
//! over TLS, with the gateway's own certificate, so that no token is needed and none is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use mesh_api::{NAMESPACE, agent::Sidecars};
use mesh_cluster::agent_io::{OwnCluster, PodSeen, Seen};
use mesh_core::{
    names::ClusterName,
    remote::{Said, Synced, Track, secret_name, worst},
    text,
};
use mesh_xds::istiod::{Asker, ask};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

use crate::{jitter, leaf::Leaf, report::Board, wanted::Wanted};

/// Port on which istiod serves its proxies over TLS.
const PORT: u16 = 15012;
/// The name in its certificate, whatever its revision.
const NAME: &str = "istiod.istio-system.svc";
/// How often istiods are asked when all is well.
const LOOK: Duration = Duration::from_secs(15);
/// How often when it is not, or changes just now.
const SOON: Duration = Duration::from_secs(2);
/// Longest that one istiod may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Most of what is said about why it could not be asked.
const WHY: usize = 200;

/// One cluster that istiod knows, as `/debug/clusterz` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    id: String,
    #[serde(default)]
    secret_name: String,
    sync_status: String,
}

/// Why an istiod could not be asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("there is no certificate to show it yet")]
    NoLeaf,
    #[error("failed to prepare TLS")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("failed to prepare TLS")]
    Tls(#[source] rustls::Error),
    #[error("failed to connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("it refused")]
    Refused(#[source] tonic::Status),
    #[error("its answer is not understood")]
    Read(#[source] serde_json::Error),
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// What the task needs.
pub(crate) struct Remotes {
    pub(crate) cluster: OwnCluster,
    pub(crate) pod: String,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) leaf: watch::Receiver<Option<Arc<Leaf>>>,
    pub(crate) board: Board,
}

/// The regions that istiod reads by remote secrets.
fn regions(wanted: Option<&Wanted>) -> BTreeSet<ClusterName> {
    let consume = wanted.into_iter().flat_map(|wanted| &wanted.spec.consume);
    let read = consume.filter(|consume| consume.sidecars == Sidecars::Remote);
    read.filter_map(|consume| consume.region.parse().ok())
        .collect()
}

impl Remotes {
    /// Asks for as long as there is a region to ask about, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            if regions(self.wanted.borrow_and_update().as_deref()).is_empty() {
                self.board.remotes(&BTreeMap::new());
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let (to, istiods) = watch::channel(None);
            let following = self.cluster.follow_istiods(to);
            tokio::select! {
                () = following => {}
                () = self.look(istiods) => {}
            }
        }
    }

    /// Returns when there is no region any more.
    async fn look(&mut self, mut istiods: watch::Receiver<Seen<PodSeen>>) {
        let mut track = Track::default();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let seen = istiods.borrow_and_update().clone();
            let regions = regions(wanted.as_deref());
            let Some(wanted) = wanted.filter(|_| !regions.is_empty()) else {
                return;
            };
            // Nothing is said before it is known whom to ask.
            if let Some(pods) = seen {
                let heard = self.hear(&wanted, &regions, &pods).await;
                self.board.remotes(track.hear(&heard, Timestamp::now()));
            }
            let pause = if track.is_quiet() { LOOK } else { SOON };
            tokio::select! {
                () = sleep(jitter::around(pause)) => {}
                changed = self.wanted.changed() => if changed.is_err() { return },
                changed = istiods.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What all istiods say. One that is not ready is not asked: its proxies do not ask it either.
    async fn hear(
        &self,
        wanted: &Wanted,
        regions: &BTreeSet<ClusterName>,
        pods: &BTreeMap<String, PodSeen>,
    ) -> BTreeMap<ClusterName, Said> {
        let mut all = Vec::new();
        let ready = pods.iter().filter(|(_, pod)| pod.ready);
        for (name, ip) in ready.filter_map(|(name, pod)| Some((name, pod.ips.first()?))) {
            let said = match timeout(DEADLINE, self.ask(wanted, *ip)).await {
                Ok(Ok(known)) => read(&known),
                Ok(Err(error)) => unasked(regions, name, &error),
                Err(_elapsed) => unasked(regions, name, &AskError::Deadline),
            };
            all.push(said);
        }
        if all.is_empty() {
            let said = || Said {
                state: Synced::Unasked,
                note: Some("no pod of it is ready".to_owned()),
            };
            return regions
                .iter()
                .map(|region| (region.clone(), said()))
                .collect();
        }
        worst(regions, &all)
    }

    async fn ask(&self, wanted: &Wanted, ip: IpAddr) -> Result<Vec<Known>, AskError> {
        let leaf = self.leaf.borrow().clone().ok_or(AskError::NoLeaf)?;
        let config = config(wanted, &leaf)?;
        let channel = connect(SocketAddr::new(ip, PORT), config)
            .await
            .map_err(AskError::Connect)?;
        let asker = Asker {
            pod: &self.pod,
            namespace: NAMESPACE,
            cluster: wanted.cluster.as_str(),
            // Only its form is looked at.
            ip,
        };
        let said = ask(channel, &asker, "clusterz")
            .await
            .map_err(AskError::Refused)?;
        serde_json::from_slice(&said).map_err(AskError::Read)
    }
}

/// Nobody knows anything of any region.
fn unasked(
    regions: &BTreeSet<ClusterName>,
    pod: &str,
    error: &AskError,
) -> BTreeMap<ClusterName, Said> {
    let why = format!("pod {pod}: {}", text::line(&text::chain(error), WHY));
    let said = |region: &ClusterName| {
        let said = Said {
            state: Synced::Unasked,
            note: Some(why.clone()),
        };
        (region.clone(), said)
    };
    regions.iter().map(said).collect()
}

/// What one istiod says.
fn read(known: &[Known]) -> BTreeMap<ClusterName, Said> {
    let one = |known: &Known| {
        // Its own cluster has no Secret.
        if known.secret_name.is_empty() {
            return None;
        }
        let region: ClusterName = known.id.parse().ok()?;
        let ours = format!("{NAMESPACE}/{}", secret_name(&region));
        let said = if known.secret_name == ours {
            // A word that is not known yet is no good one.
            Said::of(Synced::read(&known.sync_status).unwrap_or(Synced::Syncing))
        } else {
            Said {
                state: Synced::Foreign,
                note: Some(text::line(&known.secret_name, WHY)),
            }
        };
        Some((region, said))
    };
    known.iter().filter_map(one).collect()
}

/// TLS as a proxy speaks it: istiod is known by the mesh's roots and by its name, and shown the gateway's certificate.
fn config(wanted: &Wanted, leaf: &Leaf) -> Result<ClientConfig, AskError> {
    let bundle = wanted.spec.workloads.iter().flat_map(|w| &w.bundle.roots);
    let mut roots = RootCertStore::empty();
    for pem in bundle.chain([&wanted.spec.root.certificate]) {
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots
                .add(root.map_err(AskError::Pem)?)
                .map_err(AskError::Tls)?;
        }
    }
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes());
    let chain: Vec<CertificateDer<'static>> =
        chain.collect::<Result<_, _>>().map_err(AskError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.pem().as_bytes()).map_err(AskError::Pem)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AskError::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(AskError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn connect(
    address: SocketAddr,
    config: ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let dial = move |_uri: http::Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
            let stream = connector.connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    // TLS is made by the connector.
    Endpoint::from_static("http://istiod.istio-system.svc")
        .connect_with_connector(tower::service_fn(dial))
        .await
}

#[cfg(test)]
mod tests;
