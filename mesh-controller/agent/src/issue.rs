//! Certificates for workloads, over `istio.v1.auth.IstioCertificateService/CreateCertificate`: what istiod and
//! istio-csr serve to Istio's agents and to ztunnel, with the same words on the wire.
//!
//! | room | what it does |
//! |---|---|
//! | `listen` | the port: connections, TLS, HTTP/2, and their limits |
//! | `serving` | the certificate by which agents know the CA |
//! | `door` | room, and who asks, before anything of a request is read |
//! | `keys`, `callers`, `ask` | whose a token is: by the published keys first, then by the API server |
//! | `material` | signer, chain, roots and rules as one |
//! | `service` | from who asks to what is given; the rules themselves are [`mesh_core::issuance`] |
//! | `ledger` | nothing is handed out that the ledger does not speak of |
//! | `audit`, `metrics`, `denied` | what is said of it: to the auditor, to Prometheus, to who asked |
//!
//! The parts are public so that the service can be measured outside a cluster, with a stand-in for the API server: make a
//! [`Material`] from an authority, a [`Serving`] certificate from it, an [`Issuer`] of both, and [`Issuer::serve`] it.

mod ask;
mod audit;
mod callers;
mod denied;
mod door;
mod keys;
mod ledger;
mod listen;
mod material;
mod metrics;
mod proto;
mod service;
mod serving;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use mesh_cluster::{
    agent_io::{Everyone, OwnCluster},
    tasks::Tasks,
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tonic::codegen::StdError;

pub use ask::{Authenticate, Boxed, NoAnswer};
pub use ledger::{Covering, Forgetful};
pub use material::{Material, MaterialError};
pub use serving::{Serving, ServingError};

pub use crate::ledger::NotWritten;
use crate::{
    intermediate::Signer,
    issue::{
        audit::Audit, callers::Callers, door::Door, metrics::Counts, service::Service,
        serving::Latest,
    },
    jitter,
    wanted::Wanted,
};

/// How much is done at once. What is beyond is told to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; more wait with the kernel, and idle ones are closed to let them in.
    pub connections: usize,
    /// Requests that are being answered.
    pub in_flight: usize,
    /// Tokens about which the API server is asked at a time.
    pub reviews: usize,
    /// Tokens that wait for that.
    pub queue: usize,
    /// Answers about tokens that are kept, for ten seconds at most.
    pub answers: usize,
    /// Longest wait for any one of: the queue, the API server, the rest of a request.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            in_flight: 1024,
            reviews: 16,
            queue: 512,
            answers: 8192,
            patience: Duration::from_secs(5),
        }
    }
}

/// What an [`Issuer`] works with.
pub struct Parts {
    /// Says whose tokens are.
    pub authenticate: Arc<dyn Authenticate>,
    /// What answers are made of, as it is now.
    pub material: watch::Receiver<Option<Arc<Material>>>,
    /// The certificate to serve with, as it is now.
    pub serving: watch::Receiver<Option<Arc<Serving>>>,
    /// The pods of the cluster.
    pub everyone: Everyone,
    /// What must speak of a certificate before it is given.
    pub ledger: Arc<dyn Covering>,
    /// How much is done at once.
    pub limits: Limits,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Gives certificates to workloads.
#[derive(Clone)]
pub struct Issuer {
    door: Arc<Door>,
    serving: watch::Receiver<Option<Arc<Serving>>>,
    limits: Limits,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

impl Issuer {
    /// Puts it together, and adds what it counts to the registry.
    #[must_use]
    pub fn new(parts: Parts, registry: &mut Registry) -> Self {
        Self::with_audit(parts, registry, Audit::new())
    }

    fn with_audit(parts: Parts, registry: &mut Registry, audit: Audit) -> Self {
        let counts = Counts::register(registry);
        let callers = Callers::new(parts.authenticate, parts.limits, counts.clone());
        let service = Service {
            material: parts.material,
            everyone: parts.everyone,
            ledger: parts.ledger,
            audit: Arc::new(audit),
            counts,
        };
        Self {
            door: Arc::new(Door::new(callers, service, parts.limits)),
            serving: parts.serving,
            limits: parts.limits,
        }
    }

