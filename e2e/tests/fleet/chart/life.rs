//! The life of a release: installed, upgraded, rolled back, removed, installed over what is left.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::{exec, paths, progress, wait_for};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::{Field, Helm, NAMESPACE, RELEASE, chart, field, says, with_field};
use crate::PODS;

/// The package before this one, as it was packaged.
const PREVIOUS: &str = "charts/kof-istio-0.1.0.tgz";
const MESHES: &str = "meshes.mesh.kof.k0rdent.mirantis.com";
const WAIT: [&str; 3] = ["--wait", "--timeout", "180s"];

/// A registry of OCI artifacts; it ends with the value.
struct Registry {
    _process: Child,
    address: String,
}

impl Registry {
    async fn start(program: &Path) -> Result<Self> {
        let mut process = tokio::process::Command::new(program)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await??;
        let address = line.context("the registry does not say where it is")?;
        Ok(Self {
            _process: process,
            address,
        })
    }
}

/// A release in the hands of one Helm.
struct Release<'a> {
    field: &'a Field,
    helm: &'a Helm,
}

impl Release<'_> {
    /// `install` or `upgrade` of a chart, with the images of the test and these values.
    async fn put(&self, verb: &str, chart: &[&str], more: &[&str]) -> Result<String> {
        let mut args = vec![verb, RELEASE];
        args.extend_from_slice(chart);
        args.extend(["-n", NAMESPACE]);
        for image in &self.field.images {
            args.extend(["--set", image]);
        }
        args.extend_from_slice(more);
        let said = self.helm.run(&args).await;
        said.with_context(|| format!("{verb} with {more:?}"))
    }

    async fn on_release(&self, verb: &[&str], more: &[&str]) -> Result<String> {
        let place = ["-n", NAMESPACE];
        self.helm.run(&[verb, &place, more].concat()).await
    }

    async fn says(&self, object: &[&str], path: &str, expected: &str) -> Result<()> {
        says(&self.field.cluster, object, path, expected).await
    }

    /// So many are wanted, and so many are ready, once those of before are gone.
    async fn replicas(&self, expected: &str) -> Result<()> {
        let both = format!("{expected} {expected}");
        wait_for(&format!("{expected} controllers"), PODS, || async {
            let path = "{.spec.replicas} {.status.readyReplicas}";
            let found = field(
                &self.field.cluster,
                &["deployment", "mesh-controller"],
                path,
            )
            .await?;
            Ok(if found == both { Ok(()) } else { Err(found) })
        })
        .await
    }

    /// Whether the API server knows `Mesh.spec.lifetimes`.
    async fn knows_lifetimes(&self) -> Result<bool> {
        let path =
            "{.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.lifetimes.type}";
        Ok(!field(&self.field.cluster, &["crd", MESHES], path)
            .await?
            .is_empty())
    }

    /// The root that the controller made: whoever makes another one breaks every link.
    async fn root(&self) -> Result<String> {
        wait_for("the root", PODS, || async {
            let root = ["secret", "default-mesh-root", "--ignore-not-found"];
            let found = field(&self.field.cluster, &root, "{.metadata.uid}").await?;
            Ok(if found.is_empty() {
                Err("no Secret")
            } else {
                Ok(found)
            })
        })
        .await
    }
}

/// The previous package, with definitions that lack a field, as one of an earlier release would.
async fn previous(helm: &Helm) -> Result<String> {
    let package = paths::sources().join(PREVIOUS);
    let folder = helm.home.join("previous");
    std::fs::create_dir_all(&folder)?;
    let mut unpack = exec::command("tar", ["xzf"]);
    unpack.arg(&package).arg("-C").arg(&folder);
    exec::run_async(unpack).await?;
    let file = folder.join(format!("kof-istio/crds/{MESHES}.yaml"));
    let mut crd: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file)?)?;
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = crd.pointer_mut(spec).and_then(Value::as_object_mut);
    ensure!(
        fields.context("no schema")?.remove("lifetimes").is_some(),
        "there is no field lifetimes"
    );
    std::fs::write(&file, crd.to_string())?;
    let chart = folder.join("kof-istio").display().to_string();
    helm.package(&chart, &[]).await
}

#[test]
fn a_release_lives_with_helm_3() -> Result<()> {
    with_field("chart-helm3", |field| async move { life(&field, 0).await })
}

#[test]
fn a_release_lives_with_helm_4() -> Result<()> {
    with_field("chart-helm4", |field| async move { life(&field, 1).await })
}

