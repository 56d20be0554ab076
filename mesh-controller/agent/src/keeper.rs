//! Does what [`crate::intermediate`] decides.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use mesh_ca::PrivateKey;
use mesh_cluster::agent_io::{AgentIoError, CsrSeen, Intent, Made, OwnCluster, SecretSeen, Seen};
use mesh_core::facts::Obstacle;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    intermediate::{Act, Decision, Entries, LIST_LIFE, Signer, decide, generation_of, held, told},
    jitter,
    ledger::ledgers,
    report::{Board, present},
    wanted::Wanted,
};

/// How often the Secret is looked at when nothing else happens: a person may have deleted it.
const LOOK: Duration = Duration::from_secs(10);

/// What the keeper of the intermediate needs.
pub(crate) struct Keeper {
    pub(crate) cluster: OwnCluster,
    pub(crate) intents: watch::Receiver<Seen<Intent>>,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) requests: watch::Receiver<Seen<CsrSeen>>,
    pub(crate) signer: watch::Sender<Option<Signer>>,
    pub(crate) board: Board,
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Io(#[from] AgentIoError),
    #[error(transparent)]
    Key(#[from] mesh_ca::Error),
}

impl Keeper {
    /// Keeps the intermediate, for ever.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        let mut last: Option<Act> = None;
        loop {
            let step = self.step(&mut last).await;
            let pause = match step {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => {
                    failures = 0;
                    jitter::around(LOOK)
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "failed to keep the intermediate"
                        );
                    }
                    if let StepError::Io(error) = &error
                        && error.is_forbidden()
                    {
                        self.board
                            .obstacle(Obstacle::new("AccessDenied", mesh_core::text::chain(error)));
                    }
                    failures += 1;
                    jitter::backoff(failures)
                }
            };
            let news = async {
                tokio::select! {
                    gone = self.wanted.changed() => gone,
                    gone = self.requests.changed() => gone,
                }
            };
            match timeout(pause, news).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_closed)) => return,
            }
        }
    }

    /// One look and at most one act; whether to look again at once.
    async fn step(&mut self, last: &mut Option<Act>) -> Result<bool, StepError> {
        let wanted = self.wanted.borrow_and_update().clone();
        let requests = self.requests.borrow_and_update().clone();
        let (Some(wanted), Some(requests)) = (wanted, requests) else {
            return Ok(false);
        };
        // Without a MeshAgent we are being taken away: nothing is made that would be left behind.
        let Some(intent) = present(&mut self.intents) else {
            return Ok(false);
        };
        let secret = self.cluster.read_secret().await?;
        let ledgers = ledgers(&intent, &self.board.ledger);
        let now = Timestamp::now();
        let decision = decide(&wanted, secret.as_ref(), &requests, &ledgers, now);
        self.publish(&decision);
        if decision.act == Act::Nothing {
            *last = None;
            return Ok(false);
        }
        if last.as_ref() == Some(&decision.act) {
            // It was done and does not show yet.
            sleep(jitter::around(Duration::from_millis(300))).await;
        }
        let act = decision.act.clone();
        let again = self.act(decision.act, &wanted, secret).await?;
        *last = Some(act);
        Ok(again)
    }

    fn publish(&self, decision: &Decision) {
        if let Some(signer) = &decision.signer {
            // Without one the last stays: a Secret that was deleted must not stop renewals before the next is there.
            self.signer.send_if_modified(|known| {
                if known
                    .as_ref()
                    .is_some_and(|known| known.fingerprint() == signer.fingerprint())
                {
                    return false;
                }
                tracing::info!(
                    generation = signer.generation,
                    fingerprint = signer.fingerprint(),
                    until = %signer.authority.expires(),
                    "signing with an intermediate"
                );
                *known = Some(signer.clone());
                true
            });
        }
        // What signs now must be reported, or peers would forget it before there is another.
        let mut held = decision.held.clone();
        if let Some(signer) = self.signer.borrow().as_ref()
            && signer.authority.expires() > Timestamp::now()
            && held
                .iter()
                .all(|known| known.fingerprint != signer.fingerprint())
        {
            held.push(told(signer));
        }
        // Whoever sees an intermediate sees its list too.
        self.board.crls(&decision.crls);
        self.board.intermediates(&held, decision.obstacle.as_ref());
    }

    async fn act(
        &self,
        act: Act,
        wanted: &Wanted,
        secret: Option<SecretSeen>,
    ) -> Result<bool, StepError> {
        match act {
            Act::Nothing => Ok(false),
            Act::MakeKey { entry } => {
                let key = PrivateKey::generate()?;
                let value = Zeroizing::new(key.pem().as_bytes().to_vec());
                let made = self.put(wanted, secret, entry, value).await?;
                tracing::info!(?made, "made the key of an intermediate");
                Ok(true)
            }
            Act::Store { entry, chain } => {
                let made = self
                    .put(wanted, secret, entry, Zeroizing::new(chain.into_bytes()))
                    .await?;
                tracing::info!(?made, "stored an intermediate");
                Ok(true)
            }
            Act::SignList {
                entry,
                generation,
                number,
            } => {
                let Some(signer) = secret
                    .as_ref()
                    .and_then(|secret| held(wanted, secret, generation))
                else {
                    return Ok(false);
                };
                let now = Timestamp::now();
                let list = signer.authority.sign_crl(&[], number, LIST_LIFE, now)?;
                let value = Zeroizing::new(list.pem.into_bytes());
                let made = self.put(wanted, secret, entry, value).await?;
                tracing::info!(?made, generation, number, until = %list.facts.next_update, "signed a revocation list");
                Ok(true)
            }
            Act::Drop { generations } => {
                let Some(secret) = secret else {
                    return Ok(false);
                };
                if !self.is_useless(&secret, &generations).await? {
                    return Ok(false);
                }
                let mut entries = secret.data.clone();
                entries.retain(|entry, _| {
                    generation_of(entry).is_none_or(|it| !generations.contains(&it))
                });
                let made = self.cluster.replace_secret(&secret, &entries).await?;
                tracing::info!(
                    ?made,
                    ?generations,
                    "deleted keys of intermediates of which nothing is alive"
                );
                Ok(true)
            }
            Act::Post(draft) => {
                let made = self.cluster.post_request(&draft).await?;
                tracing::info!(?made, name = draft.name, "asked for an intermediate");
                // The watch tells what becomes of it.
                Ok(false)
            }
        }
    }

    /// Asks the API server itself before a key is deleted: the watch may be late, and another replica may have handed out
    /// something under a generation that this one does not know to be wanted. The Secret was read before.
    async fn is_useless(
        &self,
        secret: &SecretSeen,
        generations: &BTreeSet<u32>,
    ) -> Result<bool, AgentIoError> {
        let Some(intent) = self.cluster.read_intent().await? else {
            return Ok(false);
        };
        let Some(wanted) = Wanted::read(&intent).ok().filter(|_| !intent.leaving) else {
            return Ok(false);
        };
        let requests = self.requests.borrow().clone().unwrap_or_default();
        let ledgers = ledgers(&intent, &self.board.ledger);
        let now = Timestamp::now();
        let act = decide(&wanted, Some(secret), &requests, &ledgers, now).act;
        Ok(matches!(act, Act::Drop { generations: still } if still.is_superset(generations)))
    }

    async fn put(
        &self,
        wanted: &Wanted,
        secret: Option<SecretSeen>,
        entry: String,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<Made, AgentIoError> {
        match secret {
            None => {
                let entries = Entries::from([(entry, value)]);
                self.cluster.create_secret(&entries, &wanted.marks).await
            }
            Some(read) => {
                let mut entries = read.data.clone();
                entries.insert(entry, value);
                self.cluster.replace_secret(&read, &entries).await
            }
        }
    }
}
