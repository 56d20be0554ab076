//! Processes that outlive the one that started them: an id alone may belong to someone else by now,
//! so the time it started at is remembered with it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal};

/// A process, by id and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    id: i32,
    started: u64,
}

impl Process {
    /// The process that has this id now.
    pub(super) fn find(id: i32) -> Option<Self> {
        let (state, started) = stat(id)?;
        (state != 'Z').then_some(Self { id, started })
    }

    /// The first child of a process.
    pub(super) fn child_of(id: u32) -> Option<Self> {
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        Self::find(children.split_whitespace().next()?.parse().ok()?)
    }

    /// The process a file remembers, if it is still alive.
    pub(super) fn load(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let (id, started) = text.trim().split_once(' ')?;
        let saved = Self {
            id: id.parse().ok()?,
            started: started.parse().ok()?,
        };
        saved.alive().then_some(saved)
    }

    /// Remembers it in a file.
    pub(super) fn save(self, file: &Path) -> Result<()> {
        std::fs::write(file, format!("{} {}", self.id, self.started))
            .with_context(|| format!("failed to write {}", file.display()))
    }

    pub(super) fn id(self) -> i32 {
        self.id
    }

    pub(super) fn alive(self) -> bool {
        Self::find(self.id) == Some(self)
    }

    /// Ends it and waits until it is gone.
    pub(super) async fn kill_and_wait(self) -> Result<()> {
        kill(self.id);
        for _ in 0..300 {
            if !self.alive() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ensure!(!self.alive(), "process {} does not end", self.id);
        Ok(())
    }
}

/// Sends SIGKILL; a process that has gone already is no error.
pub(super) fn kill(id: i32) {
    if let Some(pid) = Pid::from_raw(id)
        && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
        && error != rustix::io::Errno::SRCH
    {
        crate::progress::step(format!("failed to end process {id}: {error}"));
    }
}

fn stat(id: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // the second field is a name in brackets that may hold anything
    let mut rest = text.rsplit_once(')')?.1.split_whitespace();
    let state = rest.next()?.chars().next()?;
    Some((state, rest.nth(18)?.parse().ok()?))
}
