//! The cheap look at a token: whether it has the shape of one, and whether a key that the API server publishes has signed
//! it for us. What does not pass is refused without asking anybody. When the keys cannot be had, nothing is said of a
//! token, and the API server is asked about each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm},
};
use mesh_cluster::agent_io::PublishedKeys;
use mesh_core::issuance::AUDIENCE;
use parking_lot::RwLock;
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tonic::Code;

use super::{ask::Authenticate, denied::Denied};

/// Longest token that is looked at; those of Kubernetes have 1 to 2 KiB.
pub(super) const TOKEN_MAX: usize = 8 * 1024;
/// Most keys that are kept.
const KEYS_MAX: usize = 64;
/// Most issuers that are remembered.
const ISSUERS_MAX: usize = 8;
/// Keys are asked for anew after this long, so that those that are withdrawn go.
const KEYS_OLD: Duration = Duration::from_mins(5);
/// Keys are not asked for more often than this, whatever tokens say.
const KEYS_AGAIN: Duration = Duration::from_secs(5);
/// Longest wait for keys.
const KEYS_DEADLINE: Duration = Duration::from_secs(3);

/// Whether a look was enough to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// A published key has signed it.
    Signed,
    /// There are no keys to judge it by.
    Unjudged,
}

/// What is read of the claims, once the signature is good.
#[derive(Deserialize)]
struct Claims {}

/// Three parts of base64url, none of them empty.
pub(super) fn shaped(token: &str) -> Result<(), Denied> {
    let refuse = |reason, message| Err(Denied::new(Code::Unauthenticated, reason, message));
    if token.len() > TOKEN_MAX {
        return refuse("TokenTooLong", "the token is too long");
    }
    let fits = |part: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !part.is_empty() && part.bytes().all(plain)
    };
    if token.split('.').count() == 3 && token.split('.').all(fits) {
        Ok(())
    } else {
        refuse("NotAToken", "the token is not a JSON Web Token")
    }
}

/// Keys, by their IDs, and whom they speak for.
struct Keys {
    by_id: BTreeMap<String, (DecodingKey, Vec<Algorithm>)>,
    issuers: Vec<String>,
}

/// With which algorithms a key signs; none: it is not used here. A shared secret is never one.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may learn new kinds of keys"
)]
fn algorithms(key: &Jwk) -> Vec<Algorithm> {
    let fit: &[Algorithm] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
        _ => &[],
    };
    let said = key.common.key_algorithm;
    fit.iter()
        .copied()
        .filter(|algorithm| said.is_none_or(|said| said == KeyAlgorithm::from(*algorithm)))
        .collect()
}

impl Keys {
    /// Reads what was published; a key that cannot be read does not hide the others.
    fn read(published: &PublishedKeys, known: &[String]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_str(&published.keys).ok()?;
        let mut by_id = BTreeMap::new();
        for value in set.keys.into_iter().take(KEYS_MAX) {
            let Ok(key) = serde_json::from_value::<Jwk>(value) else {
                continue;
            };
            let algorithms = algorithms(&key);
            if let (false, Some(id), Ok(decoding)) = (
                algorithms.is_empty(),
                &key.common.key_id,
                DecodingKey::from_jwk(&key),
            ) {
                by_id.insert(id.clone(), (decoding, algorithms));
            }
        }
        if by_id.is_empty() {
            return None;
        }
        // An API server that changes its name goes on believing tokens of the old one; so do we, and let it decide.
        let mut issuers: Vec<String> = published.issuer.clone().into_iter().collect();
        for issuer in known {
            if issuers.len() < ISSUERS_MAX && !issuers.contains(issuer) {
                issuers.push(issuer.clone());
            }
        }
        Some(Self { by_id, issuers })
    }

