//! Every way in which a request through the intake can fail, as seen at the intake. The table in
//! `mesh_xds::gateway::failures` is what these tests hold.

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::backend::Echo;
use crate::client::{Answer, grpc, raw};
use crate::lab::{HOST, Pair, eventually, free_port, identity, loopback};

const PATH: &str = "/vm/insert/x";

/// What one row of the table says. An empty text means that the header is not there.
#[derive(Debug)]
struct Row {
    status: u16,
    gateway: &'static str,
    intake: &'static str,
    refused: &'static str,
    flags: &'static str,
    detail: &'static str,
    tls: &'static str,
}

impl Row {
    /// The intake's own answer.
    const fn intake(status: u16, flags: &'static str, detail: &'static str) -> Self {
        Self {
            status,
            gateway: "",
            intake: "c1",
            refused: "",
            flags,
            detail,
            tls: "",
        }
    }

    /// The gateway's own answer.
    const fn gateway(status: u16, flags: &'static str, detail: &'static str) -> Self {
        Self {
            gateway: "r1",
            intake: "",
            ..Self::intake(status, flags, detail)
        }
    }

    const fn refused(mut self, what: &'static str) -> Self {
        self.refused = what;
        self
    }

    const fn tls(mut self, reason: &'static str) -> Self {
        self.tls = reason;
        self
    }

    /// Headers are equal; detail and TLS reason contain the text.
    #[track_caller]
    fn holds(&self, answer: &Answer) {
        assert_eq!(answer.status, self.status, "{answer:?}");
        let pairs = [
            ("x-kof-gateway", self.gateway),
            ("x-kof-intake", self.intake),
            ("x-kof-refused", self.refused),
            ("x-kof-flags", self.flags),
        ];
        for (name, wanted) in pairs {
            assert_eq!(answer.header(name), wanted, "{name}: {answer:?}");
        }
        for (name, wanted) in [("x-kof-detail", self.detail), ("x-kof-tls", self.tls)] {
            let found = answer.header(name);
            assert!(found.contains(wanted), "{name}: {answer:?}");
            assert_eq!(found.is_empty(), wanted.is_empty(), "{name}: {answer:?}");
        }
    }
}

const CONNECT: &str = "remote_connection_failure";
const TIMEOUT: &str = "connection_timeout";

#[tokio::test]
async fn what_is_refused_by_name_or_path() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let host = Row::intake(404, "-", "direct_response").refused("host");
    for unknown in [
        "r2-vmauth",
        "r1-vmauth.kof.svc.cluster.local.evil",
        "127.0.0.1",
    ] {
        host.holds(&pair.child.ask(unknown, PATH).await);
    }
    let path = Row::gateway(403, "-", "rbac_access_denied").refused("path");
    for refused in [
        "/",
        "/vm/select/0/prometheus",
        "/vm/insertion",
        "/VM/insert/x",
        "/vli",
    ] {
        path.holds(&pair.child.ask(HOST, refused).await);
    }
    // gRPC gets its own kind of status, and the same headers.
    let refused = grpc(pair.child.spec.intake, HOST, "/some.Service/Call", b"x").await;
    assert_eq!(refused.header("grpc-status"), "7", "{refused:?}");
    Row {
        status: 200,
        ..path
    }
    .holds(&refused);
    // Nothing of this reached the backend.
    assert_eq!(echo.seen(), 0);
    // What is behind the gateway cannot speak in the name of gateway or intake.
    let forged = pair.child.ask(HOST, "/vm/insert/x?forge").await;
    assert_eq!(forged.header("x-kof-gateway"), "r1");
    for name in ["intake", "refused", "detail", "flags", "tls"] {
        assert_eq!(forged.header(&format!("x-kof-{name}")), "", "{forged:?}");
    }
}

