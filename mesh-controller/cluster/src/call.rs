//! One request to an API server: its deadline, and what went wrong in words for a person.

use std::{error::Error as StdError, fmt, io, time::Duration};

use kube::core::Status;
use mesh_core::{facts::Obstacle, text::chain};

/// How long one request may take.
pub const CALL: Duration = Duration::from_secs(5);

/// Why a request failed. Carries the verb, the object and the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No answer in time.
    #[error("failed to {verb} {object}: no answer in time")]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
    },
    /// An answer that is no success, or no connection.
    #[error("failed to {verb} {object}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
        /// What was said.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nothing was tried: another replica leads.
    #[error("failed to {verb} {object}: this replica does not lead")]
    NotLeading {
        /// What was not tried.
        verb: &'static str,
        /// On what.
        object: String,
    },
}

/// What kind of failure it is, for metrics and for conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// No answer in time.
    Timeout,
    /// Nobody listens.
    Refused,
    /// The name of the server has no address.
    NameNotFound,
    /// The network does not lead there.
    Unreachable,
    /// The server's certificate is not believed.
    Certificate,
    /// The server does not know us.
    Unauthorized,
    /// The server knows us, and we may not.
    Forbidden,
    /// There is no such object or kind.
    NotFound,
    /// Somebody else was faster, or owns the field.
    Conflict,
    /// The object is not accepted.
    Invalid,
    /// The server has a problem of its own.
    Server,
    /// Nothing was tried.
    NotLeading,
    /// Something else.
    Other,
}

impl Trouble {
    /// One `CamelCase` word, as in a condition.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "Timeout",
            Self::Refused => "ConnectionRefused",
            Self::NameNotFound => "ServerNameNotFound",
            Self::Unreachable => "Unreachable",
            Self::Certificate => "CertificateInvalid",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::Conflict => "Conflict",
            Self::Invalid => "Invalid",
            Self::Server => "ServerError",
            Self::NotLeading => "NotLeading",
            Self::Other => "RequestFailed",
        }
    }

    /// Whether the API server as a whole is out of reach, whatever is asked of it.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::Refused
                | Self::NameNotFound
                | Self::Unreachable
                | Self::Certificate
                | Self::Unauthorized
        )
    }
}

impl CallError {
    /// What kind of failure it is.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Timeout { .. } => Trouble::Timeout,
            Self::NotLeading { .. } => Trouble::NotLeading,
            Self::Api { source, .. } => trouble(source),
        }
    }

    /// The same for a person. The words depend on the failure alone, never on the time of day, so that the same
    /// failure is the same text and nothing is written twice.
    #[must_use]
    pub fn obstacle(&self) -> Obstacle {
        let trouble = self.trouble();
        let message = match self {
            Self::Timeout { .. } | Self::NotLeading { .. } => self.to_string(),
            Self::Api { source, .. } => format!("{self}: {}", words(source, trouble)),
        };
        Obstacle::new(trouble.reason(), message)
    }

    /// The same, when what was asked does not matter: the same text for every question that the server does not answer.
    #[must_use]
    pub fn obstacle_of(&self, server: &str) -> Obstacle {
        let trouble = self.trouble();
        match self {
            _ if !trouble.is_loss() => self.obstacle(),
            Self::Api { source, .. } => Obstacle::new(
                trouble.reason(),
                format!("{server}: {}", words(source, trouble)),
            ),
            Self::Timeout { .. } | Self::NotLeading { .. } => {
                Obstacle::new(trouble.reason(), format!("{server}: no answer in time"))
            }
        }
    }

    /// Whether there is no such object (or kind).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.trouble() == Trouble::NotFound
    }

    /// Whether the object changed meanwhile, or exists already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.trouble() == Trouble::Conflict
    }
}

/// Asks, for as long as [`CALL`] and no longer.
///
/// # Errors
///
/// What the server said, or that it said nothing.
pub async fn call<T>(
    verb: &'static str,
    object: impl fmt::Display + Send,
    request: impl Future<Output = kube::Result<T>> + Send,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CallError::Api {
            verb,
            object: object.to_string(),
            source: Box::new(source),
        }),
        Err(_elapsed) => Err(CallError::Timeout {
            verb,
            object: object.to_string(),
        }),
    }
}

