//! What tools have left that linked these clusters before, or still do: kof's `kof-istio` up to 1.4, k0rdent/istio, `istioctl create-remote-secret`.
//!
//! Such an object is known by what it is, never by its name: others may have these names, and these tools have changed theirs several times.
//! It is told, with what it means and what may be done about it, and left alone. Nothing waits for it; where it is in the way of
//! something of ours, that says so by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::ClusterName;

/// Most that is told of one member.
const MOST: usize = 20;
/// Most names that are told of one object.
const NAMED: usize = 5;

/// Something that is there and not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its name in namespace istio-system.
    pub name: String,
    /// What it is.
    pub what: What,
}

impl Found {
    /// Whether istiod reads this cluster by it.
    #[must_use]
    pub fn leads_to(&self, cluster: &ClusterName) -> bool {
        matches!(&self.what, What::Remote { clusters } if clusters.contains(cluster.as_str()))
    }
}

/// What something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A Secret by which istiod reads the API servers of these clusters.
    Remote {
        /// Their IDs: the keys of its data, and what its annotation says.
        clusters: BTreeSet<String>,
    },
    /// A Secret with a token that does not end.
    Token {
        /// The service account that it is of.
        account: String,
    },
    /// A Gateway of Istio that lets other networks through to all Services of these patterns, whoever asks.
    Wide {
        /// Its hosts that are patterns.
        hosts: BTreeSet<String>,
    },
    /// An issuer of cert-manager that signs with a CA.
    Issuer {
        /// The Secret with the CA's key.
        secret: String,
    },
    /// A certificate of a CA that cert-manager keeps.
    Authority {
        /// The Secret that it keeps it in, with its key.
        secret: String,
        /// The issuer that signs it.
        issuer: String,
    },
}

impl What {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Remote { .. } | Self::Token { .. } => "Secret",
            Self::Wide { .. } => "Gateway",
            Self::Issuer { .. } => "Issuer",
            Self::Authority { .. } => "Certificate",
        }
    }
}

/// A left-over, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Kind, namespace and name.
    pub object: String,
    /// What it is, and what may be done about it.
    pub message: String,
}

/// Where it was found.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The cluster that it is in.
    pub own: &'a ClusterName,
    /// All clusters of the mesh.
    pub clusters: &'a BTreeSet<ClusterName>,
    /// In management: the Secret with the root of the mesh.
    pub root: Option<&'a str>,
}

/// What of all that was found is a left-over.
#[must_use]
pub fn leftovers(found: &BTreeSet<Found>, scene: &Scene<'_>) -> Vec<Leftover> {
    let issuers = found.iter().filter_map(|it| match &it.what {
        What::Issuer { secret } => Some((it.name.as_str(), secret.as_str())),
        What::Remote { .. } | What::Token { .. } | What::Wide { .. } | What::Authority { .. } => {
            None
        }
    });
    let issuers: BTreeMap<&str, &str> = issuers.collect();
    let told = found.iter().filter_map(|found| {
        let message = match &found.what {
            What::Remote { clusters } => remote(clusters, scene)?,
            What::Token { account } => token(account),
            What::Wide { hosts } => wide(hosts),
            What::Issuer { secret } => issuer(secret, scene)?,
            What::Authority { secret, issuer } => {
                let above = issuers.get(issuer.as_str()).copied();
                authority(secret, above, scene)?
            }
        };
        let object = format!("{} istio-system/{}", found.what.kind(), found.name);
        Some(Leftover { object, message })
    });
    told.take(MOST).collect()
}

fn list(names: &[&String]) -> String {
    let names: Vec<&str> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    names.join(", ")
}

/// One that leads to none of our clusters is somebody's own affair.
fn remote(clusters: &BTreeSet<String>, scene: &Scene<'_>) -> Option<String> {
    let ours = |id: &&String| scene.clusters.iter().any(|it| it.as_str() == **id);
    let ours: Vec<&String> = clusters.iter().filter(ours).collect();
    let ours = list(&ours);
    if ours.is_empty() {
        return None;
    }
    Some(if ours == scene.own.as_str() {
        format!(
            "a remote secret of this very cluster ({ours}), with a credential for its API server; istiod here ignores it. Delete it when no \
             other cluster is given a copy"
        )
    } else {
        format!(
            "a remote secret by which istiod here reads {ours}, with a credential for it; this mesh links them without it, or by a Secret of its own. \
             Delete it when PathsReady is true"
        )
    })
}

fn token(account: &str) -> String {
    format!(
        "a token of ServiceAccount istio-system/{account} that never ends, as istioctl makes them for remote secrets: whoever has a copy is that \
         account. Nothing of ours uses it; delete it when no remote secret elsewhere does"
    )
}

fn wide(hosts: &BTreeSet<String>) -> String {
    let hosts: Vec<&String> = hosts.iter().collect();
    format!(
        "opens every Service that {} stands for to other networks, past the contract of the mesh; ours opens the contract's names and no others. \
         Delete it, unless something else of yours is reached by it",
        list(&hosts)
    )
}

fn issuer(secret: &str, scene: &Scene<'_>) -> Option<String> {
    match scene.root {
        Some(root) if root == secret => Some(format!(
            "signs with the root of the mesh (Secret istio-system/{secret}): whoever may make Certificates or CertificateRequests in \
             istio-system gets a CA below it. Delete it when the last cluster is enrolled here; the Secret stays"
        )),
        Some(_) => None,
        None => Some(format!(
            "signs with the CA in Secret istio-system/{secret}, whose key its maker may have copied from management. Nothing of ours uses it; delete \
             both when no istio-csr signs by it any more"
        )),
    }
}

/// In members CAs of others are their affair; in management those are told that have to do with the root.
fn authority(secret: &str, above: Option<&str>, scene: &Scene<'_>) -> Option<String> {
    let root = scene.root?;
    if secret == root {
        return Some(format!(
            "by it cert-manager keeps the root of the mesh (Secret istio-system/{secret}), and puts another one there when it renews it, which \
             is then refused (RootReplaced). Delete it; cert-manager leaves the Secret, unless it was told to own it"
        ));
    }
    (above == Some(root)).then(|| {
        format!(
            "a CA below the root of the mesh, with its key in Secret istio-system/{secret}, where its maker copied it from into clusters: whoever \
             has it can pretend to be anybody to workloads that trust the root. Delete both, here and there, when no istiod signs with it; revoke it if it leaked"
        )
    })
}

#[cfg(test)]
mod tests;
