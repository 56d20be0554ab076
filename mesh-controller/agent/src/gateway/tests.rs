use jiff::SignedDuration;
use mesh_api::{
    agent::{Serve as ApiServe, Trust},
    mesh::{Backend as ApiBackend, Caller, Grant, Protocol},
};

use super::*;
use crate::{
    leaf::tests::signer,
    testing::{Mesh, now},
};

#[test]
fn a_generation_is_accepted_when_what_came_of_it_was() {
    let mut log = Log::default();
    assert_eq!(log.accepted(Some(3)), None);
    log.wrote(1, 10);
    log.wrote(2, 11);
    log.wrote(3, 11); // a new leaf
    assert_eq!(log.accepted(None), None);
    assert_eq!(log.accepted(Some(1)), Some(10));
    assert_eq!(log.accepted(Some(2)), Some(11));
    log.wrote(3, 12); // another wish, the same configuration
    assert_eq!(log.accepted(Some(3)), Some(12));
    assert_eq!(log.entries.len(), 1, "what is past is forgotten");
}

#[test]
fn the_domain_of_services_is_that_of_the_pods_search_list() {
    let pod = "search istio-system.svc.corp.example. svc.corp.example. corp.example.\nnameserver 10.96.0.10\n";
    assert_eq!(cluster_domain(pod), "corp.example");
    for none in ["", "nameserver 1.1.1.1\n", "search example.org\n"] {
        assert_eq!(cluster_domain(none), "cluster.local");
    }
}

#[test]
fn a_wish_becomes_a_configuration() {
    let mesh = Mesh::new();
    let mut wanted = mesh.wanted();
    let backend = |name: &str, protocol| ApiBackend {
        name: name.to_owned(),
        namespace: "kof".to_owned(),
        service: format!("{name}-cluster"),
        port: 8427,
        protocol,
    };
    let grant = |prefix: &str, backend: &str| Grant {
        caller: Caller::Child,
        prefix: prefix.to_owned(),
        backend: backend.to_owned(),
    };
    wanted.spec.backends = vec![
        backend("vmauth", Protocol::Http),
        backend("otlp", Protocol::Grpc),
    ];
    wanted.spec.serve = vec![ApiServe {
        caller: "child2".to_owned(),
        sni: "child2.child1-vmauth.kof.svc.cluster.local".to_owned(),
        identities: vec!["spiffe://child2.mesh.test/ns/istio-system/sa/mesh-gateway".to_owned()],
        grants: vec![grant("/vm/insert/", "vmauth"), grant("/otlp/", "otlp")],
        epoch: 3,
    }];
    wanted.spec.trusts = ["child2", "region1"]
        .map(|cluster| Trust {
            cluster: cluster.to_owned(),
            trust_domain: format!("{cluster}.mesh.test"),
            certificates: vec![mesh.root_pem.clone(), mesh.root_pem.clone()],
        })
        .to_vec();
    let mut places = Places::default();
    places.addresses.insert(
        "region1".to_owned(),
        ["192.0.2.1:15443".parse().unwrap()].into(),
    );
    let at = ["0.0.0.0:8427", "0.0.0.0:15443"].map(|at| at.parse().unwrap());
    let spec = spec(&wanted.spec, &places, at, "corp.example");
    assert_eq!(
        spec.serve[0].backends[0].host,
        "vmauth-cluster.kof.svc.corp.example"
    );
    assert_eq!(
        spec.serve[0]
            .allow
            .iter()
            .map(|a| a.grpc)
            .collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(spec.consume[0].hosts[0], "region1-vmauth");
    assert_eq!(
        spec.consume[0].endpoints,
        ["192.0.2.1:15443".parse().unwrap()]
    );

    let signer = signer(&mesh);
    let wish = crate::leaf::Wish {
        identity: wanted.identity.clone(),
        life: wanted.leaf,
        signer: signer.fingerprint().to_owned(),
    };
    let leaf = Leaf::make(wish, &signer, now()).unwrap();
    let secrets = secrets(&wanted.spec, [Some(Arc::new(leaf)), None], BTreeMap::new());
    assert_eq!(
        secrets.anchors["region1"]
            .matches("BEGIN CERTIFICATE")
            .count(),
        2
    );
    let built = build(&spec, &secrets);
    assert!(built.left_out.is_empty(), "{:?}", built.left_out);
    assert_eq!(built.snapshot.check(), Ok(()));
    assert!(!format!("{:?}", built.snapshot).contains("PRIVATE"));
}

#[test]
fn lists_are_given_for_all_certificates_of_a_member_or_for_none() {
    let mesh = Mesh::new();
    let [one, two] = [(); 2].map(|()| signer(&mesh));
    let mut spec = mesh.wanted().spec;
    let list = |signer: &crate::intermediate::Signer, hours: i64| mesh_api::agent::Crl {
        issuer: signer.authority.certificate().key_fingerprint.clone(),
        list: signer
            .authority
            .sign_crl(&[], 5, SignedDuration::from_hours(hours), now())
            .unwrap()
            .pem,
    };
    spec.trusts = vec![Trust {
        cluster: "child2".to_owned(),
        trust_domain: "child2.mesh.test".to_owned(),
        certificates: vec![one.authority.cert_pem(), two.authority.cert_pem()],
    }];
    assert_eq!(lists(&spec, now()), (BTreeMap::new(), None));
    spec.crls = vec![list(&one, 5)];
    assert!(lists(&spec, now()).0.is_empty(), "the other has none");
    spec.crls.push(list(&two, 2));
    let (both, again) = lists(&spec, now());
    assert_eq!(both["child2"].matches("BEGIN X509 CRL").count(), 2);
    let soon = now() + SignedDuration::from_mins(115);
    assert_eq!(again, Some(soon), "when the first of them ends soon");
    let (fewer, again) = lists(&spec, soon);
    assert!(fewer.is_empty(), "one ends soon");
    assert_eq!(again, Some(now() + SignedDuration::from_mins(295)));
    // A list under another CA's name is not believed.
    spec.crls[1].list = spec.crls[0].list.clone();
    assert!(lists(&spec, now()).0.is_empty());
}

#[test]
fn words_of_envoy_fit_into_a_status() {
    assert_eq!(told(std::iter::empty()), None);
    let long = told(["a\nb".to_owned(), "x".repeat(5000)].into_iter()).unwrap();
    assert!(long.starts_with("a b; x") && long.chars().count() == WORDS);
}
