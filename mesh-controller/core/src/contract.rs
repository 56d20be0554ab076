//! The contract: which services of a region may be reached through its gateway, by whom, on which paths.
//!
//! **This is the file to change when the question is who may query what.** The gateway refuses every path
//! that is not granted here (or in `Mesh.spec.contract`, which replaces this default whole).

use serde::{Deserialize, Serialize};

/// Port of the telemetry Service `<region>-vmauth` in each consumer (kof 1.7 and later).
pub const SERVICE_PORT: u16 = 8427;

/// Port of gateways (Istio's east-west gateways listen there too).
pub const GATEWAY_PORT: u16 = 15443;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Caller {
    /// The collectors of a child cluster.
    Child,
    /// The query side and the collectors of the management cluster.
    Management,
}

/// How a gateway speaks to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, as gRPC servers speak it inside a cluster.
    Grpc,
}

/// A Service in the region that a gateway forwards to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// Its name in the contract, unique there.
    pub name: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Port of the Service.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// Leave to call one path prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Who may call.
    pub caller: Caller,
    /// What the request path must begin with, whole segments: `/a` grants `/a` and `/a/b`, not `/ab`.
    pub prefix: String,
    /// Where the request goes: the name of a [`Backend`].
    pub backend: String,
}

/// All that may cross gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// What gateways forward to.
    pub backends: Vec<Backend>,
    /// What may be asked of it. Nothing else may.
    pub grants: Vec<Grant>,
}

/// Why a contract cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// A grant leads nowhere.
    #[error("the grant of {prefix:?} names backend {backend:?}, which the contract does not have")]
    UnknownBackend {
        /// Of the grant.
        prefix: String,
        /// What it names.
        backend: String,
    },
    /// Two backends of one name.
    #[error("backend {name:?} stands twice in the contract")]
    TwiceNamed {
        /// The name.
        name: String,
    },
    /// A prefix that is none.
    #[error(
        "prefix {prefix:?} must begin with '/', hold no '..', '//', '?', '#', '%' or '\\', and grant less than everything"
    )]
    BadPrefix {
        /// The prefix.
        prefix: String,
    },
}

/// Path prefixes of kof 1.7 to 1.11 behind vmauth (reference: kof-child and kof-regional charts).
const CHILD: [&str; 5] = [
    "/vm/insert/",
    "/vm/select/",
    "/vli/insert/",
    "/vlai/insert/",
    "/vti/insert/",
];
const MANAGEMENT: [&str; 8] = [
    "/vm/insert/",
    "/vm/select/",
    "/vli/insert/",
    "/vlai/insert/",
    "/vti/insert/",
    "/vls/",
    "/vlas/",
    "/vts/",
];
/// OTLP over gRPC: the three services of opentelemetry-proto.
const OTLP_GRPC: [&str; 3] = [
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/",
    "/opentelemetry.proto.collector.logs.v1.LogsService/",
    "/opentelemetry.proto.collector.trace.v1.TraceService/",
];

impl Default for Contract {
    /// What kof 1.7 to 1.11 needs, and no more: children write and (for cost figures) read metrics and write
    /// logs and traces; management reads everything and writes its own.
    fn default() -> Self {
        let backend = |name: &str, service: &str, port, protocol| Backend {
            name: name.to_owned(),
            namespace: "kof".to_owned(),
            service: service.to_owned(),
            port,
            protocol,
        };
        let grant = |caller, prefix: &str, backend: &str| Grant {
            caller,
            prefix: prefix.to_owned(),
            backend: backend.to_owned(),
        };
        let mut grants: Vec<Grant> = CHILD
            .iter()
            .map(|prefix| grant(Caller::Child, prefix, "vmauth"))
            .collect();
        grants.extend(
            MANAGEMENT
                .iter()
                .map(|prefix| grant(Caller::Management, prefix, "vmauth")),
        );
        for caller in [Caller::Child, Caller::Management] {
            grants.extend(OTLP_GRPC.iter().map(|prefix| grant(caller, prefix, "otlp")));
        }
        Self {
            backends: vec![
                backend("vmauth", "vmauth-cluster", SERVICE_PORT, Protocol::Http),
                backend(
                    "otlp",
                    "kof-collectors-daemon-collector",
                    4317,
                    Protocol::Grpc,
                ),
            ],
            grants,
        }
    }
}

