//! The log: plain for a person at a terminal, JSON for everybody else.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{LogArgs, LogFormat};

/// Starts it, on standard error: standard output belongs to what a command prints.
pub(crate) fn start(args: &LogArgs) -> anyhow::Result<()> {
    // The client library shouts each failed attempt; whoever called tells it once, with object and cause.
    let quiet = if args.log_level.contains("kube_client") {
        ""
    } else {
        ",kube_client::client::builder=off,kube_runtime::watcher=error"
    };
    let filter = EnvFilter::try_new(format!("{}{quiet}", args.log_level))
        .with_context(|| format!("failed to read the log level {:?}", args.log_level))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match args.log_format {
        LogFormat::Json => true,
        LogFormat::Plain => false,
        LogFormat::Auto => !terminal,
    };
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    } else {
        log.with_ansi(terminal).with_target(false).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("failed to start the log: {error}"))
}
