//! A CA that is served for real, over TLS and gRPC on loopback, and what stands in for the API server.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use mesh_api::{
    agent::{Bundle, Workloads},
    mesh::WorkloadIssuer,
};
use mesh_ca::{Authority, IntermediateSubject, PrivateKey, Requested};
use mesh_cluster::agent_io::{Everyone, PublishedKeys};
use mesh_core::issuance::Review;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use super::super::{
    Authenticate, Boxed, Covering, Forgetful, Issuer, Limits, Material, NoAnswer, Parts, Serving,
    audit::{Audit, Line},
    proto::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

pub(super) const NAME: &str = "mesh-ca.istio-system.svc";
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
pub(super) const DOMAIN: &str = "child1.mesh.test";

pub(super) fn id(namespace: &str, account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/{namespace}/sa/{account}")
}

/// A key of an API server.
pub(super) struct TokenKey {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
}

impl TokenKey {
    pub(super) fn new(id: &str) -> Self {
        let key = PrivateKey::generate().unwrap();
        let der = PrivateKeyDer::from_pem_slice(key.pem().as_bytes()).unwrap();
        Self {
            id: id.to_owned(),
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(der.secret_der()),
        }
    }

    pub(super) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// What a token of this service account claims; `number` makes tokens differ.
pub(super) fn claims(namespace: &str, account: &str, number: usize) -> Value {
    let now = Timestamp::now().as_second();
    json!({
        "iss": ISSUER, "aud": ["istio-ca"], "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "exp": now + 3600, "nbf": now - 10, "iat": now - 10, "number": number,
    })
}

/// What an API server says of such a token.
pub(super) fn review(namespace: &str, account: &str) -> Review {
    Review {
        authenticated: true,
        audiences: vec!["istio-ca".to_owned()],
        username: format!("system:serviceaccount:{namespace}:{account}"),
        groups: vec!["system:serviceaccounts".to_owned()],
        pod: Some(format!("{account}-0")),
        pod_uid: Some(format!("uid-{account}")),
        node: Some("n1".to_owned()),
    }
}

/// Stands in for an API server: says of each token what its subject says, or what it was told to say.
pub(super) struct StandIn {
    pub(super) keys: Mutex<Result<PublishedKeys, NoAnswer>>,
    pub(super) says: Mutex<BTreeMap<String, Result<Review, NoAnswer>>>,
    /// How long it takes.
    pub(super) slow: Duration,
    /// Answers only when it is let.
    pub(super) gate: Option<Semaphore>,
    pub(super) asked: AtomicUsize,
    pub(super) asked_keys: AtomicUsize,
    pub(super) now: AtomicUsize,
    pub(super) most: AtomicUsize,
}

impl StandIn {
    pub(super) fn new(keys: &[&TokenKey]) -> Self {
        Self {
            keys: Mutex::new(Ok(published(keys))),
            says: Mutex::default(),
            slow: Duration::ZERO,
            gate: None,
            asked: AtomicUsize::new(0),
            asked_keys: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub(super) fn published(keys: &[&TokenKey]) -> PublishedKeys {
    let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
    PublishedKeys {
        keys: json!({ "keys": keys }).to_string(),
        issuer: Some(ISSUER.to_owned()),
    }
}

/// By the token's subject, unchecked: this is the stand-in's way of knowing all tokens.
fn by_subject(token: &str) -> Review {
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap_or_default();
    let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
    match subject.split(':').collect::<Vec<_>>().as_slice() {
        ["system", "serviceaccount", namespace, account] => review(namespace, account),
        _ => Review::default(),
    }
}

impl Authenticate for StandIn {
    fn review<'a>(&'a self, token: &'a str) -> Boxed<'a, Result<Review, NoAnswer>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            tokio::time::sleep(self.slow).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            let said = self.says.lock().get(token).cloned();
            said.unwrap_or_else(|| Ok(by_subject(token)))
        })
    }

    fn keys(&self) -> Boxed<'_, Result<PublishedKeys, NoAnswer>> {
        self.asked_keys.fetch_add(1, Ordering::SeqCst);
        let keys = self.keys.lock().clone();
        Box::pin(async move { keys })
    }
}

/// A mesh root and its member's intermediates.
pub(super) struct Mesh {
    pub(super) root: Authority,
    pub(super) root_pem: String,
}

impl Mesh {
    pub(super) fn new() -> Self {
        let life = SignedDuration::from_hours(24 * 365);
        let mesh = "default".parse().unwrap();
        let (root, material) = Authority::generate_root(&mesh, 1, life, Timestamp::now()).unwrap();
        Self {
            root,
            root_pem: material.cert_pem,
        }
    }

    pub(super) fn intermediate(&self, generation: u32) -> Arc<Authority> {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr_pem().unwrap();
        let checked = mesh_ca::check_csr(csr.as_bytes(), Requested::Nothing).unwrap();
        let subject = IntermediateSubject {
            mesh: "default".parse().unwrap(),
            cluster: "child1".parse().unwrap(),
            generation,
        };
        let life = SignedDuration::from_hours(24 * 30);
        let issued = self
            .root
            .sign_intermediate(&checked, &subject, life, Timestamp::now())
            .unwrap();
        Arc::new(Authority::of(&issued.chain_pem, &key).unwrap())
    }

    pub(super) fn material(&self, signer: u32, bundle: u32, roots: Vec<String>) -> Arc<Material> {
        let wish = Workloads {
            issuer: WorkloadIssuer::Agent,
            trust_domain: DOMAIN.to_owned(),
            bundle: Bundle {
                generation: bundle,
                roots,
            },
            default_seconds: 3600,
            max_seconds: 86_400,
            node_accounts: vec!["istio-system/ztunnel".to_owned()],
            service_names: vec![NAME.to_owned()],
        };
        let cluster = "child1".parse().unwrap();
        let authority = self.intermediate(signer);
        let made = Material::new(authority, signer, &cluster, &wish, Timestamp::now());
        Arc::new(made.unwrap())
    }
}

/// The CA, served.
pub(super) struct World {
    pub(super) mesh: Mesh,
    pub(super) key: TokenKey,
    pub(super) api: Arc<StandIn>,
    pub(super) lines: Arc<Mutex<Vec<Line>>>,
    pub(super) material: watch::Sender<Option<Arc<Material>>>,
    pub(super) serving: watch::Sender<Option<Arc<Serving>>>,
    pub(super) everyone: Everyone,
    pub(super) registry: Registry,
    pub(super) address: SocketAddr,
    pub(super) stop: watch::Sender<bool>,
    pub(super) server: JoinHandle<()>,
}

/// How a world differs from the usual.
pub(super) struct Changes {
    pub(super) api: Box<dyn FnOnce(&mut StandIn) + Send>,
    pub(super) limits: Limits,
    pub(super) ledger: Arc<dyn Covering>,
    pub(super) everyone: Everyone,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            api: Box::new(|_| ()),
            limits: Limits::default(),
            ledger: Arc::new(Forgetful),
            everyone: Everyone::new(),
        }
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Changes::default()).await
    }

    pub(super) async fn with(changes: Changes) -> Self {
        let mesh = Mesh::new();
        let key = TokenKey::new("k1");
        let mut api = StandIn::new(&[&key]);
        (changes.api)(&mut api);
        let api = Arc::new(api);
        let material = mesh.material(1, 1, vec![mesh.root_pem.clone()]);
        let serving = Arc::new(Serving::make(&material, Timestamp::now()).unwrap());
        let (material, material_rx) = watch::channel(Some(material));
        let (serving, serving_rx) = watch::channel(Some(serving));
        let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
        let paper = Arc::clone(&lines);
        let audit = Audit::to(Box::new(move |line| paper.lock().push(line.clone())));
        let mut registry = Registry::with_prefix("mesh");
        let authenticate: Arc<dyn Authenticate> = Arc::<StandIn>::clone(&api);
        let parts = Parts {
            authenticate,
            material: material_rx,
            serving: serving_rx,
            everyone: changes.everyone.clone(),
            ledger: changes.ledger,
            limits: changes.limits,
        };
        let issuer = Issuer::with_audit(parts, &mut registry, audit);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(false);
        let server = spawn(async move {
            let stop = async move {
                drop(stopped.wait_for(|stop| *stop).await);
            };
            issuer.serve(listener, stop).await.unwrap();
        });
        Self {
            mesh,
            key,
            api,
            lines,
            material,
            serving,
            everyone: changes.everyone,
            registry,
            address,
            stop,
            server,
        }
    }

    pub(super) fn token(&self, number: usize) -> String {
        self.key.token(&claims("kof", "collector", number))
    }

    pub(super) async fn client(&self) -> Client {
        connect(self.address, &self.mesh.root_pem).await.unwrap()
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        self.lines.lock().clone()
    }

    pub(super) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next())
            .map_or(0, |value| value.parse().unwrap())
    }
}

