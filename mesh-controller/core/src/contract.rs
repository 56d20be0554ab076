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
    /// No version of kof that had Istio.
    #[error("{version:?} is no version of kof from 1.4 on, such as \"1.6\" or \"1.10.0\"")]
    NoKof {
        /// What was said.
        version: String,
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

/// A backend of kof 1.4 to 1.6 (each has a name of its own there, `<region>-<backend>`): its Service, port, and what children and
/// management ask of it. Traces and logs are written, and read by management alone.
type Old = (
    &'static str,
    &'static str,
    u16,
    &'static [&'static str],
    &'static [&'static str],
);
const UP_TO_1_6: [Old; 5] = [
    (
        "vminsert",
        "vminsert-cluster",
        8480,
        &["/insert/"],
        &["/insert/"],
    ),
    (
        "vmselect",
        "vmselect-cluster",
        8481,
        &["/select/"],
        &["/select/"],
    ),
    (
        "logs-insert",
        "kof-storage-victoria-logs-cluster-vlinsert",
        9481,
        &["/insert/opentelemetry/"],
        &["/insert/opentelemetry/"],
    ),
    (
        "logs-select",
        "kof-storage-victoria-logs-cluster-vlselect",
        9471,
        &[],
        &["/select/logsql/"],
    ),
    (
        "jaeger-collector",
        "kof-storage-jaeger-collector",
        4318,
        &["/v1/traces"],
        &["/v1/traces"],
    ),
];

impl Contract {
    /// What a version of kof needs (reference: its charts, 1.4.0 to 1.11.0-rc0).
    ///
    /// # Errors
    ///
    /// No such version.
    pub fn of_kof(version: &str) -> Result<Self, ContractError> {
        let no_kof = || ContractError::NoKof {
            version: version.to_owned(),
        };
        let mut parts = version.split('.').map(str::parse::<u16>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Err(no_kof());
        };
        match (major, minor) {
            (0, _) | (1, 0..=3) => Err(no_kof()),
            (1, 4..=6) => Ok(Self::up_to_1_6()),
            _ => Ok(Self::default()),
        }
    }

    fn up_to_1_6() -> Self {
        let backends = UP_TO_1_6.map(|(name, service, port, _, _)| Backend {
            name: name.to_owned(),
            namespace: "kof".to_owned(),
            service: service.to_owned(),
            port,
            protocol: Protocol::Http,
        });
        let grants = UP_TO_1_6
            .iter()
            .flat_map(|(name, _, _, child, management)| {
                let of = |caller, prefixes: &'static [&'static str]| {
                    prefixes.iter().map(move |prefix| Grant {
                        caller,
                        prefix: (*prefix).to_owned(),
                        backend: (*name).to_owned(),
                    })
                };
                of(Caller::Child, child).chain(of(Caller::Management, management))
            });
        Self {
            grants: grants.collect(),
            backends: backends.into(),
        }
    }

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
        let metrics = |grant: &&&Grant| {
            grant.prefix == "/vm/select/"
                || (grant.backend == "vmselect" && grant.prefix == "/select/")
        };
        if let Some(grant) = granted.iter().find(metrics) {
            // A constant costs the storage nothing and needs no data.
            let path = format!("{}0/prometheus/api/v1/query?query=1", grant.prefix);
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
    fn versions_of_kof() {
        for version in ["1.7", "1.7.0", "1.10.0", "1.11.0-rc0", "2.0"] {
            assert_eq!(
                Contract::of_kof(version),
                Ok(Contract::default()),
                "{version}"
            );
        }
        for version in ["1.4", "1.5.0", "1.6.0"] {
            let old = Contract::of_kof(version).unwrap();
            old.check().unwrap();
            let names: Vec<&str> = old.backends.iter().map(|b| b.name.as_str()).collect();
            let known = [
                "vminsert",
                "vmselect",
                "logs-insert",
                "logs-select",
                "jaeger-collector",
            ];
            assert_eq!(names, known, "{version}");
            assert!(
                old.granted(Caller::Child)
                    .all(|g| g.backend != "logs-select")
            );
            assert_eq!(
                old.probe(Caller::Child),
                Some((
                    "/select/0/prometheus/api/v1/query?query=1".to_owned(),
                    "vmselect".to_owned()
                ))
            );
        }
        for version in [
            "",
            "1",
            "1.3",
            "0.3.0",
            "v1.6",
            "one.two",
            "1.",
            "1.99999999",
        ] {
            assert!(Contract::of_kof(version).is_err(), "{version:?}");
        }
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
