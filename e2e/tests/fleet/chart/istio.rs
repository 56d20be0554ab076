//! Istio's charts as k0rdent is to deliver them: the objects are what its kinds allow, and the values in them what Istio's charts understand.
//!
//! k0rdent and Flux are stand-ins here (`stand-ins/delivery-crds.yaml`), the API server and Istio's charts are real.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::bare::{Bare, Place};
use mesh_e2e::components::{self, ChartTools, Components, Istio};
use mesh_e2e::{exec, paths};
use serde_json::Value;

use super::{ESTABLISHED, Folder, Helm};

const KINDS: &str = include_str!("../../../stand-ins/delivery-crds.yaml");
/// As a user of the Istio plane says it.
const DELIVER: [&str; 4] = [
    "--set",
    "istio.deliver=true,defaultMesh.spec.dataPlane=istio",
    "--show-only",
    "templates/istio.yaml",
];

/// One API server on loopback, as its administrator.
struct Server {
    _bare: Bare,
    kubectl: std::path::PathBuf,
    kubeconfig: std::path::PathBuf,
}

impl Server {
    async fn start(components: &Components, folder: &Path) -> Result<Self> {
        let bare = Bare::start_at(&components::control_plane()?, Place::LOOPBACK, 1).await?;
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, bare.kubeconfig(0)?)?;
        Ok(Self {
            _bare: bare,
            kubectl: components.kubectl().to_owned(),
            kubeconfig,
        })
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command: Command = exec::command(&self.kubectl, ["--kubeconfig"]);
        command.arg(&self.kubeconfig).args(args);
        exec::run_async(command).await
    }

    /// Applies as strictly as an API server can: a field that it does not know is an error.
    async fn apply(&self, folder: &Path, text: &str, more: &[&str]) -> Result<String> {
        let file = folder.join("objects.yaml");
        std::fs::write(&file, text)?;
        let file = file.display().to_string();
        let args = ["apply", "--server-side", "--validate=strict", "-f", &file];
        self.kubectl(&[&args, more].concat()).await
    }
}

fn parse(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    object
        .pointer(path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The `MultiClusterService` of a name.
fn service<'a>(objects: &'a [Value], name: &str) -> Result<&'a Value> {
    let found = objects
        .iter()
        .find(|o| text(o, "/kind") == "MultiClusterService" && text(o, "/metadata/name") == name);
    found.with_context(|| format!("no MultiClusterService {name}"))
}

