//! What is built, and what is left out.

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, route};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::google::protobuf::Duration;
use prost::Message;

use super::*;
use crate::model::{Kind, Snapshot};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";

fn caller(name: &str) -> Serve {
    let allow = |prefix: &str, grpc| Allow {
        prefix: prefix.to_owned(),
        backend: "vmauth".to_owned(),
        grpc,
    };
    Serve {
        caller: name.to_owned(),
        epoch: 1,
        sni: gateway_sni(name, "r1"),
        identities: vec![format!(
            "spiffe://{name}.mesh/ns/istio-system/sa/mesh-gateway"
        )],
        region: "r1".to_owned(),
        backends: vec![Backend {
            name: "vmauth".to_owned(),
            host: "vmauth.kof.svc.cluster.local".to_owned(),
            port: 8427,
        }],
        allow: vec![allow("/vm/insert", false), allow("/otlp/", true)],
    }
}

fn region(name: &str) -> Consume {
    Consume {
        region: name.to_owned(),
        hosts: intake_hosts(name, "cluster.local"),
        sni: gateway_sni("c1", name),
        server_identity: format!("spiffe://{name}.mesh/ns/istio-system/sa/mesh-gateway"),
        istio: None,
        endpoints: vec![
            "192.0.2.1:15443".parse().unwrap(),
            "[2001:db8::1]:443".parse().unwrap(),
        ],
    }
}

/// A member that serves `c1` and `c2`, and reaches `r2` and `r3`.
fn both() -> (GatewaySpec, Secrets) {
    let mut spec = GatewaySpec::new("r1");
    spec.serve = vec![caller("c1"), caller("c2")];
    spec.consume = vec![region("r2"), region("r3")];
    let anchors = ["c1", "c2", "r2", "r3"].map(|name| (name.to_owned(), PEM.to_owned()));
    let secrets = Secrets {
        default: Some(Leaf::new(PEM, "key")),
        anchors: anchors.into(),
        ..Secrets::default()
    };
    (spec, secrets)
}

fn names(snapshot: &Snapshot, kind: Kind) -> Vec<String> {
    snapshot.iter(kind).map(|r| r.name.to_string()).collect()
}

fn chains(snapshot: &Snapshot) -> Vec<String> {
    let body = snapshot.get(Kind::Lds, "gateway").unwrap().body.clone();
    let listener = Listener::decode(body).unwrap();
    listener
        .filter_chains
        .into_iter()
        .map(|chain| chain.name)
        .collect()
}

#[test]
fn the_smallest_set_of_resources_and_no_more() {
    let (spec, secrets) = both();
    let built = build(&spec, &secrets);
    assert_eq!(built.left_out, []);
    let snapshot = built.snapshot;
    snapshot.check().unwrap();
    assert_eq!(
        names(&snapshot, Kind::Cds),
        [
            "backend/vmauth",
            "backend/vmauth/h2",
            "uplink/r2",
            "uplink/r2/h2",
            "uplink/r3",
            "uplink/r3/h2"
        ]
    );
    assert_eq!(
        names(&snapshot, Kind::Eds),
        ["uplink/r2", "uplink/r2/h2", "uplink/r3", "uplink/r3/h2"]
    );
    assert_eq!(
        names(&snapshot, Kind::Sds),
        [
            "anchor/c1",
            "anchor/c2",
            "anchor/r2",
            "anchor/r3",
            "default"
        ]
    );
    assert_eq!(names(&snapshot, Kind::Lds), ["gateway", "intake"]);
    assert_eq!(names(&snapshot, Kind::Rds), ["intake"]);
    assert_eq!(chains(&snapshot), ["c1@1", "c2@1"]);
    // Nothing is there that nothing needs.
    assert_eq!(snapshot.reachable().len(), snapshot.len());
}

#[test]
fn the_same_spec_gives_the_same_bytes() {
    let (spec, secrets) = both();
    let first = build(&spec, &secrets).snapshot;
    for _ in 0..50 {
        assert_eq!(build(&spec, &secrets).snapshot, first);
    }
}

#[test]
fn nothing_to_do_is_nothing_at_all() {
    let built = build(&GatewaySpec::new("c1"), &both().1);
    assert!(built.snapshot.is_empty(), "{built:?}");
    assert_eq!(built.left_out, []);
}

