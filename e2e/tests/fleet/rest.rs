//! A mesh at rest writes nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::audit::Write;

use crate::{Link, with_link};

/// Fails if the product writes anything but leases while nothing happens.
pub(crate) async fn nothing_is_written(link: &Link) -> Result<()> {
    // What starting pods still had to say is said within this.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let clusters = [&link.management, &link.region, &link.child];
    let mut marks = Vec::new();
    for cluster in clusters {
        marks.push(cluster.audit_mark()?);
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    let ours = |write: &Write| {
        let who = [
            "mesh-controller",
            "mesh-agent",
            "mesh-probe",
            "kubernetes-admin",
        ];
        who.iter().any(|who| write.user.username.contains(who)) && !write.is_lease()
    };
    for (cluster, mark) in clusters.into_iter().zip(marks) {
        let writes = cluster.audit_writes(mark, ours)?;
        ensure!(
            writes.is_empty(),
            "{}: {} writes, first {:?}",
            cluster.name(),
            writes.len(),
            writes.first()
        );
    }
    Ok(())
}

#[test]
fn a_mesh_at_rest_writes_nothing_but_leases() -> Result<()> {
    with_link(
        "rest",
        |link| async move { nothing_is_written(&link).await },
    )
}
