//! How Envoy and the server get on with each other.

use std::time::{Duration, Instant};

use mesh_xds::gateway::{Admin, build};
use mesh_xds::{Kind, Resource, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::backend::Echo;
use crate::client::{get, stream};
use crate::lab::{
    HOST, Pair, Proxy, Root, consume, eventually, free_port, loopback, secrets, spec,
};

const PATH: &str = "/vm/insert/x";

#[tokio::test]
async fn a_changed_cluster_does_not_hang_in_warming() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    // The endpoints stay as they are, and Envoy does not ask for them.
    pair.child.spec.consume[0].sni.push_str(".other");
    let start = Instant::now();
    pair.child.apply().await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        pair.child
            .stat("cluster.uplink/r1.init_fetch_timeout")
            .await,
        0
    );
}

#[tokio::test]
async fn a_refused_secret_shows_in_the_words_of_envoy_and_the_old_one_serves() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let before = pair.child.status().acked.unwrap();
    let good = pair.child.secrets.clone();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    pair.child
        .secrets
        .anchors
        .insert("r1".to_owned(), broken.to_owned());
    let generation = pair.child.set();
    let status = pair
        .child
        .until("it refused", |s| !s.nacks.is_empty())
        .await;
    let nack = &status.nacks[0];
    assert_eq!((nack.kind, nack.generation), (Kind::Sds, generation));
    assert_eq!(*nack.names[0], *"anchor/r1");
    assert!(
        nack.message.contains("Failed to load trusted CA"),
        "{nack:?}"
    );
    assert!(!nack.message.contains("AAAA"), "{nack:?}");
    assert_eq!(
        (status.sent, status.acked),
        (Some(generation), Some(before))
    );
    passes_anew(&pair).await;
    // A key that does not fit its chain is refused the same way.
    let (chain, _) = pair.child_ca.pem_for(&crate::lab::identity("c1"));
    let (_, key) = pair.child_ca.pem_for(&crate::lab::identity("c1"));
    pair.child.secrets = good.clone();
    pair.child.secrets.default = Some(mesh_xds::gateway::Leaf::new(chain, key));
    pair.child.set();
    let status = pair.child.until("it refused the leaf", |s| {
        s.nacks.iter().any(|n| *n.names[0] == *"default")
    });
    let status = status.await;
    assert!(
        status.nacks[0].message.contains("KEY_VALUES_MISMATCH"),
        "{status:?}"
    );
    assert_eq!(pair.child.ask(HOST, PATH).await.status, 200);
    // What replaces it clears it.
    pair.child.secrets = good.clone();
    pair.child.apply().await;
    assert_eq!(pair.child.status().nacks, []);
    // Two at once, healed one after the other and both at once.
    let mut bad = pair.child.secrets.clone();
    bad.anchors.insert("r1".to_owned(), broken.to_owned());
    let (chain, _) = pair.child_ca.pem_for(&crate::lab::identity("c1"));
    let (_, key) = pair.child_ca.pem_for(&crate::lab::identity("c1"));
    bad.default = Some(mesh_xds::gateway::Leaf::new(chain, key));
    for step_by_step in [true, false] {
        pair.child.secrets = bad.clone();
        pair.child.set();
        pair.child
            .until("both are refused", |s| s.nacks.len() == 2)
            .await;
        passes_anew(&pair).await;
        if step_by_step {
            pair.child.secrets.anchors = good.anchors.clone();
            pair.child.set();
            sleep(Duration::from_millis(100)).await;
            passes_anew(&pair).await;
        }
        pair.child.secrets.anchors = good.anchors.clone();
        pair.child.secrets.default = Some(pair.child_ca.leaf());
        pair.child.apply().await;
        passes_anew(&pair).await;
    }
}

/// A request passes while another one holds the open connection: on a new one.
async fn passes_anew(pair: &Pair) {
    let slow = stream(pair.child.spec.intake, HOST, "/vm/insert/x?drip=300").await;
    let before = pair.child.stat("cluster.uplink/r1.upstream_cx_total").await;
    let answer = pair.child.ask(HOST, PATH).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(slow);
    assert!(before > 0);
}

