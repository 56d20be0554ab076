//! Puts a snapshot together and leaves out what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::secrets::{DEFAULT, SHARED, anchor, leaf};
use super::serve::clusters_of;
use super::{Behind, Consume, GatewaySpec, Secrets, Serve, consume, serve};
use crate::model::{Kind, Resource, Snapshot};

/// A snapshot, and what of the spec is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// What the Envoy should have. Whole: every reference in it resolves.
    pub snapshot: Snapshot,
    /// Entries that were left out; the others are not affected.
    pub left_out: Vec<LeftOut>,
}

/// An entry of the spec that is not in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The caller or region.
    pub cluster: String,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cluster, self.reason)
    }
}

/// Why an entry was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// This Envoy has no leaf yet.
    #[error("no certificate of our own yet")]
    NoLeaf,
    /// There is nothing under which the other side could be believed.
    #[error("no anchor of that cluster")]
    NoAnchor,
    /// Without an expected identity anybody under the anchor would pass.
    #[error("no identity to expect")]
    NoIdentity,
    /// The cluster ID is empty or has characters that Envoy's names must not have.
    #[error("{0:?} is not a name")]
    BadName(String),
    /// A prefix must start with a slash and hold no query, fragment, escape or dot segment.
    #[error("{0:?} is not a path prefix")]
    BadPrefix(String),
    /// A backend has no host or no port.
    #[error("backend {0:?} has no address")]
    BadBackend(String),
    /// The contract names a backend that is not there.
    #[error("backend {0:?} is not defined")]
    UnknownBackend(String),
    /// Another caller defines the same backend differently.
    #[error("backend {0:?} is defined twice, with different addresses")]
    BackendConflict(String),
    /// Another entry has the same cluster, SNI or host.
    #[error("{0:?} is already taken by another entry")]
    Taken(String),
    /// No host names it.
    #[error("no host name for it")]
    NoHost,
}

/// Builds the snapshot of one Envoy. Total: whatever is wrong with an entry is in
/// [`Built::left_out`].
pub fn build(spec: &GatewaySpec, secrets: &Secrets) -> Built {
    let mut builder = Builder::default();
    let callers = builder.callers(spec, secrets);
    let regions = builder.regions(spec, secrets);
    if let Some(own) = &secrets.default
        && !(callers.is_empty() && regions.is_empty())
    {
        builder.add(Kind::Sds, leaf(DEFAULT, own));
    }
    if let Some(shared) = &secrets.shared
        && regions.iter().any(|region| region.istio.is_some())
    {
        builder.add(Kind::Sds, leaf(SHARED, shared));
    }
    let anchors: BTreeSet<&str> = callers
        .iter()
        .map(|c| c.caller.as_str())
        .chain(regions.iter().map(|r| r.region.as_str()))
        .collect();
    for cluster in anchors {
        if let Some(pem) = secrets.anchors.get(cluster) {
            builder.add(
                Kind::Sds,
                anchor(cluster, pem, secrets.lists.get(cluster).map(String::as_str)),
            );
        }
    }
    builder.serve(spec, &callers);
    if !spec.consume.is_empty() {
        for region in &regions {
            for (kind, resource) in consume::uplinks(region) {
                builder.add(kind, resource);
            }
        }
        builder.add(Kind::Rds, consume::routes(&regions));
        builder.add(Kind::Lds, consume::listener(spec));
    }
    builder.built
}

#[derive(Default)]
struct Builder {
    built: Built,
    backends: BTreeMap<String, (String, u16)>,
}

impl Builder {
    /// Names are made unique before, so a second one is the same resource.
    fn add(&mut self, kind: Kind, resource: Resource) {
        if self.built.snapshot.get(kind, &resource.name).is_none() {
            self.built
                .snapshot
                .insert(kind, resource)
                .unwrap_or_default();
        }
    }

    fn leave_out(&mut self, cluster: &str, reason: Reason) {
        self.built.left_out.push(LeftOut {
            cluster: cluster.to_owned(),
            reason,
        });
    }

