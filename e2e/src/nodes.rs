//! Provider `nodes`: each cluster is one process tree in namespaces of its own on this machine.
//!
//! The first process of the tree is `node-init.sh`; the kernel ends everything else with it. The
//! clusters share a network without uplink, pinned as a mount:
//!
//! ```text
//! outer network   bridge 172.30.0.1/16   (tests are here, as clients outside all clusters)
//!   cluster N     node 172.30.0.(10+N)   load balancers 172.30.N.100 to .249
//!     pods 10.(200+N).0.0/24             services 10.(100+N).0.0/16
//! ```
//!
//! Pods of one cluster reach node ports and load balancers of another, never its pods or services.
//!
//! State is a folder per cluster. What really runs is read from the cluster's cgroup, so a stale
//! folder, a killed test runner or a restarted machine confuse nothing.

mod cgroup;
pub(crate) mod network;
mod process;
mod start;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::components::Components;
use crate::images::{Image, Images};
use crate::provider::{Handle, Hurt, Provider, State};
use crate::{exec, paths, progress};
use cgroup::Cgroup;
use process::Process;

/// More would exceed `fs.inotify.max_user_instances` (128 on most machines, about 20 a cluster).
const MOST: u8 = 5;

/// Clusters with a number of their own; others get the next free one.
const KNOWN: [(&str, u8); 3] = [("management", 1), ("region1", 2), ("child1", 3)];

/// The provider.
#[derive(Clone, Debug)]
pub struct Nodes {
    components: Components,
    images: Images,
    state: PathBuf,
}

/// Stops and deletes clusters (all when none is named), without needing any component.
pub async fn down(names: &[String]) -> Result<()> {
    let _lock = lock()?;
    let state = paths::state()?;
    let all = names.is_empty();
    let mut stops = Vec::new();
    for handle in handles(&state)? {
        if all || names.contains(&handle.name) {
            stops.push(stop(&state, handle));
        }
    }
    futures::future::try_join_all(stops).await?;
    if all {
        // a cluster whose folder was deleted by hand still has its cgroup
        for index in 1..=MOST {
            Cgroup::new(index).end().await?;
        }
        Cgroup::remove_parent();
        network::remove()?;
    }
    Ok(())
}

/// Every cluster that has a folder.
pub fn states() -> Result<Vec<State>> {
    let state = paths::state()?;
    let all = handles(&state)?.into_iter().map(|handle| {
        let dir = state.join(&handle.name);
        let running = Process::load(&dir.join("init")).is_some();
        State {
            running,
            memory: Cgroup::new(handle.index).memory(),
            hurt: hurts(&dir),
            handle,
        }
    });
    Ok(all.collect())
}

/// A command inside a node: its mounts and its network, its programs on `PATH`.
pub fn inside(handle: &Handle) -> Result<std::process::Command> {
    let dir = paths::state()?.join(&handle.name);
    let init = Process::load(&dir.join("init"))
        .with_context(|| format!("{} does not run", handle.name))?;
    let path = std::fs::read_to_string(dir.join("path")).unwrap_or_default();
    let mut command = exec::command(
        "nsenter",
        [
            "-t",
            &init.id().to_string(),
            "-m",
            "-n",
            "-p",
            "-i",
            "-u",
            "--",
        ],
    );
    command.env("PATH", path.trim());
    Ok(command)
}

impl Nodes {
    /// The provider with everything it runs.
    pub fn new(components: Components, images: Images) -> Result<Self> {
        Ok(Self {
            components,
            images,
            state: paths::state()?,
        })
    }

    fn dir(&self, cluster: &Handle) -> PathBuf {
        self.state.join(&cluster.name)
    }
}

impl Provider for Nodes {
    async fn up(&self, names: &[String]) -> Result<Vec<Handle>> {
        let _lock = lock()?;
        cgroup::supported()?;
        network::ensure()?;
        let mut wanted: Vec<Handle> = Vec::new();
        for name in names {
            let taken: Vec<Handle> = handles(&self.state)?
                .into_iter()
                .chain(wanted.iter().cloned())
                .collect();
            wanted.push(handle(&self.state, name, &taken)?);
        }
        for one in &wanted {
            std::fs::create_dir_all(self.dir(one))?;
            std::fs::write(self.dir(one).join("index"), one.index.to_string())?;
        }
        futures::future::try_join_all(wanted.iter().map(|one| start::up(self, one))).await?;
        Ok(wanted)
    }

