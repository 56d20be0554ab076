//! `e2e`: the fleet from the command line.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use mesh_e2e::bench_ca::{Extent, Peers};
use mesh_e2e::components::{ChartTools, Components, Istio, StepCa, control_plane};
use mesh_e2e::fleet::{self, Prepared, USUAL};
use mesh_e2e::images::{self, Image};
use mesh_e2e::provider::{Handle, Provider as _, State};
use mesh_e2e::{exec, fault, nodes, paths, progress};

/// Real Kubernetes clusters on this machine.
#[derive(Debug, Parser)]
#[command(name = "e2e", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make all programs and images that the fleet and its tests need, and start nothing
    Prepare,
    /// Start clusters (by default management, region1 and child1), or find them running
    Up {
        /// How many of the usual clusters, instead of names
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=5))]
        clusters: Option<u8>,
        /// Names of clusters
        names: Vec<String>,
    },
    /// Stop clusters and delete everything of them; without names all, and their network
    Down {
        /// Names of clusters
        names: Vec<String>,
    },
    /// What runs
    Status,
    /// kubectl as administrator of a cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        /// The cluster
        cluster: String,
        /// Arguments of kubectl
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Helm as administrator of a cluster
    #[command(disable_help_flag = true)]
    Helm {
        /// The cluster
        cluster: String,
        /// Arguments of Helm
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Logs: of a component of the node, or, with a slash, of a pod (`namespace/pod`)
    Logs {
        /// The cluster
        cluster: String,
        /// Component or `namespace/pod`; without it a list of components
        of: Option<String>,
        /// Further arguments of `kubectl logs`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// A command inside a node (as root, with the node's network, mounts and programs)
    Node {
        /// The cluster
        cluster: String,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// A command in the network outside all clusters
    Net {
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// Break something
    #[command(after_help = fault::FAULTS)]
    Break {
        /// The cluster
        cluster: String,
        /// The fault
        fault: String,
    },
    /// Mend what `break` broke
    #[command(after_help = fault::FAULTS)]
    Mend {
        /// The cluster
        cluster: String,
        /// The fault
        fault: String,
    },
    /// Put an image into running clusters: a built binary of the product, or an image tar
    Load {
        /// `target/release/mesh-controller`, or a tar with one image
        file: PathBuf,
        /// Clusters; without names all
        clusters: Vec<String>,
    },
    /// Print the full names of the fleet's images, `short name` a line
    Images,
    /// Print where a program of the fleet is (`envoy`, `helm`, `kubectl`, `coredns`, or one of the
    /// fleet's own), making it if need be
    Program {
        /// The program
        name: String,
    },
    /// Apply a manifest in which `{{image:<short>}}` stands for an image of the fleet
    Apply {
        /// The cluster
        cluster: String,
        /// The file; `-` is standard input
        file: PathBuf,
    },
    /// Collect everything that explains the state of the clusters into a folder
    Collect {
        /// The folder
        folder: PathBuf,
    },
    /// The main job on three clusters: a label, and a metric crosses from the child to the region to management
    Demo,
    /// Measure the figures of docs/performance.md
    Bench,
    /// Measure what a workload certificate costs, beside istiod and step-ca; needs no cluster
    BenchCa {
        /// Leave istiod out; it takes long to make
        #[arg(long)]
        no_istiod: bool,
        /// Leave step-ca out
        #[arg(long)]
        no_step_ca: bool,
        /// Rounds; in each everybody is measured once
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of one run; five runs and more make a round
        #[arg(long, default_value_t = 5, value_name = "SECONDS")]
        per_round: u32,
        /// Certificates after which the agent's memory is looked at last
        #[arg(long, default_value_t = 200_000, value_name = "CERTIFICATES")]
        memory: usize,
    },
    /// The least of servers, for `bench-ca`
    #[command(hide = true)]
    BenchCaMinimal {
        /// Folder with certificates and keys
        folder: PathBuf,
        /// Where it listens
        address: std::net::SocketAddr,
    },
    /// Check the fleet itself: names, paths, tokens, load balancers, and what must not be reached
    Smoke,
}

fn main() -> ExitCode {
    progress::elapsed();
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::step(format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Prepare => {
            let prepared = Prepared::ensure()?;
            ChartTools::ensure()?;
            images::istio(prepared.components(), &Istio::ensure()?).map(drop)
        }
        Command::Up { clusters, names } => up(clusters, names),
        Command::Down { names } => fleet::outside(|| async move { nodes::down(&names).await }),
        Command::Status => status(),
        Command::Kubectl { cluster, args } => {
            let kubeconfig = handle(&cluster)?.kubeconfig;
            let components = Components::ensure()?;
            replace(
                exec::command(components.kubectl(), ["--kubeconfig"])
                    .arg(kubeconfig)
                    .args(args),
            )
        }
        Command::Helm { cluster, args } => {
            let kubeconfig = handle(&cluster)?.kubeconfig;
            replace(exec::command(Components::ensure()?.helm(), args).env("KUBECONFIG", kubeconfig))
        }
        Command::Logs { cluster, of, args } => logs(&cluster, of.as_deref(), &args),
        Command::Node { cluster, args } => {
            let error = nodes::inside(&handle(&cluster)?)?.args(args).exec();
            Err(error).context("failed to enter the node")
        }
        Command::Net { args } => {
            let (program, rest) = args.split_first().context("no command")?;
            replace(&mut exec::command(program, rest))
        }
        Command::Break { cluster, fault } => hurt(cluster, &fault, true),
        Command::Mend { cluster, fault } => hurt(cluster, &fault, false),
        Command::Load { file, clusters } => load(&file, clusters),
        Command::Images => {
            let prepared = Prepared::ensure()?;
            for image in prepared.images().all() {
                progress::print(format!("{} {}\n", image.short, image.name));
            }
            Ok(())
        }
        Command::Program { name } => program(&name),
        Command::Apply { cluster, file } => apply(cluster, &file),
        Command::Collect { folder } => {
            with_running(
                Vec::new(),
                |fleet| async move { fleet.collect(&folder).await },
            )
        }
        Command::Demo => mesh_e2e::run("demo", &USUAL, |fleet| async move {
            mesh_e2e::demo::run(&fleet).await
        }),
        Command::Bench => mesh_e2e::run("bench", &USUAL, |fleet| async move {
            mesh_e2e::bench::run(&fleet).await
        }),
        Command::BenchCa {
            no_istiod,
            no_step_ca,
            rounds,
            per_round,
            memory,
        } => {
            let run = std::time::Duration::from_secs(per_round.into());
            let extent = Extent {
                rounds,
                run,
                memory,
            };
            bench_ca(!no_istiod, !no_step_ca, extent)
        }
        Command::BenchCaMinimal { folder, address } => {
            alone(async move { mesh_e2e::bench_ca::serve_minimal(&folder, address).await })
        }
        Command::Smoke => mesh_e2e::smoke::run(),
    }
}

fn bench_ca(istiod: bool, step_ca: bool, extent: Extent) -> Result<()> {
    // Its API server has fixed ports; and two would measure each other.
    let lock = paths::cache()?.join("bench-ca.lock");
    let _lock = paths::lock(&lock, "another run measures certificates")?;
    let path = control_plane()?;
    let peers = Peers {
        istio: istiod.then(Istio::ensure).transpose()?,
        step_ca: step_ca.then(StepCa::ensure).transpose()?,
    };
    alone(async move { mesh_e2e::bench_ca::run(&path, &peers, extent).await })
}

/// Runs something on the machine's own network, on two threads.
fn alone(work: impl Future<Output = Result<()>>) -> Result<()> {
    // a second installation of the same provider is what the error would be about
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}

fn up(clusters: Option<u8>, names: Vec<String>) -> Result<()> {
    let names = match clusters {
        Some(_) if !names.is_empty() => bail!("either a number of clusters or names"),
        Some(count) => USUAL
            .into_iter()
            .chain(["child2", "child3"])
            .take(count.into())
            .map(str::to_owned)
            .collect(),
        None if names.is_empty() => USUAL.map(str::to_owned).to_vec(),
        None => names,
    };
    let prepared = Prepared::ensure()?;
    fleet::inside(move || async move {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        prepared.up(&names).await.map(drop)
    })?;
    status()
}

fn status() -> Result<()> {
    let states = nodes::states()?;
    if states.is_empty() {
        progress::print("no clusters\n");
    }
    for State {
        handle,
        running,
        memory,
        hurt,
    } in states
    {
        let memory = memory
            .filter(|_| running)
            .map(|m| format!("{} MiB", m >> 20))
            .unwrap_or_default();
        progress::print(format!(
            "{:<12} {:<8} 172.30.0.{:<3} {:>8}  {}  {}\n",
            handle.name,
            if running { "running" } else { "dead" },
            10 + u32::from(handle.index),
            memory,
            handle.kubeconfig.display(),
            hurt.join(", "),
        ));
    }
    Ok(())
}

fn logs(cluster: &str, of: Option<&str>, args: &[String]) -> Result<()> {
    let handle = handle(cluster)?;
    match of {
        Some(pod) if pod.contains('/') => {
            let (namespace, pod) = pod.split_once('/').context("namespace/pod")?;
            let kubectl = Components::ensure()?.kubectl().to_owned();
            let mut command =
                exec::command(kubectl, ["-n", namespace, "logs", pod, "--all-containers"]);
            replace(
                command
                    .arg("--kubeconfig")
                    .arg(handle.kubeconfig)
                    .args(args),
            )
        }
        Some(component) => {
            let file = handle.logs.join(format!("{component}.log"));
            let text = std::fs::read(&file)
                .with_context(|| format!("failed to read {}", file.display()))?;
            progress::print(String::from_utf8_lossy(&text));
            Ok(())
        }
        None => {
            for entry in std::fs::read_dir(&handle.logs)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if let Some(component) = name.strip_suffix(".log") {
                    progress::print(format!("{component}\n"));
                }
            }
            Ok(())
        }
    }
}

fn hurt(cluster: String, fault: &str, on: bool) -> Result<()> {
    let what = fault::parse(fault)?;
    if !nodes::states()?.iter().any(|s| s.handle.name == cluster) {
        bail!("no cluster {cluster}");
    }
    let prepared = Prepared::ensure()?;
    fleet::inside(move || async move {
        let provider = prepared.provider()?;
        let handle = handle(&cluster)?;
        if on {
            provider.hurt(&handle, &what).await
        } else {
            provider.mend(&handle, &what).await
        }
    })
}

fn load(file: &std::path::Path, clusters: Vec<String>) -> Result<()> {
    let mut start = [0; 4];
    std::fs::File::open(file)
        .with_context(|| format!("failed to open {}", file.display()))?
        .read_exact(&mut start)?;
    let image = if start == *b"\x7fELF" {
        images::product(file)?
    } else {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Image {
            short: name.clone(),
            name,
            tar: std::fs::canonicalize(file)?,
        }
    };
    let name = image.name.clone();
    with_running(clusters, |fleet| async move { fleet.load(&[image]).await })?;
    progress::print(format!("{name}\n"));
    Ok(())
}

fn program(name: &str) -> Result<()> {
    if name == "judge" {
        let path = mesh_e2e::components::judge()?;
        progress::print(format!("{}\n", path.display()));
        return Ok(());
    }
    let components = Components::ensure()?;
    let path = match name {
        "envoy" => components.envoy(),
        "helm" => components.helm(),
        "kubectl" => components.kubectl().to_owned(),
        "coredns" => components.coredns(),
        other => components.program(other),
    };
    if !path.exists() {
        bail!("no program {name:?}");
    }
    progress::print(format!("{}\n", path.display()));
    Ok(())
}

fn apply(cluster: String, file: &std::path::Path) -> Result<()> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file)
            .with_context(|| format!("failed to read {}", file.display()))?
    };
    with_running(vec![cluster.clone()], |fleet| async move {
        fleet.cluster(&cluster)?.apply(&text).await
    })
}

/// Runs something with clusters that run already.
fn with_running<Fut: Future<Output = Result<()>>>(
    names: Vec<String>,
    work: impl FnOnce(mesh_e2e::Fleet) -> Fut + Send,
) -> Result<()> {
    let prepared = Prepared::ensure()?;
    fleet::inside(move || async move { work(prepared.running(&names).await?).await })
}

fn handle(cluster: &str) -> Result<Handle> {
    let states = nodes::states()?;
    let known: Vec<String> = states.iter().map(|s| s.handle.name.clone()).collect();
    let found = states.into_iter().find(|s| s.handle.name == cluster);
    Ok(found
        .with_context(|| format!("no cluster {cluster:?}; there are: {}", known.join(", ")))?
        .handle)
}

/// Becomes a command in the network outside all clusters.
fn replace(command: &mut std::process::Command) -> Result<()> {
    let mut entered = exec::command(
        "nsenter",
        [
            format!("--net={}", paths::network()?.display()),
            "--".to_owned(),
        ],
    );
    entered.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            entered.env(name, value);
        }
    }
    Err(entered.exec()).context("failed to start nsenter")
}
