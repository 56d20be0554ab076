//! Refusals, and how they are said to who asked.

use std::time::Duration;

use mesh_core::issuance::{Kind, Refusal};
use tonic::{Code, Status};

use crate::jitter;

/// In answers that may be asked for again: how long to wait before, in milliseconds. gRPC libraries that retry by themselves
/// honour it; Istio's agents do not look at it and wait 0.1 to 1.6 s as they always do.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// About how long who is sent away is to wait.
const COME_BACK: Duration = Duration::from_secs(2);

/// Nothing is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// One word, for counts and for the audit.
    pub(super) reason: &'static str,
    /// How it is said.
    pub(super) code: Code,
    /// For who asked.
    pub(super) message: String,
    /// Further, for the audit alone.
    pub(super) detail: String,
}

impl Denied {
    pub(super) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            code,
            message: message.into(),
            detail: String::new(),
        }
    }

    /// With more for the audit.
    pub(super) fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Too much is asked at once.
    pub(super) fn busy(reason: &'static str, message: &str) -> Self {
        Self::new(Code::ResourceExhausted, reason, message)
    }

    /// Not now.
    pub(super) fn later(reason: &'static str, message: &str) -> Self {
        Self::new(Code::Unavailable, reason, message)
    }

    /// The answer.
    pub(super) fn status(&self) -> Status {
        let mut status = Status::new(self.code, self.message.clone());
        if matches!(self.code, Code::ResourceExhausted | Code::Unavailable) {
            let wait = jitter::around(COME_BACK).as_millis().to_string();
            if let Ok(wait) = wait.parse() {
                status.metadata_mut().insert(PUSHBACK, wait);
            }
        }
        status
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind() {
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::Forbidden => Code::PermissionDenied,
            Kind::Invalid => Code::InvalidArgument,
            Kind::Later => Code::Unavailable,
        };
        Self::new(code, refusal.reason(), refusal.to_string())
    }
}
