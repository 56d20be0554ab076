//! From what a member serves and calls to what its Envoy is told.
//!
//! One Envoy per member, with up to two listeners:
//!
//! * `gateway`, port 15443 (regions): mutual TLS 1.3, one filter chain per caller, chosen by the SNI that is that
//!   caller's own. The chain verifies the caller's certificate against *that caller's* anchors and identities, so no
//!   member can speak for another; it then grants path prefixes and forwards to Services of the region.
//! * `intake`, port 8427 (whoever calls regions): plain HTTP for workloads of the own cluster, one virtual host per
//!   region, each leading into a mutual TLS link.
//!
//! # Who answered?
//!
//! A probe must tell failures apart by what it sees at the intake. Every answer of a gateway, also one it makes
//! itself, carries [`HEADER_GATEWAY`]; every answer that an intake makes itself carries [`HEADER_INTAKE`] and the
//! three headers after it, with Envoy's own words.

mod bootstrap;
mod http;
mod intake;
mod parts;
mod secrets;
mod serve;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::SocketAddr};

pub use bootstrap::{BootSpec, bootstrap};
use zeroize::Zeroizing;

use crate::model::{CheckError, Kind, Resource, Snapshot};

/// On every answer of a gateway: the region.
pub const HEADER_GATEWAY: &str = "x-kof-gateway";
/// On every answer that the intake itself made: the own cluster.
pub const HEADER_INTAKE: &str = "x-kof-intake";
/// On those: why, `%RESPONSE_CODE_DETAILS%`.
pub const HEADER_DETAIL: &str = "x-kof-detail";
/// On those: what the link's TLS said, `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
pub const HEADER_TLS: &str = "x-kof-tls";
/// On those: `%RESPONSE_FLAGS%`.
pub const HEADER_FLAGS: &str = "x-kof-flags";
/// On answers that refuse by rule: `path` (a gateway: not granted) or `host` (an intake: no such region).
pub const HEADER_REFUSED: &str = "x-kof-refused";

/// Port of the gateway.
pub const GATEWAY_PORT: u16 = 15443;
/// Port of the intake.
pub const INTAKE_PORT: u16 = 8427;

/// What a member serves and calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewaySpec {
    /// ID of the own cluster.
    pub cluster: String,
    /// Where the gateway listens; with no caller there is no listener.
    pub gateway: Option<SocketAddr>,
    /// Where the intake listens; with no region to call there is no listener.
    pub intake: Option<SocketAddr>,
    /// Who may call.
    pub serve: Vec<Serve>,
    /// What the gateway forwards to.
    pub backends: Vec<Backend>,
    /// Which regions are called.
    pub consume: Vec<Consume>,
}

/// Leave to call the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// ID of the caller; names its anchor.
    pub caller: String,
    /// The SNI it calls with.
    pub sni: String,
    /// The SPIFFE IDs it may call as.
    pub identities: Vec<String>,
    /// What it may ask.
    pub allow: Vec<Allow>,
}

/// Leave to ask a path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The prefix.
    pub prefix: String,
    /// Name of the [`Backend`] that answers.
    pub backend: String,
}

/// A Service of the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name in the contract.
    pub name: String,
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it speaks HTTP/2 without TLS (gRPC), or HTTP/1.1.
    pub grpc: bool,
}

/// A region that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// Its ID; names its anchor.
    pub region: String,
    /// The host names by which workloads call it.
    pub hosts: Vec<String>,
    /// The SNI to call with.
    pub sni: String,
    /// The SPIFFE ID of its gateway.
    pub identity: String,
    /// Where its gateway is, as resolved now.
    pub endpoints: Vec<SocketAddr>,
}

/// A certificate chain with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Leaf first, then intermediates, PEM.
    pub chain_pem: String,
    /// Key of the leaf, PEM.
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// What goes over SDS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The own certificate; without it there are no links.
    pub default: Option<Certificate>,
    /// The intermediates that other members are verified by, PEM, by cluster ID.
    pub anchors: BTreeMap<String, String>,
}

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A link without an anchor would verify nobody.
    #[error("failed to build the link with {cluster:?}: it has no anchor")]
    MissingAnchor {
        /// The other end.
        cluster: String,
    },
    /// A grant leads nowhere.
    #[error("failed to grant {prefix:?} to {caller:?}: there is no backend {backend:?}")]
    MissingBackend {
        /// Who.
        caller: String,
        /// What.
        prefix: String,
        /// Where to.
        backend: String,
    },
    /// Two things of one name.
    #[error("failed to put the snapshot together")]
    Assemble(#[from] CheckError),
}

/// Everything the Envoy of a member is told.
///
/// Without an own certificate it is told nothing, so that no listener accepts what cannot be carried.
///
/// # Errors
///
/// When the spec is not whole.
pub fn snapshot(spec: &GatewaySpec, secrets: &Secrets) -> Result<Snapshot, BuildError> {
    let mut out = Snapshot::new();
    let Some(own) = &secrets.default else {
        return Ok(out);
    };
    out.insert(Kind::Sds, secrets::own(own))?;
    let peers = spec.serve.iter().map(|s| &s.caller).chain(spec.consume.iter().map(|c| &c.region));
    for cluster in peers {
        let anchor = secrets.anchors.get(cluster);
        let anchor = anchor.ok_or_else(|| BuildError::MissingAnchor { cluster: cluster.clone() })?;
        if out.get(Kind::Sds, &secrets::anchor_name(cluster)).is_none() {
            out.insert(Kind::Sds, secrets::anchor(cluster, anchor))?;
        }
    }
    if let Some(at) = spec.gateway.filter(|_| !spec.serve.is_empty()) {
        add(&mut out, serve::resources(spec, at)?)?;
    }
    if let Some(at) = spec.intake.filter(|_| !spec.consume.is_empty()) {
        add(&mut out, intake::resources(spec, at))?;
    }
    out.check()?;
    Ok(out)
}

fn add(out: &mut Snapshot, resources: Vec<(Kind, Resource)>) -> Result<(), CheckError> {
    resources.into_iter().try_for_each(|(kind, resource)| out.insert(kind, resource))
}
