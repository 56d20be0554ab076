//! Names that were checked once, at the door; inside, nobody checks again.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest DNS label, in bytes (RFC 1035 2.3.4).
pub const LABEL_MAX: usize = 63;

/// What is put behind a region's name to name its telemetry Service (kof 1.7 and later).
pub const SERVICE_SUFFIX: &str = "-vmauth";

/// Longest trust domain, in bytes (SPIFFE-ID 2.1).
pub const TRUST_DOMAIN_MAX: usize = 255;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no text.
    #[error("the name is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("{name:?} has {len} characters, at most {max} are allowed")]
    TooLong {
        /// The text.
        name: String,
        /// Its bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A character that may not stand in a DNS label (RFC 1123 2.1, lower case as Kubernetes wants).
    #[error("{name:?} holds {bad:?}; only a-z, 0-9 and '-' may stand in it")]
    BadCharacter {
        /// The text.
        name: String,
        /// The first bad character.
        bad: char,
    },
    /// A hyphen at an end.
    #[error("{name:?} begins or ends with '-'")]
    HyphenAtEnd {
        /// The text.
        name: String,
    },
    /// Not a SPIFFE ID of a workload.
    #[error(
        "{id:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    NotAWorkload {
        /// The text.
        id: String,
    },
}

fn check_label(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let name = || text.to_owned();
    if text.len() > max {
        return Err(NameError::TooLong {
            name: name(),
            len: text.len(),
            max,
        });
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(bad) = text.chars().find(|c| !fits(*c)) {
        return Err(NameError::BadCharacter { name: name(), bad });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::HyphenAtEnd { name: name() });
    }
    Ok(())
}

/// A checked text with `FromStr`, `Display` and serde.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a mesh: a DNS label, since it becomes an object name and a certificate subject.
    MeshName,
    |text| check_label(text, LABEL_MAX)
);

name_type!(
    /// The ID of a cluster in its mesh, equal to the name of its `ClusterDeployment`: a DNS label.
    ClusterName,
    |text| check_label(text, LABEL_MAX)
);

name_type!(
    /// A SPIFFE trust domain (SPIFFE-ID 2.1), here one or more DNS labels.
    TrustDomain,
    |text| {
        if text.len() > TRUST_DOMAIN_MAX {
            return Err(NameError::TooLong { name: text.to_owned(), len: text.len(), max: TRUST_DOMAIN_MAX });
        }
        text.split('.').try_for_each(|label| check_label(label, LABEL_MAX))
    }
);

impl ClusterName {
    /// The telemetry Service of this region, `<region>-vmauth`.
    ///
    /// # Errors
    ///
    /// When the name would not fit a DNS label: a region's name has at most 56 characters.
    pub fn service(&self) -> Result<String, NameError> {
        let max = LABEL_MAX.saturating_sub(SERVICE_SUFFIX.len());
        if self.0.len() > max {
            return Err(NameError::TooLong {
                name: self.0.clone(),
                len: self.0.len(),
                max,
            });
        }
        Ok(format!("{}{SERVICE_SUFFIX}", self.0))
    }
}

impl TrustDomain {
    /// The trust domain of one member, `<cluster>.<mesh trust domain>`: in the `envoy` data plane each
    /// member has its own, so that no member's CA can speak for another.
    ///
    /// # Errors
    ///
    /// When the two together are too long.
    pub fn of_member(&self, cluster: &ClusterName) -> Result<Self, NameError> {
        format!("{cluster}.{self}").parse()
    }

    /// The SPIFFE ID of a workload in this trust domain.
    #[must_use]
    pub fn workload(&self, namespace: &str, service_account: &str) -> SpiffeId {
        SpiffeId(format!(
            "spiffe://{self}/ns/{namespace}/sa/{service_account}"
        ))
    }
}

/// The SPIFFE ID of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`
/// (ztunnel splits it into exactly these five parts).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(String);

impl SpiffeId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refusal = || NameError::NotAWorkload {
            id: text.to_owned(),
        };
        let rest = text.strip_prefix("spiffe://").ok_or_else(refusal)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [domain, "ns", namespace, "sa", account] = parts.as_slice() else {
            return Err(refusal());
        };
        domain.parse::<TrustDomain>()?;
        check_label(namespace, LABEL_MAX)?;
        // A service account is a DNS subdomain: labels with dots between them.
        account
            .split('.')
            .try_for_each(|label| check_label(label, LABEL_MAX))?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
