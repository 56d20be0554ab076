//! A mesh at rest writes nothing.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::with_link;

#[test]
fn a_mesh_at_rest_writes_nothing_but_leases() -> Result<()> {
    with_link("rest", |link| async move {
        // What starting pods still had to say is said within this.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let clusters = [&link.management, &link.region, &link.child];
        let mut marks = Vec::new();
        for cluster in clusters {
            marks.push(cluster.audit_mark()?);
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        for (cluster, mark) in clusters.into_iter().zip(marks) {
            let ours = |w: &mesh_e2e::audit::Write| {
                let by = ["mesh-controller", "mesh-agent", "kubernetes-admin"]
                    .iter()
                    .any(|who| w.user.username.contains(who));
                by && !w.is_lease()
            };
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
    })
}
