//! Every way in which a request through the intake can fail, as seen at the intake. The table in
//! `mesh_xds::gateway::failures` is what these tests found.

use std::collections::BTreeMap;

use crate::backend::Echo;
use crate::client::{Answer, get, raw};
use crate::lab::{HOST, Pair, Proxy, free_port, identity, loopback, secrets, serve};

const PATH: &str = "/vm/insert/x";

fn row(what: &str, a: &Answer) {
    let names = ["gateway", "intake", "refused", "flags", "detail", "tls"];
    let line: Vec<_> = names.iter().map(|n| format!("{n}={:?}", a.header(&format!("x-kof-{n}")))).collect();
    println!("ROW {what}: {} {} body={:?}", a.status, line.join(" "), a.body);
}

#[tokio::test]
async fn probe_all() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    row("ok", &pair.child.ask(HOST, PATH).await);
    row("host", &pair.child.ask("r2-vmauth", PATH).await);
    row("path", &pair.child.ask(HOST, "/vm/select/x").await);
    let (_, head) = raw(pair.child.spec.intake, HOST, "/vm/insert/%2f../x").await;
    println!("ROW escaped: {head}");
    // name
    let good = pair.child.spec.consume[0].clone();
    pair.child.spec.consume[0].endpoints = vec![];
    pair.child.apply().await;
    row("no endpoints", &pair.child.ask(HOST, PATH).await);
    // refused
    pair.child.spec.consume[0].endpoints = vec![loopback(free_port())];
    pair.child.apply().await;
    row("connect refused", &pair.child.ask(HOST, PATH).await);
    // not tls at all: the backend answers
    pair.child.spec.consume[0].endpoints = vec![echo.at];
    pair.child.apply().await;
    row("not tls", &pair.child.ask(HOST, PATH).await);
    // wrong anchor at the child
    pair.child.spec.consume[0] = good.clone();
    let other = pair.root.member("r1", 9);
    let right = pair.child.secrets.anchors["r1"].clone();
    pair.child.secrets.anchors.insert("r1".into(), other.anchor.clone());
    pair.child.apply().await;
    row("wrong anchor", &pair.child.ask(HOST, PATH).await);
    pair.child.secrets.anchors.insert("r1".into(), right);
    // wrong server identity
    pair.child.spec.consume[0].server_identity = identity("r9");
    pair.child.apply().await;
    row("wrong server identity", &pair.child.ask(HOST, PATH).await);
    // no such sni
    pair.child.spec.consume[0] = good.clone();
    pair.child.spec.consume[0].sni = "c9.r1-vmauth.kof.svc.cluster.local".into();
    pair.child.apply().await;
    row("no such sni", &pair.child.ask(HOST, PATH).await);
    pair.child.spec.consume[0] = good.clone();
    // client identity refused
    let leaf = pair.child.secrets.default.clone();
    pair.child.secrets.default = Some(pair.child_ca.leaf_for(&identity("c9")));
    pair.child.apply().await;
    row("client SAN refused", &pair.child.ask(HOST, PATH).await);
    // client anchor unknown
    let stranger = pair.root.member("c1", 7);
    pair.child.secrets.default = Some(stranger.leaf());
    pair.child.apply().await;
    row("client anchor refused", &pair.child.ask(HOST, PATH).await);
    pair.child.secrets.default = leaf;
    pair.child.apply().await;
    row("ok again", &pair.child.ask(HOST, PATH).await);
    // backend down
    pair.region.spec.serve[0].backends[0].port = free_port();
    pair.region.apply().await;
    row("backend down", &pair.child.ask(HOST, PATH).await);
    // backend name
    pair.region.spec.serve[0].backends[0].host = "nowhere.invalid".into();
    pair.region.apply().await;
    row("backend name", &pair.child.ask(HOST, PATH).await);
    println!("region log {}", pair.region.log());
    println!("child log {}", pair.child.log());
}
