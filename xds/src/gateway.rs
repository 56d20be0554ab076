//! From our own small specs to the smallest set of Envoy resources, and the bootstrap.
//!
//! Every member runs one Envoy beside the agent. It has up to two listeners:
//!
//! | listener | where | for whom |
//! |---|---|---|
//! | `intake` | plain HTTP, port 8427 | workloads of the member; the `Host` says which region they mean |
//! | `gateway` | mTLS, port 15443 | other members; the SNI says who calls, the certificate proves it |
//!
//! and these clusters: `uplink/<region>` and `uplink/<region>/h2` (endpoints by EDS; for a region
//! whose gateway is Istio's, `uplink/<region>/<service>` for each service behind it), and
//! `backend/<name>` and `backend/<name>/h2` (the local Service). Secrets: `default` is the leaf
//! and key of this Envoy, `shared` those that it shows to Istio's sidecars where they are others, `anchor/<cluster>` are the certificates under which that cluster's
//! identities are believed, and nothing else is.
//!
//! A caller has a filter chain of its own. When the chain goes, or anything in it changes (its
//! name holds the epoch), Envoy drains the connections of that caller within its drain time and
//! leaves all others alone: that is how access ends.
//!
//! Paths are matched after normalisation, and a prefix ends at a slash: `/vm/insert` allows
//! `/vm/insert` and `/vm/insert/…`, not `/vm/insertion`. Nothing times out, buffers or retries:
//! long selects stream through, and a POST is sent once.
//!
//! One bad entry of a spec leaves out only itself; [`Built::left_out`] says which and why.

mod bootstrap;
mod build;
mod consume;
pub mod failures;
mod log;
mod parts;
mod secrets;
mod serve;
mod tls;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use bootstrap::{Admin, BootSpec, arguments, bootstrap};
pub use build::{Built, LeftOut, Reason, build};
pub use secrets::{Leaf, Secrets};

/// Header that the region's gateway puts on every answer, its own included: the region's name.
pub const HEADER_GATEWAY: &str = mesh_core::probe::GATEWAY_HEADER;
/// Header that the intake puts on its own answers only: the name of the cluster it stands in.
pub const HEADER_INTAKE: &str = mesh_core::probe::INTAKE_HEADER;
/// Header that says what a gateway or intake refused: `path` or `host`.
pub const HEADER_REFUSED: &str = mesh_core::probe::REFUSED_HEADER;
/// Header with Envoy's response code details, on answers that an Envoy made itself.
pub const HEADER_DETAIL: &str = mesh_core::probe::DETAIL_HEADER;
/// Header with Envoy's response flags, on answers that an Envoy made itself.
pub const HEADER_FLAGS: &str = mesh_core::probe::FLAGS_HEADER;
/// Header with the upstream TLS failure, on answers that the intake made itself.
pub const HEADER_TLS: &str = mesh_core::probe::TLS_HEADER;

/// Port of the intake.
pub const INTAKE_PORT: u16 = 8427;
/// Port of the gateway.
pub const GATEWAY_PORT: u16 = mesh_core::contract::GATEWAY_PORT;

/// What one member's Envoy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySpec {
    /// The member's cluster ID.
    pub cluster: String,
    /// Where the intake listens; only opened when something is consumed.
    pub intake: SocketAddr,
    /// Where the gateway listens; only opened when something is served.
    pub gateway: SocketAddr,
    /// Who may call, and what.
    pub serve: Vec<Serve>,
    /// Which regions are reached.
    pub consume: Vec<Consume>,
}

impl GatewaySpec {
    /// A member that does nothing yet, with the usual ports on all IPv4 addresses.
    pub fn new(cluster: impl Into<String>) -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            cluster: cluster.into(),
            intake: SocketAddr::new(any, INTAKE_PORT),
            gateway: SocketAddr::new(any, GATEWAY_PORT),
            serve: Vec::new(),
            consume: Vec::new(),
        }
    }
}

/// One caller of this region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Cluster ID of the caller; its anchor is `anchor/<caller>`.
    pub caller: String,
    /// Counts up to end the open connections of this caller.
    pub epoch: u64,
    /// Server name by which the caller asks for its chain.
    pub sni: String,
    /// SPIFFE IDs, exact; one of them must be in the caller's certificate.
    pub identities: Vec<String>,
    /// Name of this region, for the answers.
    pub region: String,
    /// Local services that `allow` names.
    pub backends: Vec<Backend>,
    /// What may be called.
    pub allow: Vec<Allow>,
}

/// A local service, reached in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name, unique in the member.
    pub name: String,
    /// IP address or DNS name.
    pub host: String,
    /// Port, not zero.
    pub port: u16,
}

/// One entry of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Path prefix, starts with a slash and ends at one.
    pub prefix: String,
    /// Name of the backend.
    pub backend: String,
    /// HTTP/2 without TLS to the backend, and only for requests that are gRPC.
    pub grpc: bool,
}

/// One region that is reached from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// Cluster ID of the region; its anchor is `anchor/<region>`.
    pub region: String,
    /// Names under which workloads ask for it, without port.
    pub hosts: Vec<String>,
    /// Server name that is shown to the region's gateway.
    pub sni: String,
    /// SPIFFE ID, exact, that the region's gateway must prove.
    pub server_identity: String,
    /// Addresses of the region's gateway; none means that its name does not resolve.
    pub endpoints: Vec<SocketAddr>,
    /// The region's gateway is Istio's, and leads to these by server name alone. Then `hosts`, `sni` and `server_identity` are not used.
    pub istio: Option<Vec<Behind>>,
}

/// A service behind Istio's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Its name, unique in the region.
    pub service: String,
    /// Names under which workloads ask for it, without port.
    pub hosts: Vec<String>,
    /// Server name by which Istio's gateway knows it.
    pub sni: String,
    /// SPIFFE IDs, exact, one of which it must prove under the region's anchor.
    pub identities: Vec<String>,
    /// What may be asked of it.
    pub prefixes: Vec<String>,
    /// It speaks HTTP/2, and is asked only what is gRPC.
    pub grpc: bool,
}

/// The names of a region's intake: `<region>-vmauth` in namespace `kof`, short to full.
pub fn intake_hosts(region: &str, cluster_domain: &str) -> Vec<String> {
    service_hosts(&format!("{region}-vmauth"), cluster_domain)
}

/// The names of a Service in namespace `kof`, short to full.
pub fn service_hosts(service: &str, cluster_domain: &str) -> Vec<String> {
    ["", ".kof", ".kof.svc"]
        .into_iter()
        .map(|suffix| format!("{service}{suffix}"))
        .chain([format!("{service}.kof.svc.{cluster_domain}")])
        .collect()
}

/// The server name by which `caller` asks the gateway of `region` for its own chain. It does not
/// depend on the cluster domain of either side.
pub fn gateway_sni(caller: &str, region: &str) -> String {
    format!("{caller}.{region}-vmauth.kof.svc.cluster.local")
}

/// Trust anchors by cluster ID, PEM.
pub type Anchors = BTreeMap<String, String>;

/// Revocation lists by cluster ID, PEM.
pub type Lists = BTreeMap<String, String>;