type Spoil = fn(&mut GatewaySpec, &mut Secrets);
type Case = (&'static str, Spoil, Reason);

fn bad_callers() -> Vec<Case> {
    vec![
        ("c1", |_, s| drop(s.anchors.remove("c1")), Reason::NoAnchor),
        (
            "c1",
            |g, _| g.serve[0].identities.clear(),
            Reason::NoIdentity,
        ),
        (
            "c1",
            |g, _| g.serve[0].identities.push("c1".into()),
            Reason::NoIdentity,
        ),
        (
            "c1",
            |g, _| g.serve[0].sni = "*.evil".into(),
            Reason::BadName("*.evil".into()),
        ),
        (
            "c1",
            |g, _| g.serve[0].allow[0].prefix = "/vm/../x".into(),
            Reason::BadPrefix("/vm/../x".into()),
        ),
        (
            "c1",
            |g, _| g.serve[0].allow[0].prefix.clear(),
            Reason::BadPrefix(String::new()),
        ),
        (
            "c1",
            |g, _| g.serve[0].allow[0].backend = "x".into(),
            Reason::UnknownBackend("x".into()),
        ),
        (
            "c2",
            |g, _| g.serve[1].backends[0].port = 1,
            Reason::BackendConflict("vmauth".into()),
        ),
        (
            "c1",
            |g, _| g.serve[0].backends[0].port = 0,
            Reason::BadBackend("vmauth".into()),
        ),
        (
            "c1",
            |g, _| g.serve[1].caller = "c1".into(),
            Reason::Taken("c1".into()),
        ),
        (
            "c2",
            |g, _| g.serve[1].sni = g.serve[0].sni.to_uppercase(),
            Reason::Taken("c1.r1-vmauth.kof.svc.cluster.local".into()),
        ),
    ]
}

fn bad_regions() -> Vec<Case> {
    vec![
        (
            "r2",
            |_, s| drop(s.anchors.insert("r2".into(), "junk".into())),
            Reason::NoAnchor,
        ),
        (
            "r2",
            |g, _| g.consume[0].server_identity.clear(),
            Reason::NoIdentity,
        ),
        (
            "r2",
            |g, _| g.consume[0].hosts.push("*".into()),
            Reason::BadName("*".into()),
        ),
        ("r2", |g, _| g.consume[0].hosts.clear(), Reason::NoHost),
        (
            "r3",
            |g, _| g.consume[1].hosts = vec!["R2-vmauth".into()],
            Reason::Taken("host r2-vmauth".into()),
        ),
        (
            "r2",
            |g, _| g.consume[0].hosts = vec!["a".into(), "A".into()],
            Reason::Taken("r2".into()),
        ),
    ]
}

#[test]
fn one_bad_entry_leaves_out_itself_only() {
    for (cluster, spoil, reason) in bad_callers().into_iter().chain(bad_regions()) {
        let (mut spec, mut secrets) = both();
        spoil(&mut spec, &mut secrets);
        let built = build(&spec, &secrets);
        let left_out = LeftOut {
            cluster: cluster.to_owned(),
            reason,
        };
        assert_eq!(built.left_out, std::slice::from_ref(&left_out));
        built.snapshot.check().unwrap();
        // One caller or region less, the others as before.
        let clusters = names(&built.snapshot, Kind::Cds);
        let uplinks = clusters.iter().filter(|c| c.starts_with("uplink/")).count();
        assert_eq!(chains(&built.snapshot).len() + uplinks / 2, 3, "{left_out}");
    }
}

#[test]
fn without_a_leaf_the_intake_is_open_and_leads_nowhere() {
    let (spec, mut secrets) = both();
    secrets.default = None;
    let built = build(&spec, &secrets);
    assert_eq!(built.left_out.len(), 4);
    assert!(built.left_out.iter().all(|l| l.reason == Reason::NoLeaf));
    assert_eq!(names(&built.snapshot, Kind::Lds), ["intake"]);
    assert_eq!(built.snapshot.len(), 2);
}

#[test]
fn a_caller_without_a_contract_is_let_in_and_refused_everything() {
    let (mut spec, secrets) = both();
    spec.serve[0].allow.clear();
    let built = build(&spec, &secrets);
    assert_eq!(built.left_out, []);
    assert_eq!(chains(&built.snapshot), ["c1@1", "c2@1"]);
}

#[test]
fn a_new_epoch_renames_one_chain() {
    let (mut spec, secrets) = both();
    spec.serve[1].epoch = 2;
    assert_eq!(chains(&build(&spec, &secrets).snapshot), ["c1@1", "c2@2"]);
}

/// The managers of a listener, and the routes that are in them.
fn managers(snapshot: &Snapshot, listener: &str) -> Vec<HttpConnectionManager> {
    let body = snapshot.get(Kind::Lds, listener).unwrap().body.clone();
    let filters = Listener::decode(body).unwrap().filter_chains;
    let configs = filters.into_iter().flat_map(|chain| chain.filters);
    configs
        .map(|filter| match filter.config_type.unwrap() {
            filter::ConfigType::TypedConfig(any) => {
                HttpConnectionManager::decode(&*any.value).unwrap()
            }
            filter::ConfigType::ConfigDiscovery(_) => panic!("not used"),
        })
        .collect()
}

#[test]
fn nothing_on_the_path_has_a_time_limit_a_retry_or_a_buffer() {
    let (spec, secrets) = both();
    let snapshot = build(&spec, &secrets).snapshot;
    let never = Some(Duration {
        seconds: 0,
        nanos: 0,
    });
    let body = snapshot.get(Kind::Rds, "intake").unwrap().body.clone();
    let mut routes = vec![RouteConfiguration::decode(body).unwrap()];
    for listener in ["gateway", "intake"] {
        for manager in managers(&snapshot, listener) {
            assert_eq!(manager.stream_idle_timeout, never);
            assert_eq!(manager.request_timeout, never);
            let names: Vec<_> = manager
                .http_filters
                .iter()
                .map(|f| f.name.as_str())
                .collect();
            let known = ["envoy.filters.http.rbac", "envoy.filters.http.router"];
            assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
            if let Some(RouteSpecifier::RouteConfig(inline)) = manager.route_specifier {
                routes.push(inline);
            }
        }
    }
    assert_eq!(routes.len(), 3);
    let hosts = routes.into_iter().flat_map(|config| config.virtual_hosts);
    let mut forwarded = 0;
    for host in hosts {
        assert_eq!(host.retry_policy, None);
        for route in host.routes {
            if let Some(route::Action::Route(action)) = route.action {
                forwarded += 1;
                assert_eq!(action.timeout, never);
                assert_eq!(action.idle_timeout, never);
                assert_eq!(action.retry_policy, None);
                assert_eq!(action.max_stream_duration, None);
            }
        }
    }
    assert_eq!(forwarded, 8);
}

#[test]
fn every_anchor_is_used_for_its_own_cluster_with_its_own_identity() {
    let (spec, secrets) = both();
    let snapshot = build(&spec, &secrets).snapshot;
    for (cluster, anchor) in [("uplink/r2", "anchor/r2"), ("uplink/r3/h2", "anchor/r3")] {
        let resource = snapshot.get(Kind::Cds, cluster).unwrap();
        let text = String::from_utf8_lossy(&resource.body).into_owned();
        let own = anchor.trim_start_matches("anchor/");
        assert!(text.contains(anchor) && text.contains(&format!("spiffe://{own}.mesh/")));
        let others = ["r2", "r3", "c1", "c2"]
            .into_iter()
            .filter(|name| *name != own);
        for other in others {
            assert!(
                !text.contains(&format!("anchor/{other}")),
                "{cluster} {other}"
            );
            assert!(
                !text.contains(&format!("spiffe://{other}.")),
                "{cluster} {other}"
            );
        }
    }
}

#[test]
fn prefixes_that_mean_two_things_are_refused() {
    for good in ["/", "/vm/insert", "/vm/insert/", "/a.b/c-d_e~f"] {
        assert!(build::is_prefix(good), "{good}");
    }
    for bad in [
        "", "vm", "/a//b", "//", "/a/./b", "/a/..", "/a?b", "/a#b", "/a%2fb", "/a\\b", "/a;b",
        "/a b", "/a\n",
    ] {
        assert!(!build::is_prefix(bad), "{bad}");
    }
}

#[test]
fn debug_shows_no_key() {
    let leaf = Leaf::new("chain of trust", "very secret key");
    let text = format!("{leaf:?}");
    assert_eq!(text, "Leaf([redacted])");
    let (spec, mut secrets) = both();
    secrets.default = Some(leaf);
    let text = format!("{secrets:?} {:?}", build(&spec, &secrets));
    assert!(!text.contains("very secret key"), "{text}");
}

#[test]
fn the_bootstrap_is_delta_over_the_socket_and_keeps_the_admin_interface_at_home() {
    let boot = bootstrap(&BootSpec {
        node_id: "c1~pod".to_owned(),
        cluster: "c1".to_owned(),
        socket: "/run/mesh/xds.sock".into(),
        admin: Admin::Loopback(15000),
        ready: None,
    });
    assert_eq!(boot["node"]["id"], "c1~pod");
    let ads = &boot["dynamic_resources"]["ads_config"];
    assert_eq!(ads["api_type"], "DELTA_GRPC");
    assert_eq!(ads["set_node_on_first_message_only"], true);
    let admin = &boot["admin"]["address"]["socket_address"];
    assert_eq!(admin["address"], "127.0.0.1");
    let clusters = boot["static_resources"]["clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), 1);
    assert!(clusters[0].to_string().contains("/run/mesh/xds.sock"));
}

#[test]
fn names_of_the_intake_go_from_short_to_full() {
    assert_eq!(
        intake_hosts("r1", "example.local"),
        [
            "r1-vmauth",
            "r1-vmauth.kof",
            "r1-vmauth.kof.svc",
            "r1-vmauth.kof.svc.example.local"
        ]
    );
}
