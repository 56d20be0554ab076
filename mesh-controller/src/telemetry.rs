//! The log: plain for a person at a terminal, JSON for everybody else. Beside it the audit of certificates: JSON, on
//! standard output, whatever the log level is.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::args::{LogArgs, LogFormat};

/// Target of the audit's lines.
const AUDIT: &str = "audit";

/// Starts both: the log on standard error, since standard output belongs to what a command prints, and to the audit.
pub(crate) fn start(args: &LogArgs) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let both = subscriber(args, terminal, std::io::stderr, std::io::stdout)?;
    both.try_init()
        .map_err(|error| anyhow::anyhow!("failed to start the log: {error}"))
}

fn subscriber<L, A>(
    args: &LogArgs,
    terminal: bool,
    log: L,
    audit: A,
) -> anyhow::Result<impl Subscriber + Send + Sync + use<L, A>>
where
    L: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    A: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // The client library shouts each failed attempt; whoever called tells it once, with object and cause.
    let quiet = if args.log_level.contains("kube_client") {
        ""
    } else {
        ",kube_client::client::builder=off,kube_runtime::watcher=error"
    };
    let filter = EnvFilter::try_new(format!("{}{quiet},{AUDIT}=off", args.log_level))
        .with_context(|| format!("failed to read the log level {:?}", args.log_level))?;
    let json = match args.log_format {
        LogFormat::Json => true,
        LogFormat::Plain => false,
        LogFormat::Auto => !terminal,
    };
    let log = fmt::layer().with_writer(log);
    let log = if json {
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        log.with_ansi(terminal).with_target(false).boxed()
    };
    let audit = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_level(false)
        .with_writer(audit)
        .with_filter(Targets::new().with_target(AUDIT, Level::INFO));
    Ok(tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(audit))
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    #[test]
    fn the_audit_is_written_whatever_the_log_level_is_and_only_there() {
        for level in ["off", "error", "info", "trace", "audit=off", "audit=trace"] {
            let (log, audit) = (Paper::default(), Paper::default());
            let args = LogArgs {
                log_level: level.to_owned(),
                log_format: LogFormat::Plain,
            };
            let (to_log, to_audit) = (log.clone(), audit.clone());
            let both = subscriber(
                &args,
                false,
                move || to_log.clone(),
                move || to_audit.clone(),
            )
            .unwrap();
            tracing::subscriber::with_default(both, || {
                tracing::info!(target: "audit", outcome = "issued", serial = "4f");
                tracing::error!("other");
            });
            let line: serde_json::Value = serde_json::from_str(&audit.text()).unwrap();
            assert_eq!(line["outcome"], "issued", "{level}");
            assert_eq!(line["serial"], "4f", "{level}");
            assert!(!log.text().contains("issued"), "{level}: {}", log.text());
        }
    }
}
