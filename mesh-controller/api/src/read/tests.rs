use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use kube_core::ObjectMeta;
use mesh_core::facts::Role;

use super::*;
use crate::{
    foreign::{
        ClusterDeployment, ClusterDeploymentSpec, ClusterDeploymentStatus, ClusterTemplate,
        ClusterTemplateSpec, ClusterTemplateStatus, Credential, CredentialSpec, IdentityRef,
    },
    labels,
    mesh::{Lifetimes, Mesh, MeshSpec},
};

fn deployment(labels: &[(&str, &str)]) -> ClusterDeployment {
    let mut object = ClusterDeployment::new(
        "child1",
        ClusterDeploymentSpec {
            template: Some("adopted".to_owned()),
            credential: Some("cred".to_owned()),
            ..ClusterDeploymentSpec::default()
        },
    );
    object.metadata.namespace = Some("kcm-system".to_owned());
    object.metadata.labels = Some(
        labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    );
    object
}

fn template(provider: &str) -> ClusterTemplate {
    let mut object = ClusterTemplate::new("adopted", ClusterTemplateSpec {});
    object.status = Some(ClusterTemplateStatus {
        providers: vec![provider.to_owned()],
    });
    object
}

fn credential(namespace: Option<&str>) -> Credential {
    Credential {
        metadata: ObjectMeta::default(),
        spec: CredentialSpec {
            identity_ref: Some(IdentityRef {
                kind: Some("Secret".to_owned()),
                name: Some("child1-kubeconf".to_owned()),
                namespace: namespace.map(str::to_owned),
            }),
        },
    }
}

#[test]
fn both_dialects_enrol() {
    for role in ["member", "child"] {
        let read = membership(&deployment(&[(labels::ISTIO_ROLE, role)]), None, None).unwrap();
        assert_eq!(read.mesh, "default");
        assert_eq!(read.claim.unwrap().role, Role::Child);
    }
    assert_eq!(membership(&deployment(&[]), None, None), None);
    assert_eq!(
        membership(&deployment(&[(labels::ISTIO_ROLE, "boss")]), None, None),
        None
    );
}

#[test]
fn a_deployment_that_goes_or_was_never_meant_is_no_member() {
    let mut dry = deployment(&[(labels::ISTIO_ROLE, "member")]);
    dry.spec.dry_run = Some(true);
    assert_eq!(membership(&dry, None, None), None);
    let mut going = deployment(&[(labels::ISTIO_ROLE, "member")]);
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        "2026-01-01T00:00:00Z".parse().unwrap(),
    ));
    assert_eq!(membership(&going, None, None), None);
}

#[test]
fn a_label_names_the_region_before_kofs_own_search_does() {
    let config = ConfigMap {
        data: Some(BTreeMap::from([(
            "regional_cluster_name".to_owned(),
            "found".to_owned(),
        )])),
        ..ConfigMap::default()
    };
    let by_config = membership(
        &deployment(&[(labels::ISTIO_ROLE, "member")]),
        Some(&config),
        None,
    )
    .unwrap();
    assert_eq!(by_config.region.as_deref(), Some("found"));
    let labelled = deployment(&[
        (labels::ISTIO_ROLE, "member"),
        (labels::KOF_REGION, "named"),
    ]);
    assert_eq!(
        membership(&labelled, Some(&config), None)
            .unwrap()
            .region
            .as_deref(),
        Some("named")
    );
}

#[test]
fn a_name_that_cannot_be_used_is_said_before_anything_is_made() {
    let mut dotted = deployment(&[(labels::ISTIO_ROLE, "member")]);
    dotted.metadata.name = Some("child.1".to_owned());
    let refusal = membership(&dotted, None, None).unwrap().claim.unwrap_err();
    assert_eq!(refusal.reason, "BadName");
    let mut long = deployment(&[
        (labels::ISTIO_ROLE, "member"),
        (labels::KOF_ROLE, "regional"),
    ]);
    long.metadata.name = Some("r".repeat(57));
    assert_eq!(
        membership(&long, None, None)
            .unwrap()
            .claim
            .unwrap_err()
            .reason,
        "BadName"
    );
}

#[test]
fn finds_the_secret_by_template_and_credential() {
    let object = deployment(&[]);
    let capi = kubeconfig_ref(&object, Some(&template("infrastructure-aws")), None, &[]).unwrap();
    assert_eq!(capi.to_string(), "Secret kcm-system/child1-kubeconfig");
    let adopted = kubeconfig_ref(
        &object,
        Some(&template("infrastructure-internal")),
        Some(&credential(None)),
        &[],
    )
    .unwrap();
    assert_eq!(adopted.to_string(), "Secret kcm-system/child1-kubeconf");
}

