//! The audit: one line for each certificate that is given, and for each refusal. Lines go to target `audit`, which is
//! always written. They never hold a token or a key.
//!
//! Lines of what was given are never left out. Refusals cost whoever causes them nothing, so only so many lines a second
//! are written of each reason; the next line says how many were left out.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_core::issuance::Caller;
use parking_lot::Mutex;

use super::denied::Denied;

/// Lines of refusals for one reason that are written within a window.
const LINES: u32 = 10;
/// The window.
const WINDOW: Duration = Duration::from_secs(1);

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// `issued` or `refused`.
    pub(super) outcome: &'static str,
    /// One word; empty for what was given.
    pub(super) reason: &'static str,
    /// For a person.
    pub(super) message: String,
    /// Who asked; none if that is not known.
    pub(super) caller: Option<Arc<Caller>>,
    /// From where.
    pub(super) client: String,
    /// The identity that was given, or asked for in place of the own.
    pub(super) identity: String,
    /// Whether it was asked for by a node's account.
    pub(super) impersonated: bool,
    /// What was given.
    pub(super) given: Option<Given>,
    /// Lines of the same reason that were left out before this one.
    pub(super) left_out: u64,
}

/// A certificate that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) serial: String,
    pub(super) fingerprint: String,
    pub(super) signer: u32,
    pub(super) bundle: u32,
    pub(super) not_after: jiff::Timestamp,
}

#[derive(Clone, Copy)]
struct Window {
    begun: Instant,
    written: u32,
    left_out: u64,
}

type Write = dyn Fn(&Line) + Send + Sync;

/// Where lines go.
pub(super) struct Audit {
    write: Box<Write>,
    windows: Mutex<BTreeMap<&'static str, Window>>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    pub(super) fn new() -> Self {
        Self::to(Box::new(log))
    }

    pub(super) fn to(write: Box<Write>) -> Self {
        Self {
            write,
            windows: Mutex::default(),
        }
    }

    pub(super) fn given(&self, line: &Line) {
        (self.write)(line);
    }

    pub(super) fn refused(&self, denied: &Denied, mut line: Line, now: Instant) {
        let left_out = {
            let mut windows = self.windows.lock();
            let window = windows.entry(denied.reason).or_insert(Window {
                begun: now,
                written: 0,
                left_out: 0,
            });
            if now.duration_since(window.begun) >= WINDOW {
                (window.begun, window.written) = (now, 0);
            }
            if window.written >= LINES {
                window.left_out += 1;
                return;
            }
            window.written += 1;
            std::mem::take(&mut window.left_out)
        };
        line.outcome = "refused";
        line.reason = denied.reason;
        line.message = if denied.detail.is_empty() {
            denied.message.clone()
        } else {
            format!("{}: {}", denied.message, denied.detail)
        };
        line.left_out = left_out;
        (self.write)(&line);
    }

    /// Says what was left out of windows that are over.
    pub(super) fn settle(&self, now: Instant) {
        let over: Vec<(&'static str, u64)> = {
            let mut windows = self.windows.lock();
            windows
                .iter_mut()
                .filter(|(_, w)| w.left_out > 0 && now.duration_since(w.begun) >= WINDOW)
                .map(|(reason, w)| (*reason, std::mem::take(&mut w.left_out)))
                .collect()
        };
        for (reason, left_out) in over {
            (self.write)(&Line {
                outcome: "refused",
                reason,
                message: "lines were left out".to_owned(),
                left_out,
                ..Line::default()
            });
        }
    }
}

fn log(line: &Line) {
    let caller = line.caller.as_deref();
    let known = |part: fn(&Caller) -> Option<&str>| caller.and_then(part).unwrap_or_default();
    let by = match caller {
        Some(caller) if line.impersonated => format!("{}/{}", caller.namespace, caller.account),
        Some(_) | None => String::new(),
    };
    let given = line.given.as_ref();
    tracing::info!(
        target: "audit",
        outcome = line.outcome,
        reason = line.reason,
        detail = line.message,
        namespace = known(|c| Some(&c.namespace)),
        service_account = known(|c| Some(&c.account)),
        pod = known(|c| c.pod.as_deref()),
        pod_uid = known(|c| c.pod_uid.as_deref()),
        node = known(|c| c.node.as_deref()),
        client = line.client,
        spiffe_id = line.identity,
        impersonated_by = by,
        serial = given.map(|g| g.serial.as_str()),
        sha256 = given.map(|g| g.fingerprint.as_str()),
        signer = given.map(|g| g.signer),
        bundle = given.map(|g| g.bundle),
        not_after = given.map(|g| g.not_after.to_string()),
        left_out = line.left_out,
    );
}