#[tokio::test]
async fn a_path_cannot_leave_the_contract_by_tricks() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let tricks = [
        ("/vm/insert/../select/x", 403),
        ("/vm/insert/%2e%2e/select/x", 403),
        ("/vm/insert/%2E./select/x", 403),
        ("/vm/insert/./../select", 403),
        ("/vm/./insert/../../vm//select", 403),
        ("//vm/select/x", 403),
        ("/vm/insert/..", 403),
        ("/vm/insert/..%2fselect", 400),
        ("/vm/insert/..%2Fselect", 400),
        ("/vm/insert%2f..%2fselect", 400),
        ("/vm/insert/..%5cselect", 400),
        ("/vm/insert\\..\\select\\x", 403),
        ("/vm/insert/../../../../vm/select", 403),
        ("/vm/insert/x#/../../select", 400),
        ("/vm/insert%00/select", 400),
        ("*", 400),
        ("http://r1-vmauth/vm/select/x", 403),
        ("http://r1-vmauth/vm/insert/../select/x", 403),
    ];
    for (target, wanted) in tricks {
        let (status, head) = raw(pair.child.spec.intake, HOST, target).await;
        assert_eq!(status, wanted, "{target}: {head}");
    }
    assert_eq!(echo.seen(), 0);
    // Slashes are merged and dots resolved before anybody looks: what stays inside, passes.
    for inside in [
        "/vm//insert/x",
        "/vm/select/../insert/x",
        "/vm/insert",
        "/vm/insert?y=/../z",
    ] {
        let (status, head) = raw(pair.child.spec.intake, HOST, inside).await;
        assert_eq!(status, 200, "{inside}: {head}");
    }
    // Double escapes stay what they are: the backend sees a strange name, inside the contract.
    let (status, head) = raw(pair.child.spec.intake, HOST, "/vm/insert/%252e%252e/x").await;
    assert_eq!(status, 200);
    assert!(head.contains("GET /vm/insert/%252e%252e/x"), "{head}");
}

#[tokio::test]
async fn what_fails_on_the_way_to_the_gateway() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let ask = async |pair: &Pair| {
        pair.child.apply().await;
        pair.child.ask(HOST, PATH).await
    };
    // No address: the name of the gateway does not resolve.
    pair.child.spec.consume[0].endpoints = Vec::new();
    Row::intake(503, "UH", "no_healthy_upstream").holds(&ask(&pair).await);
    // Nobody listens.
    pair.child.spec.consume[0].endpoints = vec![loopback(free_port())];
    Row::intake(503, "UF", CONNECT)
        .tls("delayed_connect_error:_Connection_refused")
        .holds(&ask(&pair).await);
    // Something listens that does not speak TLS.
    pair.child.spec.consume[0].endpoints = vec![echo.at];
    Row::intake(503, "UF", CONNECT)
        .tls("WRONG_VERSION_NUMBER")
        .holds(&ask(&pair).await);
    // Something listens that never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.child.spec.consume[0].endpoints = vec![silent.local_addr().unwrap()];
    Row::intake(503, "UF", TIMEOUT).holds(&ask(&pair).await);
    // A full queue drops what arrives, as a dead address does.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(loopback(0)).unwrap();
    let full = socket.listen(1).unwrap();
    let at = full.local_addr().unwrap();
    let _queued = [TcpStream::connect(at).await, TcpStream::connect(at).await];
    pair.child.spec.consume[0].endpoints = vec![at];
    Row::intake(503, "UF", TIMEOUT).holds(&ask(&pair).await);
}