#[test]
fn each_way_of_not_finding_the_secret_has_its_reason() {
    let object = deployment(&[]);
    let internal = template("infrastructure-internal");
    let reason = |result: Result<SecretRef, Obstacle>| result.unwrap_err().reason;
    assert_eq!(
        reason(kubeconfig_ref(&object, None, None, &[])),
        "TemplateMissing"
    );
    assert_eq!(
        reason(kubeconfig_ref(&object, Some(&internal), None, &[])),
        "CredentialMissing"
    );
    let elsewhere = credential(Some("other"));
    assert_eq!(
        reason(kubeconfig_ref(
            &object,
            Some(&internal),
            Some(&elsewhere),
            &[]
        )),
        "NamespaceNotAllowed"
    );
    let allowed = kubeconfig_ref(
        &object,
        Some(&internal),
        Some(&elsewhere),
        &["other".to_owned()],
    );
    assert_eq!(allowed.unwrap().namespace, "other");
    let mut cloud = credential(None);
    cloud.spec.identity_ref.as_mut().unwrap().kind = Some("AWSClusterStaticIdentity".to_owned());
    assert_eq!(
        reason(kubeconfig_ref(&object, Some(&internal), Some(&cloud), &[])),
        "CredentialNoSecret"
    );
    let mut regional = deployment(&[]);
    regional.status = Some(ClusterDeploymentStatus {
        region: Some("eu".to_owned()),
    });
    assert_eq!(
        reason(kubeconfig_ref(&regional, Some(&internal), None, &[])),
        "KcmRegion"
    );
}

const TOKEN: &str = "s3cr3t-t0ken";

