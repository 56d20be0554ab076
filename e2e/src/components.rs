//! Programs of the fleet: what each is made from, and where it lies when made.
//!
//! A family is a folder `e2e/components/<family>/` with pinned versions. It is made once into
//! `<cache>/<family>-<key>/`, where the key is the hash of everything it is made from: the files of
//! the folder, flags and compiler. A changed pin therefore is another folder, never an old result
//! under a new name, and a fresh clone on a machine that has made it before makes nothing.
//! Work goes on in a folder beside it that is renamed when complete, under a lock.

mod charts;
mod make;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{exec, oci, paths, progress};

pub use charts::ChartTools;

/// How a family is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `go build` of these packages with these linker flags.
    Go {
        packages: &'static [&'static str],
        flags: &'static str,
    },
    /// Debian packages, downloaded and unpacked.
    Debian,
    /// The Envoy binary out of a Python wheel.
    Wheel,
}

/// One family of programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// Folder below `e2e/components`; two families may share one.
    pub(crate) folder: &'static str,
    pub(crate) kind: Kind,
    /// How long it takes on two cores with empty caches, for people who wait.
    pub(crate) takes: &'static str,
}

const PLAIN: &str = "-s -w";
/// A plain build says `v0.0.0-master`, which Helm cannot parse and no chart's `kubeVersion` accepts.
const KUBERNETES: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 \
    -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3";

const FAMILIES: [Family; 8] = [
    Family {
        name: "debian",
        folder: "debian",
        kind: Kind::Debian,
        takes: "10 s",
    },
    Family {
        name: "envoy",
        folder: "envoy",
        kind: Kind::Wheel,
        takes: "10 s",
    },
    Family {
        name: "programs",
        folder: "programs",
        kind: Kind::Go {
            packages: &["./..."],
            flags: PLAIN,
        },
        takes: "20 s",
    },
    Family {
        name: "etcd",
        folder: "etcd",
        kind: Kind::Go {
            packages: &["./..."],
            flags: PLAIN,
        },
        takes: "1 min",
    },
    Family {
        name: "cni",
        folder: "cni",
        kind: Kind::Go {
            packages: &["tool"],
            flags: PLAIN,
        },
        takes: "15 s",
    },
    Family {
        name: "kubernetes",
        folder: "kubernetes",
        kind: Kind::Go {
            packages: &[
                "k8s.io/kubernetes/cmd/kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-scheduler",
                "k8s.io/kubernetes/cmd/kubelet",
                "k8s.io/kubernetes/cmd/kube-proxy",
            ],
            flags: KUBERNETES,
        },
        takes: "5 min",
    },
    Family {
        name: "coredns",
        folder: "coredns",
        kind: Kind::Go {
            packages: &["."],
            flags: PLAIN,
        },
        takes: "1 min",
    },
    Family {
        name: "helm",
        folder: "helm",
        kind: Kind::Go {
            packages: &["tool"],
            flags: "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
        },
        takes: "3 min",
    },
];

/// Made only where the machine has no kubectl that will do.
const KUBECTL: Family = Family {
    name: "kubectl",
    folder: "kubernetes",
    kind: Kind::Go {
        packages: &["k8s.io/kubernetes/cmd/kubectl"],
        flags: KUBERNETES,
    },
    takes: "2 min",
};

/// Made only for those who ask for it: it takes longer than all the rest.
const ISTIO: Family = Family {
    name: "istio",
    folder: "istio",
    kind: Kind::Go {
        packages: &["tool"],
        flags: "-s -w -X istio.io/istio/pkg/version.buildVersion=1.31.0",
    },
    takes: "8 min",
};

/// Istio: `pilot-discovery`, `pilot-agent`, and what of its source they and a user need.
#[derive(Clone, Debug)]
pub struct Istio(PathBuf);

impl Istio {
    /// Makes it if need be. This needs the machine's own network, so not on threads of [`crate::run`].
    pub fn ensure() -> Result<Self> {
        require_tools()?;
        ensure(&ISTIO).map(Self)
    }