async fn life(field: &Field, which: usize) -> Result<()> {
    let helm = field.helms.get(which).context("no such Helm")?;
    let release = Release { field, helm };
    let said = helm.run(&["version", "--short"]).await?;
    ensure!(said.starts_with(&format!("v{}.", helm.major)), "{said}");

    // the package before
    let package = previous(helm).await?;
    let create = [&WAIT[..], &["--create-namespace"]].concat();
    release.put("install", &[&package], &create).await?;
    release.replicas("2").await?;
    ensure!(
        !release.knows_lifetimes().await?,
        "the schema is not an older one"
    );
    let root = release.root().await?;

    // packaged, pushed, pulled
    let registry = Registry::start(&field.tools.registry()).await?;
    let package = helm.package(&chart(), &[]).await?;
    let repository = format!("oci://{}/charts", registry.address);
    helm.run(&["push", &package, &repository, "--plain-http"])
        .await?;
    let pulled = format!("{repository}/kof-istio");
    let current = [pulled.as_str(), "--version", "0.2.0", "--plain-http"];

    // a dry run on the server changes nothing
    let generation = ["deployment", "mesh-controller"];
    let before = super::field(&field.cluster, &generation, "{.metadata.generation}").await?;
    let said = release
        .put("upgrade", &current, &["--dry-run=server"])
        .await?;
    ensure!(said.contains("kind: NetworkPolicy"), "{said}");
    release
        .says(&generation, "{.metadata.generation}", &before)
        .await?;
    ensure!(
        !release.knows_lifetimes().await?,
        "a dry run changed the schema"
    );

    // the definitions first, then what needs them
    let lifetimes = ["--set", "defaultMesh.spec.lifetimes.leaf=3h"];
    release
        .put("upgrade", &current, &[&WAIT[..], &lifetimes].concat())
        .await?;
    progress::step(format!("Helm {}: upgraded", helm.major));
    ensure!(
        release.knows_lifetimes().await?,
        "the upgrade left the old schema"
    );
    release
        .says(&["mesh", "default"], "{.spec.lifetimes.leaf}", "3h")
        .await?;
    release.replicas("2").await?;
    ensure!(
        release.root().await? == root,
        "the upgrade made another root"
    );
    let annotation = "{.metadata.annotations.mesh\\.kof\\.k0rdent\\.mirantis\\.com/release}";
    release
        .says(&["crd", MESHES], annotation, env!("CARGO_PKG_VERSION"))
        .await?;
    // nothing of the hook stays
    let account = [
        "serviceaccount",
        "mesh-controller-crds",
        "--ignore-not-found",
    ];
    release.says(&account, "{.metadata.name}", "").await?;
    let said = release.on_release(&["test", RELEASE], &[]).await?;
    ensure!(said.contains("Succeeded"), "{said}");

    changed(&release, &current, &lifetimes).await?;
    removed(&release, &current, &root).await
}

/// Changed values, and the way back.
async fn changed(release: &Release<'_>, current: &[&str], kept: &[&str]) -> Result<()> {
    let values = [
        "--set",
        "replicas=1,commonLabels.team=mesh,networkPolicy.enabled=false",
    ];
    let args = [&WAIT[..], kept, &values].concat();
    release.put("upgrade", current, &args).await?;
    release.replicas("1").await?;
    let controller = ["deployment", "mesh-controller"];
    release
        .says(&controller, "{.metadata.labels.team}", "mesh")
        .await?;
    let policy = ["networkpolicy", "mesh-controller", "--ignore-not-found"];
    release.says(&policy, "{.metadata.name}", "").await?;
    release
        .on_release(&["rollback", RELEASE, "2"], &WAIT)
        .await?;
    release.replicas("2").await?;
    release
        .says(&controller, "{.metadata.labels.team}", "")
        .await?;
    release
        .says(&policy, "{.metadata.name}", "mesh-controller")
        .await?;
    // back to the package before: its templates, but never its definitions
    release
        .on_release(&["rollback", RELEASE, "1"], &WAIT)
        .await?;
    release.says(&policy, "{.metadata.name}", "").await?;
    ensure!(
        release.knows_lifetimes().await?,
        "the rollback took the schema back"
    );
    progress::step(format!("Helm {}: rolled back", release.helm.major));
    Ok(())
}

/// Removed, and installed again over what is left.
async fn removed(release: &Release<'_>, current: &[&str], root: &str) -> Result<()> {
    release
        .on_release(&["uninstall", RELEASE], &["--wait"])
        .await?;
    for object in [
        "deployment/mesh-controller",
        "service/mesh-controller",
        "serviceaccount/mesh-controller",
    ] {
        release
            .says(&[object, "--ignore-not-found"], "{.metadata.name}", "")
            .await?;
    }
    let rights = ["clusterrole", "kof-istio-controller", "--ignore-not-found"];
    release.says(&rights, "{.metadata.name}", "").await?;
    // data stays, and what it is data of
    release
        .says(&["mesh", "default"], "{.metadata.name}", "default")
        .await?;
    release
        .says(&["crd", MESHES], "{.metadata.name}", MESHES)
        .await?;
    ensure!(release.root().await? == root, "the root went");

    release.put("install", current, &WAIT).await?;
    release.replicas("2").await?;
    ensure!(release.root().await? == root, "another root was made");
    let said = release.on_release(&["test", RELEASE], &[]).await?;
    ensure!(said.contains("Succeeded"), "{said}");
    progress::step(format!("Helm {}: installed again", release.helm.major));

    // the next generation takes over what Helm 3 made
    if let [three, four] = &release.field.helms
        && release.helm.major == three.major
    {
        let next = Release {
            field: release.field,
            helm: four,
        };
        next.put(
            "upgrade",
            current,
            &[&WAIT[..], &["--set", "replicas=1"]].concat(),
        )
        .await?;
        next.replicas("1").await?;
        next.on_release(&["rollback", RELEASE], &WAIT).await?;
        next.replicas("2").await?;
    }
    Ok(())
}
