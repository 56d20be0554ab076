//! Rules of the Istio plane, by tables.

use super::*;

fn cluster() -> ClusterName {
    "region1".parse().unwrap()
}

fn service(selector: &str, port: u16, accounts: &[&str]) -> ServiceFacts {
    ServiceFacts {
        selector: [("app".to_owned(), selector.to_owned())].into(),
        ports: [(port, port.to_string())].into(),
        accounts: accounts.iter().map(|a| (*a).to_owned()).collect(),
        ..ServiceFacts::default()
    }
}

fn with(services: &[(&str, ServiceFacts)]) -> IstioFacts {
    IstioFacts {
        services: services
            .iter()
            .map(|(n, s)| ((*n).to_owned(), s.clone()))
            .collect(),
        ..IstioFacts::default()
    }
}

fn vmauth(seen: &IstioFacts) -> Result<Door, Obstacle> {
    doors(&cluster(), &Contract::default(), seen)
        .remove("vmauth")
        .unwrap()
}

#[test]
fn a_door_is_made_of_the_backend_or_is_kofs_own() {
    let made = vmauth(&with(&[(
        "vmauth-cluster",
        service("a", 8427, &["vmauth"]),
    )]))
    .unwrap();
    assert_eq!(made.service, "region1-vmauth");
    assert_eq!(made.target.as_deref(), Some("8427"));
    let own = [
        ("vmauth-cluster", service("a", 8427, &["vmauth"])),
        ("region1-vmauth", service("b", 8427, &["other"])),
    ];
    let found = vmauth(&with(&own)).unwrap();
    assert_eq!(found.target, None, "what is there is not ours to make");
    assert_eq!(found.selector["app"], "b");
    // What we made before is made again from the backend.
    let mut ours = service("b", 8427, &["other"]);
    ours.ours = true;
    let again = [
        ("vmauth-cluster", own[0].1.clone()),
        ("region1-vmauth", ours),
    ];
    assert_eq!(vmauth(&with(&again)).unwrap(), made);
}

#[test]
fn why_there_is_no_door() {
    let mut without_pods = service("a", 8427, &[]);
    without_pods.selector.clear();
    let cases = [
        (vec![], "BackendMissing"),
        (
            vec![("vmauth-cluster", without_pods)],
            "BackendWithoutSelector",
        ),
        (
            vec![("vmauth-cluster", service("a", 80, &["x"]))],
            "BackendWithoutPort",
        ),
    ];
    for (services, reason) in cases {
        assert_eq!(vmauth(&with(&services)).unwrap_err().reason, reason);
    }
    let mut contract = Contract::default();
    contract.backends[0].namespace = "elsewhere".to_owned();
    let found = doors(&cluster(), &contract, &with(&[]))
        .remove("vmauth")
        .unwrap();
    assert_eq!(found.unwrap_err().reason, "BackendElsewhere");
    let long: ClusterName = "x".repeat(60).parse().unwrap();
    let found = doors(&long, &Contract::default(), &with(&[]))
        .remove("vmauth")
        .unwrap();
    assert_eq!(found.unwrap_err().reason, "BadName");
}

#[test]
fn a_backend_that_is_away_keeps_its_last_known_host() {
    let contract = Contract::default();
    let up = with(&[("vmauth-cluster", service("a", 8427, &["vmauth"]))]);
    let known = hosts(&cluster(), &contract, Some(&up), &BTreeMap::new());
    assert_eq!(
        known["vmauth"].accounts,
        BTreeSet::from(["vmauth".to_owned()])
    );
    for away in [
        None,
        Some(with(&[])),
        Some(with(&[("vmauth-cluster", service("a", 8427, &[]))])),
    ] {
        assert_eq!(
            hosts(&cluster(), &contract, away.as_ref(), &known),
            known,
            "{away:?}"
        );
    }
    let moved = with(&[("vmauth-cluster", service("a", 8427, &["new"]))]);
    let now = hosts(&cluster(), &contract, Some(&moved), &known);
    assert_eq!(now["vmauth"].accounts, BTreeSet::from(["new".to_owned()]));
    let mut other = contract;
    other.backends[0].port = 9000;
    assert_eq!(
        hosts(&cluster(), &other, None, &known).get("vmauth"),
        None,
        "another port is another host"
    );
}

fn good() -> IstioFacts {
    IstioFacts {
        istiods: vec![Istiod {
            name: "istiod".to_owned(),
            revision: "default".to_owned(),
            version: Some("1.31.0".to_owned()),
            cluster: Some("region1".to_owned()),
            trust_domain: Some("mesh.example".to_owned()),
            ready: true,
            leaves_out_secrets: false,
        }],
        network: Some("region1-network".to_owned()),
        ..IstioFacts::default()
    }
}

