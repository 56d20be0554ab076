//! `mesh-controller`: the controller of kof-istio, its agent in members, and a person's commands.

mod admin;
mod args;
mod offline;
mod ready;
mod run;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = args::Args::parse();
    if let Err(error) = telemetry::start(&args.log) {
        return complain(&error);
    }
    // The one crypto provider of the process; everything that speaks TLS takes it from here.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return complain(&anyhow::anyhow!(
            "a crypto provider was installed before ours"
        ));
    }
    match run::run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// Also to standard error: a log level may hide the log, and a person's command has none.
#[expect(clippy::print_stderr, reason = "the last words of the process")]
fn complain(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "ended");
    eprintln!("mesh-controller: {error:#}");
    ExitCode::FAILURE
}
