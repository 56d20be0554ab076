//! Two judges of chains with revocation lists.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::{
    crl::lists,
    pem,
    testing::{Folder, openssl},
};

/// webpki's word on a chain with lists, every CA of the chain looked up, unknown refused.
#[expect(clippy::unwrap_in_result, reason = "what is not judged must be there")]
pub(super) fn webpki_verify(
    chain: &str,
    anchor: &str,
    crls: &str,
    at: Timestamp,
) -> Result<(), webpki::Error> {
    let chain = pem::certificates(chain).unwrap();
    let anchor = pem::certificates(anchor).unwrap().remove(0);
    let ders = lists(crls).unwrap();
    let parsed: Vec<CertRevocationList<'_>> = ders
        .iter()
        .map(|der| BorrowedCertRevocationList::from_der(der).unwrap().into())
        .collect();
    let parsed: Vec<&CertRevocationList<'_>> = parsed.iter().collect();
    let options = RevocationOptionsBuilder::new(&parsed)
        .unwrap()
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
        .build();
    let seconds = u64::try_from(at.as_second()).unwrap();
    let certificate: &CertificateDer<'_> = &chain[0];
    EndEntityCert::try_from(certificate)
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor_from_trusted_cert(&anchor).unwrap()],
            &chain[1..],
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::client_auth(),
            Some(options),
            None,
        )
        .map(|_| ())
}

/// OpenSSL's word on the same.
#[expect(clippy::unwrap_in_result, reason = "what is not judged must be there")]
pub(super) fn openssl_verify(
    chain: &str,
    anchor: &str,
    crls: &str,
    at: Timestamp,
) -> Result<(), String> {
    let folder = Folder::new();
    let ders = pem::certificates(chain).unwrap();
    let leaf = folder.file("leaf.pem", pem::write_chain(&ders[..1]));
    let rest = folder.file("rest.pem", pem::write_chain(&ders[1..]));
    let (anchor, crls) = (
        folder.file("anchor.pem", anchor),
        folder.file("crl.pem", crls),
    );
    let at = at.as_second().to_string();
    let args = [
        "verify",
        "-x509_strict",
        "-no-CApath",
        "-no-CAstore",
        "-crl_check_all",
        "-attime",
        &at,
        "-CAfile",
        &anchor,
        "-untrusted",
        &rest,
        "-CRLfile",
        &crls,
        &leaf,
    ];
    openssl(&args).map(|_| ())
}
