//! A root whose key is in a PKCS#11 token: its certificate is in a Secret, its PIN in another.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use mesh_api::mesh::{Pkcs11, RootStatus};
use mesh_ca::{Authority, TokenError, TokenKey, TokenPlace, read_root};
use mesh_core::facts::{Obstacle, RootFacts};
use zeroize::Zeroizing;

use super::{Root, TOKEN_AWAY, acceptable, find, layout, patiently, status};

/// Entry of the Secret with the PIN.
const PIN: &str = "pin";
/// How long a token may take to be opened and to sign once.
const PATIENCE: Duration = Duration::from_secs(35);
/// Reason while the PIN is refused: it is not tried again before somebody changes it, since tokens lock themselves.
pub const TOKEN_PIN: &str = "RootTokenPin";

/// Where the certificate was found, and where the key is to be.
pub(super) struct Wanted<'a> {
    pub(super) token: &'a Pkcs11,
    pub(super) module: Option<&'a PathBuf>,
    pub(super) certificate: &'a Secret,
    pub(super) namespace: &'a str,
    /// The Secret with the certificate, for messages and for the record.
    pub(super) place: &'a str,
    pub(super) name: &'a str,
    pub(super) recorded: Option<&'a RootStatus>,
}

/// Opens the root. One that is recorded is a root also while its token is away, only that it cannot sign.
pub(super) async fn open(api: &Api<Secret>, wanted: Wanted<'_>) -> Result<Root, Obstacle> {
    let place = wanted.place;
    let invalid = |why: String| Obstacle::new("RootInvalid", format!("{place}: {why}"));
    let entries = layout::entries(wanted.certificate);
    let certificate = entries
        .get(layout::CERTIFICATE)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| invalid(format!("it has no text in {}", layout::CERTIFICATE)))?;
    let certificate = certificate.to_owned();
    let facts = mesh_ca::facts(&certificate)
        .map_err(|error| invalid(error.to_string()))?
        .into_iter()
        .next()
        .ok_or_else(|| invalid("it holds no certificate".to_owned()))?;
    let recorded = wanted.recorded;
    let record = |findings| {
        status(&facts, wanted.name, recorded, findings)
            .map_err(|why| Obstacle::new(why.0, format!("{place} {}", why.1)))
    };
    let root = |signer, status: RootStatus, own: String| Root {
        signer,
        key: facts.key_fingerprint.clone(),
        not_after: facts.not_after,
        facts: RootFacts {
            generation: status.generation,
            certificate: own,
            ends: status.not_after.parse().ok(),
        },
        status,
    };
    match unlock(api, &wanted).await {
        Ok(key) => {
            let read = read_root(&entries, Some(key.public()), Timestamp::now())
                .map_err(|error| invalid(mesh_core::text::chain(&error)))?;
            let status = record(acceptable(&read.findings).map_err(invalid)?)?;
            let chain = read.chain_pem;
            let authority = patiently(PATIENCE, move || Authority::of(&chain, &key)).await?;
            let own = authority.cert_pem();
            Ok(root(Ok(Arc::new(authority)), status, own))
        }
        Err(why) => match recorded {
            None => Err(why),
            Some(known) => {
                let status = record(known.findings.clone())?;
                let own = mesh_ca::bundle([certificate.as_str()])
                    .map_err(|error| invalid(error.to_string()))?;
                Ok(root(Err(why), status, own))
            }
        },
    }
}

async fn unlock(api: &Api<Secret>, wanted: &Wanted<'_>) -> Result<TokenKey, Obstacle> {
    let Some(module) = wanted.module else {
        return Err(Obstacle::new(
            "NoTokenModule",
            "the controller was started without --pkcs11-module (chart value pkcs11.module)",
        ));
    };
    let name = &wanted.token.pin_secret_name;
    let place = format!("Secret {}/{name}", wanted.namespace);
    let missing = |why: String| Obstacle::new(TOKEN_PIN, format!("{place}: {why}"));
    let secret = find(api, &place, name)
        .await?
        .ok_or_else(|| missing("it does not exist".to_owned()))?;
    let data = secret.data.unwrap_or_default();
    let pin = layout::text(&data, PIN).map_err(missing)?;
    // Whoever makes a Secret from a file has the end of its line in it.
    let pin = Zeroizing::new(pin.trim_end_matches(['\r', '\n']).to_owned());
    let at = TokenPlace {
        module: module.clone(),
        token_label: wanted.token.token_label.clone(),
        key_label: wanted.token.key_label.clone(),
    };
    let opened = tokio::task::spawn_blocking(move || TokenKey::open(&at, pin));
    match tokio::time::timeout(PATIENCE, opened).await {
        Ok(Ok(Ok(key))) => Ok(key),
        Ok(Ok(Err(error))) => Err(refused(&error)),
        Ok(Err(_)) => Err(Obstacle::new("RootFailed", "opening the token panicked")),
        Err(_elapsed) => Err(refused(&TokenError::TimedOut {
            seconds: PATIENCE.as_secs(),
        })),
    }
}

fn refused(error: &TokenError) -> Obstacle {
    let reason = if matches!(error, TokenError::Pin { .. } | TokenError::PinLocked { .. }) {
        TOKEN_PIN
    } else {
        TOKEN_AWAY
    };
    Obstacle::new(reason, mesh_core::text::chain(error))
}
