//! Asking a name server, with hickory.

use std::{collections::BTreeSet, fmt, net::SocketAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType},
    },
};

use crate::{Answer, Family, HostName, Miss};

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameServer {
    /// Who `/etc/resolv.conf` names, after `/etc/hosts`; both are read once.
    System,
    /// This one, and nobody else.
    At(SocketAddr),
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `/etc/resolv.conf` cannot be read or understood.
    #[error("failed to read the system's resolver configuration")]
    ReadSystem(#[source] NetError),
    /// The resolver refuses its configuration.
    #[error("failed to set up the resolver")]
    Build(#[source] NetError),
}

/// One question to one server waits this long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A question is answered within this, whatever the resolver does: a miss otherwise.
const DEADLINE: Duration = Duration::from_secs(6);

/// Asks one question at a time; cheap to clone.
#[derive(Clone)]
pub(crate) struct Asker(TokioResolver);

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asker").finish_non_exhaustive()
    }
}

impl Asker {
    pub(crate) fn new(server: NameServer) -> Result<Self, StartError> {
        let mut builder = match server {
            NameServer::System => TokioResolver::builder_tokio().map_err(StartError::ReadSystem)?,
            NameServer::At(address) => {
                let connection = |mut connection: ConnectionConfig| {
                    connection.port = address.port();
                    connection
                };
                let connections = vec![
                    connection(ConnectionConfig::udp()),
                    connection(ConnectionConfig::tcp()),
                ];
                let server = NameServerConfig::new(address.ip(), true, connections);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                let mut builder =
                    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
                builder.options_mut().use_hosts_file = ResolveHosts::Never;
                builder
            }
        };
        set(builder.options_mut());
        builder.build().map(Self).map_err(StartError::Build)
    }

    /// One question. Never fails and always ends.
    pub(crate) async fn ask(&self, name: &HostName, family: Family) -> Answer {
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        match tokio::time::timeout(DEADLINE, self.0.lookup(name.absolute(), kind)).await {
            Err(_elapsed) => Answer::Miss(Miss::Timeout),
            Ok(Err(error)) => Answer::Miss(miss(&error)),
            Ok(Ok(found)) => answer(&found),
        }
    }
}

fn set(options: &mut ResolverOpts) {
    // The state machine decides when to ask; an answer out of our own cache would say nothing new.
    options.cache_size = 0;
    options.timeout = TIMEOUT;
    options.attempts = 1;
    options.try_tcp_on_error = true;
}

fn answer(found: &Lookup) -> Answer {
    let mut addresses = BTreeSet::new();
    let mut shortest = u32::MAX;
    for record in found.answers() {
        if let Some(address) = record.data.ip_addr() {
            addresses.insert(address);
        } else if !matches!(record.data, RData::CNAME(_)) {
            continue;
        }
        shortest = shortest.min(record.ttl);
    }
    if addresses.is_empty() {
        return Answer::Miss(Miss::NoData);
    }
    Answer::Addresses {
        addresses,
        ttl: Duration::from_secs(u64::from(shortest)),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else there is or will be, the name server did not answer"
)]
fn miss(error: &NetError) -> Miss {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Miss::NxDomain,
            ResponseCode::NoError => Miss::NoData,
            _ => Miss::ServFail,
        },
        NetError::Dns(_) => Miss::ServFail,
        _ => Miss::Timeout,
    }
}
