//! What has to do with remote secrets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_core::remote::{SecretFacts, Server};

use super::ClusterAccess;
use crate::labels;

/// The API server that a kubeconfig leads to.
#[must_use]
pub fn server(access: &ClusterAccess) -> Server {
    let pem = access
        .ca_pem
        .as_ref()
        .and_then(|pem| String::from_utf8(pem.clone()).ok());
    Server {
        url: access.server.clone(),
        tls_server_name: access.tls_server_name.clone(),
        ca_pem: pem,
    }
}

/// A remote secret by its metadata: what is in it nobody needs to see. Whose it is and whether somebody wrote to it the caller knows.
#[must_use]
pub fn remote_secret(meta: &ObjectMeta, ours: bool, intact: bool) -> SecretFacts {
    let note = |name: &str| meta.annotations.as_ref()?.get(name).cloned();
    let at = |name: &str| note(name)?.parse().ok();
    SecretFacts {
        ours,
        cluster: note(labels::REMOTE_CLUSTER),
        shape: note(labels::REMOTE_SHAPE),
        reader: note(labels::REMOTE_READER),
        issued: at(labels::TOKEN_ISSUED),
        expires: at(labels::TOKEN_EXPIRES),
        intact,
    }
}
