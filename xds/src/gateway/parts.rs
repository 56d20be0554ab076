//! Pieces of Envoy configuration that both sides need.

use std::net::SocketAddr;

use envoy_types::{
    pb::{
        envoy::{
            config::core::v3::{
                Address, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption,
                SocketAddress, TransportSocket, address, config_source, header_value_option::HeaderAppendAction,
                socket_address, transport_socket,
            },
            extensions::{
                filters::{
                    http::router::v3::Router,
                    network::http_connection_manager::v3::{HttpFilter, http_filter},
                },
                transport_sockets::tls::v3::{
                    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsParameters,
                    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                    subject_alt_name_matcher::SanType, tls_parameters::TlsProtocol,
                },
            },
            r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
        },
        google::protobuf::{self, Any, BoolValue, UInt32Value},
    },
    util::pack_any,
};
use prost::{Message, Name};

use super::secrets::{OWN, anchor_name};
use crate::model::Resource;

/// A resource from its message.
pub(super) fn resource<M: Message>(name: &str, message: &M) -> Resource {
    Resource::new(name, message.encode_to_vec())
}

pub(super) fn any<M: Message + Name>(message: M) -> Any {
    pack_any(message)
}

pub(super) fn seconds(seconds: u32) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds: i64::from(seconds), nanos: 0 })
}

pub(super) const fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) const fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

/// What Envoy fetches over the one stream it has with us.
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        // What we know is in the same push; Envoy must not go on without it after a time-out.
        initial_fetch_timeout: seconds(0),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

pub(super) fn socket(at: SocketAddr) -> Option<Address> {
    host(&at.ip().to_string(), at.port())
}

pub(super) fn host(host: &str, port: u16) -> Option<Address> {
    let socket = SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..SocketAddress::default()
    };
    Some(Address { address: Some(address::Address::SocketAddress(socket)) })
}

pub(super) fn exactly(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..StringMatcher::default() }
}

/// Sets a header, whatever was there.
pub(super) fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

pub(super) fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", any(Router::default()))
}

pub(super) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

pub(super) fn tls_socket(config: Any) -> Option<TransportSocket> {
    Some(TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    })
}

/// Our certificate, and the peer verified by its own anchors *and* its identities. TLS 1.3 only: both ends are ours
/// (and an Envoy client would stop at 1.2 unless told).
pub(super) fn tls(peer: &str, identities: &[String], alpn: &[&str]) -> CommonTlsContext {
    let secret = |name: String| SdsSecretConfig { name, sds_config: ads() };
    let uri = |id: &String| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(exactly(id)),
        ..SubjectAltNameMatcher::default()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: identities.iter().map(uri).collect(),
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret(anchor_name(peer))),
        ..CombinedCertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        alpn_protocols: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
        tls_certificate_sds_secret_configs: vec![secret(OWN.to_owned())],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..CommonTlsContext::default()
    }
}