    fn callers<'a>(&mut self, spec: &'a GatewaySpec, secrets: &Secrets) -> Vec<&'a Serve> {
        let mut taken = BTreeSet::new();
        let mut good = Vec::new();
        for caller in &spec.serve {
            match self.check_caller(caller, secrets, &taken) {
                Ok(()) => {
                    taken.insert(caller.caller.clone());
                    taken.insert(caller.sni.to_ascii_lowercase());
                    for backend in &caller.backends {
                        let address = (backend.host.clone(), backend.port);
                        self.backends.insert(backend.name.clone(), address);
                    }
                    good.push(caller);
                }
                Err(reason) => self.leave_out(&caller.caller, reason),
            }
        }
        good
    }

    fn check_caller(
        &self,
        caller: &Serve,
        secrets: &Secrets,
        taken: &BTreeSet<String>,
    ) -> Result<(), Reason> {
        check_peer(&caller.caller, &caller.sni, secrets)?;
        check_identities(&caller.identities)?;
        for key in [&caller.caller, &caller.sni.to_ascii_lowercase()] {
            if taken.contains(key) {
                return Err(Reason::Taken(key.clone()));
            }
        }
        let mut seen: BTreeMap<&str, (&str, u16)> = BTreeMap::new();
        for backend in &caller.backends {
            if backend.host.is_empty() || backend.port == 0 || !is_name(&backend.name) {
                return Err(Reason::BadBackend(backend.name.clone()));
            }
            let address = (backend.host.as_str(), backend.port);
            let elsewhere = self.backends.get(&backend.name);
            let elsewhere = elsewhere.map(|(host, port)| (host.as_str(), *port));
            let before = seen.insert(&backend.name, address).or(elsewhere);
            if before.is_some_and(|before| before != address) {
                return Err(Reason::BackendConflict(backend.name.clone()));
            }
        }
        for allow in &caller.allow {
            if !is_prefix(&allow.prefix) {
                return Err(Reason::BadPrefix(allow.prefix.clone()));
            }
            if !seen.contains_key(allow.backend.as_str()) {
                return Err(Reason::UnknownBackend(allow.backend.clone()));
            }
        }
        Ok(())
    }

    fn regions<'a>(&mut self, spec: &'a GatewaySpec, secrets: &Secrets) -> Vec<&'a Consume> {
        let mut taken = BTreeSet::new();
        let mut good = Vec::new();
        for region in &spec.consume {
            match check_region(region, secrets, &taken) {
                Ok(keys) => {
                    taken.extend(keys);
                    good.push(region);
                }
                Err(reason) => self.leave_out(&region.region, reason),
            }
        }
        good
    }

    fn serve(&mut self, spec: &GatewaySpec, callers: &[&Serve]) {
        // A listener must have a chain; with no caller left, no door.
        if callers.is_empty() {
            return;
        }
        for caller in callers {
            for (name, speaks) in clusters_of(caller) {
                if let Some(backend) = caller.backends.iter().find(|b| b.name == name) {
                    self.add(Kind::Cds, serve::backend(backend, speaks));
                }
            }
        }
        self.add(Kind::Lds, serve::listener(spec, callers));
    }
}

fn check_region(
    region: &Consume,
    secrets: &Secrets,
    taken: &BTreeSet<String>,
) -> Result<Vec<String>, Reason> {
    let hosts: Vec<&String> = match &region.istio {
        None => {
            check_peer(&region.region, &region.sni, secrets)?;
            check_identities(std::slice::from_ref(&region.server_identity))?;
            region.hosts.iter().collect()
        }
        Some(behind) => {
            check_peer(&region.region, &region.region, secrets)?;
            if secrets.shared.is_none() {
                return Err(Reason::NoLeaf);
            }
            for service in behind {
                check_behind(service)?;
            }
            behind.iter().flat_map(|service| &service.hosts).collect()
        }
    };
    if hosts.is_empty() {
        return Err(Reason::NoHost);
    }
    let mut keys = vec![region.region.clone()];
    for host in hosts {
        if !is_name(host) {
            return Err(Reason::BadName(host.clone()));
        }
        keys.push(format!("host {}", host.to_ascii_lowercase()));
    }
    let own: BTreeSet<_> = keys.iter().collect();
    if own.len() != keys.len() {
        return Err(Reason::Taken(region.region.clone()));
    }
    match keys.iter().find(|key| taken.contains(*key)) {
        Some(key) => Err(Reason::Taken(key.clone())),
        None => Ok(keys),
    }
}

fn check_behind(service: &Behind) -> Result<(), Reason> {
    if !is_name(&service.service) {
        return Err(Reason::BadName(service.service.clone()));
    }
    // Istio's names for services hold underscores.
    let sni = &service.sni;
    if !is_name(&sni.replace('_', "x")) {
        return Err(Reason::BadName(sni.clone()));
    }
    check_identities(&service.identities)?;
    match service.prefixes.iter().find(|prefix| !is_prefix(prefix)) {
        Some(bad) => Err(Reason::BadPrefix(bad.clone())),
        None => Ok(()),
    }
}

fn check_peer(cluster: &str, sni: &str, secrets: &Secrets) -> Result<(), Reason> {
    for name in [cluster, sni] {
        if !is_name(name) {
            return Err(Reason::BadName(name.to_owned()));
        }
    }
    if secrets.default.is_none() {
        return Err(Reason::NoLeaf);
    }
    match secrets.anchors.get(cluster) {
        Some(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Ok(()),
        Some(_) | None => Err(Reason::NoAnchor),
    }
}

fn check_identities(identities: &[String]) -> Result<(), Reason> {
    let good = |id: &String| id.starts_with("spiffe://") && id.len() > "spiffe://".len();
    if identities.is_empty() || !identities.iter().all(good) {
        return Err(Reason::NoIdentity);
    }
    Ok(())
}

/// A DNS name or label: what clusters, hosts and server names are made of. No wildcard.
fn is_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
}

/// A prefix that means the same before and after normalisation.
pub(super) fn is_prefix(prefix: &str) -> bool {
    prefix.starts_with('/')
        && !prefix.contains("//")
        && !prefix.chars().any(|c| {
            c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '%' | '\\' | ';')
        })
        && !prefix.split('/').any(|part| matches!(part, "." | ".."))
}
