//! What the parts of an issuance cost on one thread, without network and API server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use mesh_ca::{Answers, Authority, Requested, check_csr};
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair};

use super::material::{self, Authorities, Request};

/// Turns of each loop; the fastest of a few loops counts, the others were disturbed.
const TURNS: u32 = 1000;
const LOOPS: usize = 5;

/// Each part with what one of it costs.
pub(super) fn measure(
    authorities: &Authorities,
    request: &Request,
) -> Result<Vec<(&'static str, Duration)>> {
    let key = KeyPair::from_pem(&authorities.intermediate_key)?;
    let issuer = Issuer::from_ca_cert_pem(&authorities.intermediate, key)?;
    let ours = Authority::load(&authorities.intermediate, &authorities.intermediate_key)?;
    let csr = request.csr.as_bytes();
    let asked = CertificateSigningRequestParams::from_pem(&request.csr)?;
    let checked = check_csr(csr, Requested::Identity(&request.identity))?;
    let (life, now) = (SignedDuration::from_hours(1), Timestamp::now());
    let answers = Answers::new(&ours, &authorities.root, now)?;
    let leaf = ours.sign_leaf(&request.identity, checked.key(), life, now)?;
    Ok(vec![
        (
            "rcgen: read the request and verify its signature",
            fastest(|| {
                drop(CertificateSigningRequestParams::from_pem(&request.csr)?);
                Ok(())
            })?,
        ),
        (
            "rcgen: make and sign a leaf",
            fastest(|| {
                let params = material::leaf(asked.params.subject_alt_names.clone())?;
                drop(params.signed_by(&asked.public_key, &issuer)?.pem());
                Ok(())
            })?,
        ),
        (
            "mesh-ca: judge the request",
            fastest(|| {
                drop(check_csr(csr, Requested::Identity(&request.identity))?);
                Ok(())
            })?,
        ),
        (
            "mesh-ca: sign a leaf and read it back",
            fastest(|| {
                drop(ours.sign_leaf(&request.identity, checked.key(), life, now)?);
                Ok(())
            })?,
        ),
        (
            "mesh-ca: put a leaf into the answer that was judged before",
            fastest(|| {
                drop(answers.give(&leaf, &request.identity)?);
                Ok(())
            })?,
        ),
        (
            "mesh-ca: judge a leaf as a peer would, up to the root",
            fastest(|| {
                let (chain, root) = (&leaf.chain_pem, &authorities.root);
                drop(mesh_ca::verify_leaf(chain, root, &request.identity, now)?);
                Ok(())
            })?,
        ),
    ])
}

fn fastest(mut part: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut found: Option<Duration> = None;
    for _ in 0..LOOPS {
        let began = Instant::now();
        for _ in 0..TURNS {
            part()?;
        }
        let one = began.elapsed() / TURNS;
        found = Some(found.map_or(one, |known| known.min(one)));
    }
    found.context("nothing was measured")
}
