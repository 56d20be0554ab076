//! The client, one for all servers: rustls, HTTP/2, and in it gRPC, or the JSON that step-ca takes.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::{Request, Response, Uri, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{body::Body, metadata::AsciiMetadataValue};

use super::wire::{Asked, Given, METHOD};

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// So many connections stay, and all together carry so many requests at once.
    Kept {
        connections: usize,
        in_flight: usize,
    },
    /// Each request over a connection of its own, so many at once.
    Fresh { in_flight: usize },
}

/// What one issuance sends.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) csr: Arc<str>,
    pub(super) token: String,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC, `CreateCertificate`.
    Istio,
    /// `POST /1.0/sign`.
    Step,
}

/// Where to ask, and what; asks are taken in turn, over all runs.
#[derive(Clone)]
pub(super) struct Target {
    address: SocketAddr,
    origin: Uri,
    name: ServerName<'static>,
    tls: TlsConnector,
    protocol: Protocol,
    asks: Arc<Vec<Ask>>,
    next: Arc<AtomicUsize>,
}

/// What a run has brought.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) issued: usize,
    pub(super) failed: usize,
    pub(super) took: Duration,
    /// Why the first failed.
    pub(super) failure: Option<String>,
    /// One answer, to be looked at.
    pub(super) sample: Option<(Ask, Vec<String>)>,
}

impl Target {
    pub(super) fn new(
        address: SocketAddr,
        name: &str,
        root: &str,
        protocol: Protocol,
        asks: Vec<Ask>,
    ) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // A new agent has nothing to resume.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            address,
            origin: Uri::try_from(format!("https://{name}:{}", address.port()))?,
            name: ServerName::try_from(name.to_owned())?,
            tls: TlsConnector::from(Arc::new(tls)),
            protocol,
            asks: Arc::new(asks),
            next: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// The same server, asked with these.
    pub(super) fn with(&self, asks: Vec<Ask>) -> Self {
        Self {
            asks: Arc::new(asks),
            next: Arc::new(AtomicUsize::new(0)),
            ..self.clone()
        }
    }

    /// Asks until so much time has passed or so much was asked.
    pub(super) async fn run(
        &self,
        pattern: Pattern,
        time: Duration,
        most: usize,
    ) -> Result<Outcome> {
        let state = Arc::new(State {
            target: self.clone(),
            left: AtomicUsize::new(most),
            issued: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            failure: Mutex::new(None),
            sample: Mutex::new(None),
            ends: Instant::now() + time,
        });
        let mut connections = JoinSet::new();
        let mut workers = JoinSet::new();
        let began = Instant::now();
        match pattern {
            Pattern::Kept {
                connections: count,
                in_flight,
            } => {
                let mut kept = Vec::new();
                for _ in 0..count {
                    let (sender, connection) = self.connect().await?;
                    connections.spawn(connection);
                    kept.push(sender);
                }
                for sender in kept.iter().cycle().take(in_flight) {
                    workers.spawn(Arc::clone(&state).keep(sender.clone()));
                }
            }
            Pattern::Fresh { in_flight } => {
                for _ in 0..in_flight {
                    workers.spawn(Arc::clone(&state).renew());
                }
            }
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        let took = began.elapsed();
        let (failure, sample) = (state.failure.lock().take(), state.sample.lock().take());
        Ok(Outcome {
            issued: state.issued.load(Ordering::Relaxed),
            failed: state.failed.load(Ordering::Relaxed),
            took,
            failure,
            sample,
        })
    }

    async fn connect(&self) -> Result<(Sender, Driver)> {
        let socket = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("failed to connect to {}", self.address))?;
        socket.set_nodelay(true)?;
        let socket = self.tls.connect(self.name.clone(), socket).await?;
        if socket.get_ref().1.alpn_protocol() != Some(b"h2") {
            bail!("{} does not speak HTTP/2", self.address);
        }
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        Ok((Sender(sender), driver))
    }

    fn ask(&self) -> Result<&Ask> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.asks
            .get(next.checked_rem(self.asks.len()).unwrap_or_default())
            .context("there is nothing to ask")
    }

    async fn issue(&self, sender: Sender, ask: &Ask) -> Result<Vec<String>> {
        let chain = match self.protocol {
            Protocol::Istio => istio(sender, &self.origin, ask).await?,
            Protocol::Step => step(sender, &self.origin, ask).await?,
        };
        // The leaf, and at least one above it.
        if chain.len() < 2 || !chain.iter().all(|one| one.starts_with("-----BEGIN")) {
            bail!("an answer of {} certificates", chain.len());
        }
        Ok(chain)
    }
}

struct State {
    target: Target,
    left: AtomicUsize,
    issued: AtomicUsize,
    failed: AtomicUsize,
    failure: Mutex<Option<String>>,
    sample: Mutex<Option<(Ask, Vec<String>)>>,
    ends: Instant,
}

impl State {
    fn more(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        Instant::now() < self.ends
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
    }

    async fn keep(self: Arc<Self>, sender: Sender) -> Result<()> {
        while self.more() {
            let ask = self.target.ask()?;
            let result = self.target.issue(sender.clone(), ask).await;
            self.count(ask, result);
        }
        Ok(())
    }

    async fn renew(self: Arc<Self>) -> Result<()> {
        while self.more() {
            let ask = self.target.ask()?;
            let result = async {
                let (sender, driver) = self.target.connect().await?;
                tokio::select! {
                    chain = self.target.issue(sender, ask) => chain,
                    ended = driver => bail!("the connection ended: {ended:?}"),
                }
            };
            self.count(ask, result.await);
        }
        Ok(())
    }

    fn count(&self, ask: &Ask, result: Result<Vec<String>>) {
        match result {
            Ok(chain) => {
                // The first is looked at afterwards.
                if self.issued.fetch_add(1, Ordering::Relaxed) == 0 {
                    *self.sample.lock() = Some((ask.clone(), chain));
                }
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.failure
                    .lock()
                    .get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

type Driver = http2::Connection<TokioIo<TlsStream<TcpStream>>, Body, TokioExecutor>;

/// A connection, as tonic wants it.
#[derive(Clone)]
struct Sender(http2::SendRequest<Body>);

impl tower::Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn istio(sender: Sender, origin: &Uri, ask: &Ask) -> Result<Vec<String>> {
    let mut grpc = tonic::client::Grpc::with_origin(sender, origin.clone());
    grpc.ready().await?;
    let mut request = tonic::Request::new(Asked {
        csr: ask.csr.to_string(),
        validity_duration: 86_400,
    });
    let token = AsciiMetadataValue::try_from(format!("Bearer {}", ask.token))?;
    request.metadata_mut().insert("authorization", token);
    let codec = tonic_prost::ProstCodec::<Asked, Given>::default();
    let answer = grpc
        .unary(request, PathAndQuery::from_static(METHOD), codec)
        .await?;
    Ok(answer.into_inner().cert_chain)
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    cert_chain: Vec<String>,
}

async fn step(mut sender: Sender, origin: &Uri, ask: &Ask) -> Result<Vec<String>> {
    let body = serde_json::json!({ "csr": &*ask.csr, "ott": ask.token }).to_string();
    let request = Request::post(format!("{origin}1.0/sign"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Body::new(Full::from(body)))?;
    let answer = sender.0.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(serde_json::from_slice::<Signed>(&body)?.cert_chain)
}
