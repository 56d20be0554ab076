//! What a process has cost, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Length of the kernel's unit of processor time towards programs, on every platform that we build for.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process so far, its own and the kernel's for it.
pub(super) fn processor(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    ticks(&text)
        .map(|ticks| TICK.saturating_mul(ticks))
        .with_context(|| format!("failed to read the times of process {pid}"))
}

/// Fields 14 and 15; the second field is a name that may hold anything, so they are counted from its end.
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Processor time of the whole machine so far, and what a hypervisor took from it.
pub(super) fn machine() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
    busy(&text)
        .map(|ticks| TICK.saturating_mul(ticks))
        .context("failed to read the times of the machine")
}

/// The fields of the first line but idle and waiting for disks. (Guests, the last two, are in user time already.)
fn busy(stat: &str) -> Option<u32> {
    let mut fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let mut sum = 0_u32;
    for place in 0..8 {
        let ticks: u32 = fields.next()?.parse().ok()?;
        if ![3, 4].contains(&place) {
            sum = sum.checked_add(ticks)?;
        }
    }
    Some(sum)
}

/// Resident memory of a process in KiB: all of it, and the part that is its own and not pages of its program.
pub(super) fn resident(pid: u32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("process {pid} has no {name}"))
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1000 0 0 0 120 34 0 0 20 0 9 0 100";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("42 (name) S 1"), None);
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idling_and_waiting() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy(stat), Some(63));
        assert_eq!(busy("cpu  1 2 4"), None);
        assert!(machine().is_ok());
    }

    #[test]
    fn this_process_has_times_and_memory() {
        let own = std::process::id();
        assert!(processor(own).is_ok());
        let (all, private) = resident(own).unwrap();
        assert!(all > private && private > 0, "{all} {private}");
    }
}
