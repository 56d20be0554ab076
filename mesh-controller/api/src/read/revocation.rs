//! What the status of a `Mesh` remembers of revocations.

use jiff::{SignedDuration, Timestamp};
use mesh_core::{
    facts::plain_serial,
    revocation::{Found, Revocation},
};

use crate::mesh::{MeshStatus, RevocationStatus};

/// What was revoked, as recorded. Whom it waits for is not read: that is seen anew.
#[must_use]
pub fn revocations(status: &MeshStatus) -> Vec<Revocation> {
    status.revocations.iter().map(revocation).collect()
}

fn revocation(known: &RevocationStatus) -> Revocation {
    let found = known
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.parse().ok())
        .map(|cluster| Found {
            cluster,
            generation: known.generation.unwrap_or_default(),
            key: known.key.clone(),
        });
    Revocation {
        serial: plain_serial(&known.serial),
        found,
        since: known.since.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        // One that cannot be read is kept for ever rather than forgotten.
        until: known.until.parse().unwrap_or(Timestamp::MAX),
        wished: known.note.is_none(),
        done_after: known
            .done_after_seconds
            .map(|seconds| SignedDuration::from_secs(i64::from(seconds))),
        waiting_for: Vec::new(),
    }
}
