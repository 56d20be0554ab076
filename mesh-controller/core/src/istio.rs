//! The Istio data plane: what is seen of Istio in a member, what a region lets in through Istio's gateway, and what stands in the way.
//!
//! A region's door is an ordinary Service `<region>-<backend>` in namespace `kof` that selects the pods of a backend of the contract. Istio's
//! east-west gateway forwards by server name alone (`AUTO_PASSTHROUGH`), so the Service's name is what a region opens, and
//! the sidecar of the backend is who judges the caller.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    contract::{Backend, Caller, Contract, Protocol},
    facts::Obstacle,
    lifetime::Lifetime,
    names::{ClusterName, LABEL_MAX, TrustDomain},
};

/// What carries a member's links.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Plane {
    /// One plain Envoy per member, driven by the agent beside it.
    #[default]
    Envoy,
    /// The member's own Istio.
    Istio,
}

/// How the istiod of a consumer learns where a region's services are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discovery {
    /// From objects in the consumer that name the region's gateway. Needs nothing of the region's API server.
    #[default]
    Static,
    /// From the region's API server, by a remote secret.
    RemoteSecrets,
}

/// Which objects open a region's gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flavour {
    /// `networking.istio.io` Gateway on the pods of Istio's gateway chart.
    #[default]
    Classic,
    /// `gateway.networking.k8s.io` Gateway of class `istio`, whose pods istiod makes.
    GatewayApi,
}

/// What an operator decided about members in the Istio plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstioRules {
    /// The revision of istiod that is meant.
    pub revision: String,
    /// How consumers learn of regions.
    pub discovery: Discovery,
    /// How long the tokens in remote secrets are to live.
    pub token_life: Lifetime,
    /// The accounts that consumers' istiods read regions as may read Secrets there.
    pub read_secrets: bool,
    /// How gateways are opened.
    pub flavour: Flavour,
    /// Extension provider that sidecars in namespace kof send traces to.
    pub tracing: Option<String>,
    /// Service accounts, `namespace/name` or `namespace/*`, that may call regions through their own sidecars, by what they call as.
    pub accounts: BTreeMap<Caller, BTreeSet<String>>,
}

/// Istio's name for a control plane without a revision.
pub const DEFAULT_REVISION: &str = "default";

/// The `ConfigMap` in istio-system with the mesh configuration of the istiod of this revision.
#[must_use]
pub fn config_map(revision: &str) -> String {
    if revision == DEFAULT_REVISION {
        "istio".to_owned()
    } else {
        format!("istio-{revision}")
    }
}

impl Default for IstioRules {
    fn default() -> Self {
        let all = BTreeSet::from(["kof/*".to_owned()]);
        Self {
            revision: DEFAULT_REVISION.to_owned(),
            discovery: Discovery::default(),
            token_life: Lifetime::from_secs(24 * 3600),
            read_secrets: false,
            flavour: Flavour::default(),
            tracing: None,
            accounts: [(Caller::Child, all.clone()), (Caller::Management, all)].into(),
        }
    }
}

/// What is seen of Istio in a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IstioFacts {
    /// Its control planes.
    pub istiods: Vec<Istiod>,
    /// The network that namespace istio-system is labelled with.
    pub network: Option<String>,
    /// Services of Istio's east-west gateway, by name.
    pub gateways: BTreeSet<String>,
    /// Services in namespace kof, by name.
    pub services: BTreeMap<String, ServiceFacts>,
}

/// A control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Istiod {
    /// Its Deployment.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// Its version, as its Deployment says.
    pub version: Option<String>,
    /// The cluster ID that it gives to what it finds.
    pub cluster: Option<String>,
    /// Its trust domain.
    pub trust_domain: Option<String>,
    /// A pod of it is ready.
    pub ready: bool,
    /// It is told not to read Secrets of other clusters.
    pub leaves_out_secrets: bool,
}

/// A Service in namespace kof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// We made it.
    pub ours: bool,
    /// What it selects.
    pub selector: BTreeMap<String, String>,
    /// Its ports: number, and the port of the pod by name or number.
    pub ports: BTreeMap<u16, String>,
    /// Service accounts of its pods with a sidecar.
    pub accounts: BTreeSet<String>,
    /// Its pods without a sidecar.
    pub bare: usize,
}

/// A way into a region, through Istio's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The backend, as the contract knows it.
    pub backend: Backend,
    /// The Service in namespace kof: `<region>-<backend>`.
    pub service: String,
    /// The Service is not there and is ours to make: where its port leads.
    pub target: Option<String>,
    /// The pods behind it.
    pub selector: BTreeMap<String, String>,
    /// Their service accounts.
    pub accounts: BTreeSet<String>,
    /// How many of them have no sidecar, and so cannot be reached.
    pub bare: usize,
}

/// How a region is called, as last known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// The Service in namespace kof.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The service accounts, in namespace kof, that may answer.
    pub accounts: BTreeSet<String>,
}

