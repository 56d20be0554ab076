//! What the gateway writes to its standard output: who was refused, and why. Nothing about what
//! passes.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ExtensionFilter, OrFilter, ResponseFlagFilter, access_log,
    access_log_filter::FilterSpecifier, extension_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StdoutAccessLog, stdout_access_log,
};

use super::parts::{any, with_status};

/// Connections that came to nothing: no caller of that name, or no good certificate.
pub(super) fn connections() -> AccessLog {
    let failed = ExpressionFilter {
        expression: "has(connection.transport_failure_reason) && \
                     connection.transport_failure_reason != ''"
            .to_owned(),
        ..ExpressionFilter::default()
    };
    let failed = FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".to_owned(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(failed))),
    });
    let unknown = FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
        flags: vec!["NR".to_owned()],
    });
    let either = [failed, unknown].map(filter);
    to_stdout(
        FilterSpecifier::OrFilter(OrFilter {
            filters: either.into(),
        }),
        "%START_TIME% refused=connection from=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
         sni=%REQUESTED_SERVER_NAME% peer=%DOWNSTREAM_PEER_URI_SAN% flags=%RESPONSE_FLAGS% \
         reason=\"%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\"\n",
    )
}

/// Requests outside the contract.
pub(super) fn requests(caller: &str) -> AccessLog {
    let text = format!(
        "%START_TIME% refused=path caller={caller} peer=%DOWNSTREAM_PEER_URI_SAN% \
         method=%REQ(:METHOD)% path=\"%PATH(NQ:PATH)%\" detail=%RESPONSE_CODE_DETAILS%\n"
    );
    to_stdout(with_status(403), &text)
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(specifier),
    }
}

fn to_stdout(when: FilterSpecifier, text: &str) -> AccessLog {
    let format = substitution_format_string::Format::TextFormatSource(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    });
    let config = StdoutAccessLog {
        access_log_format: Some(stdout_access_log::AccessLogFormat::LogFormat(
            SubstitutionFormatString {
                format: Some(format),
                ..SubstitutionFormatString::default()
            },
        )),
    };
    AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        filter: Some(filter(when)),
        config_type: Some(access_log::ConfigType::TypedConfig(any(config))),
    }
}
