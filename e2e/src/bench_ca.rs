//! `make bench-ca`: what a workload certificate costs, side by side in one run.
//!
//! The agent, istiod, step-ca and the least of servers sign with the same intermediate, serve with the same certificate or one like
//! it, and are asked by the same client in turn, on loopback. A real API server reviews the tokens. Client and servers share the
//! processors, so what is issued per second says less than the processor time that one certificate costs.

mod agent;
mod client;
mod cluster;
mod cost;
mod figures;
mod material;
mod minimal;
mod peers;
mod thread;
mod wire;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use self::{
    client::{Ask, Outcome, Pattern, Target},
    cluster::{Token, Workloads},
    figures::{Run, Runs},
    material::{Authorities, Request},
    peers::{Place, Server},
};
use crate::{
    bare::{self, Bare},
    components::{Istio, StepCa},
    progress,
};

pub use minimal::serve as serve_minimal;

/// Before each run.
const WARM_UP: Duration = Duration::from_secs(1);
/// Service accounts that ask, and pods of each; a pod has one token.
const ACCOUNTS: usize = 64;
const PODS: usize = 4;
/// Tokens of a run in which each is new.
const NEW_TOKENS: usize = 3000;
/// More than step-ca issues in a second: it takes each token once.
const STEP_RATE: usize = 2000;

/// After this the agent does at rest what it always does.
const SETTLED: Duration = Duration::from_secs(15);
/// Longest run towards a count.
const LONGEST: Duration = Duration::from_mins(3);

const KEPT: Pattern = Pattern::Kept {
    connections: 4,
    in_flight: 32,
};
const FRESH: Pattern = Pattern::Fresh { in_flight: 8 };

/// How long it measures.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds; in each everybody is measured once.
    pub rounds: usize,
    /// Length of one run.
    pub run: Duration,
    /// Certificates after which the agent's memory is looked at last.
    pub memory: usize,
}

/// Whom the agent is compared with, besides the least of servers.
#[derive(Clone, Debug)]
pub struct Peers {
    /// istiod.
    pub istio: Option<Istio>,
    /// step-ca.
    pub step_ca: Option<StepCa>,
}

/// A server in this comparison.
struct Contender {
    name: &'static str,
    server: Server,
    /// It asks the API server about tokens.
    reviews: bool,
}

/// What all runs share.
struct Bench {
    /// Process of the API server.
    api_server: u32,
    root: String,
    requests: Vec<Request>,
}

/// Measures, and prints tables. The API server and etcd are on `path`.
pub async fn run(path: &str, peers: &Peers, extent: Extent) -> Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    progress::step(format!("load average before it: {}", load.trim_end()));
    progress::step("keys, requests, API server");
    let api = Bare::start_at(path, bare::Place::LOOPBACK, 1).await?;
    let kubeconfig = api.kubeconfig(0)?;
    let client = cluster::client(&kubeconfig).await?;
    cluster::namespace(&client, "istio-system").await?;
    let workloads = Workloads::create(client.clone(), ACCOUNTS, PODS).await?;
    let authorities = Authorities::generate()?;
    let requests = material::requests(&workloads.identities())?;
    alone(&authorities, requests.first().context("no request")?)?;

    let bench = Bench {
        api_server: api.process(0)?,
        root: authorities.root.clone(),
        requests,
    };
    let asks = bench.asks(&workloads.tokens(ACCOUNTS * PODS).await?)?;
    let place = Place::new(&authorities, &kubeconfig)?;
    progress::step("servers");
    agent::prepare(&client, &authorities).await?;
    let agent = agent::start(&place, &authorities.root, asks.clone()).await?;
    memory(&bench, &agent, extent.memory).await?;
    let contender = |name, server, reviews| Contender {
        name,
        server,
        reviews,
    };
    let minimal = place.minimal(asks.clone()).await?;
    let mut contenders = vec![
        contender(figures::OURS, agent, true),
        contender(figures::MINIMAL, minimal, false),
    ];
    if let Some(istio) = &peers.istio {
        let istiod = place.istiod(istio, asks).await?;
        contenders.push(contender(figures::ISTIOD, istiod, true));
    }
    if let Some(step_ca) = &peers.step_ca {
        let step_ca = place
            .step_ca(step_ca, |p| bench.step_asks(p, extent))
            .await?;
        contenders.push(contender(figures::STEP_CA, step_ca, false));
    }
    let mut runs = Runs::default();
    for round in 0..extent.rounds {
        for (pattern, kind) in [(figures::KEPT, KEPT), (figures::FRESH, FRESH)] {
            for contender in turned(&contenders, round) {
                let target = &contender.server.target;
                target.run(kind, WARM_UP, usize::MAX).await?;
                let run = bench
                    .measure(contender, target, kind, extent.run, usize::MAX)
                    .await?;
                figures::show(round, contender.name, pattern, &run);
                runs.add(contender.name, pattern, run);
            }
        }
        for contender in turned(&contenders, round).filter(|c| c.reviews) {
            let asks = bench.asks(&workloads.tokens(NEW_TOKENS).await?)?;
            let target = contender.server.target.with(asks);
            let run = bench
                .measure(contender, &target, KEPT, LONGEST, NEW_TOKENS)
                .await?;
            figures::show(round, contender.name, figures::NEW_TOKENS, &run);
            runs.add(contender.name, figures::NEW_TOKENS, run);
        }
    }
    progress::print(runs.tables());
    Ok(())
}