pub(super) type Client = IstioCertificateServiceClient<Channel>;

/// TLS as a workload speaks it: it knows the CA by the mesh root and by its name.
pub(super) async fn tls(
    address: SocketAddr,
    root_pem: &str,
    name: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, std::io::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

pub(super) async fn connect(
    address: SocketAddr,
    root_pem: &str,
) -> Result<Client, tonic::transport::Error> {
    let root_pem = root_pem.to_owned();
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let root_pem = root_pem.clone();
        async move {
            let stream = tls(address, &root_pem, NAME).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let channel = Endpoint::from_static("http://mesh-ca.istio-system.svc")
        .connect_with_connector(connector)
        .await?;
    Ok(IstioCertificateServiceClient::new(channel))
}

/// A key and its request, as ztunnel would send it but for the name, which is ignored anyway when it is missing.
pub(super) fn csr() -> String {
    PrivateKey::generate().unwrap().csr_pem().unwrap()
}

pub(super) fn ask(
    token: &str,
    message: IstioCertificateRequest,
) -> Request<IstioCertificateRequest> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(super) fn plain(csr: String) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr,
        validity_duration: 600,
        metadata: None,
    }
}

pub(super) async fn call(client: &Client, token: &str) -> Result<Vec<String>, Status> {
    send(client, ask(token, plain(csr()))).await
}

pub(super) async fn send(
    client: &Client,
    request: Request<IstioCertificateRequest>,
) -> Result<Vec<String>, Status> {
    let mut client = client.clone();
    let response = client.create_certificate(request).await?;
    Ok(response.into_inner().cert_chain)
}

/// A task that may end; the test waits for it.
#[expect(clippy::disallowed_methods, reason = "the handle is kept by the test")]
pub(super) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(task)
}
