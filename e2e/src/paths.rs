//! Where things are: sources in the tree, everything else outside it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder `e2e/` of the source tree this program was built from.
pub fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The root of the source tree.
pub fn project() -> &'static Path {
    sources().parent().unwrap_or_else(sources)
}

/// Programs and images, safe to delete: `$XDG_CACHE_HOME/kof-istio`, else `~/.cache/kof-istio`.
pub fn cache() -> Result<PathBuf> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// State of running clusters: `$XDG_STATE_HOME/kof-istio/fleet`, else `~/.local/state/…`.
/// It must be on a file system that overlays accept as a lower layer, so not on a tmpfs.
pub fn state() -> Result<PathBuf> {
    Ok(xdg("XDG_STATE_HOME", ".local/state")?.join("fleet"))
}

/// The network namespace that the clusters are in, pinned as a mount on this file.
pub fn network() -> Result<PathBuf> {
    Ok(state()?.join("network"))
}

fn xdg(variable: &str, default: &str) -> Result<PathBuf> {
    let base = match std::env::var_os(variable).filter(|v| Path::new(v).is_absolute()) {
        Some(set) => PathBuf::from(set),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(default),
    };
    Ok(base.join("kof-istio"))
}

/// A lock that ends with the process, however that ends.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes an exclusive lock on a file, which is made when missing. `waiting` is said once when
/// someone else holds it.
pub fn lock(file: &Path, waiting: &str) -> Result<Lock> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("failed to make {}", parent.display()))?;
    }
    let opened = File::options()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("failed to open {}", file.display()))?;
    if opened.try_lock().is_err() {
        crate::progress::step(format!("{waiting} (lock {})", file.display()));
        opened
            .lock()
            .with_context(|| format!("failed to lock {}", file.display()))?;
    }
    Ok(Lock(opened))
}
