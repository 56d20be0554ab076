//! rustls-webpki, for both directions of TLS, with revocation lists.

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use super::Complaints;
use crate::case::{Case, Role, ders};

pub fn judge(case: &Case) -> Complaints {
    match verify(case) {
        Ok(()) => Vec::new(),
        Err(complaint) => vec![complaint],
    }
}

fn verify(case: &Case) -> Result<(), String> {
    let said = |error: webpki::Error| error.to_string();
    let certificates = |text: &str| -> Vec<CertificateDer<'static>> {
        ders(text).into_iter().map(CertificateDer::from).collect()
    };
    let (anchors, chain) = (certificates(&case.anchors), certificates(&case.chain));
    let anchors = anchors
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(said)?;
    let lists = ders(&case.lists)
        .iter()
        .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(said)?;
    let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_depth(if case.partial {
                RevocationCheckDepth::EndEntity
            } else {
                RevocationCheckDepth::Chain
            })
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
            .build()
    });
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(said)?;
    let now = UnixTime::now();
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &chain[1..],
            now,
            usage,
            revocation,
            None,
        )
        .map_err(said)?;
    }
    if case.role == Role::Server {
        let name = ServerName::try_from(case.peer.as_str()).map_err(|e| e.to_string())?;
        leaf.verify_is_valid_for_subject_name(&name).map_err(said)?;
    }
    Ok(())
}
