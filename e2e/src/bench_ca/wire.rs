//! The messages of `istio.v1.auth.IstioCertificateService`, as client and least of servers use them.

/// Path of the one method.
pub(super) const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// `IstioCertificateRequest`, without the metadata that no server here reads.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Asked {
    #[prost(string, tag = "1")]
    pub(super) csr: String,
    #[prost(int64, tag = "3")]
    pub(super) validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Given {
    #[prost(string, repeated, tag = "1")]
    pub(super) cert_chain: Vec<String>,
}
