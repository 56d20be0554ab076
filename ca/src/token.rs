//! A CA's key that never leaves a PKCS#11 token.
//!
//! A token's driver is foreign code that may wait for a device or a network. So one thread of its own holds the session, and who wants a
//! signature waits for it only so long. Drivers are loaded once in a process and stay; logins are the process's, not the session's.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData,
    SignatureAlgorithm,
};
use zeroize::Zeroizing;

use crate::{Error, KeyAlgorithm, PublicKey};

mod session;

use session::Session;

/// How long a token may take for one signature, or to be opened. Tokens behind a network take tenths of a second.
pub const TOKEN_PATIENCE: Duration = Duration::from_secs(30);

/// How long its session may take to close.
const CLOSING: Duration = Duration::from_secs(2);

/// Signatures that may wait for a token; more are refused at once.
const QUEUE: usize = 32;

/// Threads that open a token, those that hang in a driver among them.
static OPENING: AtomicUsize = AtomicUsize::new(0);

/// Most of them.
const OPENING_MAX: usize = 8;

/// Where a key pair is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPlace {
    /// The driver, a shared library.
    pub module: PathBuf,
    /// Label of the token.
    pub token_label: String,
    /// Label (`CKA_LABEL`) of private and public key.
    pub key_label: String,
}

impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "key {:?} in token {:?}",
            self.key_label, self.token_label
        )
    }
}

/// Why a token did not do what was asked. Never holds the PIN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The driver cannot be loaded or started.
    #[error("failed to load the PKCS#11 module {module}: {reason}")]
    Module {
        /// Its path.
        module: String,
        /// What the loader said.
        reason: String,
    },
    /// No token, or more than one, has the label.
    #[error("failed to find the one token {label:?}: {found} have this label")]
    Token {
        /// The label.
        label: String,
        /// How many have it.
        found: usize,
    },
    /// The PIN was refused. It is not tried again before the process is restarted: the token would lock itself.
    #[error(
        "failed to open the token {label:?}: the PIN was refused, and is not tried again by this process"
    )]
    Pin {
        /// Label of the token.
        label: String,
    },
    /// One more wrong PIN would lock the token, or one did.
    #[error(
        "failed to open the token {label:?}: wrong PINs have locked it or are about to; log in by hand to reset the count"
    )]
    PinLocked {
        /// Label of the token.
        label: String,
    },
    /// No key, or more than one, has the label.
    #[error("failed to find the one {kind} key {label:?}: {found} have this label")]
    Key {
        /// `private` or `public`.
        kind: &'static str,
        /// The label.
        label: String,
        /// How many have it.
        found: usize,
    },
    /// Neither P-256, P-384 nor RSA, or unreadable.
    #[error("failed to use the key {label:?} of the token: {reason}")]
    Unusable {
        /// The label.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// The private key does not sign for the public one.
    #[error(
        "failed to match private and public key {label:?} of the token: they do not belong together"
    )]
    Pair {
        /// The label.
        label: String,
    },
    /// The key with this label is another one than before.
    #[error("failed to find the key {label:?} of the token again: another one has its label now")]
    Replaced {
        /// The label.
        label: String,
    },
    /// A call failed, also with a new session.
    #[error("failed to {action} with the token: {reason}")]
    Call {
        /// What was tried.
        action: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The token did not answer in time.
    #[error("failed to wait for the token: no answer within {seconds} s")]
    TimedOut {
        /// How long it was waited.
        seconds: u64,
    },
    /// Too many wait for the token already.
    #[error("failed to ask the token: too many wait for it already")]
    Busy,
    /// The thread that speaks with the token is gone.
    #[error("failed to ask the token: it is closed")]
    Closed,
}

/// A key pair in a token. Cheap to clone; its `Debug` shows the public half only.
#[derive(Clone)]
pub struct TokenKey(Arc<Inner>);

struct Inner {
    place: TokenPlace,
    public: PublicKey,
    algorithm: &'static SignatureAlgorithm,
    /// Taken when nobody holds the key any more.
    jobs: Option<SyncSender<Job>>,
    /// Ends with the thread.
    ended: Mutex<mpsc::Receiver<()>>,
    patience: Duration,
    /// Why the last signature was not made: rcgen's error has no room for it.
    complaint: Mutex<Option<TokenError>>,
}

impl Drop for Inner {
    /// Waits a little until the session is closed: a process that ends meanwhile takes the driver from under its thread.
    fn drop(&mut self) {
        drop(self.jobs.take());
        // An end is an error too, the one that is hoped for; a driver that hangs is left behind.
        let _ended = self.ended.get_mut().recv_timeout(CLOSING);
    }
}

/// Somebody waits for a signature until `until`.
struct Job {
    message: Vec<u8>,
    until: Instant,
    reply: mpsc::Sender<Result<Vec<u8>, TokenError>>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("place", &self.0.place)
            .field("public", &self.0.public)
            .finish_non_exhaustive()
    }
}

impl TokenKey {
    /// Opens the token and finds the key pair. A signature is made and verified once, so that a pair that does not belong together shows now.
    ///
    /// # Errors
    ///
    /// When the driver cannot be loaded, token or key are not there or not alone, the PIN is wrong, the key is of a kind that is not used
    /// here, or the token does not answer within [`TOKEN_PATIENCE`].
    pub fn open(place: &TokenPlace, pin: Zeroizing<String>) -> Result<Self, TokenError> {
        Self::open_within(place, pin, TOKEN_PATIENCE)
    }

