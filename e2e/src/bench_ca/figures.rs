//! Figures of runs: medians over rounds, and ratios of these medians.

use std::{collections::HashMap, time::Duration};

use crate::progress;

pub(super) const MINIMAL: &str = "the least of servers";
pub(super) const ISTIOD: &str = "istiod";
pub(super) const STEP_CA: &str = "step-ca";
pub(super) const OURS: &str = "agent";
pub(super) const KEPT: &str = "kept connections";
pub(super) const FRESH: &str = "a connection each";
pub(super) const NEW_TOKENS: &str = "kept connections, a new token each";

/// What one run has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) issued: usize,
    pub(super) took: Duration,
    pub(super) server: Duration,
    pub(super) api_server: Duration,
    pub(super) client: Duration,
    /// All other processes of the machine: whatever disturbed the run, and etcd.
    pub(super) others: Duration,
}

impl Run {
    /// Issued per second.
    fn rate(&self) -> f64 {
        count(self.issued) / self.took.as_secs_f64()
    }

    /// Processor time of the server per issuance, in milliseconds.
    fn server(&self) -> f64 {
        self.each(self.server)
    }

    /// Processor time of the API server per issuance, in milliseconds.
    fn api_server(&self) -> f64 {
        self.each(self.api_server)
    }

    /// Both together.
    fn cost(&self) -> f64 {
        self.each(self.server.saturating_add(self.api_server))
    }

    /// Processor time of the client per issuance, in milliseconds.
    fn client(&self) -> f64 {
        self.each(self.client)
    }

    /// Processors that others used.
    fn others(&self) -> f64 {
        self.others.as_secs_f64() / self.took.as_secs_f64()
    }

    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 / count(self.issued)
    }
}

fn count(issued: usize) -> f64 {
    u32::try_from(issued).map_or(f64::INFINITY, f64::from)
}

/// Runs of each contender and pattern, a round each.
#[derive(Debug, Default)]
pub(super) struct Runs(HashMap<(&'static str, &'static str), Vec<Run>>);

impl Runs {
    pub(super) fn add(&mut self, name: &'static str, pattern: &'static str, run: Run) {
        self.0.entry((name, pattern)).or_default().push(run);
    }

    fn of(&self, name: &'static str, pattern: &'static str) -> &[Run] {
        self.0.get(&(name, pattern)).map_or(&[], Vec::as_slice)
    }

    /// As in `docs/performance.md`.
    pub(super) fn tables(&self) -> String {
        let mut text = String::from(
            "\n| | issued per second | server, ms each | API server, ms each | together | client, ms each | others, processors |\n|---|---|---|---|---|---|---|\n",
        );
        for pattern in [KEPT, FRESH, NEW_TOKENS] {
            for name in [OURS, MINIMAL, ISTIOD, STEP_CA] {
                let runs = self.of(name, pattern);
                if runs.is_empty() {
                    continue;
                }
                let [rate, server, api, cost, client, others] = [
                    Run::rate,
                    Run::server,
                    Run::api_server,
                    Run::cost,
                    Run::client,
                    Run::others,
                ]
                .map(|figure: fn(&Run) -> f64| median(runs, figure));
                text.extend([format!(
                    "| {pattern}: {name} | {rate:.0} | {server:.3} | {api:.3} | {cost:.3} | {client:.3} | {others:.2} |\n"
                )]);
            }
        }
        text.push_str(
            "\n| the agent, as multiple of | issued per second | processor time |\n|---|---|---|\n",
        );
        for pattern in [KEPT, FRESH, NEW_TOKENS] {
            let ours = self.of(OURS, pattern);
            for name in [MINIMAL, ISTIOD, STEP_CA] {
                let theirs = self.of(name, pattern);
                if !ours.is_empty() && !theirs.is_empty() {
                    let [rate, cost] = [Run::rate, Run::cost]
                        .map(|figure: fn(&Run) -> f64| ratio(ours, theirs, figure));
                    text.extend([format!("| {pattern}: {name} | {rate:.2} | {cost:.2} |\n")]);
                }
            }
        }
        text
    }
}

/// One run, for who watches.
pub(super) fn show(round: usize, name: &str, pattern: &str, run: &Run) {
    progress::step(format!(
        "round {}: {name}, {pattern}: {:.0}/s, server {:.3} ms, API server {:.3} ms, client {:.3} ms, others {:.2} processors",
        round + 1,
        run.rate(),
        run.server(),
        run.api_server(),
        run.client(),
        run.others(),
    ));
}

/// The median of a figure of these runs.
fn median(runs: &[Run], figure: impl Fn(&Run) -> f64) -> f64 {
    middle(runs.iter().map(figure).collect())
}

/// The ratio of two medians.
fn ratio(above: &[Run], below: &[Run], figure: fn(&Run) -> f64) -> f64 {
    median(above, figure) / median(below, figure)
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = values.get(half).copied();
    let lower = half.checked_sub(1).and_then(|at| values.get(at).copied());
    match (lower, upper) {
        (Some(lower), Some(upper)) if values.len().is_multiple_of(2) => f64::midpoint(lower, upper),
        (_, Some(upper)) => upper,
        (_, None) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(issued: usize, milliseconds: u64) -> Run {
        let time = Duration::from_millis(milliseconds);
        Run {
            issued,
            took: Duration::from_secs(2),
            server: time,
            api_server: time,
            client: time,
            others: Duration::ZERO,
        }
    }

    #[test]
    fn figures_are_per_second_and_per_issuance() {
        let run = run(100, 50);
        assert!((run.rate() - 50.0).abs() < 1e-9);
        assert!((run.server() - 0.5).abs() < 1e-9);
        assert!((run.cost() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let runs = [run(10, 1), run(1000, 1), run(20, 1)];
        assert!((median(&runs, Run::rate) - 10.0).abs() < 1e-9);
        assert!((median(&runs[..2], Run::rate) - 252.5).abs() < 1e-9);
        assert!(median(&[], Run::rate).is_nan());
    }

    #[test]
    fn ratios_are_of_medians() {
        let fast = [run(100, 1), run(60, 1), run(1, 1)];
        let slow = [run(10, 1), run(20, 1), run(900, 1)];
        assert!((ratio(&fast, &slow, Run::rate) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn disturbance_is_counted_in_processors() {
        let mut run = run(100, 50);
        run.others = Duration::from_secs(1);
        assert!((run.others() - 0.5).abs() < 1e-9);
    }
}
