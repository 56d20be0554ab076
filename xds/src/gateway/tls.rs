//! TLS 1.3 on both sides, own certificate and the other side's anchor by SDS.

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext, downstream_tls_context,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Any;

use super::parts::{any, from_ads, number, yes};
use super::secrets::{DEFAULT, anchor_name};

/// A string that must be equal.
pub(super) fn exact(value: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Exact(value.to_owned())),
        ..StringMatcher::default()
    }
}

fn from_sds(name: impl Into<String>) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.into(),
        sds_config: from_ads(),
    }
}

/// What both sides share: who we are (the secret `own`), whom we believe, and that they are one of `identities`.
fn common(own: &str, peer: &str, identities: &[String], alpn: &[&str]) -> CommonTlsContext {
    let expected = identities.iter().map(|identity| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(exact(identity)),
        ..SubjectAltNameMatcher::default()
    });
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: expected.collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(from_sds(anchor_name(peer))),
        ..CombinedCertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![from_sds(own)],
        alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..CommonTlsContext::default()
    }
}

fn socket(config: Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// Whom TLS leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Towards<'a> {
    /// The region whose anchor counts.
    pub(super) region: &'a str,
    /// Who must be there: one of these.
    pub(super) identities: &'a [String],
    /// The server name that is asked for.
    pub(super) sni: &'a str,
    /// What we speak.
    pub(super) alpn: &'a [&'a str],
    /// The secret that we are known by.
    pub(super) own: &'a str,
}

/// TLS towards a region: its gateway, or who stands behind it, must prove an identity under the region's anchor.
pub(super) fn towards(to: &Towards<'_>) -> TransportSocket {
    socket(any(UpstreamTlsContext {
        common_tls_context: Some(common(to.own, to.region, to.identities, to.alpn)),
        sni: to.sni.to_owned(),
        // No resumption: each connection proves both certificates as they are now.
        max_session_keys: number(0),
        ..UpstreamTlsContext::default()
    }))
}

/// TLS of a caller: it must prove one of `identities` under its own cluster's anchor.
pub(super) fn of_caller(caller: &str, identities: &[String]) -> TransportSocket {
    socket(any(DownstreamTlsContext {
        common_tls_context: Some(common(DEFAULT, caller, identities, &["h2", "http/1.1"])),
        require_client_certificate: yes(),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(
            downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(true),
        ),
        ..DownstreamTlsContext::default()
    }))
}
