use mesh_core::istio::{Discovery, Flavour};

use super::*;
use crate::render::MemberSettings;

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn secret(tls: Option<&str>, token: &str) -> (Value, String) {
    let server = Server {
        url: "https://10.0.0.5:6443".to_owned(),
        tls_server_name: tls.map(str::to_owned),
        ca_pem: Some("PEM\n".to_owned()),
    };
    let token = Redacted::new(token.to_owned());
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let (region, issued, expires) = (
        name("region1"),
        at("2030-01-01T00:00:00Z"),
        at("2030-01-02T00:00:00Z"),
    );
    let secret = RemoteSecret {
        region: &region,
        server: &server,
        reader: "account-uid",
        token: &token,
        issued,
        expires,
    };
    assert!(!format!("{secret:?}").contains("hidden"), "{secret:?}");
    (
        remote_secret(&secret, ("install-uid", "member-uid")),
        kubeconfig(&secret),
    )
}

#[test]
fn a_remote_secret_is_what_istiod_reads_and_the_same_for_the_same_words() {
    let (body, kubeconfig) = secret(Some("kube-apiserver"), "hidden.to.ken");
    let expected = "\
apiVersion: v1
kind: Config
preferences: {}
clusters:
- name: \"region1\"
  cluster:
    certificate-authority-data: UEVNCg==
    server: \"https://10.0.0.5:6443\"
    tls-server-name: \"kube-apiserver\"
contexts:
- name: \"region1\"
  context:
    cluster: \"region1\"
    user: \"region1\"
current-context: \"region1\"
users:
- name: \"region1\"
  user:
    token: \"hidden.to.ken\"
";
    assert_eq!(kubeconfig, expected);
    let data = serde_json::to_value(ByteString(expected.as_bytes().to_vec())).unwrap();
    assert_eq!(
        body,
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": "mesh-remote-region1", "namespace": "istio-system",
                "labels": {
                    "app.kubernetes.io/managed-by": "kof-istio",
                    "mesh.kof.k0rdent.mirantis.com/install": "install-uid",
                    "mesh.kof.k0rdent.mirantis.com/member": "member-uid",
                    "istio/multiCluster": "true",
                },
                "annotations": {
                    "networking.istio.io/cluster": "region1",
                    "mesh.kof.k0rdent.mirantis.com/remote-shape": body["metadata"]["annotations"][labels::REMOTE_SHAPE],
                    "mesh.kof.k0rdent.mirantis.com/remote-reader": "account-uid",
                    "mesh.kof.k0rdent.mirantis.com/token-issued": "2030-01-01T00:00:00Z",
                    "mesh.kof.k0rdent.mirantis.com/token-expires": "2030-01-02T00:00:00Z",
                },
            },
            "data": { "region1": data },
        })
    );
    assert_eq!(secret(Some("kube-apiserver"), "hidden.to.ken").0, body);
    assert!(!secret(None, "hidden").1.contains("tls-server-name"));
}

#[test]
fn what_a_token_holds_cannot_leave_its_line() {
    let (_, kubeconfig) = secret(None, "hidden\"\n    exec: {command: x}\n");
    let read: Value = serde_saphyr::from_str(&kubeconfig).unwrap();
    assert_eq!(
        read["users"][0]["user"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["token"]
    );
}

#[test]
fn what_is_written_is_read_back() {
    let (body, _) = secret(None, "hidden");
    let meta = serde_json::from_value(body["metadata"].clone()).unwrap();
    let facts = crate::read::remote_secret(&meta, true, true);
    assert_eq!(facts.cluster.as_deref(), Some("region1"));
    assert_eq!(facts.reader.as_deref(), Some("account-uid"));
    let (issued, expires) = facts.token().unwrap();
    assert_eq!(expires.duration_since(issued).as_hours(), 24);
    assert!(facts.shape.is_some());
}

fn rendered(revision: &str, readers: &[&str], read_secrets: bool) -> Vec<Rendered> {
    let settings = MemberSettings {
        image: String::new(),
        envoy_image: String::new(),
        envoy_bootstrap: String::new(),
        pull_secrets: Vec::new(),
        install: "install-uid".to_owned(),
        member: "member-uid".to_owned(),
        replicas: 1,
        leaf_seconds: 1,
        intermediate_seconds: 1,
        workloads: None,
        log: String::new(),
    };
    let istio = IstioDelivery {
        network: "region1-network".to_owned(),
        revision: revision.to_owned(),
        served: true,
        injects: true,
        discovery: Discovery::RemoteSecrets,
        readers: readers.iter().map(|reader| name(reader)).collect(),
        read_secrets,
        flavour: Flavour::Classic,
        tracing: None,
        doors: Vec::new(),
    };
    super::readers(&Make::new(&settings), &istio)
}

#[test]
fn readers_may_read_what_istiod_watches_and_nothing_else() {
    let objects = rendered("default", &["child1", "management"], false);
    let names: Vec<String> = objects
        .iter()
        .map(|o| format!("{} {}", o.kind.kind, o.name))
        .collect();
    let expected = [
        "ServiceAccount mesh-reader-child1",
        "ServiceAccount mesh-reader-management",
        "ClusterRole mesh-reader",
        "ClusterRoleBinding mesh-reader",
        "Role mesh-reader",
        "RoleBinding mesh-reader",
    ];
    assert_eq!(names, expected);
    let mut may = Vec::new();
    for rule in objects
        .iter()
        .flat_map(|o| o.body["rules"].as_array().into_iter().flatten())
    {
        assert_eq!(rule["verbs"], json!(["get", "list", "watch"]));
        for (group, resource) in rule["apiGroups"]
            .as_array()
            .unwrap()
            .iter()
            .zip(std::iter::repeat(&rule["resources"]))
        {
            may.extend(
                resource
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|r| format!("{}/{}", group.as_str().unwrap(), r.as_str().unwrap())),
            );
        }
    }
    let allowed = [
        "/namespaces",
        "/nodes",
        "/pods",
        "/services",
        "apiextensions.k8s.io/customresourcedefinitions",
        "discovery.k8s.io/endpointslices",
        "gateway.networking.k8s.io/gateways",
        "networking.istio.io/workloadentries",
        "/configmaps",
    ];
    assert_eq!(may, allowed);
    let config = &objects[4];
    assert_eq!(config.namespace.as_deref(), Some("istio-system"));
    assert_eq!(config.body["rules"][0]["resourceNames"], json!(["istio"]));
    for binding in [&objects[3], &objects[5]] {
        let of: Vec<&str> = binding.body["subjects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["name"].as_str().unwrap())
            .collect();
        assert_eq!(of, ["mesh-reader-child1", "mesh-reader-management"]);
    }
    assert!(
        objects
            .iter()
            .all(|o| crate::render::prunable().contains(&o.kind))
    );
    assert_eq!(
        rendered("1-31", &["child1"], false)[3].body["rules"][0]["resourceNames"],
        json!(["istio-1-31"])
    );
    assert!(rendered("default", &[], false).is_empty());
}

#[test]
fn readers_list_secrets_where_an_operator_said_so() {
    let secrets = |read_secrets: bool| {
        let objects = rendered("default", &["child1"], read_secrets);
        let rules = objects
            .iter()
            .filter_map(|o| o.body["rules"].as_array().cloned());
        let mut rules = rules
            .flatten()
            .filter(|rule| rule["resources"] == json!(["secrets"]));
        rules.next().map(|rule| rule["verbs"].clone())
    };
    assert_eq!(secrets(false), None);
    assert_eq!(secrets(true), Some(json!(["list", "watch"])));
}