#[tokio::test]
async fn what_fails_between_identities() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let ask = async |pair: &Pair| {
        pair.child.apply().await;
        pair.child.ask(HOST, PATH).await
    };
    let good = (pair.child.spec.clone(), pair.child.secrets.clone());
    // The gateway's certificate is not under the anchor that we have.
    let stranger = pair.root.member("r1", 9).anchor;
    pair.child.secrets.anchors.insert("r1".to_owned(), stranger);
    Row::intake(503, "UF", CONNECT)
        .tls("unable_to_get_local_issuer_certificate")
        .holds(&ask(&pair).await);
    pair.child.secrets = good.1.clone();
    // It is, but somebody else's.
    pair.child.spec.consume[0].server_identity = identity("r9");
    Row::intake(503, "UF", CONNECT)
        .tls("SAN_matcher,_certificate_SANs_are_[spiffe://r1.mesh.example/")
        .holds(&ask(&pair).await);
    pair.child.spec = good.0.clone();
    // The gateway knows no caller of this name (any more).
    pair.child.spec.consume[0].sni = "c9.r1-vmauth.kof.svc.cluster.local".to_owned();
    Row::intake(503, "UF", CONNECT)
        .tls("Connection_reset_by_peer")
        .holds(&ask(&pair).await);
    pair.child.spec = good.0.clone();
    // Our certificate names somebody else, or is under an anchor that the gateway does not have.
    let refused = Row::intake(503, "UC", "connection_termination");
    pair.child.secrets.default = Some(pair.child_ca.leaf_for(&identity("c9")));
    refused.holds(&ask(&pair).await);
    pair.child.secrets.default = Some(pair.root.member("c1", 7).leaf());
    refused.holds(&ask(&pair).await);
    // Or its life is over (Envoy takes it without a word).
    pair.child.secrets.default = Some(pair.child_ca.expired_leaf());
    refused.holds(&ask(&pair).await);
    pair.child.secrets = good.1;
    let answer = ask(&pair).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Taking away the anchor refuses new connections only: the open one goes on.
    let old = pair.root.member("c1", 8).anchor;
    pair.region.secrets.anchors.insert("c1".to_owned(), old);
    pair.region.apply().await;
    assert_eq!(ask(&pair).await.status, 200);
    // A new epoch ends it.
    pair.region.spec.serve[0].epoch += 1;
    pair.region.apply().await;
    eventually("the open connection ended", async || {
        pair.child.ask(HOST, PATH).await.status == 503
    })
    .await;
    refused.holds(&ask(&pair).await);
}

#[tokio::test]
async fn what_fails_behind_the_gateway() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    pair.region.spec.serve[0].backends[0].port = free_port();
    pair.region.apply().await;
    let down = pair.child.ask(HOST, PATH).await;
    Row::gateway(503, "UF", CONNECT).holds(&down);
    pair.region.spec.serve[0].backends[0].host = "nowhere.invalid".to_owned();
    pair.region.apply().await;
    let nameless = pair.child.ask(HOST, PATH).await;
    Row::gateway(503, "UH", "no_healthy_upstream").holds(&nameless);
    // The backend's own refusal is neither: no detail, no flags.
    pair.region.spec.serve[0].backends[0].host = "localhost".to_owned();
    pair.region.spec.serve[0].backends[0].port = echo.at.port();
    pair.region.apply().await;
    eventually("its name is resolved", async || {
        pair.child.ask(HOST, PATH).await.status == 200
    })
    .await;
    let own = pair.child.ask(HOST, "/vm/insert/x?status=503").await;
    Row::gateway(503, "", "").holds(&own);
}

#[tokio::test]
async fn the_gateway_writes_down_whom_it_refused_and_why() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    pair.child.ask(HOST, PATH).await;
    pair.child.ask(HOST, "/vm/select/x?password=secret").await;
    pair.child.secrets.default = Some(pair.root.member("c1", 7).leaf());
    pair.child.spec.consume[0].hosts.truncate(1);
    pair.child.spec.consume[0].sni.push_str(".none");
    pair.child.apply().await;
    pair.child.ask("r1-vmauth", PATH).await;
    pair.child.spec.consume[0].sni = "c1.r1-vmauth.kof.svc.cluster.local".to_owned();
    pair.child.apply().await;
    pair.child.ask("r1-vmauth", PATH).await;
    eventually("all three are written", async || {
        pair.region.refusals().lines().count() == 3
    })
    .await;
    let log = pair.region.refusals();
    let wanted = [
        "refused=path caller=c1 peer=spiffe://c1.mesh.example/ns/istio-system/sa/mesh-gateway \
         method=GET path=\"/vm/select/x\"",
        "refused=connection from=127.0.0.1 sni=c1.r1-vmauth.kof.svc.cluster.local.none",
        "unable_to_get_local_issuer_certificate",
    ];
    for (line, wanted) in log.lines().zip(wanted) {
        assert!(line.contains(wanted), "{wanted}: {line}");
    }
    assert!(!log.contains("secret"), "{log}");
}