    /// [`TokenKey::open`] with another patience.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn open_within(
        place: &TokenPlace,
        pin: Zeroizing<String>,
        patience: Duration,
    ) -> Result<Self, TokenError> {
        // A driver that hangs keeps its thread.
        if OPENING.fetch_add(1, Ordering::Relaxed) >= OPENING_MAX {
            OPENING.fetch_sub(1, Ordering::Relaxed);
            return Err(TokenError::Busy);
        }
        let (jobs, waiting) = mpsc::sync_channel(QUEUE);
        let (opened, answer) = mpsc::channel();
        let (alive, ended) = mpsc::channel::<()>();
        let of_thread = place.clone();
        thread::Builder::new()
            .name("pkcs11".to_owned())
            .spawn(move || {
                serve(of_thread, pin, &opened, &waiting);
                drop(alive);
            })
            .map_err(|source| {
                OPENING.fetch_sub(1, Ordering::Relaxed);
                TokenError::Call {
                    action: "start a thread",
                    reason: source.to_string(),
                }
            })?;
        let public = receive(&answer, patience)?;
        let algorithm = algorithm(&public, place)?;
        let key = Self(Arc::new(Inner {
            place: place.clone(),
            public,
            algorithm,
            jobs: Some(jobs),
            ended: Mutex::new(ended),
            patience,
            complaint: Mutex::new(None),
        }));
        key.prove()?;
        Ok(key)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &TokenPlace {
        &self.0.place
    }

    /// Private and public key belong together.
    fn prove(&self) -> Result<(), TokenError> {
        const SAID: &[u8] = b"does this pair belong together";
        let signature = self.signature(SAID)?;
        let verifier: &dyn aws_lc_rs::signature::VerificationAlgorithm =
            match self.public().algorithm() {
                KeyAlgorithm::P256 => &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
                KeyAlgorithm::P384 => &aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1,
                KeyAlgorithm::Rsa(_)
                | KeyAlgorithm::P521
                | KeyAlgorithm::Ed25519
                | KeyAlgorithm::Other(_) => &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256,
            };
        aws_lc_rs::signature::UnparsedPublicKey::new(verifier, self.public().data().der_bytes())
            .verify(SAID, &signature)
            .map_err(|_source| TokenError::Pair {
                label: self.0.place.key_label.clone(),
            })
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let (reply, answer) = mpsc::channel();
        let job = Job {
            message: message.to_vec(),
            until: Instant::now() + self.0.patience,
            reply,
        };
        let jobs = self.0.jobs.as_ref().ok_or(TokenError::Closed)?;
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => TokenError::Busy,
            TrySendError::Disconnected(_) => TokenError::Closed,
        })?;
        receive(&answer, self.0.patience)
    }

    /// Signs, for rcgen; the reason of a failure is kept for [`TokenKey::complaint`].
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).map_err(|error| {
            *self.0.complaint.lock() = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }

    /// Why the last signature was not made, once.
    pub(crate) fn complaint(&self) -> Option<TokenError> {
        self.0.complaint.lock().take()
    }

    pub(crate) fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm
    }
}

/// What the key signs with: the hash as long as the curve.
fn algorithm(
    public: &PublicKey,
    place: &TokenPlace,
) -> Result<&'static SignatureAlgorithm, TokenError> {
    match public.algorithm() {
        KeyAlgorithm::P256 => Ok(&PKCS_ECDSA_P256_SHA256),
        KeyAlgorithm::P384 => Ok(&PKCS_ECDSA_P384_SHA384),
        KeyAlgorithm::Rsa(_) => Ok(&PKCS_RSA_SHA256),
        other @ (KeyAlgorithm::P521 | KeyAlgorithm::Ed25519 | KeyAlgorithm::Other(_)) => {
            Err(TokenError::Unusable {
                label: place.key_label.clone(),
                reason: format!("it is of algorithm {other}"),
            })
        }
    }
}

fn receive<T>(
    answer: &mpsc::Receiver<Result<T, TokenError>>,
    patience: Duration,
) -> Result<T, TokenError> {
    answer.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => TokenError::TimedOut {
            seconds: patience.as_secs(),
        },
        RecvTimeoutError::Disconnected => TokenError::Closed,
    })?
}

/// The thread that speaks with the token, until nobody holds the key any more.
fn serve(
    place: TokenPlace,
    pin: Zeroizing<String>,
    opened: &mpsc::Sender<Result<PublicKey, TokenError>>,
    waiting: &mpsc::Receiver<Job>,
) {
    let session = Session::open(&place, &pin);
    OPENING.fetch_sub(1, Ordering::Relaxed);
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            // Who asked may have given up meanwhile.
            drop(opened.send(Err(error)));
            return;
        }
    };
    let public = session.public().clone();
    if opened.send(Ok(public.clone())).is_err() {
        return;
    }
    let mut held = Holder {
        place,
        pin,
        public,
        session: Some(session),
    };
    while let Ok(job) = waiting.recv() {
        // Nobody waits for it any more.
        if job.until <= Instant::now() {
            continue;
        }
        drop(job.reply.send(held.sign(&job.message)));
    }
}

struct Holder {
    place: TokenPlace,
    pin: Zeroizing<String>,
    public: PublicKey,
    session: Option<Session>,
}

impl Holder {
    /// Signs; after a failure once more with a new session (a token that was pulled out and put in again, a service that was restarted).
    fn sign(&mut self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        if let Some(session) = &self.session
            && let Ok(signature) = session.sign(message)
        {
            return Ok(signature);
        }
        self.session = None;
        let session = Session::open(&self.place, &self.pin)?;
        if *session.public() != self.public {
            return Err(TokenError::Replaced {
                label: self.place.key_label.clone(),
            });
        }
        let signature = session.sign(message);
        self.session = signature.is_ok().then_some(session);
        signature
    }
}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

#[cfg(test)]
mod tests;