impl Contract {
    /// Checks that it can be kept.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ContractError> {
        for (at, backend) in self.backends.iter().enumerate() {
            if self
                .backends
                .iter()
                .take(at)
                .any(|b| b.name == backend.name)
            {
                return Err(ContractError::TwiceNamed {
                    name: backend.name.clone(),
                });
            }
        }
        for grant in &self.grants {
            let prefix = grant.prefix.as_str();
            let bad = !prefix.starts_with('/')
                || prefix.len() < 2
                || ["..", "//", "?", "#", "%", "\\"]
                    .iter()
                    .any(|s| prefix.contains(s));
            if bad {
                return Err(ContractError::BadPrefix {
                    prefix: prefix.to_owned(),
                });
            }
            if !self.backends.iter().any(|b| b.name == grant.backend) {
                return Err(ContractError::UnknownBackend {
                    prefix: prefix.to_owned(),
                    backend: grant.backend.clone(),
                });
            }
        }
        Ok(())
    }

    /// What `caller` may ask.
    pub fn granted(&self, caller: Caller) -> impl Iterator<Item = &Grant> {
        self.grants
            .iter()
            .filter(move |grant| grant.caller == caller)
    }

    /// A path that `caller` may ask, for probes: reading comes first, because it proves more.
    #[must_use]
    pub fn probe_path(&self, caller: Caller) -> Option<String> {
        self.probe(caller).map(|(path, _)| path)
    }

    /// The same, and the name of the backend that it leads to.
    #[must_use]
    pub fn probe(&self, caller: Caller) -> Option<(String, String)> {
        let http = |grant: &&Grant| {
            self.backends
                .iter()
                .any(|b| b.name == grant.backend && b.protocol == Protocol::Http)
        };
        let granted: Vec<&Grant> = self.granted(caller).filter(http).collect();
        let metrics = granted.iter().find(|grant| grant.prefix == "/vm/select/");
        if let Some(grant) = metrics {
            // A constant costs the storage nothing and needs no data.
            let path = "/vm/select/0/prometheus/api/v1/query?query=1".to_owned();
            return Some((path, grant.backend.clone()));
        }
        granted.first().map(|grant| {
            let path = format!("{}mesh-probe", with_slash(&grant.prefix));
            (path, grant.backend.clone())
        })
    }
}

fn with_slash(prefix: &str) -> String {
    if prefix.ends_with('/') {
        prefix.to_owned()
    } else {
        format!("{prefix}/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_can_be_kept() {
        assert_eq!(Contract::default().check(), Ok(()));
    }

    #[test]
    fn children_read_no_logs_or_traces() {
        let contract = Contract::default();
        for secret in ["/vls/", "/vlas/", "/vts/"] {
            assert!(
                contract
                    .granted(Caller::Child)
                    .all(|g| !secret.starts_with(&g.prefix))
            );
            assert!(
                contract
                    .granted(Caller::Management)
                    .any(|g| g.prefix == secret)
            );
        }
    }

    #[test]
    fn refuses_prefixes_that_grant_more_than_they_say() {
        for prefix in ["", "/", "vm/", "/vm/../", "//", "/vm/%2e", "/a?b", "/a\\b"] {
            let mut contract = Contract::default();
            contract.grants.push(Grant {
                caller: Caller::Child,
                prefix: prefix.to_owned(),
                backend: "vmauth".to_owned(),
            });
            assert!(
                matches!(contract.check(), Err(ContractError::BadPrefix { .. })),
                "{prefix:?}"
            );
        }
    }

    #[test]
    fn refuses_backends_that_are_missing_or_named_twice() {
        let mut contract = Contract::default();
        contract.backends.retain(|b| b.name != "otlp");
        assert!(matches!(
            contract.check(),
            Err(ContractError::UnknownBackend { .. })
        ));
        let mut contract = Contract::default();
        let twin = contract.backends[0].clone();
        contract.backends.push(twin);
        assert!(matches!(
            contract.check(),
            Err(ContractError::TwiceNamed { .. })
        ));
    }

    #[test]
    fn probes_ask_what_is_granted() {
        let contract = Contract::default();
        for caller in [Caller::Child, Caller::Management] {
            let path = contract.probe_path(caller).unwrap();
            assert!(
                contract
                    .granted(caller)
                    .any(|g| path.starts_with(&g.prefix))
            );
        }
    }
}