/// [`call`], where an object that is not there is an answer.
///
/// # Errors
///
/// The same, without "not found".
pub async fn call_opt<T>(
    verb: &'static str,
    object: impl fmt::Display + Send,
    request: impl Future<Output = kube::Result<T>> + Send,
) -> Result<Option<T>, CallError> {
    match call(verb, object, request).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What kind of failure it is.
#[must_use]
pub fn trouble(error: &kube::Error) -> Trouble {
    if let kube::Error::Api(status) = error {
        return of_status(status);
    }
    error.source().map_or(Trouble::Other, of_chain)
}

fn of_status(status: &Status) -> Trouble {
    match status.code {
        401 => Trouble::Unauthorized,
        403 => Trouble::Forbidden,
        404 => Trouble::NotFound,
        409 => Trouble::Conflict,
        400 | 422 => Trouble::Invalid,
        408 | 504 => Trouble::Timeout,
        429 | 500..=599 => Trouble::Server,
        _ => Trouble::Other,
    }
}

/// Walks down to the one who knows.
fn of_chain(error: &(dyn StdError + 'static)) -> Trouble {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<rustls::Error>().is_some() {
            return Trouble::Certificate;
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(found) = of_io(io)
        {
            return found;
        }
        next = error.source();
    }
    // hyper-util hides its resolver error behind a private type; its words begin so.
    if chain(error).contains("dns error") {
        Trouble::NameNotFound
    } else {
        Trouble::Other
    }
}

/// The network does not lead there, or no longer.
const UNREACHABLE: [io::ErrorKind; 6] = [
    io::ErrorKind::HostUnreachable,
    io::ErrorKind::NetworkUnreachable,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::UnexpectedEof,
];

fn of_io(error: &io::Error) -> Option<Trouble> {
    if let Some(inner) = error.get_ref() {
        if inner.downcast_ref::<rustls::Error>().is_some() {
            return Some(Trouble::Certificate);
        }
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return of_io(io);
        }
    }
    let kind = error.kind();
    if kind == io::ErrorKind::ConnectionRefused {
        Some(Trouble::Refused)
    } else if kind == io::ErrorKind::TimedOut {
        Some(Trouble::Timeout)
    } else {
        UNREACHABLE.contains(&kind).then_some(Trouble::Unreachable)
    }
}

/// The last word of the chain; where it would change with the time of day, a word of ours.
fn words(error: &kube::Error, trouble: Trouble) -> String {
    if let (kube::Error::Api(status), false) = (error, trouble == Trouble::Unauthorized) {
        return status.message.clone();
    }
    match trouble {
        Trouble::Refused => "nobody listens there".to_owned(),
        Trouble::Timeout => "no answer in time".to_owned(),
        Trouble::NameNotFound => "the name of the server has no address".to_owned(),
        Trouble::Unreachable => "the connection does not get through".to_owned(),
        Trouble::Unauthorized => {
            "it does not know us: the token or certificate in the kubeconfig is not valid"
                .to_owned()
        }
        Trouble::Certificate => certificate_words(error),
        Trouble::Forbidden
        | Trouble::NotFound
        | Trouble::Conflict
        | Trouble::Invalid
        | Trouble::Server
        | Trouble::NotLeading
        | Trouble::Other => last_word(error),
    }
}

fn certificate_words(error: &kube::Error) -> String {
    let text = chain(error);
    let known = [
        (
            "UnknownIssuer",
            "the server's certificate is not from the CA in the kubeconfig",
        ),
        ("expired", "the server's certificate has expired"),
        ("not valid yet", "the server's certificate is not valid yet"),
        (
            "not valid for name",
            "the server's certificate is for another name",
        ),
        (
            "BadSignature",
            "the server's certificate is not from the CA in the kubeconfig",
        ),
    ];
    known
        .iter()
        .find(|(mark, _)| text.contains(mark))
        .map_or_else(
            || "the TLS handshake failed".to_owned(),
            |(_, words)| (*words).to_owned(),
        )
}

fn last_word(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests;
