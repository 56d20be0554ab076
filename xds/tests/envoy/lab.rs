//! Certificates, members, and Envoys that end with the test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mesh_ca::{
    Authority, IntermediateSubject, PrivateKey, Requested, RevokedSerial, check_csr,
    next_crl_number,
};
use mesh_xds::gateway::{
    Admin, Allow, Backend, BootSpec, Consume, GatewaySpec, Leaf, LeftOut, Secrets, Serve,
    arguments, bootstrap, build, gateway_sni, intake_hosts,
};
use mesh_xds::server::{NodeStatus, Store, serve_uds};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::client::{Answer, get};

/// How long anything that should happen may take.
pub const SOON: Duration = Duration::from_secs(10);
/// How long a withdrawn caller may keep a connection.
pub const DRAIN: u32 = 2;

pub fn envoy() -> PathBuf {
    let path = std::env::var_os("ENVOY_BIN").map(PathBuf::from);
    match path {
        Some(path) if path.is_file() => path,
        Some(path) => panic!("ENVOY_BIN names {}, which is no file", path.display()),
        None => panic!(
            "ENVOY_BIN is not set: these tests drive a real Envoy (1.40); `make unit` provides one"
        ),
    }
}

/// A folder that goes with the test.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mesh-xds-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The root of a mesh.
pub struct Root(Authority);

impl Root {
    pub fn new() -> Self {
        let life = SignedDuration::from_hours(24);
        let mesh = "default".parse().unwrap();
        let (root, _) = Authority::generate_root(&mesh, 1, life, Timestamp::now()).unwrap();
        Self(root)
    }

    /// The intermediate of a member.
    pub fn member(&self, cluster: &str, generation: u32) -> Ca {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr_pem().unwrap();
        let csr = check_csr(csr.as_bytes(), Requested::Nothing).unwrap();
        let subject = IntermediateSubject {
            mesh: "default".parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            generation,
        };
        let life = SignedDuration::from_hours(12);
        let issued = self
            .0
            .sign_intermediate(&csr, &subject, life, Timestamp::now())
            .unwrap();
        Ca {
            cluster: cluster.to_owned(),
            authority: Authority::of(&issued.chain_pem, &key).unwrap(),
            anchor: issued.cert_pem,
        }
    }
}

/// A member's own CA.
pub struct Ca {
    pub cluster: String,
    authority: Authority,
    pub anchor: String,
}

pub fn identity(cluster: &str) -> String {
    format!("spiffe://{cluster}.mesh.example/ns/istio-system/sa/mesh-gateway")
}

impl Ca {
    /// A fresh leaf for this member's gateway identity.
    pub fn leaf(&self) -> Leaf {
        self.leaf_for(&identity(&self.cluster))
    }

    /// A fresh leaf for any identity.
    pub fn leaf_for(&self, identity: &str) -> Leaf {
        let (chain, key) = self.pem_for(identity);
        Leaf::new(chain, key)
    }

    /// A leaf whose life is over.
    pub fn expired_leaf(&self) -> Leaf {
        let then = Timestamp::now() - SignedDuration::from_mins(50);
        let (chain, key) = self.signed_at(&identity(&self.cluster), then, 10);
        Leaf::new(chain, key)
    }

    pub fn pem_for(&self, identity: &str) -> (String, String) {
        self.signed_at(identity, Timestamp::now(), 60)
    }

    /// Its revocation list.
    pub fn list(&self, serials: &[&str]) -> String {
        let now = Timestamp::now();
        let revoked: Vec<RevokedSerial> = serials
            .iter()
            .map(|serial| RevokedSerial {
                serial: (*serial).to_owned(),
                at: now,
                reason: None,
            })
            .collect();
        let number = next_crl_number(None, now) + serials.len() as u64;
        let life = SignedDuration::from_mins(30);
        let list = self.authority.sign_crl(&revoked, number, life, now);
        list.unwrap().pem
    }

    fn signed_at(&self, identity: &str, now: Timestamp, minutes: i64) -> (String, String) {
        let key = PrivateKey::generate().unwrap();
        let identity = identity.parse().unwrap();
        let life = SignedDuration::from_mins(minutes);
        let issued = self
            .authority
            .sign_leaf(&identity, key.public(), life, now)
            .unwrap();
        (issued.chain_pem, key.pem().to_string())
    }
}

