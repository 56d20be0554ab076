//! One subtree per node in every cgroup v1 hierarchy; the node sees it as its root. Since a process
//! cannot leave it, it is also the list of everything that belongs to the node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::process;

const ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "kof-fleet";
const HIERARCHIES: [&str; 9] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd",
];

/// The subtree of one node.
#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    name: String,
}

/// Says in words what is missing on a machine without cgroup v1.
pub(super) fn supported() -> Result<()> {
    for hierarchy in HIERARCHIES {
        if !Path::new(ROOT).join(hierarchy).join("tasks").exists() {
            bail!(
                "this machine has no cgroup v1 hierarchy {ROOT}/{hierarchy}: the provider `nodes` needs v1 \
                 (v2 would need one cgroup2 subtree per node with its controllers enabled, and has not been tried)"
            );
        }
    }
    Ok(())
}

impl Cgroup {
    pub(super) fn new(index: u8) -> Self {
        Self {
            name: format!("{PARENT}/c{index}"),
        }
    }

    /// Makes it in every hierarchy.
    pub(super) fn make(&self) -> Result<()> {
        for hierarchy in HIERARCHIES {
            let base = Path::new(ROOT).join(hierarchy);
            for dir in [base.join(PARENT), base.join(&self.name)] {
                fs::create_dir_all(&dir)
                    .with_context(|| format!("failed to make {}", dir.display()))?;
                if hierarchy == "cpuset" {
                    // in v1 an empty cpuset takes no process
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let value = fs::read_to_string(base.join(file))?;
                        fs::write(dir.join(file), value.trim())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The files a process writes its id to in order to enter.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.dirs()
            .into_iter()
            .map(|d| d.join("cgroup.procs"))
            .collect()
    }

    /// Whether any process is in it.
    pub(super) fn inhabited(&self) -> bool {
        self.dirs().iter().any(|d| !members(d).is_empty())
    }

    /// Resident memory of everything in it, without page cache.
    pub(super) fn memory(&self) -> Option<u64> {
        let stat = fs::read_to_string(
            Path::new(ROOT)
                .join("memory")
                .join(&self.name)
                .join("memory.stat"),
        )
        .ok()?;
        stat.lines()
            .find_map(|l| l.strip_prefix("total_rss ")?.trim().parse().ok())
    }

    /// Ends every process in it and removes it. It need not exist.
    pub(super) async fn end(&self) -> Result<()> {
        for _ in 0..400 {
            let mut left = false;
            for dir in self.dirs() {
                for id in members(&dir) {
                    process::kill(id);
                    left = true;
                }
            }
            if !left && self.remove() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("cgroup {} does not empty", self.name)
    }

    /// Removes the folder that held all nodes' subtrees, if it is empty.
    pub(super) fn remove_parent() {
        for hierarchy in HIERARCHIES {
            drop(fs::remove_dir(Path::new(ROOT).join(hierarchy).join(PARENT)));
        }
    }

    fn remove(&self) -> bool {
        self.dirs().iter().all(|d| remove_leaf_first(d))
    }

    fn dirs(&self) -> Vec<PathBuf> {
        HIERARCHIES
            .iter()
            .map(|h| Path::new(ROOT).join(h).join(&self.name))
            .collect()
    }
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn members(dir: &Path) -> Vec<i32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<i32> = own.lines().filter_map(|l| l.parse().ok()).collect();
    for sub in subdirs(dir) {
        all.extend(members(&sub));
    }
    all
}

fn remove_leaf_first(dir: &Path) -> bool {
    let below = subdirs(dir).iter().all(|d| remove_leaf_first(d));
    below && (fs::remove_dir(dir).is_ok() || !dir.exists())
}
