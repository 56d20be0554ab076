//! What is made before the clock runs: one root and one intermediate for all servers, a server's certificate, and
//! requests that are signed already, so that the client spends little.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mesh_ca::{Authority, IntermediateSubject, PrivateKey, Requested, check_csr};
use mesh_core::names::{MeshName, SpiffeId};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, string::Ia5String,
};
use serde_json::json;
use zeroize::Zeroizing;

/// Name under which servers are called.
pub(super) const SERVER: &str = "localhost";
/// The trust domain of the workloads.
pub(super) const TRUST_DOMAIN: &str = "cluster.local";
/// The mesh.
pub(super) const MESH: &str = "bench";
/// The member.
pub(super) const CLUSTER: &str = "bench";
/// Name of step-ca's provisioner.
const PROVISIONER: &str = "bench";
/// Keys in the pool of the client: more than any server could remember.
const KEYS: usize = 512;

/// Certificates and keys of the servers, PEM. They live for one run.
pub(super) struct Authorities {
    pub(super) root: String,
    pub(super) intermediate: String,
    pub(super) intermediate_key: Zeroizing<String>,
    pub(super) server: String,
    pub(super) server_key: Zeroizing<String>,
}

impl Authorities {
    pub(super) fn generate() -> Result<Self> {
        let now = Timestamp::now();
        let mesh: MeshName = MESH.parse()?;
        let (root, files) =
            Authority::generate_root(&mesh, 1, SignedDuration::from_hours(240), now)?;
        let key = PrivateKey::generate()?;
        let request = check_csr(key.csr_pem()?.as_bytes(), Requested::Nothing)?;
        let subject = IntermediateSubject {
            mesh,
            cluster: CLUSTER.parse()?,
            generation: 1,
        };
        let issued =
            root.sign_intermediate(&request, &subject, SignedDuration::from_hours(120), now)?;
        let (server, server_key) = server(&issued.cert_pem, key.pem())?;
        Ok(Self {
            root: files.cert_pem,
            server: format!("{server}{}", issued.cert_pem),
            server_key,
            intermediate: issued.cert_pem,
            intermediate_key: key.pem().clone(),
        })
    }
}

/// A certificate for a server, P-256 like all others: istiod's own would be RSA, and handshakes would count that.
fn server(issuer: &str, issuer_key: &str) -> Result<(String, Zeroizing<String>)> {
    let issuer = Issuer::from_ca_cert_pem(issuer, KeyPair::from_pem(issuer_key)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = leaf(vec![
        SanType::DnsName(Ia5String::try_from(SERVER)?),
        SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
    ])?;
    params.distinguished_name.push(DnType::CommonName, SERVER);
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

/// A leaf as the least of servers makes it: one day, these names, a random serial number.
pub(super) fn leaf(names: Vec<SanType>) -> Result<CertificateParams> {
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .ok()
        .context("no randomness")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.serial_number = Some(SerialNumber::from(serial.map(|b| b & 0x7f).to_vec()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::minutes(2);
    params.not_after = now + time::Duration::days(1);
    Ok(params)
}

/// A request over a key of its own, shaped as ztunnel sends it: no subject, one name.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) identity: SpiffeId,
    pub(super) csr: Arc<str>,
}

/// A pool of requests, spread over these identities.
pub(super) fn requests(identities: &[SpiffeId]) -> Result<Vec<Request>> {
    let count = KEYS.next_multiple_of(identities.len().max(1));
    identities
        .iter()
        .cycle()
        .take(count)
        .map(|identity| {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.as_str())?)];
            Ok(Request {
                identity: identity.clone(),
                csr: params.serialize_request(&key)?.pem()?.into(),
            })
        })
        .collect()
}

/// What lets a client ask step-ca.
pub(super) struct Provisioner {
    key: EncodingKey,
    audience: String,
}

impl Provisioner {
    pub(super) fn generate(address: std::net::SocketAddr) -> Result<Self> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            key: EncodingKey::from_ec_der(&pair.serialize_der()),
            audience: format!("https://{address}/1.0/sign"),
        })
    }

    /// As it stands in the configuration of step-ca.
    pub(super) fn described(&self) -> Result<serde_json::Value> {
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&self.key, Algorithm::ES256)?;
        let mut key = serde_json::to_value(jwk)?;
        let fields = key.as_object_mut().context("a JWK is an object")?;
        fields.insert("kid".to_owned(), json!(PROVISIONER));
        fields.insert("use".to_owned(), json!("sig"));
        Ok(json!({ "type": "JWK", "name": PROVISIONER, "key": key }))
    }

    /// One token; step-ca takes each once.
    pub(super) fn token(
        &self,
        identity: &SpiffeId,
        number: usize,
        now: Timestamp,
    ) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(PROVISIONER.to_owned());
        let claims = json!({
            "iss": PROVISIONER, "aud": self.audience, "sub": identity.as_str(), "sans": [identity.as_str()],
            "iat": now.as_second(), "nbf": now.as_second(), "exp": now.as_second() + 7200, "jti": format!("bench-{number}"),
        });
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}
