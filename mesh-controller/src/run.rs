//! Wiring.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mesh_agent::AgentSettings;
use mesh_cluster::tasks::Tasks;
use parking_lot::Mutex;
use prometheus_client::{metrics::info::Info, registry::Registry};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    admin::{self, Admin, Check},
    args::{AgentArgs, BootstrapArgs, Command, ControllerArgs},
    offline,
};

/// Silence of the process's own pulse after which it counts as dead.
const PULSE_LOST: Duration = Duration::from_secs(20);

/// Does what was asked for.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Controller(args) => runtime()?.block_on(controller(args)),
        Command::Agent(args) => runtime()?.block_on(agent(args)),
        Command::Bootstrap(args) => bootstrap(&args),
        Command::Crds(args) => offline::crds(&args),
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

async fn controller(_args: ControllerArgs) -> anyhow::Result<()> {
    anyhow::bail!("not wired yet")
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
        kubeconfig: args.kubeconfig,
    };
    let readiness = mesh_agent::start(settings, &mut registry, &mut tasks).await?;
    let ready: Check = Box::new(move || readiness.check());
    let alive = pulse(&mut tasks);
    tasks.spawn(
        "admin",
        port.serve(Arc::new(Admin {
            alive,
            ready,
            registry,
        })),
    );
    tokio::select! {
        ended = tasks.ended() => Err(ended.into()),
        () = stop.recv() => Ok(()),
    }
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