impl Host {
    /// The server name by which Istio's gateway knows it (`BuildDNSSrvSubsetKey` of Istio's `pilot/pkg/model`).
    #[must_use]
    pub fn sni(&self) -> String {
        sni(&self.service, self.port)
    }
}

/// The server name of a Service in namespace kof.
#[must_use]
pub fn sni(service: &str, port: u16) -> String {
    format!("outbound_.{port}_._.{}", fqdn(service))
}

/// The full name of a Service in namespace kof.
#[must_use]
pub fn fqdn(service: &str) -> String {
    format!("{service}.kof.svc.cluster.local")
}

/// The network of a cluster.
#[must_use]
pub fn network(cluster: &ClusterName) -> String {
    format!("{cluster}-network")
}

/// Who is let in through a door: which paths, by principal (trust domain, namespace and service account, as an
/// `AuthorizationPolicy` names them).
pub type Entries = BTreeMap<String, BTreeSet<String>>;

/// The ways into a region, by backend of the contract, or why there is none.
#[must_use]
pub fn doors(
    region: &ClusterName,
    contract: &Contract,
    seen: &IstioFacts,
) -> BTreeMap<String, Result<Door, Obstacle>> {
    contract
        .backends
        .iter()
        .map(|backend| (backend.name.clone(), door(region, backend, seen)))
        .collect()
}

fn door(region: &ClusterName, backend: &Backend, seen: &IstioFacts) -> Result<Door, Obstacle> {
    let service = format!("{region}-{}", backend.name);
    if service.len() > LABEL_MAX {
        let message = format!("the name {service} has more than {LABEL_MAX} characters");
        return Err(Obstacle::new("BadName", message));
    }
    let of = |found: &ServiceFacts, target: Option<String>| Door {
        backend: backend.clone(),
        service: service.clone(),
        target,
        selector: found.selector.clone(),
        accounts: found.accounts.clone(),
        bare: found.bare,
    };
    // kof makes the Service itself in some of its versions.
    if let Some(there) = seen.services.get(&service).filter(|there| !there.ours) {
        return usable(&service, backend, there).map(|_| of(there, None));
    }
    let name = &backend.service;
    let missing = || {
        let message = format!(
            "Service {}/{name}, backend {} of the contract, does not exist",
            backend.namespace, backend.name
        );
        Obstacle::new("BackendMissing", message)
    };
    if backend.namespace != "kof" {
        let message = format!(
            "backend {} of the contract is in namespace {}; behind Istio's gateway only namespace kof is reached",
            backend.name, backend.namespace
        );
        return Err(Obstacle::new("BackendElsewhere", message));
    }
    let found = seen.services.get(name).ok_or_else(missing)?;
    let target = usable(name, backend, found)?;
    Ok(of(found, Some(target.to_owned())))
}

/// Where a Service's port leads; a Service without one, or without pods to select, is none.
fn usable<'a>(name: &str, backend: &Backend, found: &'a ServiceFacts) -> Result<&'a str, Obstacle> {
    if found.selector.is_empty() {
        let message = format!("Service kof/{name} selects no pods");
        return Err(Obstacle::new("BackendWithoutSelector", message));
    }
    found
        .ports
        .get(&backend.port)
        .map(String::as_str)
        .ok_or_else(|| {
            let message = format!("Service kof/{name} has no port {}", backend.port);
            Obstacle::new("BackendWithoutPort", message)
        })
}

/// How a region is called: what is seen now, and where nothing is seen what was known before. A backend that restarts takes nothing away.
#[must_use]
pub fn hosts(
    region: &ClusterName,
    contract: &Contract,
    seen: Option<&IstioFacts>,
    before: &BTreeMap<String, Host>,
) -> BTreeMap<String, Host> {
    let now = seen
        .map(|seen| doors(region, contract, seen))
        .unwrap_or_default();
    let known = contract.backends.iter().filter_map(|backend| {
        let before = before
            .get(&backend.name)
            .filter(|host| host.port == backend.port);
        let now = match now.get(&backend.name) {
            Some(Ok(door)) if !door.accounts.is_empty() => Some(Host {
                service: door.service.clone(),
                port: backend.port,
                protocol: backend.protocol,
                accounts: door.accounts.clone(),
            }),
            Some(Ok(_) | Err(_)) | None => None,
        };
        Some((backend.name.clone(), now.or_else(|| before.cloned())?))
    });
    known.collect()
}

/// What is expected of the istiod of a member.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Cluster ID.
    pub cluster: &'a ClusterName,
    /// Trust domain.
    pub trust_domain: &'a TrustDomain,
    /// Revision.
    pub revision: &'a str,
}

/// The oldest Istio that is supported: what k0rdent ships (reference: platform).
const OLDEST: (u32, u32) = (1, 25);

