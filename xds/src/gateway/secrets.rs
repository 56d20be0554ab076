//! Key material and anchors, and the SDS resources made of them.

use std::fmt;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use zeroize::Zeroizing;

use super::parts::resource;
use super::{Anchors, Lists};
use crate::model::Resource;

/// Name of the secret with this Envoy's own leaf and key.
pub(super) const DEFAULT: &str = "default";

/// Name of the secret with the leaf and key that Istio's sidecars are shown.
pub(super) const SHARED: &str = "shared";

/// Name of the secret with the anchors of a cluster.
pub(super) fn anchor_name(cluster: &str) -> String {
    format!("anchor/{cluster}")
}

/// The leaf of this Envoy: chain and key, both PEM. That the key fits the chain and that the
/// dates are right is for the caller to check: Envoy takes an expired leaf without a word.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    chain_pem: String,
    key_pem: Zeroizing<String>,
}

impl Leaf {
    /// A leaf of a chain (leaf first, then what leads to the anchor) and its private key.
    pub fn new(chain_pem: impl Into<String>, key_pem: impl Into<String>) -> Self {
        Self {
            chain_pem: chain_pem.into(),
            key_pem: Zeroizing::new(key_pem.into()),
        }
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf([redacted])")
    }
}

/// All that goes out by SDS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Leaf and key of this Envoy. Without one nothing is served and nothing is reached.
    pub default: Option<Leaf>,
    /// Leaf and key of this Envoy for regions whose gateway is Istio's.
    pub shared: Option<Leaf>,
    /// Per cluster ID the certificates under which its identities are believed, PEM: one or, while
    /// it rotates, two. An intermediate is a valid anchor.
    pub anchors: Anchors,
    /// Per cluster ID the revocation lists of *all* its anchors, PEM. Envoy refuses a leaf whose issuer has none among them, and one
    /// whose list has ended; where there is no text, nothing is asked for.
    pub lists: Lists,
}

fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }
}

/// The secret `default` or `shared`.
pub(super) fn leaf(name: &str, leaf: &Leaf) -> Resource {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(&leaf.chain_pem)),
        private_key: Some(inline(&leaf.key_pem)),
        ..TlsCertificate::default()
    };
    secret(name, secret::Type::TlsCertificate(certificate))
}

/// The secret `anchor/<cluster>`. The anchors are intermediates; lists are theirs, about leaves: above them nothing is looked at.
pub(super) fn anchor(cluster: &str, pem: &str, lists: Option<&str>) -> Resource {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(pem)),
        crl: lists.map(inline),
        only_verify_leaf_cert_crl: lists.is_some(),
        ..CertificateValidationContext::default()
    };
    secret(
        &anchor_name(cluster),
        secret::Type::ValidationContext(context),
    )
}

fn secret(name: &str, value: secret::Type) -> Resource {
    let message = Secret {
        name: name.to_owned(),
        r#type: Some(value),
    };
    resource(name, &message, [])
}