    /// `pilot-discovery` or `pilot-agent`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join("bin").join(name)
    }

    /// A file or folder of Istio's source, such as `manifests/charts/base`.
    pub fn file(&self, path: &str) -> PathBuf {
        self.0.join("files").join(path)
    }
}

/// The Go program among the judges of certificates (`ca/tests/conformance`); no part of a fleet.
const JUDGE: Family = Family {
    name: "judge",
    folder: "judge",
    kind: Kind::Go {
        packages: &["."],
        flags: PLAIN,
    },
    takes: "2 min",
};

/// Makes the judge of certificates and says where it is.
pub fn judge() -> Result<PathBuf> {
    Ok(ensure(&JUDGE)?.join("bin/judge"))
}

/// Made only to be compared with.
const STEP_CA: Family = Family {
    name: "step-ca",
    folder: "step-ca",
    kind: Kind::Go {
        packages: &["tool"],
        flags: PLAIN,
    },
    takes: "4 min",
};

/// The certificate authority of smallstep, for `make bench-ca`.
#[derive(Clone, Debug)]
pub struct StepCa(PathBuf);

impl StepCa {
    /// Makes it if need be.
    pub fn ensure() -> Result<Self> {
        require_tools()?;
        ensure(&STEP_CA).map(Self)
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.0.join("bin/step-ca")
    }
}

/// Makes what a bare control plane needs, and says where: a value of `PATH`.
pub fn control_plane() -> Result<String> {
    require_tools()?;
    let mut path = Vec::new();
    for family in FAMILIES
        .iter()
        .filter(|f| ["etcd", "kubernetes"].contains(&f.name))
    {
        path.push(ensure(family)?.join("bin").display().to_string());
    }
    path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    Ok(path.join(":"))
}

/// Folders with everything the fleet runs.
#[derive(Clone, Debug)]
pub struct Components {
    debian: PathBuf,
    envoy: PathBuf,
    programs: PathBuf,
    etcd: PathBuf,
    cni: PathBuf,
    kubernetes: PathBuf,
    coredns: PathBuf,
    helm: PathBuf,
    kubectl: PathBuf,
}

impl Components {
    /// Makes what is missing and says where everything is.
    ///
    /// Errors name the family and end with what the tool that makes it said.
    pub fn ensure() -> Result<Self> {
        require_tools()?;
        let started = progress::elapsed();
        // downloads wait for the network while compilers wait for the cores
        let mut folders = std::thread::scope(|scope| {
            let (downloads, builds): (Vec<Family>, Vec<Family>) = FAMILIES
                .into_iter()
                .partition(|f| !matches!(f.kind, Kind::Go { .. }));
            let downloads = scope.spawn(move || make_all(&downloads));
            let mut done = make_all(&builds)?;
            done.extend(
                downloads
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
            anyhow::Ok(done)
        })?;
        let mut take = |name: &str| -> Result<PathBuf> {
            let at = folders
                .iter()
                .position(|(n, _)| *n == name)
                .context("a family is not listed")?;
            Ok(folders.swap_remove(at).1)
        };
        let made = Self {
            debian: take("debian")?,
            envoy: take("envoy")?,
            programs: take("programs")?,
            etcd: take("etcd")?,
            cni: take("cni")?,
            kubernetes: take("kubernetes")?,
            coredns: take("coredns")?,
            helm: take("helm")?,
            kubectl: kubectl()?,
        };
        let took = progress::elapsed().saturating_sub(started);
        if took.as_secs() > 2 {
            progress::step(format!(
                "components ready after {:.0} s",
                took.as_secs_f64()
            ));
        }
        Ok(made)
    }

    /// Helm.
    pub fn helm(&self) -> PathBuf {
        self.helm.join("bin/helm")
    }

    /// kubectl, 1.28 or later.
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// A program of our own: `pause`, `echo`, `vmauth`, `loadbalancer`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join("bin").join(name)
    }

    /// A file of the unpacked Debian packages, such as `usr/bin/vmagent`.
    pub fn debian(&self, path: &str) -> PathBuf {
        self.debian.join("root").join(path)
    }