/// What is the matter with Istio itself in a member: none of it may be guessed around.
///
/// # Errors
///
/// The first thing that stands in the way, with the object it is about.
pub fn judge<'a>(seen: &'a IstioFacts, expected: &Expected<'_>) -> Result<&'a Istiod, Obstacle> {
    let Some(istiod) = seen
        .istiods
        .iter()
        .find(|i| i.revision == expected.revision)
    else {
        let others: Vec<&str> = seen.istiods.iter().map(|i| i.revision.as_str()).collect();
        return Err(if others.is_empty() {
            Obstacle::new(
                "IstiodMissing",
                "no Deployment with label app=istiod in namespace istio-system: install Istio's charts base and istiod",
            )
        } else {
            let message = format!(
                "istiod of revision {} is wanted (Mesh.spec.istio.revision), there is {}",
                expected.revision,
                others.join(", ")
            );
            Obstacle::new("IstiodOtherRevision", message)
        });
    };
    let name = format!("Deployment istio-system/{}", istiod.name);
    if let Some(version) = &istiod.version
        && release(version).is_some_and(|release| release < OLDEST)
    {
        let message = format!(
            "{name} is Istio {version}; at least {}.{} is needed",
            OLDEST.0, OLDEST.1
        );
        return Err(Obstacle::new("IstiodTooOld", message));
    }
    let cluster = istiod.cluster.as_deref().unwrap_or("Kubernetes");
    if cluster != expected.cluster.as_str() {
        let message = format!(
            "{name} runs with cluster ID {cluster}, this member is {}: set global.multiCluster.clusterName of Istio's charts",
            expected.cluster
        );
        return Err(Obstacle::new("IstiodClusterId", message));
    }
    let domain = istiod.trust_domain.as_deref().unwrap_or("cluster.local");
    if domain != expected.trust_domain.as_str() {
        let message = format!(
            "{name} runs with trust domain {domain}, the mesh has {}: set meshConfig.trustDomain of Istio's charts",
            expected.trust_domain
        );
        return Err(Obstacle::new("IstiodTrustDomain", message));
    }
    if !istiod.ready {
        return Err(Obstacle::new(
            "IstiodNotReady",
            format!("{name} has no ready pod"),
        ));
    }
    let wanted = network(expected.cluster);
    if let Some(other) = seen.network.as_ref().filter(|seen| **seen != wanted) {
        let message = format!(
            "namespace istio-system is labelled topology.istio.io/network={other}, this member's network is {wanted}"
        );
        return Err(Obstacle::new("NetworkName", message));
    }
    Ok(istiod)
}

/// Major and minor of a version like `1.27.3` or `v1.27-alpha`.
pub(crate) fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let digits: String = parts
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Some((major, digits.parse().ok()?))
}

/// One that may come in through the doors of a region.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// Its cluster ID.
    pub cluster: &'a ClusterName,
    /// What it calls as.
    pub caller: Caller,
    /// What carries its links.
    pub plane: Plane,
}

/// The account that the Envoy beside a member's agent calls as, in namespace istio-system of the mesh's trust domain. No other member has it.
#[must_use]
pub fn gateway_account(cluster: &ClusterName) -> String {
    format!("mesh-gateway.{cluster}")
}

/// The account of the pods that probe through a sidecar.
pub const PROBE_ACCOUNT: &str = "mesh-probe";

/// Who may come in through the door of a backend. All members of the Istio plane share one trust domain, so what comes from their
/// sidecars is told apart by service account alone: what several may ask with one name, each of them may ask.
#[must_use]
pub fn entries(
    domain: &TrustDomain,
    rules: &IstioRules,
    contract: &Contract,
    backend: &str,
    guests: &[Guest<'_>],
) -> Entries {
    let mut entries = Entries::new();
    let prefixes = |caller: Caller| -> BTreeSet<String> {
        let granted = contract.granted(caller);
        granted
            .filter(|grant| grant.backend == backend)
            .map(|grant| grant.prefix.clone())
            .collect()
    };
    let mut open = |account: String, caller: Caller| {
        let principal = format!("{domain}/ns/{account}");
        entries
            .entry(principal)
            .or_default()
            .extend(prefixes(caller));
    };
    let of_sidecars = |caller: Caller| {
        let accounts = rules.accounts.get(&caller).into_iter().flatten();
        accounts.map(|account| account.replacen('/', "/sa/", 1))
    };
    // Regions of kof 1.5 and 1.6 write to themselves by the same names.
    of_sidecars(Caller::Child).for_each(|account| open(account, Caller::Child));
    for guest in guests {
        open(
            format!("istio-system/sa/{}", gateway_account(guest.cluster)),
            guest.caller,
        );
        if guest.plane == Plane::Istio {
            of_sidecars(guest.caller).for_each(|account| open(account, guest.caller));
            open(format!("istio-system/sa/{PROBE_ACCOUNT}"), guest.caller);
        }
    }
    entries
}

#[cfg(test)]
mod tests;
