//! Asks a region from a pod with a sidecar: by its real name, over a connection that the sidecar takes.

use std::{net::SocketAddr, time::Duration};

use mesh_api::{
    TELEMETRY_NAMESPACE,
    agent::{Consume, Host},
};
use mesh_core::probe::{
    Failure,
    sidecar::{Seen, classify},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{DEADLINE, broke, exchange, host};

/// Longest that a name may take; what is left of the probe's time is for the request.
const NAME_DEADLINE: Duration = Duration::from_secs(3);

/// Asks once.
pub(super) async fn ask(consume: &Consume) -> Result<(), Failure> {
    let Some(host) = host(consume) else {
        return classify(&Seen::NoName(
            "the region opens no such Service to this member",
        ));
    };
    let name = name(host);
    let asking = async {
        let addresses = match resolve(&name, host.port).await {
            Ok(addresses) => addresses,
            Err(why) => return classify(&Seen::NoName(&why)),
        };
        ask_there(&addresses, host, consume).await
    };
    let nothing = |_elapsed| classify(&Seen::Nothing);
    timeout(DEADLINE, asking).await.unwrap_or_else(nothing)
}

/// As pods of other namespaces write it.
fn name(host: &Host) -> String {
    format!("{}.{TELEMETRY_NAMESPACE}.svc", host.service)
}

/// The addresses of a name, as every program in the pod is told them.
async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match timeout(NAME_DEADLINE, lookup_host((name, port))).await {
        Err(_elapsed) => Err(format!("{name}: no answer to the question for it")),
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> = found.collect();
            if addresses.is_empty() {
                return Err(format!("{name}: it has none"));
            }
            Ok(addresses)
        }
    }
}

async fn ask_there(
    addresses: &[SocketAddr],
    host: &Host,
    consume: &Consume,
) -> Result<(), Failure> {
    let authority = format!("{}:{}", name(host), host.port);
    let exchange = async {
        let stream = TcpStream::connect(addresses).await?;
        exchange(stream, &authority, &consume.probe).await
    };
    match exchange.await {
        Err(error) => {
            broke(consume, &*error);
            classify(&Seen::NoSidecar)
        }
        Ok(response) => response.read(|answer| classify(&Seen::Answer(answer))),
    }
}

#[cfg(test)]
mod tests;