/// Whether it selects a ClusterDeployment with these labels.
fn selects(service: &Value, labels: &[(&str, &str)]) -> bool {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    let expressions = list(service, "/spec/clusterSelector/matchExpressions");
    !expressions.is_empty()
        && expressions.iter().all(|e| {
            let key = text(e, "/key").strip_prefix("k0rdent.mirantis.com/");
            let value = key.and_then(|key| labels.get(key)).copied();
            let listed = value.is_some_and(|v| list(e, "/values").iter().any(|x| x == v));
            match text(e, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
}

#[test]
fn istio_is_delivered_by_objects_that_k0rdent_knows() -> Result<()> {
    let (tools, components, source) = (
        ChartTools::ensure()?,
        Components::ensure()?,
        Istio::ensure()?,
    );
    let folder = Folder::new()?;
    // the same ports as another measurement on loopback
    let _lock = paths::lock(
        &paths::cache()?.join("bench-ca.lock"),
        "another test has loopback",
    )?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let server = Server::start(&components, &folder.0).await?;
            server.apply(&folder.0, KINDS, &[]).await?;
            server.kubectl(&ESTABLISHED).await?;
            server
                .kubectl(&["create", "namespace", "kcm-system"])
                .await?;
            for helm in Helm::both(&components, &tools, &folder.0) {
                let rendered = helm.template(&DELIVER).await?;
                let said = server.apply(&folder.0, &rendered, &[]).await?;
                ensure!(said.lines().count() == 7, "{said}");
                let objects = parse(&rendered)?;
                selected(&objects)?;
                understood(&helm, &objects, &source, &folder.0).await?;
                next(&helm, &server, &folder.0).await?;
            }
            Ok(())
        })
}

/// Who gets what: kof's services wait for `k0rdent-istio-network` in each of their clusters, and one gateway has one owner.
fn selected(objects: &[Value]) -> Result<()> {
    let network = service(objects, "k0rdent-istio-network")?;
    let gateways = [
        service(objects, "k0rdent-istio-gateway")?,
        service(objects, "kof-istio-gateway")?,
    ];
    let (role, region) = ("istio-role", ("kof-cluster-role", "regional"));
    let mut tried = 0;
    for (labels, istio, gateway) in [
        (vec![], false, 0),
        (vec![region], false, 0),
        (vec![("istio-gateway", "true")], false, 0),
        (vec![(role, "member")], true, 0),
        (vec![(role, "child")], true, 0),
        (vec![(role, "none")], false, 0),
        (
            vec![(role, "member"), ("kof-cluster-role", "child")],
            true,
            0,
        ),
        (vec![(role, "member"), region], true, 1),
        (vec![(role, "child"), region], true, 1),
        (
            vec![(role, "member"), region, ("istio-gateway", "true")],
            true,
            1,
        ),
        (
            vec![(role, "member"), region, ("istio-gateway", "false")],
            true,
            1,
        ),
        (vec![(role, "member"), ("istio-gateway", "true")], true, 1),
    ] {
        ensure!(selects(network, &labels) == istio, "{labels:?}");
        let owners = gateways.iter().filter(|g| selects(g, &labels)).count();
        ensure!(owners == gateway, "{labels:?} has {owners} gateways");
        tried += 1;
    }
    ensure!(tried == 12, "{tried}");
    for gateway in gateways {
        ensure!(
            list(gateway, "/spec/dependsOn") == ["k0rdent-istio-network"],
            "{gateway}"
        );
    }
    Ok(())
}

/// What k0rdent puts into a cluster: Istio's own charts take the values, and say what docs/istio.md asks for.
async fn understood(helm: &Helm, objects: &[Value], source: &Istio, folder: &Path) -> Result<()> {
    let mut rendered = BTreeMap::new();
    for name in ["k0rdent-istio-network", "k0rdent-istio-gateway"] {
        for one in list(service(objects, name)?, "/spec/serviceSpec/services") {
            let release = text(one, "/name");
            let chart = match release {
                "istio-base" => "manifests/charts/base",
                "istiod" => "manifests/charts/istio-control/istio-discovery",
                _ => "manifests/charts/gateway",
            };
            let values = text(one, "/values").replace("{{ .Cluster.metadata.name }}", "child1");
            ensure!(!values.contains("{{"), "{release}: {values}");
            let file = folder.join(format!("{release}.yaml"));
            std::fs::write(&file, values)?;
            let chart = source.file(chart).display().to_string();
            let version = ["--version", "1.31.0", "--app-version", "1.31.0"];
            let chart = helm.package(&chart, &version).await?;
            let file = file.display().to_string();
            let args = [
                "template",
                release,
                &chart,
                "-n",
                text(one, "/namespace"),
                "-f",
                &file,
            ];
            rendered.insert(release.to_owned(), helm.run(&args).await?);
        }
    }
    told(&parse(rendered.get("istiod").context("no istiod")?)?)?;
    let gateway = rendered.get("istio-eastwestgateway");
    let gateway = parse(gateway.context("no gateway")?)?;
    let pod = gateway
        .iter()
        .find(|o| text(o, "/kind") == "Deployment")
        .context("no gateway")?;
    let label =
        |name: &str| text(pod, &format!("/spec/template/metadata/labels/{name}")).to_owned();
    ensure!(label("istio") == "eastwestgateway", "{pod}");
    ensure!(
        label("topology.istio.io~1network") == "child1-network",
        "{pod}"
    );
    Ok(())
}

/// What istiod is told.
fn told(objects: &[Value]) -> Result<()> {
    let deployment = objects
        .iter()
        .find(|o| text(o, "/kind") == "Deployment")
        .context("no istiod")?;
    let container = deployment
        .pointer("/spec/template/spec/containers/0")
        .context("no container")?;
    let env = |name: &str| {
        let found = list(container, "/env")
            .iter()
            .find(|e| text(e, "/name") == name);
        found.map_or("", |e| text(e, "/value"))
    };
    ensure!(env("CLUSTER_ID") == "child1", "{container}");
    ensure!(env("ISTIO_MULTIROOT_MESH") == "true", "{container}");
    ensure!(
        text(container, "/securityContext/seccompProfile/type") == "RuntimeDefault",
        "{container}"
    );
    // the kubelet starts it when the agent has written what it signs with, and not before
    let volumes = list(deployment, "/spec/template/spec/volumes");
    let signer = volumes.iter().find(|v| {
        text(v, "/secret/secretName") == "cacerts" && v.pointer("/secret/optional").is_none()
    });
    let signer = text(signer.context("istiod does not wait for cacerts")?, "/name");
    let mounted = list(container, "/volumeMounts")
        .iter()
        .any(|m| text(m, "/name") == signer);
    ensure!(mounted, "{container}");
    let mesh = objects
        .iter()
        .find(|o| text(o, "/metadata/name") == "istio")
        .context("no ConfigMap istio")?;
    let mesh = text(mesh, "/data/mesh");
    for word in [
        "trustDomain: mesh.kof.internal",
        "PROXY_CONFIG_XDS_AGENT: \"true\"",
    ] {
        ensure!(mesh.contains(word), "{mesh}");
    }
    Ok(())
}

/// Another version of Istio: other templates, and the old ones stay while members are on them.
async fn next(helm: &Helm, server: &Server, folder: &Path) -> Result<()> {
    let later = [&DELIVER[..], &["--set", "istio.version=1.31.1"]].concat();
    let rendered = helm.template(&later).await?;
    server.apply(folder, &rendered, &[]).await?;
    let names = ["get", "servicetemplates", "-n", "kcm-system", "-o", "name"];
    let found = server.kubectl(&names).await?;
    for version in ["1-31-0", "1-31-1"] {
        let name = format!("k0rdent-istio-istiod-{version}");
        ensure!(found.contains(&name), "{found}");
    }
    for object in parse(&rendered)? {
        let keep = text(&object, "/metadata/annotations/helm.sh~1resource-policy") == "keep";
        let service = text(&object, "/kind") == "MultiClusterService";
        ensure!(keep != service, "{object}");
    }
    // the check itself: a field that k0rdent does not know is seen
    let wrong = rendered.replace(
        "dependsOn: [k0rdent-istio-network]",
        "dependOn: [k0rdent-istio-network]",
    );
    let said = server.apply(folder, &wrong, &["--dry-run=server"]).await;
    let said = said.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(said.contains("dependOn"), "{said}");
    Ok(())
}
