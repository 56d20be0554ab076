//! Counting writes in a cluster by its API server's audit log.

use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::Cluster;

/// A place in the log; what comes after it is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// One write that the API server answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// What the client calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// The object; absent for some requests.
    pub object_ref: Option<Object>,
    /// How it was answered.
    pub response_status: Option<Status>,
    /// When it was received, RFC 3339.
    pub request_received_timestamp: String,
}

/// Who made a request.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// Such as `system:serviceaccount:istio-system:mesh-controller`.
    #[serde(default)]
    pub username: String,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Object {
    /// Plural, such as `services`.
    pub resource: String,
    /// Such as `status`.
    pub subresource: String,
    /// Empty for the core group.
    pub api_group: String,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Empty when the server was to choose it.
    pub name: String,
}

/// The answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// HTTP status.
    pub code: Option<u16>,
}

impl Write {
    /// Whether it is the heartbeat of a leader election or of a node.
    pub fn is_lease(&self) -> bool {
        self.object_ref
            .as_ref()
            .is_some_and(|o| o.resource == "leases")
    }

    /// Whether the server accepted it.
    pub fn succeeded(&self) -> bool {
        self.response_status
            .as_ref()
            .and_then(|s| s.code)
            .is_some_and(|c| c < 300)
    }
}

impl Cluster {
    /// Where the audit log ends now.
    pub fn audit_mark(&self) -> Result<Mark> {
        let about =
            std::fs::metadata(&self.handle.audit_log).context("failed to find the audit log")?;
        Ok(Mark(about.len()))
    }

    /// Every write since then that `filter` wants, refused ones included.
    pub fn audit_writes(&self, since: Mark, filter: impl Fn(&Write) -> bool) -> Result<Vec<Write>> {
        let mut file =
            std::fs::File::open(&self.handle.audit_log).context("failed to open the audit log")?;
        file.seek(SeekFrom::Start(since.0))?;
        let mut writes = Vec::new();
        for line in BufReader::new(file).lines() {
            // the last line may be half written
            if let Ok(write) = serde_json::from_str::<Write>(&line?)
                && filter(&write)
            {
                writes.push(write);
            }
        }
        Ok(writes)
    }
}
