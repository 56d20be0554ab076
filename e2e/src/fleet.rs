//! All clusters of a test, and the way in.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::components::Components;
use crate::images::{self, Image, Images};
use crate::nodes::{self, Nodes};
use crate::provider::Provider as _;
use crate::{Cluster, paths, progress};

/// The clusters of a usual fleet: where kof's control plane, storage and collectors are.
pub const USUAL: [&str; 3] = ["management", "region1", "child1"];

/// Running clusters.
#[derive(Clone, Debug)]
pub struct Fleet {
    provider: Nodes,
    components: Components,
    images: Images,
    clusters: Vec<Cluster>,
}

/// Runs an asynchronous function on threads that are inside the fleet's network. Clients connect
/// to clusters, and child processes too. The machine's own network is out of reach in there.
pub fn inside<T, Fut>(work: impl FnOnce() -> Fut + Send) -> Result<T>
where
    T: Send,
    Fut: Future<Output = Result<T>>,
{
    nodes::network::ensure()?;
    // a second installation of the same provider is what the error would be about
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(|| {
            if let Err(error) = nodes::network::enter() {
                progress::step(format!("a thread stays outside: {error:#}"));
            }
        })
        .build()?;
    // the calling thread polls `work` itself and must not stay in there
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("fleet".to_owned());
        let thread = inside.spawn_scoped(scope, || {
            nodes::network::enter()?;
            runtime.block_on(async move { work().await })
        })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs an asynchronous function in the machine's own network.
pub fn outside<T, Fut: Future<Output = Result<T>>>(work: impl FnOnce() -> Fut) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async move { work().await })
}

/// Runs a test with these clusters, starting those that do not run. They are left running.
///
/// One test at a time has the fleet, on the whole machine. When the test fails, everything that
/// explains it is collected into a folder below `target/e2e/` whose name is printed.
pub fn run<T, Fut>(
    name: &str,
    clusters: &[&str],
    test: impl FnOnce(Fleet) -> Fut + Send,
) -> Result<T>
where
    T: Send,
    Fut: Future<Output = Result<T>>,
{
    let _lock = paths::lock(
        Path::new("/run/lock/kof-istio-tests.lock"),
        "another test has the fleet",
    )?;
    let prepared = Prepared::ensure()?;
    inside(move || async move {
        let fleet = prepared.up(clusters).await?;
        let all = fleet.clone();
        let result = test(fleet).await;
        if result.is_err() {
            let folder = paths::project().join("target/e2e").join(name);
            match all.collect(&folder).await {
                Ok(()) => progress::step(format!(
                    "{name} failed; everything about it is in {}",
                    folder.display()
                )),
                Err(error) => {
                    progress::step(format!("{name} failed, and so did collecting: {error:#}"));
                }
            }
        }
        result
    })
}

/// Programs and images, made before anything starts: making them needs the machine's own network.
#[derive(Clone, Debug)]
pub struct Prepared {
    components: Components,
    images: Images,
}

impl Prepared {
    /// Makes what is missing.
    pub fn ensure() -> Result<Self> {
        let components = Components::ensure()?;
        let images = Images::ensure(&components)?;
        Ok(Self { components, images })
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The programs.
    pub fn components(&self) -> &Components {
        &self.components
    }

    /// The provider of clusters.
    pub fn provider(&self) -> Result<Nodes> {
        Nodes::new(self.components.clone(), self.images.clone())
    }

    /// Those of these clusters that run (of all when none is named); starts none.
    pub async fn running(self, names: &[String]) -> Result<Fleet> {
        let provider = self.provider()?;
        let mut clusters = Vec::new();
        for state in provider.states()?.into_iter().filter(|s| s.running) {
            if names.is_empty() || names.contains(&state.handle.name) {
                let (components, images) = (self.components.clone(), self.images.clone());
                clusters
                    .push(Cluster::new(state.handle, provider.clone(), components, images).await?);
            }
        }
        if let Some(missing) = names
            .iter()
            .find(|n| !clusters.iter().any(|c| c.name() == n.as_str()))
        {
            anyhow::bail!("cluster {missing} does not run");
        }
        Ok(Fleet {
            provider,
            components: self.components,
            images: self.images,
            clusters,
        })
    }

    /// Starts these clusters, or finds them running.
    pub async fn up(self, names: &[&str]) -> Result<Fleet> {
        let provider = self.provider()?;
        let Self { components, images } = self;
        let mut fleet = Fleet {
            provider,
            components,
            images,
            clusters: Vec::new(),
        };
        fleet.add(names).await?;
        Ok(fleet)
    }
}

impl Fleet {
    /// Starts further clusters.
    pub async fn add(&mut self, names: &[&str]) -> Result<()> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        for handle in self.provider.up(&names).await? {
            let (components, images) = (self.components.clone(), self.images.clone());
            self.clusters.retain(|c| c.handle != handle);
            self.clusters
                .push(Cluster::new(handle, self.provider.clone(), components, images).await?);
        }
        Ok(())
    }

    /// Stops clusters and deletes everything of them.
    pub async fn remove(&mut self, names: &[&str]) -> Result<()> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        self.clusters.retain(|c| !names.contains(&c.handle.name));
        if names.is_empty() {
            Ok(())
        } else {
            self.provider.down(&names).await
        }
    }

    /// All clusters.
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Result<&Cluster> {
        self.clusters
            .iter()
            .find(|c| c.name() == name)
            .with_context(|| format!("the fleet has no cluster {name}"))
    }

    /// Programs of the fleet.
    pub fn components(&self) -> &Components {
        &self.components
    }

    /// Images of the fleet.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// Makes the product's image from a built binary, puts it into every cluster and returns its
    /// full name.
    pub async fn load_product(&self, binary: &Path) -> Result<String> {
        let image = images::product(binary)?;
        self.load(std::slice::from_ref(&image)).await?;
        Ok(image.name)
    }

    /// Puts images into every cluster.
    pub async fn load(&self, images: &[Image]) -> Result<()> {
        futures::future::try_join_all(self.clusters.iter().map(|c| c.load_images(images))).await?;
        Ok(())
    }

    /// Collects everything that explains the state of every cluster into a folder.
    pub async fn collect(&self, folder: &Path) -> Result<()> {
        for cluster in &self.clusters {
            crate::collect::cluster(cluster, &folder.join(cluster.name())).await?;
        }
        Ok(())
    }
}
