//! The product on a fleet of real clusters: what a user does, what breaks, and what must be left afterwards.
//!
//! One test at a time has the fleet (`--test-threads=1`). Each begins with [`linked`], which costs little when the
//! link of `management`, `region1` and `child1` is there already, and ends with a link that works.

mod certificates;
mod chart;
mod dead;
mod enrolment;
mod faults;
mod leftovers;
mod link;
mod outages;
mod plane;
mod remote;
mod removal;
mod renewal;
mod rest;
mod token;
mod workloads;

use std::time::Duration;

use anyhow::Result;
use mesh_e2e::fleet::USUAL;
use mesh_e2e::{Cluster, Fleet, scenario};

/// How long anything may take that ends with pods starting.
pub(crate) const PODS: Duration = Duration::from_secs(90);
/// How long anything may take that needs no pod.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Runs a test with the usual link.
pub(crate) fn with_link<Fut>(name: &str, test: impl FnOnce(Link) -> Fut + Send) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    mesh_e2e::run(name, &USUAL, |fleet| async move {
        test(linked(fleet).await?).await
    })
}

/// The usual link.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) fleet: Fleet,
    pub(crate) management: Cluster,
    pub(crate) region: Cluster,
    pub(crate) child: Cluster,
}

impl Link {
    /// Waits until every member says that it is ready.
    pub(crate) async fn whole(&self) -> Result<()> {
        for name in ["region1", "child1", "management"] {
            scenario::ready(&self.management, name, PODS).await?;
        }
        Ok(())
    }

    /// Takes the child out of its mesh, with everything of ours, and puts it into this one, or the usual one.
    pub(crate) async fn move_child(&self, mesh: Option<&str>) -> Result<()> {
        scenario::undeploy(&self.management, "child1").await?;
        scenario::gone(&self.management, "child1", PODS).await?;
        let mut labels = scenario::CHILD.to_vec();
        labels.extend(mesh.map(|mesh| ("k0rdent.mirantis.com/istio-mesh", mesh)));
        scenario::deploy(&self.management, "child1", &labels).await
    }
}

/// Installs what is missing, enrols who is missing, and waits until it works.
pub(crate) async fn linked(fleet: Fleet) -> Result<Link> {
    let product = scenario::product()?;
    let [management, region, child] = USUAL.map(|name| fleet.cluster(name).cloned());
    let link = Link {
        management: management?,
        region: region?,
        child: child?,
        fleet,
    };
    scenario::install_k0rdent(&link.management).await?;
    scenario::install_product(&link.fleet, &product, &[]).await?;
    // what a test left behind that was stopped
    workloads::set(&link.management, None).await?;
    renewal::set_life(&link.management, renewal::USUAL).await?;
    scenario::install_storage(&link.region).await?;
    scenario::install_collector(&link.child, "region1").await?;
    scenario::install_client(&link.management).await?;
    for (cluster, labels) in [
        (&link.region, scenario::REGION),
        (&link.child, scenario::CHILD),
    ] {
        scenario::adopt(&link.management, cluster).await?;
        scenario::deploy(&link.management, cluster.name(), labels).await?;
    }
    link.whole().await?;
    Ok(link)
}