#[test]
fn istiod_is_judged_by_what_stands_in_the_way_first() {
    type Change = fn(&mut IstioFacts);
    let cases: [(&str, Change); 12] = [
        ("", |_| ()),
        ("", |f| f.network = None),
        ("", |f| f.istiods[0].version = None),
        ("", |f| f.istiods[0].version = Some("v1.25-alpha.3".into())),
        ("IstiodMissing", |f| f.istiods.clear()),
        ("IstiodOtherRevision", |f| {
            f.istiods[0].revision = "canary".into();
        }),
        ("IstiodTooOld", |f| {
            f.istiods[0].version = Some("1.24.9".into());
        }),
        ("IstiodClusterId", |f| f.istiods[0].cluster = None),
        ("IstiodClusterId", |f| {
            f.istiods[0].cluster = Some("child1".into());
        }),
        ("IstiodTrustDomain", |f| f.istiods[0].trust_domain = None),
        ("IstiodNotReady", |f| f.istiods[0].ready = false),
        ("NetworkName", |f| f.network = Some("other".into())),
    ];
    let (cluster, domain) = (cluster(), "mesh.example".parse().unwrap());
    let expected = Expected {
        cluster: &cluster,
        trust_domain: &domain,
        revision: "default",
    };
    for (reason, change) in cases {
        let mut facts = good();
        change(&mut facts);
        let said = judge(&facts, &expected).map_or_else(|why| why.reason, |_| String::new());
        assert_eq!(said, reason, "{facts:?}");
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    for (text, expected) in [
        ("1.31.0", Some((1, 31))),
        ("v1.9", Some((1, 9))),
        ("1.30-rc.1", Some((1, 30))),
        ("2", None),
        ("latest", None),
        ("", None),
    ] {
        assert_eq!(release(text), expected, "{text}");
    }
}

fn of(guests: &[(&str, Caller, Plane)], rules: &IstioRules) -> Entries {
    let named: Vec<(ClusterName, Caller, Plane)> = guests
        .iter()
        .map(|(n, c, p)| (n.parse().unwrap(), *c, *p))
        .collect();
    let guests: Vec<Guest<'_>> = named
        .iter()
        .map(|(cluster, caller, plane)| Guest {
            cluster,
            caller: *caller,
            plane: *plane,
        })
        .collect();
    let domain = "mesh.example".parse().unwrap();
    entries(&domain, rules, &Contract::default(), "vmauth", &guests)
}

#[test]
fn each_member_has_a_principal_of_its_own_and_sidecars_share_theirs() {
    let rules = IstioRules::default();
    let both = of(
        &[
            ("child1", Caller::Child, Plane::Envoy),
            ("management", Caller::Management, Plane::Envoy),
        ],
        &rules,
    );
    let child = &both["mesh.example/ns/istio-system/sa/mesh-gateway.child1"];
    assert!(!child.contains("/vls/"));
    assert!(both["mesh.example/ns/istio-system/sa/mesh-gateway.management"].contains("/vls/"));
    assert!(
        !both["mesh.example/ns/kof/sa/*"].contains("/vls/"),
        "nobody reads by a sidecar here"
    );
    assert_eq!(
        both.get("mesh.example/ns/istio-system/sa/mesh-gateway.child2"),
        None
    );
    // In one trust domain accounts of one name are one.
    let shared = of(&[("management", Caller::Management, Plane::Istio)], &rules);
    assert!(shared["mesh.example/ns/kof/sa/*"].contains("/vls/"));
    // Accounts of their own are told apart.
    let accounts = [
        (Caller::Child, BTreeSet::from(["kof/collector".to_owned()])),
        (
            Caller::Management,
            BTreeSet::from(["kof/promxy".to_owned()]),
        ),
    ];
    let rules = IstioRules {
        accounts: accounts.into(),
        ..IstioRules::default()
    };
    let apart = of(
        &[
            ("child1", Caller::Child, Plane::Istio),
            ("management", Caller::Management, Plane::Istio),
        ],
        &rules,
    );
    assert!(!apart["mesh.example/ns/kof/sa/collector"].contains("/vls/"));
    assert!(apart["mesh.example/ns/kof/sa/promxy"].contains("/vls/"));
}

#[test]
fn the_server_name_is_istios() {
    assert_eq!(
        sni("region1-vmauth", 8427),
        "outbound_.8427_._.region1-vmauth.kof.svc.cluster.local"
    );
}

#[test]
fn the_default_revision_has_no_suffix() {
    assert_eq!(config_map("default"), "istio");
    assert_eq!(config_map("1-31"), "istio-1-31");
}
