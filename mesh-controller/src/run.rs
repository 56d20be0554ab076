//! Wiring.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mesh_agent::{AgentSettings, ProbeSettings};
use mesh_cluster::{
    client,
    controller::{ControllerSettings, Readiness},
    definitions,
    metrics::Metrics,
    tasks::Tasks,
};
use parking_lot::Mutex;
use prometheus_client::{metrics::info::Info, registry::Registry};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin::{self, Admin, Check},
    args::{AgentArgs, BootstrapArgs, Command, ControllerArgs, ProbeArgs, UpgradeCrdsArgs},
    offline, ready,
};

/// Silence of the process's own pulse after which it counts as dead.
const PULSE_LOST: Duration = Duration::from_secs(20);

/// Where the agent's Envoy finds it, in the pods that the controller delivers.
const XDS_SOCKET: &str = "/run/mesh/xds.sock";
/// Port of Envoy's administration there, on loopback.
const ENVOY_ADMIN: u16 = 15000;

/// Does what was asked for.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Controller(args) => runtime()?.block_on(controller(args)),
        Command::Agent(args) => runtime()?.block_on(agent(args)),
        Command::Probe(args) => runtime()?.block_on(probe(args)),
        Command::Bootstrap(args) => bootstrap(&args),
        Command::Crds(args) => offline::crds(&args),
        Command::UpgradeCrds(args) => runtime()?.block_on(upgrade_crds(args)),
        Command::Ready(args) => {
            let within = Duration::from_secs(args.within);
            runtime()?.block_on(ready::wait(&args.address, within))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")
}

fn registry() -> Registry {
    let mut registry = Registry::with_prefix("mesh");
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "What runs", build);
    registry
}

async fn controller(args: ControllerArgs) -> anyhow::Result<()> {
    let mut stop = stop()?;
    let port = admin::bind(args.admin.admin_address).await?;
    let client = match &args.kubeconfig {
        Some(file) => client::from_file(file).await?,
        None => client::in_cluster()?,
    };
    let mut registry = registry();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::default();
    let mut tasks = Tasks::new();
    let alive = pulse(&mut tasks);
    let seen = readiness.clone();
    let ready: Check = Box::new(move || seen.check());
    tasks.spawn(
        "admin",
        port.serve(Arc::new(Admin {
            alive,
            ready,
            registry,
        })),
    );
    let settings = ControllerSettings {
        namespace: args.namespace,
        pod: args.pod_name,
        image: args.agent_image,
        envoy_image: args.envoy_image,
        // Envoy is told its node's name on its command line.
        envoy_bootstrap: mesh_agent::bootstrap(Path::new(XDS_SOCKET), "", ENVOY_ADMIN),
        pull_secrets: args
            .pull_secrets
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect(),
        log: args.agent_log,
        management_member: args.management_member,
        management_mesh: args.management_mesh,
        pkcs11_module: args
            .pkcs11_module
            .filter(|file| !file.as_os_str().is_empty()),
    };
    let shutdown = async move {
        stop.recv().await;
    };
    let controller = mesh_cluster::controller::run(client, settings, metrics, readiness, shutdown);
    tokio::select! {
        ended = tasks.ended() => Err(ended.into()),
        result = controller => Ok(result?),
    }
}

async fn agent(args: AgentArgs) -> anyhow::Result<()> {
    let mut stop = stop()?;
    let port = admin::bind(args.admin.admin_address).await?;
    let mut registry = registry();
    let mut tasks = Tasks::new();
    let settings = AgentSettings {
        pod: args.pod_name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        xds_socket: args.xds_socket,
        intake: args.intake,
        gateway: args.gateway,
        ca: args.ca_address,
        kubeconfig: args.kubeconfig,
    };
    let readiness = mesh_agent::start(settings, &mut registry, &mut tasks).await?;
    let ready: Check = Box::new(move || readiness.check());
    serve(port, ready, registry, &mut tasks);
    tokio::select! {
        ended = tasks.ended() => Err(ended.into()),
        () = stop.recv() => Ok(()),
    }
}

async fn probe(args: ProbeArgs) -> anyhow::Result<()> {
    let mut stop = stop()?;
    let port = admin::bind(args.admin.admin_address).await?;
    let mut registry = registry();
    let mut tasks = Tasks::new();
    let settings = ProbeSettings {
        pod: args.pod_name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kubeconfig: args.kubeconfig,
    };
    let readiness = mesh_agent::probe(settings, &mut registry, &mut tasks).await?;
    let ready: Check = Box::new(move || readiness.check());
    serve(port, ready, registry, &mut tasks);
    tokio::select! {
        ended = tasks.ended() => Err(ended.into()),
        () = stop.recv() => Ok(()),
    }
}

/// Serves the admin port.
fn serve(port: admin::Bound, ready: Check, registry: Registry, tasks: &mut Tasks) {
    let alive = pulse(tasks);
    tasks.spawn(
        "admin",
        port.serve(Arc::new(Admin {
            alive,
            ready,
            registry,
        })),
    );
}

async fn upgrade_crds(args: UpgradeCrdsArgs) -> anyhow::Result<()> {
    let client = match &args.kubeconfig {
        Some(file) => client::from_file(file).await?,
        None => client::in_cluster()?,
    };
    Ok(definitions::upgrade(client, &mesh_api::crds()).await?)
}

fn bootstrap(args: &BootstrapArgs) -> anyhow::Result<()> {
    let text = mesh_agent::bootstrap(&args.xds_socket, &args.pod_name, args.admin_port);
    offline::emit(&text, args.output.as_ref())
}

/// A task that only shows that tasks still run.
fn pulse(tasks: &mut Tasks) -> Check {
    let beat = Arc::new(Mutex::new(Instant::now()));
    let heart = Arc::clone(&beat);
    tasks.spawn("pulse", async move {
        loop {
            *heart.lock() = Instant::now();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    Box::new(move || {
        let silence = beat.lock().elapsed();
        if silence < PULSE_LOST {
            Ok(())
        } else {
            Err(format!("no task has run for {} s", silence.as_secs()))
        }
    })
}

/// The signals that end the process in good order.
struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

fn stop() -> anyhow::Result<Stop> {
    let on = |kind| signal(kind).context("failed to listen for signals");
    Ok(Stop {
        term: on(SignalKind::terminate())?,
        int: on(SignalKind::interrupt())?,
    })
}

impl Stop {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
        tracing::info!("asked to stop");
    }
}