#[tokio::test]
async fn a_refused_cluster_does_not_hold_back_the_good_ones() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let mut snapshot = build(&pair.child.spec, &pair.child.secrets).snapshot;
    let bad = Resource::new("bad", &b"\x0a\x03bad\x10\x63"[..]);
    snapshot.insert(Kind::Cds, bad).unwrap();
    // A good one in the same response: the uplinks under another name.
    let mut more = pair.child.spec.clone();
    more.consume[0].region = "r2".to_owned();
    more.consume[0].hosts = vec!["r2-vmauth".to_owned()];
    let mut two = pair.child.secrets.clone();
    two.anchors
        .insert("r2".to_owned(), pair.region_ca.anchor.clone());
    let more = build(&more, &two).snapshot;
    for kind in [Kind::Cds, Kind::Eds, Kind::Sds] {
        for resource in more.iter(kind).filter(|r| r.name.contains("/r2")) {
            snapshot.insert(kind, resource.clone()).unwrap();
        }
    }
    pair.child
        .store
        .set(pair.child.node(), snapshot.clone())
        .unwrap();
    let status = pair
        .child
        .until("it refused", |s| !s.nacks.is_empty())
        .await;
    assert_eq!(status.nacks[0].kind, Kind::Cds);
    assert_eq!(*status.nacks[0].names, ["bad".into()], "{status:?}");
    eventually("the good one runs", async || {
        let clusters = get(pair.child.admin, "admin", "/clusters").await.body;
        clusters.contains("uplink/r2::") && !clusters.contains("bad::")
    })
    .await;
    assert_eq!(pair.child.ask(HOST, PATH).await.status, 200);
    pair.child.apply().await;
}

#[tokio::test]
async fn a_listener_that_cannot_bind_is_reported() {
    let root = Root::new();
    let (child, region) = (root.member("c1", 1), root.member("r1", 1));
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wanted = spec("c1");
    wanted.intake = taken.local_addr().unwrap();
    wanted.consume = vec![consume("c1", loopback(free_port()))];
    let proxy = Proxy::start(wanted, secrets(&child, &[&region]));
    proxy.set();
    let status = proxy.until("it refused", |s| !s.nacks.is_empty()).await;
    assert_eq!(status.nacks[0].kind, Kind::Lds);
    assert!(
        status.nacks[0].message.contains("Address already in use"),
        "{status:?}"
    );
}

#[tokio::test]
async fn after_a_server_restart_nothing_unchanged_is_sent() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let counters = [
        "cluster_manager.cds.update_success",
        "listener_manager.lds.update_success",
        "http.intake.rds.intake.update_success",
        "cluster.uplink/r1.update_success",
        "sds.default.update_success",
        "sds.anchor/r1.update_success",
    ];
    let count = async |proxy: &Proxy| {
        let mut all = Vec::new();
        for name in counters {
            all.push(proxy.stat(name).await);
        }
        all
    };
    let before = count(&pair.child).await;
    assert!(before.iter().all(|n| *n > 0), "{before:?}");

    pair.child.stop_server().await;
    assert_eq!(pair.child.ask(HOST, PATH).await.status, 200);
    // A server that has no snapshot yet takes nothing away.
    pair.child.restart_server();
    pair.child.until("it connected", |s| s.connected).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(pair.child.ask(HOST, PATH).await.status, 200);
    assert_eq!(count(&pair.child).await, before);
    // Then it gets the same one.
    pair.child.apply().await;
    assert_eq!(count(&pair.child).await, before);
    // And what changed while the server was away is all that is sent.
    pair.child.stop_server().await;
    pair.child.restart_server();
    pair.child.secrets.default = Some(pair.child_ca.leaf());
    pair.child.apply().await;
    let mut expected = before.clone();
    expected[4] += 1;
    assert_eq!(count(&pair.child).await, expected);
    assert_eq!(pair.child.ask(HOST, PATH).await.status, 200);
}

