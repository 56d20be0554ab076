//! Entries of Secrets. Which of them hold a root is known to `mesh-ca`.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use zeroize::Zeroizing;

/// Entries of a Secret of type `kubernetes.io/tls`: cert-manager's, and our own.
pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const KEY: &str = "tls.key";

/// All entries of a Secret.
pub(super) fn entries(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    let data = secret.data.iter().flatten();
    data.map(|(entry, bytes)| (entry.as_str(), bytes.0.as_slice()))
        .collect()
}

/// One entry as text.
///
/// # Errors
///
/// When it is missing, empty, or no text.
pub(super) fn text(
    data: &BTreeMap<String, ByteString>,
    entry: &str,
) -> Result<Zeroizing<String>, String> {
    let bytes = data
        .get(entry)
        .filter(|bytes| !bytes.0.is_empty())
        .ok_or_else(|| format!("it has no {entry}"))?;
    String::from_utf8(bytes.0.clone())
        .map(Zeroizing::new)
        .map_err(|_e| format!("{entry} is not text"))
}