    async fn down(&self, names: &[String]) -> Result<()> {
        down(names).await
    }

    fn states(&self) -> Result<Vec<State>> {
        states()
    }

    async fn load(&self, cluster: &Handle, images: &[Image]) -> Result<()> {
        let known = self.dir(cluster).join("images");
        std::fs::create_dir_all(&known)?;
        for image in images {
            // the name of the tar has the hash, the name of the image need not
            let mark = mark(&known, &image.name);
            let have = std::fs::read_to_string(&mark).unwrap_or_default();
            if have == image.tar.display().to_string() {
                continue;
            }
            let mut command = inside(cluster)?;
            command
                .args(["ctr", "-n", "k8s.io", "images", "import"])
                .arg(&image.tar);
            exec::run_async(command)
                .await
                .with_context(|| format!("failed to load {} into {}", image.name, cluster.name))?;
            std::fs::write(&mark, image.tar.display().to_string())?;
        }
        Ok(())
    }

    async fn rename(&self, cluster: &Handle, image: &Image, name: &str) -> Result<()> {
        let mut command = inside(cluster)?;
        command.args(["ctr", "-n", "k8s.io", "images", "tag", "--force"]);
        command.args([image.name.as_str(), name]);
        exec::run_async(command).await?;
        let known = self.dir(cluster).join("images");
        std::fs::write(mark(&known, name), image.tar.display().to_string())?;
        Ok(())
    }

    async fn hurt(&self, cluster: &Handle, what: &Hurt) -> Result<()> {
        let dir = self.dir(cluster);
        match what {
            Hurt::NodeKilled => {
                if let Some(init) = Process::load(&dir.join("init")) {
                    init.kill_and_wait().await?;
                }
                Cgroup::new(cluster.index).end().await
            }
            Hurt::Partitioned => network::set_link(cluster.index, false),
            Hurt::Stopped(component) => {
                check_component(&dir, component)?;
                std::fs::write(dir.join("stopped").join(component), "")?;
                signal(cluster, &dir, component, "KILL")
            }
            Hurt::Frozen(component) => {
                check_component(&dir, component)?;
                std::fs::write(dir.join("frozen").join(component), "")?;
                signal(cluster, &dir, component, "STOP")
            }
        }
    }

    async fn mend(&self, cluster: &Handle, what: &Hurt) -> Result<()> {
        let dir = self.dir(cluster);
        match what {
            Hurt::NodeKilled => start::up(self, cluster).await,
            Hurt::Partitioned => network::set_link(cluster.index, true),
            Hurt::Stopped(component) => forget(&dir.join("stopped").join(component)),
            Hurt::Frozen(component) => {
                forget(&dir.join("frozen").join(component))?;
                signal(cluster, &dir, component, "CONT")
            }
        }
    }
}

/// One change at a time on this machine, whoever makes it.
fn lock() -> Result<paths::Lock> {
    paths::lock(
        Path::new("/run/lock/kof-istio-fleet.lock"),
        "another run changes the fleet",
    )
}

fn handles(state: &Path) -> Result<Vec<Handle>> {
    let Ok(entries) = std::fs::read_dir(state) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let index = std::fs::read_to_string(entry.path().join("index"))
            .ok()
            .and_then(|t| t.trim().parse().ok());
        if let (Some(index), Ok(name)) = (index, entry.file_name().into_string()) {
            found.push(describe(state, &name, index));
        }
    }
    found.sort_by_key(|h| h.index);
    Ok(found)
}