    /// Serves until `stop` is done.
    ///
    /// # Errors
    ///
    /// When TLS cannot be configured.
    pub async fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), rustls::Error> {
        let config = listen::tls(Arc::new(Latest(self.serving.clone())))?;
        let door = Arc::clone(&self.door);
        let most = self.limits.connections;
        listen::serve(listener, door, Arc::new(config), most, stop).await;
        Ok(())
    }

    /// Answers one request, as [`Issuer::serve`] does with each that comes over a connection.
    pub async fn answer<B>(
        &self,
        request: http::Request<B>,
        address: SocketAddr,
    ) -> http::Response<tonic::body::Body>
    where
        B: hyper::body::Body<Error: Into<StdError> + Send> + Send + 'static,
    {
        self.door.answer(request, address).await
    }
}

/// What the agent's issuing takes from its other rooms.
pub(crate) struct Room {
    pub(crate) address: SocketAddr,
    pub(crate) cluster: OwnCluster,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    pub(crate) ledger: Arc<dyn Covering>,
}

impl Room {
    /// Starts everything, and tells of the serving certificate.
    pub(crate) fn start(
        self,
        registry: &mut Registry,
        tasks: &mut Tasks,
    ) -> watch::Receiver<Option<Arc<Serving>>> {
        let (to_material, material) = watch::channel(None);
        let (to_serving, serving) = watch::channel(None);
        let everyone = Everyone::new();
        let issuer = Issuer::new(
            Parts {
                authenticate: Arc::new(self.cluster.clone()),
                material: material.clone(),
                serving: serving.clone(),
                everyone: everyone.clone(),
                ledger: Arc::clone(&self.ledger),
                limits: Limits::default(),
            },
            registry,
        );
        tasks.spawn(
            "what workloads are given",
            material::keep(self.wanted, self.signer, to_material),
        );
        tasks.spawn(
            "certificate of the CA",
            serving::keep(material.clone(), self.ledger, to_serving),
        );
        tasks.spawn("watch all pods", follow(self.cluster, everyone, material));
        tasks.spawn(
            "workload certificates",
            open(self.address, issuer, serving.clone()),
        );
        serving
    }
}

/// Follows the pods of the cluster as long as accounts of nodes may ask for others; else nobody needs to know them.
async fn follow(
    cluster: OwnCluster,
    everyone: Everyone,
    mut material: watch::Receiver<Option<Arc<Material>>>,
) {
    let needed = |material: &Option<Arc<Material>>| {
        let rules = material.as_ref().map(|material| &material.rules);
        rules.is_some_and(|rules| !rules.node_accounts.is_empty())
    };
    loop {
        if material.wait_for(needed).await.is_err() {
            return;
        }
        tokio::select! {
            () = cluster.follow_everyone(everyone.clone()) => {}
            gone = material.wait_for(|material| !needed(material)) => if gone.is_err() { return },
        }
        everyone.clear();
    }
}

/// Listens as long as there is a certificate to serve with, that is, as long as this agent is to issue.
async fn open(
    address: SocketAddr,
    issuer: Issuer,
    mut serving: watch::Receiver<Option<Arc<Serving>>>,
) {
    let mut failures = 0;
    loop {
        if serving.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut known = serving.clone();
        let stop = async move {
            // An error means that the sender is gone, which also is an end.
            drop(known.wait_for(Option::is_none).await);
        };
        match TcpListener::bind(address).await {
            Ok(listener) => {
                failures = 0;
                tracing::info!(%address, "giving certificates to workloads");
                if let Err(error) = issuer.serve(listener, stop).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "failed to serve TLS"
                    );
                }
                tracing::info!(%address, "no longer giving certificates to workloads");
            }
            Err(error) => {
                if failures == 0 {
                    tracing::error!(%address, error = &error as &dyn std::error::Error, "failed to listen for workloads");
                }
                failures += 1;
            }
        }
        sleep(jitter::backoff(failures)).await;
    }
}

#[cfg(test)]
mod tests;
