//! The chart, with both generations of Helm.

mod gitops;
mod istio;
mod life;
mod render;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_e2e::components::{ChartTools, Components};
use mesh_e2e::{Cluster, exec, paths, scenario};

/// Name of the release.
const RELEASE: &str = "kof-istio";
/// Its namespace.
const NAMESPACE: &str = "istio-system";
/// Asks kubectl to wait until all kinds are known.
const ESTABLISHED: [&str; 5] = [
    "wait",
    "--for=condition=Established",
    "crd",
    "--all",
    "--timeout=30s",
];

/// The chart of this tree.
fn chart() -> String {
    let chart = paths::project().join("charts/kof-istio");
    chart.display().to_string()
}

/// One Helm.
#[derive(Clone, Debug)]
struct Helm {
    program: PathBuf,
    /// Its generation.
    major: u8,
    /// Its caches and settings, of this test alone.
    home: PathBuf,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// Helm 3 and Helm 4.
    fn both(components: &Components, tools: &ChartTools, home: &Path) -> [Self; 2] {
        [(3, tools.helm3()), (4, components.helm())].map(|(major, program)| Self {
            program,
            major,
            home: home.join(format!("helm{major}")),
            kubeconfig: None,
        })
    }

    /// As the administrator of a cluster.
    fn of(&self, cluster: &Cluster) -> Self {
        Self {
            kubeconfig: Some(cluster.handle().kubeconfig.clone()),
            ..self.clone()
        }
    }

    /// Runs it and returns what it printed.
    async fn run<S: AsRef<std::ffi::OsStr> + Sync>(&self, args: &[S]) -> Result<String> {
        let mut command = exec::command(&self.program, args);
        for kind in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{kind}_HOME"), self.home.join(kind));
        }
        // without a cluster it must not find another one
        let nowhere = self.home.join("no-kubeconfig");
        command.env("KUBECONFIG", self.kubeconfig.as_ref().unwrap_or(&nowhere));
        exec::run_async(command)
            .await
            .with_context(|| format!("with Helm {}", self.major))
    }

    /// As [`Helm::run`] where it must refuse, and returns what it said.
    async fn refused<S: AsRef<std::ffi::OsStr> + Sync>(&self, args: &[S]) -> Result<String> {
        match self.run(args).await {
            Ok(said) => bail!("Helm {} took it: {said}", self.major),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// The chart's objects with these arguments, without a cluster.
    async fn template(&self, args: &[&str]) -> Result<String> {
        let chart = chart();
        let first = ["template", RELEASE, &chart, "-n", NAMESPACE];
        self.run(&[&first, args].concat()).await
    }

    /// Makes a package of a chart, and says where it is.
    async fn package(&self, chart: &str, args: &[&str]) -> Result<String> {
        let to = self.home.display().to_string();
        let said = self
            .run(&[&["package", chart, "-d", &to], args].concat())
            .await?;
        let path = said.lines().find_map(|l| l.split_once(" saved it to: "));
        Ok(path
            .context("helm does not say where the chart is")?
            .1
            .trim()
            .to_owned())
    }
}

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        mesh_e2e::x509::folder().map(Self)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A cluster that is nobody's management yet, with k0rdent's kinds and the product's image.
struct Field {
    cluster: Cluster,
    /// Helm 3, Helm 4.
    helms: [Helm; 2],
    /// Values that name the images.
    images: Vec<String>,
    folder: Folder,
    tools: ChartTools,
}

/// Runs a test on a cluster of its own, which is as it was afterwards.
fn with_field<Fut>(name: &str, test: impl FnOnce(Field) -> Fut + Send) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    let tools = ChartTools::ensure()?;
    mesh_e2e::run(name, &["child2"], |fleet| async move {
        let product = scenario::product()?;
        fleet.load(std::slice::from_ref(&product)).await?;
        let cluster = fleet.cluster("child2")?.clone();
        scenario::install_k0rdent(&cluster).await?;
        let folder = Folder::new()?;
        let helms = Helm::both(fleet.components(), &tools, &folder.0);
        let field = Field {
            helms: helms.map(|helm| helm.of(&cluster)),
            images: scenario::product_values(&fleet, &product)?,
            cluster: cluster.clone(),
            folder,
            tools,
        };
        // what a test left behind that was stopped
        clear(&cluster).await?;
        test(field).await?;
        clear(&cluster).await
    })
}

/// Takes away everything of the chart, and what it leaves on purpose.
async fn clear(cluster: &Cluster) -> Result<()> {
    let members = "meshmembers.mesh.kof.k0rdent.mirantis.com";
    let crds = cluster.kubectl(&["get", "crd", "-o", "name"]).await?;
    let ours: Vec<&str> = crds
        .lines()
        .filter(|name| name.ends_with(".mesh.kof.k0rdent.mirantis.com"))
        .collect();
    let args = ["uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found"];
    cluster.helm(&[&args, &["--wait"][..]].concat()).await?;
    if ours.iter().any(|name| name.ends_with(members)) {
        // nobody is there any more who would let them go
        let named = [
            "get",
            members,
            "-A",
            "-o",
            "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}",
        ];
        for member in cluster.kubectl(&named).await?.split_whitespace() {
            let (namespace, name) = member
                .split_once('/')
                .context("a member without a namespace")?;
            let free = r#"{"metadata":{"finalizers":null}}"#;
            let args = [
                "-n",
                namespace,
                "patch",
                members,
                name,
                "--type=merge",
                "-p",
                free,
            ];
            cluster.kubectl(&args).await?;
        }
    }
    if !ours.is_empty() {
        cluster
            .kubectl(&[&["delete", "--timeout=60s"], ours.as_slice()].concat())
            .await?;
    }
    let made = "app.kubernetes.io/managed-by=kof-istio";
    // applied by another tool than Helm, which takes its own away
    let applied = "app.kubernetes.io/instance=kof-istio";
    for (kinds, which) in [
        ("clusterroles,clusterrolebindings", applied),
        ("clusterroles,clusterrolebindings", made),
        ("namespaces", made),
    ] {
        let args = [
            "delete",
            kinds,
            "-l",
            which,
            "--ignore-not-found",
            "--timeout=90s",
        ];
        cluster.kubectl(&args).await?;
    }
    let args = [
        "delete",
        "namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--timeout=90s",
    ];
    cluster.kubectl(&args).await.map(drop)
}

/// What a path says of an object.
async fn field(cluster: &Cluster, object: &[&str], path: &str) -> Result<String> {
    let output = format!("jsonpath={path}");
    let args = [&["-n", NAMESPACE, "get"], object, &["-o", &output]].concat();
    Ok(cluster.kubectl(&args).await?.trim().to_owned())
}

/// Fails unless a path says this of an object.
async fn says(cluster: &Cluster, object: &[&str], path: &str, expected: &str) -> Result<()> {
    let found = field(cluster, object, path).await?;
    ensure!(
        found == expected,
        "{object:?} {path}: {found:?}, not {expected:?}"
    );
    Ok(())
}
