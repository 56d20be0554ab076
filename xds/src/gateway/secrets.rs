//! What goes over SDS: the own certificate, and the anchors of the others.

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret::Type},
};

use super::{Certificate, parts::resource};
use crate::model::Resource;

/// Name of the own certificate (that of Istio's SDS contract).
pub(super) const OWN: &str = "default";

/// Name of a member's anchor.
pub(super) fn anchor_name(cluster: &str) -> String {
    format!("anchor/{cluster}")
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
}

pub(super) fn own(certificate: &Certificate) -> Resource {
    let certificate = TlsCertificate {
        certificate_chain: inline(&certificate.chain_pem),
        private_key: inline(&certificate.key_pem),
        ..TlsCertificate::default()
    };
    resource(OWN, &Secret { name: OWN.to_owned(), r#type: Some(Type::TlsCertificate(certificate)) })
}

/// Envoy's default validator takes an intermediate as an anchor; its SPIFFE validator does not, and ignores
/// revocation lists besides (both seen with Envoy 1.40).
pub(super) fn anchor(cluster: &str, pem: &str) -> Resource {
    let name = anchor_name(cluster);
    let context = CertificateValidationContext {
        trusted_ca: inline(pem),
        // The list would tell strangers whom the gateway knows.
        suppress_client_ca_list: true,
        ..CertificateValidationContext::default()
    };
    let secret = Secret { name: name.clone(), r#type: Some(Type::ValidationContext(context)) };
    resource(&name, &secret)
}