fn kubeconfig_with(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: other, context: {{cluster: x, user: y}}}}, {{name: c, context: {{cluster: k, user: u}}}}]\n\
         clusters: [{{name: k, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    )
}

fn read_text(text: &str) -> Result<ClusterAccess, Obstacle> {
    let secret = SecretRef {
        namespace: "ns".to_owned(),
        name: "kc".to_owned(),
    };
    kubeconfig(
        &secret,
        &BTreeMap::from([("value".to_owned(), ByteString(text.as_bytes().to_vec()))]),
    )
}

#[test]
fn reduces_a_kubeconfig_and_shows_no_secret() {
    let text = kubeconfig_with(
        "server: 'https://10.0.0.1:6443', certificate-authority-data: Q0E=, tls-server-name: api.example",
        &format!("token: {TOKEN}"),
    );
    let access = read_text(&text).unwrap();
    assert_eq!(access.server, "https://10.0.0.1:6443");
    assert_eq!(access.ca_pem.as_deref(), Some(b"CA".as_slice()));
    assert_eq!(access.tls_server_name.as_deref(), Some("api.example"));
    assert!(matches!(&access.auth, Auth::Token(token) if token.reveal() == TOKEN));
    assert!(!format!("{access:?}").contains(TOKEN));
    let other = read_text(&text.replace(TOKEN, "another")).unwrap();
    assert_ne!(
        other.fingerprint, access.fingerprint,
        "a rotated token must be noticed"
    );
}

#[test]
fn takes_a_client_certificate() {
    let text = kubeconfig_with(
        "server: 'https://h:1'",
        "client-certificate-data: Y2VydA==, client-key-data: a2V5",
    );
    assert!(matches!(
        read_text(&text).unwrap().auth,
        Auth::Certificate { .. }
    ));
}

#[test]
fn refuses_what_would_run_or_read_or_lead_to_ourselves() {
    let server = "server: 'https://10.0.0.1:6443'";
    let token = "token: t";
    let cases = [
        (
            server,
            "exec: {command: /bin/sh, apiVersion: v1}",
            "KubeconfigRefused",
        ),
        (server, "token: t, exec: {command: x}", "KubeconfigRefused"),
        (server, "auth-provider: {name: gcp}", "KubeconfigRefused"),
        (
            server,
            "tokenFile: /var/run/secrets/token",
            "KubeconfigRefused",
        ),
        (
            server,
            "client-certificate: /c, client-key: /k",
            "KubeconfigRefused",
        ),
        (server, "username: a, password: b", "KubeconfigRefused"),
        (server, "token: t, as: system:admin", "KubeconfigRefused"),
        (server, "{}", "KubeconfigMalformed"),
        (server, "token: ''", "KubeconfigRefused"),
        (server, "token: \"a\\nb\"", "KubeconfigMalformed"),
        (
            "server: 'https://10.0.0.1', certificate-authority: /ca",
            token,
            "KubeconfigRefused",
        ),
        (
            "server: 'https://10.0.0.1', insecure-skip-tls-verify: true",
            token,
            "KubeconfigRefused",
        ),
        (
            "server: 'https://10.0.0.1', proxy-url: 'http://p'",
            token,
            "KubeconfigRefused",
        ),
        ("server: 'http://10.0.0.1'", token, "KubeconfigRefused"),
        (
            "server: 'https://127.0.0.1:6443'",
            token,
            "ServerIsLoopback",
        ),
        (
            "server: 'https://127.8.9.1:6443'",
            token,
            "ServerIsLoopback",
        ),
        (
            "server: 'https://localhost:6443'",
            token,
            "ServerIsLoopback",
        ),
        ("server: 'https://[::1]:6443'", token, "ServerIsLoopback"),
        ("server: 'https://0.0.0.0:6443'", token, "ServerIsLoopback"),
        ("server: ''", token, "KubeconfigMalformed"),
    ];
    for (cluster, user, reason) in cases {
        let refusal = read_text(&kubeconfig_with(cluster, user)).unwrap_err();
        assert_eq!(
            refusal.reason, reason,
            "{cluster} / {user}: {}",
            refusal.message
        );
        assert!(
            refusal.message.contains("Secret ns/kc"),
            "{}",
            refusal.message
        );
    }
}

#[test]
fn refuses_servers_that_are_not_what_they_look_like() {
    let cases = [
        (
            "server: 'https://[::ffff:127.0.0.1]:6443'",
            "ServerIsLoopback",
        ),
        ("server: 'https://LocalHost.:6443'", "ServerIsLoopback"),
        // Resolvers take these for 127.0.0.1.
        ("server: 'https://127.1:6443'", "KubeconfigMalformed"),
        ("server: 'https://0x7f000001:6443'", "KubeconfigMalformed"),
        ("server: 'https://2130706433:6443'", "KubeconfigMalformed"),
        // It would be shown with the server's name.
        (
            "server: 'https://a:s3cr3t@10.0.0.1:6443'",
            "KubeconfigRefused",
        ),
    ];
    for (cluster, reason) in cases {
        let refusal = read_text(&kubeconfig_with(cluster, "token: t")).unwrap_err();
        assert_eq!(refusal.reason, reason, "{cluster}: {}", refusal.message);
        assert!(!refusal.message.contains("s3cr3t"));
    }
}

#[test]
fn a_malformed_kubeconfig_is_refused_without_a_word_of_its_text() {
    for text in [
        "",
        "{",
        "- a",
        "token: s3cr3t-t0ken",
        "clusters: s3cr3t-t0ken",
        "\u{0}",
    ] {
        let refusal = read_text(text).unwrap_err();
        assert_eq!(refusal.reason, "KubeconfigMalformed", "{text:?}");
        assert!(!refusal.message.contains(TOKEN));
    }
    let secret = SecretRef {
        namespace: "ns".to_owned(),
        name: "kc".to_owned(),
    };
    assert!(kubeconfig(&secret, &BTreeMap::new()).is_err());
    let big = BTreeMap::from([("value".to_owned(), ByteString(vec![b'a'; 300 * 1024]))]);
    assert!(kubeconfig(&secret, &big).is_err());
}

#[test]
fn a_mesh_is_read_or_refused_with_the_field() {
    let spec = MeshSpec {
        trust_domain: "mesh.example".to_owned(),
        ..MeshSpec::default()
    };
    let rules = mesh(&Mesh::new("default", spec.clone())).unwrap();
    assert_eq!(rules.root_secret, "default-mesh-root");
    assert_eq!(rules.leaf_life.as_secs(), 86_400);
    assert_eq!(rules.dead_peer, mesh_core::peer::Rules::default());
    for (after, back, field) in [
        ("10s", "5s", None),
        ("1d", "1d", None),
        ("9s", "5s", Some("spec.deadPeer.after")),
        ("2d", "5s", Some("spec.deadPeer.after")),
        ("10s", "4s", Some("spec.deadPeer.returnAfter")),
        ("10s", "25h", Some("spec.deadPeer.returnAfter")),
    ] {
        let mut spec = spec.clone();
        spec.dead_peer.after = after.to_owned();
        spec.dead_peer.return_after = back.to_owned();
        let read = mesh(&Mesh::new("default", spec));
        match field {
            None => assert!(read.is_ok(), "{after} {back}"),
            Some(field) => {
                let message = read.unwrap_err().message;
                assert!(message.contains(field), "{after} {back}: {message}");
            }
        }
    }
    let mut bad = spec.clone();
    bad.lifetimes = Lifetimes {
        leaf: "2h".to_owned(),
        intermediate: "1h".to_owned(),
        root: "1d".to_owned(),
    };
    assert!(
        mesh(&Mesh::new("default", bad))
            .unwrap_err()
            .message
            .contains("spec.lifetimes")
    );
    let mut bad = spec;
    bad.trust_domain = "Mesh".to_owned();
    assert!(
        mesh(&Mesh::new("default", bad))
            .unwrap_err()
            .message
            .contains("spec.trustDomain")
    );
}
