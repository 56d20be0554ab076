//! A member's CA as it stands in an agent, asked without a connection, and what stands in for the member's API server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, header::HeaderValue};
use http_body_util::{BodyExt as _, Full};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use mesh_agent::issue::{
    Authenticate, Boxed, Forgetful, Issuer, Limits, Material, NoAnswer, Parts, Serving,
};
use mesh_api::{
    agent::{Bundle, Workloads},
    mesh::WorkloadIssuer,
};
use mesh_ca::{
    Authority, IntermediateSubject, PrivateKey, Requested, check_csr, verify_answer, verify_leaf,
};
use mesh_cluster::agent_io::{Everyone, PublishedKeys};
use mesh_core::{issuance::Review, names::SpiffeId};
use mesh_fuzz::{
    member::{LONGEST, NODE_ACCOUNT, pods},
    unblock,
};
use parking_lot::Mutex;
use prost::{Message, bytes::Bytes};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch};

/// Who the tokens say made them.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What is asked, as far as it is looked at here.
#[derive(Clone, PartialEq, Message)]
pub struct Asked {
    /// The request for a certificate.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    pub seconds: i64,
}

/// What is given.
#[derive(Clone, PartialEq, Message)]
struct Given {
    #[prost(string, repeated, tag = "1")]
    chain: Vec<String>,
}

/// What came of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The certificates; none is a refusal.
    pub chain: Vec<String>,
    /// The status of gRPC.
    pub status: Option<String>,
    /// The tokens that the API server was asked about.
    pub reviewed: Vec<String>,
}

/// Stands in for the API server: publishes keys, and knows two tokens.
struct ApiServer {
    keys: String,
    known: [(String, Review); 2],
    reviewed: Mutex<Vec<String>>,
}

impl Authenticate for ApiServer {
    fn review<'a>(&'a self, token: &'a str) -> Boxed<'a, Result<Review, NoAnswer>> {
        self.reviewed.lock().push(token.to_owned());
        // A signature may be written in several ways; what it signs may not.
        let claimed = |token: &str| token.rsplit_once('.').map(|(claims, _)| claims.to_owned());
        let mut known = self.known.iter();
        let found = known.find(|(sound, _)| claimed(sound) == claimed(token));
        let review = found.map(|(_, review)| review.clone());
        Box::pin(async move { Ok(review.unwrap_or_default()) })
    }

    fn keys(&self) -> Boxed<'_, Result<PublishedKeys, NoAnswer>> {
        let published = PublishedKeys {
            keys: self.keys.clone(),
            issuer: Some(ISSUER.to_owned()),
        };
        Box::pin(async move { Ok(published) })
    }
}

/// A member.
pub struct Member {
    runtime: Runtime,
    key: EncodingKey,
    /// The keys that its API server publishes.
    pub keys: String,
    /// Tokens of a workload, and of the account of a node.
    pub tokens: [String; 2],
    /// A sound request.
    pub csr: String,
    /// The roots.
    pub roots: String,
    material: Arc<Material>,
    serving: Arc<Serving>,
}

/// The one there is.
pub static MEMBER: LazyLock<Member> = LazyLock::new(Member::new);

