//! Who is given which certificate: from what the API server says about a token, what is asked for, and the pods that
//! run, to an identity and a life, or a refusal.

mod pods;

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::names::{ClusterName, SpiffeId, TrustDomain};

pub use pods::{Pod, Pods};

/// The audience that tokens for the CA are made for.
pub const AUDIENCE: &str = "istio-ca";

/// The group of all service accounts.
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// What agents call a cluster that was given no name.
const NAMELESS_CLUSTER: &str = "Kubernetes";

/// What the API server says about a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// It is good.
    pub authenticated: bool,
    /// The audiences it is good for, of those that were asked for.
    pub audiences: Vec<String>,
    /// Whose it is.
    pub username: String,
    /// The groups of that user.
    pub groups: Vec<String>,
    /// Name of the pod it was made for.
    pub pod: Option<String>,
    /// UID of that pod.
    pub pod_uid: Option<String>,
    /// The node of that pod.
    pub node: Option<String>,
}

/// Who asks: a service account, and the pod its token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub account: String,
    /// Name of the pod.
    pub pod: Option<String>,
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// Its node.
    pub node: Option<String>,
}

impl Caller {
    /// Who asks, by the word of the API server and by nothing else.
    ///
    /// # Errors
    ///
    /// When it does not vouch for a service account that may ask here.
    pub fn of(review: &Review) -> Result<Self, Refusal> {
        if !review.authenticated {
            return Err(Refusal::NotAuthenticated);
        }
        if !review.audiences.iter().any(|a| a == AUDIENCE) {
            return Err(Refusal::OtherAudience);
        }
        if !review.groups.iter().any(|g| g == SERVICE_ACCOUNTS) {
            return Err(Refusal::NotAServiceAccount);
        }
        let parts: Vec<&str> = review.username.split(':').collect();
        let ["system", "serviceaccount", namespace, account] = parts.as_slice() else {
            return Err(Refusal::NotAServiceAccount);
        };
        if namespace.is_empty() || account.is_empty() {
            return Err(Refusal::NotAServiceAccount);
        }
        Ok(Self {
            namespace: (*namespace).to_owned(),
            account: (*account).to_owned(),
            pod: review.pod.clone(),
            pod_uid: review.pod_uid.clone(),
            node: review.node.clone(),
        })
    }
}

/// What is asked for, beside the request that carries the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask<'a> {
    /// The cluster the caller says it is in; empty: it does not say.
    pub cluster: &'a str,
    /// Seconds that the certificate is to live; 0 or less: as long as is usual.
    pub seconds: i64,
    /// The identity that a node's account asks for in place of its own; empty: its own.
    pub impersonate: &'a str,
}

/// What the mesh allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Trust domain of all identities given.
    pub trust_domain: TrustDomain,
    /// This cluster.
    pub cluster: ClusterName,
    /// Life of a certificate when nothing else is asked for.
    pub usual: SignedDuration,
    /// Longest life that may be asked for.
    pub longest: SignedDuration,
    /// Accounts, `namespace/name`, that may ask for pods of their own node.
    pub node_accounts: BTreeSet<String>,
}

/// What is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The identity.
    pub identity: SpiffeId,
    /// How long the certificate may live.
    pub life: SignedDuration,
    /// A node's account asked for it in place of the workload.
    pub impersonated: bool,
}

/// How a refusal is to be taken by who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It did not prove who it is.
    Unauthenticated,
    /// It may not have that.
    Forbidden,
    /// It asked for something that does not exist.
    Invalid,
    /// It may ask again.
    Later,
}

/// Why nothing is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The API server does not know the token.
    #[error("the API server does not accept the token")]
    NotAuthenticated,
    /// The token is for somebody else.
    #[error("the token is not for audience {AUDIENCE}")]
    OtherAudience,
    /// A person, or a node.
    #[error("the token is not one of a service account")]
    NotAServiceAccount,
    /// The caller says that it is elsewhere.
    #[error("the caller says that it is in another cluster; tokens of {cluster} are known here")]
    OtherCluster {
        /// This cluster.
        cluster: ClusterName,
    },
    /// More than is allowed.
    #[error("a life of {asked} s is asked for, at most {longest} s are given")]
    TooLong {
        /// Seconds asked for.
        asked: i64,
        /// Seconds allowed.
        longest: i64,
    },
    /// A namespace or service account that cannot stand in a SPIFFE ID.
    #[error("the service account has a name that cannot stand in a SPIFFE ID")]
    BadName,
    /// The identity asked for is none.
    #[error("the identity asked for is not a SPIFFE ID of a workload")]
    BadIdentity,
    /// The identity asked for is in another trust domain.
    #[error("the identity asked for is not in trust domain {trust_domain}")]
    OtherTrustDomain {
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// An ordinary workload asks for another's identity.
    #[error("the service account may not ask for other identities than its own")]
    NotANodeAccount,
    /// The token does not say which pod asks.
    #[error("the token is not bound to a pod")]
    NoPod,
    /// Nobody knows yet what runs where.
    #[error("the pods of this cluster are not known yet")]
    PodsUnknown,
    /// The pod that asks is not the one that runs under its name.
    #[error("the pod that asks is not known, or is another than the token is bound to")]
    OtherPod,
    /// Nothing that the node's account could ask for.
    #[error("no pod of that service account runs on the node of the caller")]
    NotOnNode,
}