fn handle(state: &Path, name: &str, taken: &[Handle]) -> Result<Handle> {
    if let Some(known) = taken.iter().find(|h| h.name == name) {
        return Ok(known.clone());
    }
    let valid = !name.is_empty()
        && name.len() <= 40
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-');
    ensure!(
        valid && name != "network",
        "{name:?} is no name for a cluster"
    );
    let free = |index: u8| taken.iter().all(|h| h.index != index);
    let reserved = |index: u8| KNOWN.iter().any(|(_, i)| *i == index);
    let own = KNOWN.iter().find(|(n, _)| *n == name).map(|(_, i)| *i);
    let Some(index) = own
        .or_else(|| (1..=MOST).find(|i| free(*i) && !reserved(*i)))
        .filter(|i| free(*i))
    else {
        bail!("no room for cluster {name:?}: at most {MOST} on one machine");
    };
    Ok(describe(state, name, index))
}

fn describe(state: &Path, name: &str, index: u8) -> Handle {
    let dir = state.join(name);
    Handle {
        name: name.to_owned(),
        index,
        kubeconfig: dir.join("admin.conf"),
        audit_log: dir.join("log/audit.log"),
        logs: dir.join("log"),
    }
}

async fn stop(state: &Path, handle: Handle) -> Result<()> {
    let dir = state.join(&handle.name);
    if let Some(init) = Process::load(&dir.join("init")) {
        init.kill_and_wait().await?;
    }
    Cgroup::new(handle.index).end().await?;
    network::remove_link(handle.index);
    std::fs::remove_dir_all(&dir).with_context(|| format!("failed to delete {}", dir.display()))?;
    progress::step(format!("{}: gone", handle.name));
    Ok(())
}

fn hurts(dir: &Path) -> Vec<String> {
    let of = |kind: &str| {
        let entries = std::fs::read_dir(dir.join(kind)).into_iter().flatten();
        let names = entries
            .filter_map(|e| Some(format!("{} {kind}", e.ok()?.file_name().to_string_lossy())));
        names.collect::<Vec<_>>()
    };
    [of("stopped"), of("frozen")].concat()
}

fn check_component(dir: &Path, component: &str) -> Result<()> {
    let known = dir.join("run").join(format!("{component}.pid"));
    ensure!(
        !component.contains('/') && known.exists(),
        "no component {component:?} in this cluster"
    );
    Ok(())
}

/// Sends a signal to a component, by the process id it has inside the node.
fn signal(cluster: &Handle, dir: &Path, component: &str, name: &str) -> Result<()> {
    let pid = std::fs::read_to_string(dir.join("run").join(format!("{component}.pid")))?;
    let mut command = inside(cluster)?;
    command.args(["kill", &format!("-{name}"), pid.trim()]);
    match exec::run(&mut command) {
        Err(_) if name == "KILL" => Ok(()), // it had ended already
        other => other.map(drop),
    }
}

fn forget(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Where is written which tar an image of this name came from.
fn mark(known: &Path, name: &str) -> PathBuf {
    known.join(name.replace(['/', ':'], "_"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Handle, handle};

    fn of(name: &str, taken: &[Handle]) -> anyhow::Result<Handle> {
        handle(Path::new("/state"), name, taken)
    }

    #[test]
    fn known_clusters_have_numbers_of_their_own() {
        assert_eq!(of("child1", &[]).unwrap().index, 3);
        let other = of("child2", &[]).unwrap();
        assert_eq!(other.index, 4);
        assert_eq!(of("child3", std::slice::from_ref(&other)).unwrap().index, 5);
        assert_eq!(of("child2", std::slice::from_ref(&other)).unwrap(), other);
    }

    #[test]
    fn there_is_room_for_five() {
        let mut taken = Vec::new();
        for name in ["a", "b"] {
            taken.push(of(name, &taken).unwrap());
        }
        assert!(
            of("c", &taken)
                .unwrap_err()
                .to_string()
                .contains("at most 5")
        );
        assert_eq!(of("region1", &taken).unwrap().index, 2);
    }

    #[test]
    fn names_that_are_none() {
        for name in ["", "network", "../x", "A", "1a", "a-"] {
            assert!(of(name, &[]).is_err(), "{name:?}");
        }
    }
}