/// One member: its xDS server and its Envoy.
pub struct Proxy {
    pub spec: GatewaySpec,
    pub secrets: Secrets,
    pub store: Arc<Store>,
    pub admin: SocketAddr,
    pub folder: Folder,
    pub ready: Option<SocketAddr>,
    pub admin_at: Option<Admin>,
    node: String,
    envoy: Option<Child>,
    server: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Proxy {
    /// Starts server and Envoy; nothing is configured yet. Needs a running tokio.
    pub fn start(spec: GatewaySpec, secrets: Secrets) -> Self {
        let mut proxy = Self::prepare(spec, secrets);
        proxy.start_server();
        proxy.start_envoy();
        proxy
    }

    /// Nothing is started yet.
    pub fn prepare(spec: GatewaySpec, secrets: Secrets) -> Self {
        let node = format!("node-{}", spec.cluster);
        Self {
            store: Arc::new(Store::new([node.clone()])),
            admin: loopback(free_port()),
            folder: Folder::new(),
            node,
            spec,
            secrets,
            ready: None,
            admin_at: None,
            envoy: None,
            server: None,
        }
    }

    pub fn start_server(&mut self) {
        let (stop, mut stopped) = watch::channel(false);
        let store = Arc::clone(&self.store);
        let socket = self.folder.path("xds.sock");
        let task = tokio::spawn(async move {
            let end = async {
                drop(stopped.wait_for(|stop| *stop).await);
            };
            serve_uds(&socket, store, end).await.unwrap();
        });
        self.server = Some((stop, task));
    }

    /// Stops the server; Envoy goes on with what it has.
    pub async fn stop_server(&mut self) {
        let (stop, task) = self.server.take().unwrap();
        stop.send_replace(true);
        timeout(SOON, task).await.unwrap().unwrap();
    }

    /// A server that knows nothing of before, as after a restart of the agent.
    pub fn restart_server(&mut self) {
        self.store = Arc::new(Store::new([self.node.clone()]));
        self.start_server();
    }

    pub fn boot(&self) -> BootSpec {
        BootSpec {
            node_id: self.node.clone(),
            cluster: self.spec.cluster.clone(),
            socket: self.folder.path("xds.sock"),
            admin: self
                .admin_at
                .clone()
                .unwrap_or_else(|| Admin::Loopback(self.admin.port())),
            ready: self.ready,
        }
    }

    pub fn start_envoy(&mut self) {
        let file = self.folder.path("bootstrap.json");
        std::fs::write(&file, bootstrap(&self.boot()).to_string()).unwrap();
        let log = std::fs::File::create(self.folder.path("envoy.log")).unwrap();
        let refusals = std::fs::File::create(self.folder.path("refusals.log")).unwrap();
        let child = Command::new(envoy())
            .args(arguments(file.to_str().unwrap(), DRAIN, 1))
            .args(["--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(refusals)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.envoy = Some(child);
    }

    pub async fn kill_envoy(&mut self) {
        self.envoy.take().unwrap().kill().await.unwrap();
    }

    /// Puts what the spec says into the store.
    pub fn set(&self) -> u64 {
        let built = build(&self.spec, &self.secrets);
        assert_eq!(built.left_out, Vec::<LeftOut>::new());
        self.store.set(&self.node, built.snapshot).unwrap()
    }

    /// Puts what the spec says into the store and waits until Envoy runs it.
    pub async fn apply(&self) {
        let generation = self.set();
        self.until("it runs the configuration", |s| s.runs(generation))
            .await;
    }

    pub fn status(&self) -> NodeStatus {
        self.store.status(&self.node).unwrap().borrow().clone()
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    /// Waits until the status is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        let mut status = self.store.status(&self.node).unwrap();
        let reached = timeout(SOON, status.wait_for(|s| wanted(s))).await;
        reached
            .unwrap_or_else(|late| {
                let (cluster, status) = (&self.spec.cluster, self.status());
                panic!(
                    "{cluster}: never {what} ({late}): {status:?}\n{}",
                    self.log()
                )
            })
            .unwrap()
            .clone()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path("envoy.log")).unwrap_or_default()
    }

    /// What Envoy wrote to its standard output.
    pub fn refusals(&self) -> String {
        std::fs::read_to_string(self.folder.path("refusals.log")).unwrap_or_default()
    }

    /// One number of Envoy's statistics; zero when Envoy does not know it (yet).
    pub async fn stat(&self, name: &str) -> u64 {
        let path = format!("/stats?usedonly&filter=^{name}$");
        let answer = get(self.admin, "admin", &path).await;
        let value = answer.body.trim().rsplit(": ").next().unwrap_or_default();
        value.parse().unwrap_or(0)
    }

    /// A request to the intake.
    pub async fn ask(&self, host: &str, path: &str) -> Answer {
        get(self.spec.intake, host, path).await
    }
}

/// Waits for a condition that has no notification.
pub async fn eventually(what: &str, check: impl AsyncFn() -> bool) {
    let waited = async {
        while !check().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waited)
        .await
        .unwrap_or_else(|_| panic!("never {what}"));
}

/// The region `r1` with one caller `c1`, the caller's side, and a backend behind the region.
pub struct Pair {
    pub root: Root,
    pub child_ca: Ca,
    pub region_ca: Ca,
    pub child: Proxy,
    pub region: Proxy,
}

pub const HOST: &str = "r1-vmauth.kof.svc.cluster.local:8427";

pub fn serve(caller: &str, backend: SocketAddr) -> Serve {
    let backend = Backend {
        name: "vmauth".to_owned(),
        host: backend.ip().to_string(),
        port: backend.port(),
    };
    let allow = |prefix: &str, grpc| Allow {
        prefix: prefix.to_owned(),
        backend: "vmauth".to_owned(),
        grpc,
    };
    Serve {
        caller: caller.to_owned(),
        epoch: 1,
        sni: gateway_sni(caller, "r1"),
        identities: vec![identity(caller)],
        region: "r1".to_owned(),
        backends: vec![backend],
        allow: vec![
            allow("/vm/insert", false),
            allow("/vli/", false),
            allow(
                "/opentelemetry.proto.collector.trace.v1.TraceService/",
                true,
            ),
        ],
    }
}

pub fn consume(own: &str, gateway: SocketAddr) -> Consume {
    Consume {
        region: "r1".to_owned(),
        hosts: intake_hosts("r1", "cluster.local"),
        sni: gateway_sni(own, "r1"),
        server_identity: identity("r1"),
        istio: None,
        endpoints: vec![gateway],
    }
}

/// A spec on free loopback ports.
pub fn spec(cluster: &str) -> GatewaySpec {
    GatewaySpec {
        intake: loopback(free_port()),
        gateway: loopback(free_port()),
        ..GatewaySpec::new(cluster)
    }
}

pub fn secrets(own: &Ca, peers: &[&Ca]) -> Secrets {
    Secrets {
        default: Some(own.leaf()),
        anchors: peers
            .iter()
            .map(|ca| (ca.cluster.clone(), ca.anchor.clone()))
            .collect(),
        ..Secrets::default()
    }
}

impl Pair {
    /// Both sides up and connected, in front of `backend`.
    pub async fn up(backend: SocketAddr) -> Self {
        let pair = Self::unset(backend);
        tokio::join!(pair.region.apply(), pair.child.apply());
        pair
    }

    /// Both sides up, nothing configured.
    pub fn unset(backend: SocketAddr) -> Self {
        let root = Root::new();
        let (child_ca, region_ca) = (root.member("c1", 1), root.member("r1", 1));
        let mut region = spec("r1");
        region.serve = vec![serve("c1", backend)];
        let mut child = spec("c1");
        child.consume = vec![consume("c1", region.gateway)];
        let child = Proxy::start(child, secrets(&child_ca, &[&region_ca]));
        let region = Proxy::start(region, secrets(&region_ca, &[&child_ca]));
        Self {
            root,
            child_ca,
            region_ca,
            child,
            region,
        }
    }
}
