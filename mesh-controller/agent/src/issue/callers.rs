//! Whose a token is: by the API server's word, asked as seldom as can be. An answer is kept for a few seconds, one
//! question is asked once however many wait for it, and only so many are asked at a time.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_core::issuance::Caller;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use super::{
    Limits,
    ask::Authenticate,
    denied::Denied,
    keys::{KeyRing, shaped},
    metrics::{Counts, Reviewed},
};

/// How long a good answer is believed.
const GOOD: Duration = Duration::from_secs(10);
/// How long a bad one is.
const BAD: Duration = Duration::from_secs(2);

/// SHA-256 of a token.
type Print = [u8; 32];
type Answer = Result<Arc<Caller>, Denied>;
type Heard = watch::Receiver<Option<Answer>>;

#[derive(Default)]
struct Table {
    answers: HashMap<Print, (Answer, Instant)>,
    /// In the order in which they came; the oldest go first.
    order: VecDeque<(Print, Instant)>,
    asking: HashMap<Print, Heard>,
}

impl Table {
    fn known(&self, print: &Print, now: Instant) -> Option<Answer> {
        let (answer, until) = self.answers.get(print)?;
        (*until > now).then(|| answer.clone())
    }

    fn keep(&mut self, print: Print, answer: &Answer, now: Instant, most: usize) {
        let life = if answer.is_ok() { GOOD } else { BAD };
        let until = now + life;
        self.answers.insert(print, (answer.clone(), until));
        self.order.push_back((print, until));
        while let Some((oldest, until)) = self.order.front().copied()
            && (self.order.len() > most || until <= now)
        {
            self.order.pop_front();
            // It may have been answered again since.
            if self
                .answers
                .get(&oldest)
                .is_some_and(|(_, at)| *at == until)
            {
                self.answers.remove(&oldest);
            }
        }
    }
}

/// Takes the question off the table, whatever becomes of who asked it.
struct Asking<'a> {
    table: &'a Mutex<Table>,
    print: Print,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.table.lock().asking.remove(&self.print);
    }
}

/// A place in the queue.
struct Place<'a>(&'a AtomicUsize, &'a Counts);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize, counts: &'a Counts) -> Option<Self> {
        let taken = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < most).then_some(waiting + 1)
        });
        taken.ok()?;
        counts.queued.inc();
        Some(Self(waiting, counts))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.queued.dec();
    }
}

enum Role {
    Wait(Heard),
    Ask(watch::Sender<Option<Answer>>),
}

/// Whose tokens are.
pub(super) struct Callers {
    from: Arc<dyn Authenticate>,
    keys: KeyRing,
    table: Mutex<Table>,
    slots: Semaphore,
    waiting: AtomicUsize,
    limits: Limits,
    counts: Counts,
}

impl Callers {
    pub(super) fn new(from: Arc<dyn Authenticate>, limits: Limits, counts: Counts) -> Self {
        Self {
            keys: KeyRing::new(Arc::clone(&from)),
            from,
            table: Mutex::default(),
            slots: Semaphore::new(limits.reviews),
            waiting: AtomicUsize::new(0),
            limits,
            counts,
        }
    }

    /// Whose this token is.
    pub(super) async fn whose(&self, token: &str) -> Answer {
        if let Err(denied) = shaped(token) {
            self.counts.reviewed(Reviewed::Refused);
            return Err(denied);
        }
        let print: Print = Sha256::digest(token.as_bytes()).into();
        loop {
            match self.role(print)? {
                Ok(caller) => return Ok(caller),
                Err(Role::Wait(mut heard)) => {
                    // When who asks is gone before there is an answer, the next one asks.
                    if let Ok(answer) = heard.wait_for(Option::is_some).await
                        && let Some(answer) = answer.clone()
                    {
                        self.counts.reviewed(Reviewed::Coalesced);
                        return answer;
                    }
                }
                Err(Role::Ask(tell)) => {
                    let asking = Asking {
                        table: &self.table,
                        print,
                    };
                    let (answer, keep) = self.ask(token).await;
                    if keep {
                        let mut table = self.table.lock();
                        table.keep(print, &answer, Instant::now(), self.limits.answers);
                    }
                    tell.send_replace(Some(answer.clone()));
                    drop(asking);
                    return answer;
                }
            }
        }
    }

    /// The answer if it is known; else what is to be done about it.
    fn role(&self, print: Print) -> Result<Result<Arc<Caller>, Role>, Denied> {
        let mut table = self.table.lock();
        if let Some(answer) = table.known(&print, Instant::now()) {
            self.counts.reviewed(Reviewed::Cached);
            return answer.map(Ok);
        }
        if let Some(heard) = table.asking.get(&print) {
            return Ok(Err(Role::Wait(heard.clone())));
        }
        let (tell, heard) = watch::channel(None);
        table.asking.insert(print, heard);
        Ok(Err(Role::Ask(tell)))
    }

    /// Looks, and asks; and whether the answer is one of the API server, to be kept.
    async fn ask(&self, token: &str) -> (Answer, bool) {
        if let Err(denied) = self.keys.look(token).await {
            self.counts.reviewed(Reviewed::Refused);
            return (Err(denied), false);
        }
        let busy = |reason, message| (Err(Denied::busy(reason, message)), false);
        let Some(place) = Place::take(&self.waiting, self.limits.queue, &self.counts) else {
            return busy("QueueFull", "too many tokens wait to be reviewed");
        };
        let waited = timeout(self.limits.patience, self.slots.acquire()).await;
        drop(place);
        let Ok(Ok(_slot)) = waited else {
            return busy("QueueSlow", "tokens wait too long to be reviewed");
        };
        self.counts.reviewed(Reviewed::Asked);
        match timeout(self.limits.patience, self.from.review(token)).await {
            Ok(Ok(review)) => {
                let caller = Caller::of(&review).map(Arc::new).map_err(Denied::from);
                (caller, true)
            }
            Ok(Err(why)) => {
                let denied = Denied::later("ReviewFailed", "the token cannot be reviewed now");
                (Err(denied.because(why.0)), false)
            }
            Err(_elapsed) => busy("ReviewSlow", "the API server is slow to review tokens"),
        }
    }
}
