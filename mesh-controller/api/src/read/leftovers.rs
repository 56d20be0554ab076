//! What other tools have left, by what it is. Of Secrets only the metadata is looked at: the keys of their data stand among the fields
//! that somebody manages.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_core::leftovers::{Found, What};
use serde_json::Value;

use super::istio::is_ours;
use crate::labels;

/// Most entries of one object that are looked at.
const MOST: usize = 50;
/// Longest name that is taken, in bytes (Kubernetes).
const LONG: usize = 253;

/// Something that is not ours.
fn found(meta: &ObjectMeta, what: What) -> Option<Found> {
    let name = meta.name.clone()?;
    (!is_ours(meta)).then_some(Found { name, what })
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    let value = meta.annotations.as_ref()?.get(name)?;
    (value.len() <= LONG).then_some(value)
}

/// A Secret that istiod takes for a remote secret.
#[must_use]
pub fn left_remote(meta: &ObjectMeta) -> Option<Found> {
    let fields = meta.managed_fields.iter().flatten();
    let fields = fields.filter_map(|entry| entry.fields_v1.as_ref());
    // Who applied it on the server manages the field that he wrote, which is not the one that is there.
    let data = fields.flat_map(|fields| [fields.0.get("f:data"), fields.0.get("f:stringData")]);
    let data = data.filter_map(|data| data?.as_object());
    let keys = data.flat_map(|data| data.keys().take(MOST));
    let keys = keys.filter_map(|key| key.strip_prefix("f:").map(str::to_owned));
    let said = annotation(meta, labels::REMOTE_CLUSTER).cloned();
    let clusters: BTreeSet<String> = keys.chain(said).take(MOST).collect();
    found(meta, What::Remote { clusters })
}

/// A Secret with a token of a service account.
#[must_use]
pub fn left_token(meta: &ObjectMeta) -> Option<Found> {
    let account = annotation(meta, "kubernetes.io/service-account.name")?.clone();
    found(meta, What::Token { account })
}

fn text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?;
    (text.len() <= LONG).then(|| text.to_owned())
}

/// A Gateway of Istio: the patterns among the hosts that it lets other networks through to.
#[must_use]
pub fn left_gateway(meta: &ObjectMeta, data: &Value) -> Option<Found> {
    let servers = data.pointer("/spec/servers")?.as_array()?;
    let passing = servers.iter().take(MOST).filter(|server| {
        let mode = server.pointer("/tls/mode").and_then(Value::as_str);
        mode == Some("AUTO_PASSTHROUGH")
    });
    let hosts = passing.filter_map(|server| server.get("hosts")?.as_array());
    let hosts = hosts.flat_map(|hosts| hosts.iter().take(MOST));
    let hosts = hosts.filter_map(|host| text(Some(host))).filter(|host| {
        // It may say in which namespace.
        let name = host
            .rsplit_once('/')
            .map_or(host.as_str(), |(_, name)| name);
        name.starts_with('*')
    });
    let hosts: BTreeSet<String> = hosts.collect();
    (!hosts.is_empty()).then_some(())?;
    found(meta, What::Wide { hosts })
}

/// An Issuer of cert-manager that signs with a CA.
#[must_use]
pub fn left_issuer(meta: &ObjectMeta, data: &Value) -> Option<Found> {
    let secret = text(data.pointer("/spec/ca/secretName"))?;
    found(meta, What::Issuer { secret })
}

/// A Certificate of cert-manager that is one of a CA.
#[must_use]
pub fn left_authority(meta: &ObjectMeta, data: &Value) -> Option<Found> {
    data.pointer("/spec/isCA")?
        .as_bool()
        .filter(|is_ca| *is_ca)?;
    let secret = text(data.pointer("/spec/secretName"))?;
    let issuer = text(data.pointer("/spec/issuerRef/name"))?;
    found(meta, What::Authority { secret, issuer })
}

#[cfg(test)]
mod tests;
