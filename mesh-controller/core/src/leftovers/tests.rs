use super::*;

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn found(name: &str, what: What) -> Found {
    Found {
        name: name.to_owned(),
        what,
    }
}

/// What is told, object by object, in a cluster of a mesh of three.
fn told(own: &str, root: Option<&str>, all: &[Found]) -> Vec<(String, String)> {
    let clusters = ["management", "region1", "child1"];
    let clusters = clusters.iter().map(|name| name.parse().unwrap()).collect();
    let scene = Scene {
        own: &own.parse().unwrap(),
        clusters: &clusters,
        root,
    };
    let all = all.iter().cloned().collect();
    leftovers(&all, &scene)
        .into_iter()
        .map(|told| (told.object, told.message))
        .collect()
}

fn remote(clusters: &[&str]) -> What {
    What::Remote {
        clusters: names(clusters),
    }
}

#[test]
fn a_remote_secret_is_one_that_leads_to_a_cluster_of_the_mesh_whatever_its_name() {
    let all = [
        found("istio-remote-secret-region1", remote(&["elsewhere"])),
        found("x", remote(&["region1", "elsewhere"])),
        found("y", remote(&["child1"])),
        found("z", remote(&[])),
    ];
    let told = told("child1", None, &all);
    let objects: Vec<&str> = told.iter().map(|(object, _)| object.as_str()).collect();
    assert_eq!(objects, ["Secret istio-system/x", "Secret istio-system/y"]);
    assert!(told[0].1.contains("reads region1,"), "{}", told[0].1);
    assert!(told[1].1.contains("this very cluster"), "{}", told[1].1);
}

#[test]
fn a_gateway_is_one_that_opens_patterns() {
    let wide = |hosts: &[&str]| {
        let hosts = names(hosts);
        found("g", What::Wide { hosts })
    };
    let told = told("region1", None, &[wide(&["*.local"])]);
    assert_eq!(told[0].0, "Gateway istio-system/g");
    assert!(told[0].1.contains("*.local"));
}

#[test]
fn a_token_that_never_ends_is_told_with_its_account() {
    let account = "istio-reader-service-account".to_owned();
    let told = told("region1", None, &[found("t", What::Token { account })]);
    assert!(
        told[0]
            .1
            .contains("istio-system/istio-reader-service-account")
    );
}

#[test]
fn in_management_what_hangs_on_the_root_is_told_and_nothing_else_of_cert_manager() {
    let issuer = |name: &str, secret: &str| {
        let secret = secret.to_owned();
        found(name, What::Issuer { secret })
    };
    let authority = |name: &str, secret: &str, issuer: &str| {
        let (secret, issuer) = (secret.to_owned(), issuer.to_owned());
        found(name, What::Authority { secret, issuer })
    };
    let all = [
        issuer("root", "kof-istio-root"),
        issuer("theirs", "another-ca"),
        authority("root", "kof-istio-root", "selfsigned"),
        authority("child1-ca", "child1-ca", "root"),
        authority("theirs", "theirs", "theirs"),
        authority("unknown", "unknown", "nobody"),
    ];
    let told_by = |root| {
        let told = told("management", root, &all);
        let objects = told.into_iter().map(|(object, _)| object);
        objects.collect::<Vec<_>>()
    };
    assert_eq!(
        told_by(Some("kof-istio-root")),
        [
            "Certificate istio-system/child1-ca",
            "Issuer istio-system/root",
            "Certificate istio-system/root",
        ]
    );
    assert!(told_by(Some("default-mesh-root")).is_empty());
    // In a member nobody can say what a CA hangs on.
    assert_eq!(
        told_by(None),
        ["Issuer istio-system/root", "Issuer istio-system/theirs"]
    );
}

#[test]
fn not_more_is_told_than_fits() {
    let token = |n: usize| {
        let account = "a".to_owned();
        found(&format!("{n:03}"), What::Token { account })
    };
    let all: Vec<Found> = (0..100).map(token).collect();
    assert_eq!(told("child1", None, &all).len(), MOST);
}