    /// Whether the token is signed for us; nothing if no key has the ID that it names.
    fn judge(&self, token: &str) -> Result<Option<()>, Denied> {
        let bad = |reason, message: &str| Denied::new(Code::Unauthenticated, reason, message);
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_source| bad("NotAToken", "the token has no header that can be read"))?;
        let id = header
            .kid
            .ok_or_else(|| bad("UnknownKey", "the token does not name its key"))?;
        let Some((key, algorithms)) = self.by_id.get(&id) else {
            return Ok(None);
        };
        let mut rules = Validation::new(header.alg);
        rules.algorithms.clone_from(algorithms);
        rules.validate_nbf = true;
        rules.set_audience(&[AUDIENCE]);
        rules.set_required_spec_claims(&["exp", "aud", "iss"]);
        if !self.issuers.is_empty() {
            rules.set_issuer(&self.issuers);
        }
        match jsonwebtoken::decode::<Claims>(token, key, &rules) {
            Ok(_) => Ok(Some(())),
            Err(error) => Err(denied(error.kind())),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may learn new errors"
)]
fn denied(error: &ErrorKind) -> Denied {
    let (reason, message) = match error {
        ErrorKind::ExpiredSignature => ("TokenExpired", "the token has expired"),
        ErrorKind::ImmatureSignature => ("TokenTooYoung", "the token is not valid yet"),
        ErrorKind::InvalidAudience => ("OtherAudience", "the token is not for audience istio-ca"),
        ErrorKind::InvalidIssuer => (
            "OtherIssuer",
            "the token was not made by the API server of this cluster",
        ),
        ErrorKind::InvalidSignature
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::UnsupportedAlgorithm => (
            "BadSignature",
            "the token is not signed by the key that it names",
        ),
        _ => ("NotAToken", "the token cannot be read"),
    };
    Denied::new(Code::Unauthenticated, reason, message)
}

#[derive(Default)]
struct Ring {
    keys: Option<Arc<Keys>>,
    /// When the keys were last had.
    had: Option<Instant>,
    /// When they were last asked for, and whether they came.
    asked: Option<(Instant, bool)>,
}

/// The keys, asked for when they are needed.
pub(super) struct KeyRing {
    from: Arc<dyn Authenticate>,
    ring: RwLock<Ring>,
    asking: Mutex<()>,
}

impl KeyRing {
    pub(super) fn new(from: Arc<dyn Authenticate>) -> Self {
        Self {
            from,
            ring: RwLock::default(),
            asking: Mutex::default(),
        }
    }

    /// Looks at a token that has the shape of one.
    pub(super) async fn look(&self, token: &str) -> Result<Looked, Denied> {
        let Some(keys) = self.current().await else {
            return Ok(Looked::Unjudged);
        };
        if keys.judge(token)?.is_some() {
            return Ok(Looked::Signed);
        }
        // Its key may be new.
        self.refresh().await;
        let keys = self.ring.read().keys.clone();
        if let Some(keys) = keys
            && keys.judge(token)?.is_some()
        {
            return Ok(Looked::Signed);
        }
        if matches!(self.ring.read().asked, Some((_, true))) {
            let message = "the token is signed by a key that the API server does not publish";
            Err(Denied::new(Code::Unauthenticated, "UnknownKey", message))
        } else {
            Ok(Looked::Unjudged)
        }
    }

    async fn current(&self) -> Option<Arc<Keys>> {
        let (keys, fresh) = {
            let ring = self.ring.read();
            let fresh = ring.had.is_some_and(|had| had.elapsed() < KEYS_OLD);
            (ring.keys.clone(), fresh)
        };
        if fresh {
            return keys;
        }
        // Nobody waits for others' asking as long as there are keys to go on with.
        if keys.is_some() && self.asking.try_lock().is_err() {
            return keys;
        }
        self.refresh().await;
        self.ring.read().keys.clone()
    }

    /// Asks for the keys, unless that was done just now.
    async fn refresh(&self) {
        let recent = || {
            let asked = self.ring.read().asked;
            asked.is_some_and(|(at, _)| at.elapsed() < KEYS_AGAIN)
        };
        if recent() {
            return;
        }
        let _asking = self.asking.lock().await;
        // Somebody else may have asked while we waited.
        if recent() {
            return;
        }
        let said = timeout(KEYS_DEADLINE, self.from.keys()).await;
        let mut ring = self.ring.write();
        let known = ring.keys.as_ref().map(|k| k.issuers.clone());
        let read = match said {
            Ok(Ok(published)) => {
                let read = Keys::read(&published, &known.unwrap_or_default());
                if read.is_none() {
                    tracing::warn!(
                        "the API server publishes no key for tokens that can be used; it is asked about each token"
                    );
                }
                read
            }
            Ok(Err(why)) => {
                if ring.asked.is_none_or(|(_, came)| came) {
                    tracing::warn!(error = %why, "failed to read the keys of tokens; the API server is asked about each token");
                }
                None
            }
            Err(_elapsed) => None,
        };
        let now = Instant::now();
        ring.asked = Some((now, read.is_some()));
        if let Some(read) = read {
            ring.keys = Some(Arc::new(read));
            ring.had = Some(now);
        }
    }
}