fn review(namespace: &str, account: &str) -> Review {
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

/// The CA of the member, and the root above it.
fn authority(now: Timestamp) -> (Authority, String) {
    let mesh: mesh_core::names::MeshName = "default".parse().unwrap();
    let life = SignedDuration::from_hours(24 * 365);
    let (root, material) = Authority::generate_root(&mesh, 1, life, now).unwrap();
    let key = PrivateKey::generate().unwrap();
    let request = key.csr_pem().unwrap();
    let request = check_csr(request.as_bytes(), Requested::Nothing).unwrap();
    let subject = IntermediateSubject {
        mesh,
        cluster: "c1".parse().unwrap(),
        generation: 1,
    };
    let issued = root
        .sign_intermediate(&request, &subject, life, now)
        .unwrap();
    let authority = Authority::of(&issued.chain_pem, &key).unwrap();
    (authority, material.cert_pem)
}

impl Member {
    fn new() -> Self {
        let now = Timestamp::now();
        let (authority, roots) = authority(now);
        let wish = Workloads {
            issuer: WorkloadIssuer::Agent,
            trust_domain: "c1.mesh.example".to_owned(),
            bundle: Bundle {
                generation: 1,
                roots: vec![roots.clone()],
            },
            default_seconds: 3600,
            max_seconds: LONGEST,
            node_accounts: vec![NODE_ACCOUNT.to_owned()],
            service_names: vec!["mesh-ca.istio-system.svc".to_owned()],
        };
        let cluster = "c1".parse().unwrap();
        let material = Material::new(Arc::new(authority), 1, &cluster, &wish, now).unwrap();
        let serving = Serving::make(&material, now).unwrap();
        let key = PrivateKey::generate().unwrap();
        let key = EncodingKey::from_ec_der(&unblock(key.pem()));
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        public.common.key_id = Some("k1".to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let mut member = Self {
            runtime: runtime.unwrap(),
            key,
            keys: json!({ "keys": [public] }).to_string(),
            tokens: [String::new(), String::new()],
            csr: PrivateKey::generate().unwrap().csr_pem().unwrap(),
            roots,
            material: Arc::new(material),
            serving: Arc::new(serving),
        };
        member.tokens = ["kof:collector", "istio-system:ztunnel"].map(|account| {
            let claims: Value = json!({
                "iss": ISSUER, "aud": ["istio-ca"], "sub": format!("system:serviceaccount:{account}"),
                "exp": 4_102_444_800_i64, "nbf": 1, "iat": 1,
            });
            member.token(br#"{"alg":"ES256","kid":"k1"}"#, claims.to_string().as_bytes())
        });
        member
    }

    /// A token with this header and these claims, whatever they are, signed by the API server.
    #[must_use]
    pub fn token(&self, header: &[u8], claims: &[u8]) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{header}.{claims}");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256);
        format!("{signed}.{}", signature.unwrap())
    }

    /// Asks a CA that knows nothing yet. The body is that of a call over gRPC.
    #[must_use]
    pub fn ask(
        &self,
        keys: &str,
        authorization: &HeaderValue,
        cluster: &HeaderValue,
        body: Vec<u8>,
    ) -> Outcome {
        let [workload, node] = self.tokens.clone();
        let server = Arc::new(ApiServer {
            keys: keys.to_owned(),
            known: [
                (workload, review("kof", "collector")),
                (node, review("istio-system", "ztunnel")),
            ],
            reviewed: Mutex::default(),
        });
        let (_material, material) = watch::channel(Some(Arc::clone(&self.material)));
        let (_serving, serving) = watch::channel(Some(Arc::clone(&self.serving)));
        let authenticate: Arc<dyn Authenticate> = Arc::<ApiServer>::clone(&server);
        let parts = Parts {
            authenticate,
            material,
            serving,
            everyone: Everyone::of(pods()),
            ledger: Arc::new(Forgetful),
            limits: Limits::default(),
        };
        let issuer = Issuer::new(parts, &mut prometheus_client::registry::Registry::default());
        let request = Request::post("/istio.v1.auth.IstioCertificateService/CreateCertificate")
            .header("content-type", "application/grpc")
            .header("authorization", authorization)
            .header("clusterid", cluster)
            .body(Full::<Bytes>::from(body))
            .unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let (status, body) = self.runtime.block_on(async {
            let response = issuer.answer(request, address).await;
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("an answer is whole");
            let trailers = body.trailers().and_then(|t| t.get("grpc-status"));
            let status = head.headers.get("grpc-status").or(trailers).cloned();
            let status = status.map(|status| status.to_str().unwrap().to_owned());
            (status, body.to_bytes())
        });
        let chain = match body.get(5..) {
            None => Vec::new(),
            Some(message) => Given::decode(message).expect("an answer is one").chain,
        };
        let reviewed = server.reviewed.lock().clone();
        Outcome {
            chain,
            status,
            reviewed,
        }
    }
}

/// A message as gRPC sends it.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [[0].as_slice(), &length.to_be_bytes(), message].concat()
}

/// What an agent gave out: a chain that is believed, of exactly this identity, over the key of the request.
///
/// # Panics
///
/// When it is not.
pub fn believe(chain: &[String], csr: &str, identity: &SpiffeId) {
    let now = Timestamp::now();
    verify_answer(chain, identity, now).expect("agents believe it");
    let (roots, own) = chain.split_last().unwrap();
    assert_eq!(roots.trim_end(), MEMBER.roots.trim_end());
    let own: String = own.concat();
    let leaf = verify_leaf(&own, roots, identity, now).expect("peers believe it");
    assert_eq!(leaf.uris, [identity.as_str()]);
    assert!(leaf.other_names.is_empty() && !leaf.is_ca);
    let longest = SignedDuration::from_secs(i64::from(LONGEST) + 60);
    assert!(leaf.not_after <= now.checked_add(longest).unwrap());
    let checked = check_csr(csr.as_bytes(), Requested::Identity(identity));
    let checked = checked.expect("what is given was asked for soundly");
    assert_eq!(leaf.key_fingerprint, checked.key().fingerprint());
}