    /// The Envoy binary.
    pub fn envoy(&self) -> PathBuf {
        self.envoy.join("bin/envoy")
    }

    /// The `CoreDNS` binary.
    pub fn coredns(&self) -> PathBuf {
        self.coredns.join("bin/coredns")
    }

    /// The folder with CNI plugins.
    pub fn cni(&self) -> PathBuf {
        self.cni.join("bin")
    }

    /// Value of `PATH` inside a node: the fleet's programs, then the machine's.
    pub fn node_path(&self) -> String {
        let ours = [
            self.kubernetes.join("bin"),
            self.etcd.join("bin"),
            self.programs.join("bin"),
            self.debian.join("wrappers"),
            self.debian("usr/bin"),
        ];
        let mut path: Vec<String> = ours.iter().map(|p| p.display().to_string()).collect();
        path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        path.join(":")
    }

    /// What a node runs, as one word: a node made from other programs is made anew.
    pub fn node_key(&self) -> String {
        oci::sha256(self.node_path()).chars().take(12).collect()
    }
}

fn make_all(families: &[Family]) -> Result<Vec<(&'static str, PathBuf)>> {
    families.iter().map(|f| Ok((f.name, ensure(f)?))).collect()
}

fn ensure(family: &Family) -> Result<PathBuf> {
    let cache = paths::cache()?;
    let folder = cache.join(format!("{}-{}", family.name, key(family)?));
    if folder.exists() {
        return Ok(folder);
    }
    let _lock = paths::lock(
        &cache.join(format!("{}.lock", family.name)),
        "another run makes this component",
    )?;
    if folder.exists() {
        return Ok(folder);
    }
    let partial = cache.join(format!("{}.partial", family.name));
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    progress::step(format!(
        "{}: making (about {} with cold caches)",
        family.name, family.takes
    ));
    let started = progress::elapsed();
    make::make(family, &partial, &folder)
        .with_context(|| format!("failed to make component {}", family.name))?;
    std::fs::rename(&partial, &folder)?;
    let took = progress::elapsed().saturating_sub(started);
    progress::step(format!(
        "{}: made in {:.0} s",
        family.name,
        took.as_secs_f64()
    ));
    Ok(folder)
}

/// Hash of everything the family is made from.
fn key(family: &Family) -> Result<String> {
    let mut text = format!("{family:?}\n");
    if matches!(family.kind, Kind::Go { .. }) {
        text.push_str(&exec::run(&mut exec::command(
            "go",
            ["env", "GOVERSION", "GOOS", "GOARCH"],
        ))?);
    }
    let folder = paths::sources().join("components").join(family.folder);
    let mut files = Vec::new();
    list(&folder, &mut files)?;
    files.sort();
    for file in files {
        let name = file.strip_prefix(&folder)?.display().to_string();
        text.extend([name.as_str(), " ", &oci::sha256_file(&file)?, "\n"]);
    }
    Ok(oci::sha256(text).chars().take(12).collect())
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn kubectl() -> Result<PathBuf> {
    let have = exec::run(&mut exec::command(
        "kubectl",
        ["version", "--client", "-o", "json"],
    ));
    let minor = have.ok().and_then(|text| {
        let version: serde_json::Value = serde_json::from_str(&text).ok()?;
        version
            .pointer("/clientVersion/minor")?
            .as_str()?
            .trim_end_matches('+')
            .parse::<u32>()
            .ok()
    });
    if minor.is_some_and(|m| m >= 28) {
        let at = exec::run(&mut exec::command("sh", ["-c", "command -v kubectl"]))?;
        return Ok(PathBuf::from(at.trim()));
    }
    Ok(ensure(&KUBECTL)?.join("bin/kubectl"))
}

fn require_tools() -> Result<()> {
    let needed = [
        "go", "python3", "dpkg", "apt-get", "openssl", "ip", "nsenter", "unshare", "setsid",
        "curl", "ldd",
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|tool| {
            !std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|d| d.join(tool).exists())
        })
        .collect();
    if !missing.is_empty() {
        bail!(
            "these programs are needed and not on PATH: {}",
            missing.join(", ")
        );
    }
    Ok(())
}
