//! Replicas that are killed: everything they do goes through the functions that the agent runs; the API server is a value.
//!
//! Told after each step: every leaf that is alive is covered by a line that stands in the API server.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What stands in the API server.
#[derive(Clone, Debug, Default)]
struct Server {
    version: u64,
    replicas: BTreeMap<String, Replica>,
    /// Pods that are no more; the API server takes nothing from them.
    gone: BTreeSet<String>,
}

/// A call on its way.
#[derive(Clone, Debug)]
struct Call {
    by: String,
    read: u64,
    pod: String,
    replica: Option<Replica>,
}

impl Server {
    fn take(&mut self, call: Call) -> bool {
        if call.read != self.version || self.gone.contains(&call.by) {
            return false;
        }
        self.version += 1;
        match call.replica {
            Some(replica) => drop(self.replicas.insert(call.pod, replica)),
            None => drop(self.replicas.remove(&call.pod)),
        }
        true
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is done, and the caller learns it.
    Done,
    /// It never arrives.
    Lost,
    /// It is done, and the caller does not learn it.
    Unheard,
    /// The caller has given up, and it is done after all: some time later.
    Late,
}

/// One replica.
#[derive(Debug)]
struct Process {
    pod: String,
    book: Book,
    seen: Server,
}

impl Process {
    fn new(pod: String) -> Self {
        let book = Book::new();
        book.stands_in(Some("object"));
        Self {
            pod,
            book,
            seen: Server::default(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody wants a leaf of that many hours.
    Want { signer: u32, hours: u8 },
    /// A leaf is handed out, if it may be.
    Sign { signer: u32, hours: u8 },
    /// The object is read.
    Read,
    /// What was read is learnt from the watch.
    Learn,
    /// The ledger is written on top of what was read.
    Write(Fate),
    /// Replicas that are no more are forgotten on top of what was read, as far as that may be.
    Bury(Fate),
    /// The process dies, and another begins in the same pod.
    Restart,
    /// The pod is no more, and there is another.
    Replace,
    /// What was late arrives.
    Arrive,
    /// Time goes on.
    Hours(u8),
}

#[derive(Debug)]
struct World {
    server: Server,
    now: Timestamp,
    processes: Vec<Process>,
    /// Processes whose pods are no more, and which do not know it.
    undead: Vec<Process>,
    late: Vec<Call>,
    leaves: Vec<(Pair, Timestamp)>,
    pods: u32,
}

fn pair(signer: u32) -> Pair {
    Pair { signer, bundle: 0 }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            server: Server::default(),
            now: now(),
            processes: Vec::new(),
            undead: Vec::new(),
            late: Vec::new(),
            leaves: Vec::new(),
            pods: 0,
        };
        for _ in 0..2 {
            let fresh = world.fresh();
            world.processes.push(fresh);
        }
        world
    }

    fn fresh(&mut self) -> Process {
        self.pods += 1;
        Process::new(format!("pod-{}", self.pods))
    }

    fn end(&self, hours: u8) -> Timestamp {
        self.now + SignedDuration::from_hours(i64::from(hours))
    }

    fn call(&mut self, call: Call, fate: Fate) -> bool {
        match fate {
            Fate::Done => self.server.take(call),
            Fate::Unheard => {
                self.server.take(call);
                false
            }
            Fate::Lost => false,
            Fate::Late => {
                self.late.push(call);
                false
            }
        }
    }

    fn step(&mut self, who: usize, step: Step) {
        let now = self.now;
        match step {
            Step::Want { signer, hours } => {
                let life = SignedDuration::from_hours(i64::from(hours));
                let until = ledger::ahead(self.end(hours), life);
                self.processes[who].book.ask(pair(signer), until);
            }
            Step::Sign { signer, hours } => {
                let end = self.end(hours);
                // Those who are dead and do not know it hand out as well.
                let signing = self.undead.iter().chain([&self.processes[who]]);
                for process in signing.collect::<Vec<_>>() {
                    if process.book.covers(pair(signer), end) {
                        self.leaves.push((pair(signer), end));
                    }
                }
            }
            Step::Read => self.processes[who].seen = self.server.clone(),
            Step::Learn => {
                let process = &self.processes[who];
                if let Some(mine) = process.seen.replicas.get(&process.pod) {
                    process.book.confirm(mine);
                }
            }
            Step::Write(fate) => {
                let process = &self.processes[who];
                let pod = process.pod.clone();
                let lines = process.book.lines(process.seen.replicas.get(&pod), now);
                let mine = replica(&pod, lines);
                let read = process.seen.version;
                let call = Call {
                    by: pod.clone(),
                    read,
                    pod,
                    replica: Some(mine.clone()),
                };
                if self.call(call, fate) {
                    self.processes[who].book.confirm(&mine);
                }
            }
            Step::Bury(fate) => {
                let process = &self.processes[who];
                let mine = process.seen.replicas.get(&process.pod);
                let dead = process
                    .seen
                    .replicas
                    .values()
                    // The API server was asked for the pod before the object was read.
                    .filter(|r| process.seen.gone.contains(&r.pod))
                    .find(|r| process.book.may_forget(r, mine, now));
                if let Some(dead) = dead {
                    let call = Call {
                        by: process.pod.clone(),
                        read: process.seen.version,
                        pod: dead.pod.clone(),
                        replica: None,
                    };
                    self.call(call, fate);
                }
            }
            Step::Restart => {
                let pod = self.processes[who].pod.clone();
                self.processes[who] = Process::new(pod);
            }
            Step::Replace => {
                let fresh = self.fresh();
                let dead = std::mem::replace(&mut self.processes[who], fresh);
                self.server.gone.insert(dead.pod.clone());
                self.undead.push(dead);
            }
            Step::Arrive => {
                for call in std::mem::take(&mut self.late) {
                    self.server.take(call);
                }
            }
            Step::Hours(hours) => self.now = self.end(hours),
        }
        self.check();
    }

    fn check(&self) {
        let ledgers: Vec<Ledger> = self
            .server
            .replicas
            .values()
            .map(|replica| read(&replica.ledger))
            .collect();
        for (pair, end) in &self.leaves {
            let past = clock(self.now).is_past(*end);
            let covered = ledgers.iter().any(|ledger| ledger.covers(*pair, *end));
            assert!(
                past || covered,
                "a leaf of {pair:?} lives until {end}, and nothing says so: {:?}",
                self.server
            );
            let over = ledger::is_over(&ledgers, pair.signer, clock(self.now));
            assert!(past || !over, "{pair:?} is not over before {end}");
        }
    }
}

/// What a replica does in one round: a wish, the write, the leaf, and the burial of others.
fn round(signer: u32) -> Vec<Step> {
    let hours = 7;
    vec![
        Step::Read,
        Step::Learn,
        Step::Bury(Fate::Done),
        Step::Want { signer, hours },
        Step::Read,
        Step::Write(Fate::Done),
        Step::Sign { signer, hours },
        Step::Read,
        Step::Bury(Fate::Done),
        Step::Sign { signer, hours: 1 },
    ]
}

/// The rounds of two replicas by turns, over more than a day, with a change of the generation in between.
fn history() -> Vec<(usize, Step)> {
    (0..6)
        .flat_map(|at| {
            let rounds = [0, 1].into_iter().flat_map(move |who| {
                let steps = round(if at < 3 { 1 } else { 2 });
                steps.into_iter().map(move |step| (who, step))
            });
            rounds.chain([(0, Step::Hours(3)), (1, Step::Arrive)])
        })
        .collect()
}

/// Runs the history; each kill takes the caller of that write at that moment.
fn run(kills: &[(usize, Fate, Step)]) -> (World, usize) {
    let mut world = World::new();
    let mut writes = 0;
    for (who, step) in history() {
        let fated = |fate| {
            if matches!(step, Step::Write(_)) {
                Step::Write(fate)
            } else {
                Step::Bury(fate)
            }
        };
        if matches!(step, Step::Write(_) | Step::Bury(_)) {
            let kill = kills.iter().find(|(at, ..)| *at == writes);
            writes += 1;
            if let Some((_, fate, how)) = kill {
                // It may have handed out right before whatever it could.
                world.step(
                    who,
                    Step::Sign {
                        signer: 1,
                        hours: 7,
                    },
                );
                world.step(who, fated(*fate));
                world.step(
                    who,
                    Step::Sign {
                        signer: 1,
                        hours: 7,
                    },
                );
                world.step(who, *how);
                continue;
            }
        }
        world.step(who, step);
    }
    (world, writes)
}

const FATES: [Fate; 4] = [Fate::Done, Fate::Lost, Fate::Unheard, Fate::Late];
const ENDS: [Step; 2] = [Step::Restart, Step::Replace];

#[test]
fn replicas_that_live_hand_out_and_forget() {
    let (world, writes) = run(&[]);
    assert!(writes >= 30, "{writes}");
    assert!(world.leaves.len() >= 20, "{}", world.leaves.len());
    let (world, _) = run(&[(3, Fate::Done, Step::Replace)]);
    assert_eq!(
        world.server.replicas.len(),
        2,
        "the dead one is forgotten in the end: {:?}",
        world.server
    );
}

#[test]
fn a_kill_at_any_write_leaves_no_leaf_uncovered() {
    let (_, writes) = run(&[]);
    let kinds: Vec<(Fate, Step)> = FATES
        .into_iter()
        .flat_map(|fate| ENDS.map(|end| (fate, end)))
        .collect();
    let mut runs = 0;
    for first in 0..writes {
        for (fate, end) in &kinds {
            run(&[(first, *fate, *end)]);
            // And again soon after, of whichever is at it then.
            for second in first + 1..(first + 4).min(writes) {
                for again in FATES {
                    run(&[(first, *fate, *end), (second, again, Step::Replace)]);
                    runs += 1;
                }
            }
        }
    }
    assert!(runs > 2000, "{runs}");
}

fn some_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Done),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Unheard),
        1 => Just(Fate::Late),
    ]
}

fn some_step() -> impl Strategy<Value = Step> {
    let (signer, hours) = (1_u32..3, 1_u8..30);
    prop_oneof![
        3 => (signer.clone(), hours.clone()).prop_map(|(signer, hours)| Step::Want { signer, hours }),
        4 => (signer, hours).prop_map(|(signer, hours)| Step::Sign { signer, hours }),
        4 => Just(Step::Read),
        2 => Just(Step::Learn),
        5 => some_fate().prop_map(Step::Write),
        3 => some_fate().prop_map(Step::Bury),
        1 => Just(Step::Restart),
        1 => Just(Step::Replace),
        1 => Just(Step::Arrive),
        1 => (1_u8..9).prop_map(Step::Hours),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_things_leaves_a_leaf_uncovered(steps in prop::collection::vec((0_usize..2, some_step()), 1..150)) {
        let mut world = World::new();
        for (who, step) in steps {
            world.step(who, step);
        }
    }
}
