//! The network that the clusters share: a namespace with a bridge and nothing that leads out.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{exec, paths};

/// Magic number of the file system that namespaces are on.
const NSFS: u64 = 0x6e73_6673;

/// Makes the network unless it is there.
pub(crate) fn ensure() -> Result<()> {
    let file = paths::network()?;
    if pinned(&file)? {
        return Ok(());
    }
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    File::create(&file).with_context(|| format!("failed to create {}", file.display()))?;
    let setup = "ip link set lo up && ip link add br0 type bridge && \
                 ip addr add 172.30.0.1/16 dev br0 && ip link set br0 up";
    let mut command = exec::command("unshare", [format!("--net={}", file.display())]);
    exec::run(command.args(["sh", "-c", setup]))
        .context("failed to make the fleet's network (root is needed)")?;
    Ok(())
}

/// Removes the network.
pub(super) fn remove() -> Result<()> {
    let file = paths::network()?;
    if pinned(&file)? {
        exec::run(&mut exec::command("umount", [&file]))?;
    }
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    Ok(())
}

/// Moves the calling thread, and what it starts from now on, into the network.
pub(crate) fn enter() -> Result<()> {
    let file = paths::network()?;
    let opened = File::open(&file)
        .with_context(|| format!("no fleet: failed to open {}", file.display()))?;
    move_into_link_name_space(opened.as_fd(), Some(LinkNameSpaceType::Network))
        .context("failed to enter the fleet's network (root is needed)")
}

/// Plugs a node in. Its network card keeps its address across boots: with a new one its neighbours
/// would not reach it until their ARP entries expire.
pub(super) fn add_link(index: u8, init: i32) -> Result<()> {
    remove_link(index);
    let port = format!("c{index}");
    let address = format!("02:00:ac:1e:00:0{index}");
    let pid = init.to_string();
    in_network(&[
        "link", "add", &port, "type", "veth", "peer", "name", "eth0", "address", &address, "netns",
        &pid,
    ])?;
    in_network(&["link", "set", &port, "master", "br0", "up"])
}

/// Unplugs a node for good; it may have gone with its namespace already.
pub(super) fn remove_link(index: u8) {
    drop(in_network(&["link", "del", &format!("c{index}")]));
}

/// Pulls the plug, or puts it in again.
pub(super) fn set_link(index: u8, up: bool) -> Result<()> {
    in_network(&[
        "link",
        "set",
        &format!("c{index}"),
        if up { "up" } else { "down" },
    ])
}

fn in_network(args: &[&str]) -> Result<()> {
    let file = paths::network()?;
    let mut command = exec::command("nsenter", [format!("--net={}", file.display())]);
    exec::run(command.arg("ip").args(args)).map(drop)
}

fn pinned(file: &Path) -> Result<bool> {
    let Ok(opened) = File::open(file) else {
        return Ok(false);
    };
    let about = rustix::fs::fstatfs(&opened)
        .with_context(|| format!("failed to look at {}", file.display()))?;
    Ok(u64::try_from(about.f_type).is_ok_and(|t| t == NSFS))
}
