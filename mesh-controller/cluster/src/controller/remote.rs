//! Remote secrets: the token is asked for in the region, and goes straight into the consumer's Secret. It is kept nowhere in between, and
//! nothing is made again that is as it should be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::ServiceAccount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use mesh_api::{
    NAMESPACE, labels,
    read::Redacted,
    render::{RemoteSecret, remote_secret},
};
use mesh_core::{
    facts::{MemberKey, Obstacle},
    lifetime::Lifetime,
    names::ClusterName,
    remote::{Server, reader_account, secret_name},
};
use parking_lot::Mutex;

use crate::{
    apply::{Gate, Writer},
    call::{CallError, call, call_opt},
    metrics::Metrics,
};

/// The ways into members that are connected to now. Each member's own task opens its way; consumers' tasks use those of regions.
#[derive(Clone, Default)]
pub(crate) struct Ways(Arc<Open>);

#[derive(Default)]
struct Open {
    clients: Mutex<BTreeMap<MemberKey, (u64, Client)>>,
    count: AtomicU64,
}

/// The way is open for as long as this lives.
pub(crate) struct Opened {
    ways: Ways,
    key: MemberKey,
    number: u64,
}

impl Ways {
    pub(crate) fn open(&self, key: &MemberKey, client: &Client) -> Opened {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0
            .clients
            .lock()
            .insert(key.clone(), (number, client.clone()));
        Opened {
            ways: self.clone(),
            key: key.clone(),
            number,
        }
    }

    pub(crate) fn to(&self, key: &MemberKey) -> Option<Client> {
        self.0
            .clients
            .lock()
            .get(key)
            .map(|(_, client)| client.clone())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut clients = self.ways.0.clients.lock();
        // Another session may have opened it anew.
        if clients
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            clients.remove(&self.key);
        }
    }
}

/// A token, and whose it is. Not for logs.
struct Issued {
    token: Redacted,
    reader: String,
    from: Timestamp,
    until: Timestamp,
}

/// A region, as one consumer reads it.
pub(crate) struct Region<'a> {
    pub(crate) client: &'a Client,
    pub(crate) name: &'a ClusterName,
    pub(crate) consumer: &'a ClusterName,
    pub(crate) install: &'a str,
}

impl Region<'_> {
    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn account(&self) -> (String, String) {
        let name = reader_account(self.consumer);
        let object = format!("ServiceAccount {NAMESPACE}/{name} in region {}", self.name);
        (name, object)
    }

    /// UID of the account, if it is there and ours.
    pub(crate) async fn reader(&self) -> Result<Option<String>, CallError> {
        let (name, object) = self.account();
        let found = call_opt("get", object, self.accounts().get_metadata_opt(&name))
            .await?
            .flatten();
        let meta = found
            .map(|found| found.metadata)
            .filter(|meta| meta.deletion_timestamp.is_none());
        Ok(meta
            .filter(|meta| self.is_ours(meta))
            .and_then(|meta| meta.uid))
    }

    fn is_ours(&self, meta: &ObjectMeta) -> bool {
        let label = |name: &str| {
            meta.labels
                .as_ref()
                .and_then(|all| all.get(name))
                .map(String::as_str)
        };
        label(labels::MANAGED_BY) == Some(labels::MANAGED_BY_US)
            && label(labels::INSTALL) == Some(self.install)
    }

    /// Asks for a token. The API server may make it shorter.
    async fn token(&self, life: Lifetime) -> Result<Issued, Obstacle> {
        let (name, object) = self.account();
        let reader = self.reader().await.map_err(|error| error.obstacle())?;
        let missing = || Obstacle::new("RemoteReaderMissing", format!("{object} is not there"));
        let reader = reader.ok_or_else(missing)?;
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(i64::from(life.as_secs())),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let (accounts, params) = (self.accounts(), PostParams::default());
        let issued = Timestamp::now();
        let asking = accounts.create_token_request(&name, &params, &request);
        let answer = call("create a token of", &object, asking)
            .await
            .map_err(|error| error.obstacle())?;
        let empty = || {
            Obstacle::new(
                "RemoteTokenEmpty",
                format!("asked for a token of {object}, the answer holds none"),
            )
        };
        let status = answer
            .status
            .filter(|status| !status.token.is_empty())
            .ok_or_else(empty)?;
        Ok(Issued {
            token: Redacted::new(status.token),
            reader,
            // Kept in whole seconds.
            from: Timestamp::from_second(issued.as_second()).unwrap_or(issued),
            until: status.expiration_timestamp.0,
        })
    }
}

/// Writes remote secrets into one consumer.
pub(crate) struct Scribe<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) gate: &'a Gate,
    pub(crate) metrics: &'a Metrics,
    pub(crate) install: &'a str,
    pub(crate) member: &'a str,
}

impl Scribe<'_> {
    /// One token, one write.
    pub(crate) async fn write(
        &self,
        region: &Region<'_>,
        server: &Server,
        life: Lifetime,
    ) -> Result<ObjectMeta, Obstacle> {
        let name = secret_name(region.name);
        // A replica that does not lead has no tokens made.
        if !(self.gate)() {
            return Err(CallError::NotLeading {
                verb: "apply",
                object: name,
            }
            .obstacle());
        }
        self.metrics.remote_token();
        let issued = region.token(life).await?;
        let secret = RemoteSecret {
            region: region.name,
            server,
            reader: &issued.reader,
            token: &issued.token,
            issued: issued.from,
            expires: issued.until,
        };
        self.metrics.remote_secret();
        let body = remote_secret(&secret, (self.install, self.member));
        let written = self.writer.put_remote(&name, body).await?;
        tracing::info!(region = %region.name, consumer = %region.consumer, until = %issued.until, "Wrote a remote secret");
        Ok(written)
    }
}

#[cfg(test)]
mod tests;