impl Refusal {
    /// One word, for counts and for the audit.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAuthenticated => "NotAuthenticated",
            Self::OtherAudience => "OtherAudience",
            Self::NotAServiceAccount => "NotAServiceAccount",
            Self::OtherCluster { .. } => "OtherCluster",
            Self::TooLong { .. } => "TooLong",
            Self::BadName => "BadName",
            Self::BadIdentity => "BadIdentity",
            Self::OtherTrustDomain { .. } => "OtherTrustDomain",
            Self::NotANodeAccount => "NotANodeAccount",
            Self::NoPod => "NoPod",
            Self::PodsUnknown => "PodsUnknown",
            Self::OtherPod => "OtherPod",
            Self::NotOnNode => "NotOnNode",
        }
    }

    /// How it is to be taken.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotAuthenticated
            | Self::OtherAudience
            | Self::NotAServiceAccount
            | Self::OtherCluster { .. } => Kind::Unauthenticated,
            Self::TooLong { .. } | Self::BadName | Self::BadIdentity => Kind::Invalid,
            Self::OtherTrustDomain { .. }
            | Self::NotANodeAccount
            | Self::NoPod
            | Self::OtherPod
            | Self::NotOnNode => Kind::Forbidden,
            Self::PodsUnknown => Kind::Later,
        }
    }
}

/// Decides about one request. `pods` is what runs in this cluster, once that is known.
///
/// # Errors
///
/// The first rule that stands against it.
pub fn decide(
    caller: &Caller,
    ask: Ask<'_>,
    rules: &Rules,
    pods: Option<&Pods>,
) -> Result<Grant, Refusal> {
    let known = ["", NAMELESS_CLUSTER, rules.cluster.as_str()];
    if !known.contains(&ask.cluster) {
        return Err(Refusal::OtherCluster {
            cluster: rules.cluster.clone(),
        });
    }
    let life = life(ask.seconds, rules)?;
    let impersonated = !ask.impersonate.is_empty();
    let identity = if impersonated {
        stand_in(caller, ask.impersonate, rules, pods)?
    } else {
        named(rules, &caller.namespace, &caller.account).ok_or(Refusal::BadName)?
    };
    Ok(Grant {
        identity,
        life,
        impersonated,
    })
}

fn life(seconds: i64, rules: &Rules) -> Result<SignedDuration, Refusal> {
    if seconds <= 0 {
        return Ok(rules.usual.min(rules.longest));
    }
    let asked = SignedDuration::from_secs(seconds);
    if asked > rules.longest {
        return Err(Refusal::TooLong {
            asked: seconds,
            longest: rules.longest.as_secs(),
        });
    }
    Ok(asked)
}

/// The identity of a workload, checked.
fn named(rules: &Rules, namespace: &str, account: &str) -> Option<SpiffeId> {
    let id = rules.trust_domain.workload(namespace, account);
    id.as_str().parse().ok()
}

/// A node's account asks for a pod that runs on its node.
fn stand_in(
    caller: &Caller,
    asked: &str,
    rules: &Rules,
    pods: Option<&Pods>,
) -> Result<SpiffeId, Refusal> {
    let account = format!("{}/{}", caller.namespace, caller.account);
    if !rules.node_accounts.contains(&account) {
        return Err(Refusal::NotANodeAccount);
    }
    let identity: SpiffeId = asked.parse().map_err(|_source| Refusal::BadIdentity)?;
    let ours = format!("spiffe://{}/ns/", rules.trust_domain);
    let (namespace, account) = asked
        .strip_prefix(&ours)
        .and_then(|rest| rest.split_once("/sa/"))
        .ok_or_else(|| Refusal::OtherTrustDomain {
            trust_domain: rules.trust_domain.clone(),
        })?;
    let (Some(name), Some(uid)) = (&caller.pod, &caller.pod_uid) else {
        return Err(Refusal::NoPod);
    };
    let pods = pods.ok_or(Refusal::PodsUnknown)?;
    let own = pods
        .get(&caller.namespace, name)
        .filter(|pod| pod.uid == *uid && pod.account == caller.account)
        .filter(|pod| !pod.node.is_empty())
        .filter(|pod| caller.node.as_ref().is_none_or(|node| *node == pod.node))
        .ok_or(Refusal::OtherPod)?;
    if pods.runs(&own.node, namespace, account) {
        Ok(identity)
    } else {
        Err(Refusal::NotOnNode)
    }
}

#[cfg(test)]
mod tests;