#[tokio::test]
async fn regions_come_and_go_and_leave_nothing_behind() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let first = pair.child.spec.consume[0].clone();
    let mut second = first.clone();
    second.region = "r2".to_owned();
    second.hosts = vec!["r2-vmauth".to_owned()];
    pair.child
        .secrets
        .anchors
        .insert("r2".to_owned(), pair.region_ca.anchor.clone());
    for round in 0..10 {
        pair.child.spec.consume = vec![first.clone(), second.clone()];
        pair.child.apply().await;
        // Routes are sent only once their clusters are there: the first request already passes.
        let answer = pair.child.ask("r2-vmauth", PATH).await;
        assert_eq!(answer.status, 200, "{round}: {answer:?}");
        pair.child.spec.consume = vec![first.clone()];
        pair.child.apply().await;
        assert_eq!(pair.child.ask("r2-vmauth", PATH).await.status, 404);
        assert_eq!(pair.child.ask(HOST, PATH).await.status, 200);
    }
    let clusters = get(pair.child.admin, "admin", "/clusters").await.body;
    assert!(
        clusters.contains("uplink/r1::") && !clusters.contains("uplink/r2"),
        "{clusters}"
    );
    // Nothing to serve, nothing to reach: no listener stays.
    pair.child.spec.consume.clear();
    pair.child.apply().await;
    eventually("the intake closed", async || {
        get(pair.child.admin, "admin", "/listeners")
            .await
            .body
            .is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_envoy_with_another_node_id_gets_nothing() {
    let root = Root::new();
    let (child, region) = (root.member("c1", 1), root.member("r1", 1));
    let mut wanted = spec("c1");
    wanted.consume = vec![consume("c1", loopback(free_port()))];
    let mut proxy = Proxy::start(wanted, secrets(&child, &[&region]));
    proxy.apply().await;
    proxy.stop_server().await;
    // The same Envoy, but now the server is there for another node.
    let snapshot = build(&proxy.spec, &proxy.secrets).snapshot;
    proxy.store = Store::new(["somebody-else"]).into();
    proxy.store.set("somebody-else", snapshot).unwrap();
    proxy.start_server();
    // Envoy comes again and again, and is not let in.
    let failures = "cluster_manager.cds.update_failure";
    let before = proxy.stat(failures).await;
    eventually("it was refused", async || {
        proxy.stat(failures).await > before + 1
    })
    .await;
    let status = proxy
        .store
        .status("somebody-else")
        .unwrap()
        .borrow()
        .clone();
    assert!(!status.connected, "{status:?}");
    assert!(proxy.store.status(proxy.node()).is_none());
}

#[tokio::test]
async fn the_ready_path_answers_and_nothing_else_of_the_admin_interface() {
    let root = Root::new();
    let child = root.member("c1", 1);
    for unix in [false, true] {
        let at = loopback(free_port());
        let mut proxy = Proxy::prepare(spec("c1"), secrets(&child, &[]));
        proxy.ready = Some(at);
        if unix {
            proxy.admin_at = Some(Admin::Unix(proxy.folder.path("admin.sock")));
        }
        proxy.start_server();
        proxy.start_envoy();
        // Without any configuration it is not even open; an empty configuration is one.
        proxy.until("it connected", |s| s.connected).await;
        assert!(TcpStream::connect(at).await.is_err());
        proxy.apply().await;
        eventually("it is ready", async || {
            TcpStream::connect(at).await.is_ok()
                && get(at, "x", "/healthz/ready").await.status == 200
        })
        .await;
        for path in [
            "/ready",
            "/config_dump",
            "/healthz/ready/../config_dump",
            "/quitquitquit",
        ] {
            assert_eq!(get(at, "x", path).await.status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn a_second_server_does_not_take_the_socket() {
    let root = Root::new();
    let child = root.member("c1", 1);
    let proxy = Proxy::start(spec("c1"), secrets(&child, &[]));
    proxy.until("it connected", |s| s.connected).await;
    let socket = proxy.folder.path("xds.sock");
    let store = Store::new(["x"]).into();
    let refused = mesh_xds::serve_uds(&socket, store, std::future::pending()).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("another process serves it")
    );
    proxy.apply().await;
}