/// In each round another one begins: nobody always follows the same one.
fn turned(contenders: &[Contender], round: usize) -> impl Iterator<Item = &Contender> {
    let count = contenders.len();
    contenders.iter().cycle().skip(round).take(count)
}

/// What the parts cost, on one thread.
fn alone(authorities: &Authorities, request: &Request) -> Result<()> {
    progress::print("\n| on one thread | microseconds |\n|---|---|\n");
    for (part, time) in thread::measure(authorities, request)? {
        progress::print(format!("| {part} | {} |\n", time.as_micros()));
    }
    Ok(())
}

/// Resident memory of the agent at rest, and while it issues more and more.
async fn memory(bench: &Bench, agent: &Server, most: usize) -> Result<()> {
    // It has just started; what it then still does is done after a few seconds.
    tokio::time::sleep(SETTLED).await;
    let mut text = String::from(
        "\n| agent, certificates issued | resident MiB | of it its own pages |\n|---|---|---|\n",
    );
    let mut issued = 0;
    for tenths in [0, 1, 5, 10] {
        let rest = (most * tenths / 10).saturating_sub(issued);
        let outcome = agent.target.run(KEPT, LONGEST, rest).await?;
        bench.passed(figures::OURS, &outcome)?;
        issued += outcome.issued;
        let (all, own) = cost::resident(agent.pid)?;
        let line = format!("| {issued} | {:.1} | {:.1} |\n", mebi(all), mebi(own));
        progress::step(&line);
        text.push_str(&line);
    }
    progress::print(text);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "memory of a process, in KiB")]
fn mebi(kibi: u64) -> f64 {
    kibi as f64 / 1024.0
}

impl Bench {
    /// Each token with a request for the name that it proves.
    fn asks(&self, tokens: &[Token]) -> Result<Vec<Ask>> {
        let mut asks = Vec::with_capacity(tokens.len());
        for (number, token) in tokens.iter().enumerate() {
            let fitting = || {
                self.requests
                    .iter()
                    .filter(|r| r.identity == token.identity)
            };
            let at = number.checked_rem(fitting().count()).unwrap_or_default();
            let request = fitting().nth(at).context("a token without a request")?;
            asks.push(Ask {
                csr: Arc::clone(&request.csr),
                token: token.text.clone(),
            });
        }
        Ok(asks)
    }

    /// Enough for all runs and their warm-ups, and one for the look at what it issues.
    fn step_asks(&self, provisioner: &material::Provisioner, extent: Extent) -> Result<Vec<Ask>> {
        let now = Timestamp::now();
        let seconds = usize::try_from((extent.run + WARM_UP).as_secs())?;
        let count = seconds * extent.rounds * 2 * STEP_RATE;
        let spread = self.requests.iter().cycle().take(count).enumerate();
        spread
            .map(|(number, request)| {
                Ok(Ask {
                    csr: Arc::clone(&request.csr),
                    token: provisioner.token(&request.identity, number, now)?,
                })
            })
            .collect()
    }

    /// One run.
    #[expect(clippy::too_many_arguments, reason = "each is what it is")]
    async fn measure(
        &self,
        contender: &Contender,
        target: &Target,
        pattern: Pattern,
        time: Duration,
        most: usize,
    ) -> Result<Run> {
        let before = self.times(contender)?;
        let outcome = target.run(pattern, time, most).await?;
        let after = self.times(contender)?;
        self.passed(contender.name, &outcome)?;
        let Times {
            server,
            api_server,
            client,
            machine,
        } = after.since(&before);
        Ok(Run {
            issued: outcome.issued,
            took: outcome.took,
            server,
            api_server,
            client,
            others: machine.saturating_sub(server + api_server + client),
        })
    }

    fn times(&self, contender: &Contender) -> Result<Times> {
        Ok(Times {
            server: cost::processor(contender.server.pid)?,
            api_server: cost::processor(self.api_server)?,
            client: cost::processor(std::process::id())?,
            machine: cost::machine()?,
        })
    }

    /// A figure with refusals in it would say nothing, and one of bad certificates too.
    fn passed(&self, name: &str, outcome: &Outcome) -> Result<()> {
        if let Some(why) = &outcome.failure {
            let all = outcome.failed + outcome.issued;
            bail!(
                "{name}: {} of {all} requests failed, the first: {why}",
                outcome.failed
            );
        }
        let Some((ask, chain)) = &outcome.sample else {
            return Ok(());
        };
        self.judge(ask, chain)
            .with_context(|| format!("what {name} issued is not believed"))
    }

    /// One answer of each run is looked at: the name that was asked for, below the root.
    fn judge(&self, ask: &Ask, chain: &[String]) -> Result<()> {
        let request = self.requests.iter().find(|r| r.csr == ask.csr);
        let identity = &request.context("nobody asked for it")?.identity;
        mesh_ca::verify_leaf(&chain.concat(), &self.root, identity, Timestamp::now())?;
        Ok(())
    }
}

/// Processor times so far.
struct Times {
    server: Duration,
    api_server: Duration,
    client: Duration,
    machine: Duration,
}

impl Times {
    fn since(&self, before: &Self) -> Self {
        Self {
            server: self.server.saturating_sub(before.server),
            api_server: self.api_server.saturating_sub(before.api_server),
            client: self.client.saturating_sub(before.client),
            machine: self.machine.saturating_sub(before.machine),
        }
    }
}
