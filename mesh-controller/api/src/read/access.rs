//! Kubeconfigs, reduced to what may be used: a server, its CA, and a token or an inline client certificate.
//!
//! A kubeconfig comes from whoever may write a Secret next to a `ClusterDeployment`. One that would run a
//! program, read a file of ours, or lead to ourselves is refused here, before any client library sees it.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use k8s_openapi::ByteString;
use mesh_core::facts::Obstacle;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::obstacle;
use crate::foreign::{ClusterDeployment, ClusterTemplate, Credential};

/// Provider of the templates of adopted clusters.
const ADOPTED: &str = "infrastructure-internal";
/// Key of kubeconfigs in Secrets of Cluster API and, by convention, of adopted clusters.
const KEY: &str = "value";
/// Largest kubeconfig that is read, in bytes. Real ones have a few KiB.
const LIMIT: usize = 256 * 1024;

/// Which Secret, and which key in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

/// A text that nobody gets to see by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted(Zeroizing<String>);

impl Redacted {
    /// Hides it, and wipes it in the end.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text. Not for logs, status, events or arguments.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The way to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAccess {
    /// URL of the server, https.
    pub server: String,
    /// The name its certificate must carry, if not that of the URL.
    pub tls_server_name: Option<String>,
    /// The CA that its certificate comes from, PEM; none = refuse all but public ones.
    pub ca_pem: Option<Vec<u8>>,
    /// Who we are to it.
    pub auth: Auth,
    /// Hash of all of the above: a rotated Secret changes it.
    pub fingerprint: String,
}

/// Who we are to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A bearer token.
    Token(Redacted),
    /// A client certificate.
    Certificate {
        /// Chain, PEM.
        certificate_pem: Vec<u8>,
        /// Key, PEM.
        key_pem: Redacted,
    },
}

/// Where the kubeconfig of a `ClusterDeployment` is (reference: platform 1.4).
///
/// # Errors
///
/// When it cannot be known, or lies in a namespace that nobody allowed.
pub fn kubeconfig_ref(
    deployment: &ClusterDeployment,
    template: Option<&ClusterTemplate>,
    credential: Option<&Credential>,
    allowed_namespaces: &[String],
) -> Result<SecretRef, Obstacle> {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    let region = deployment
        .status
        .as_ref()
        .and_then(|status| status.region.as_deref())
        .unwrap_or_default();
    if !region.is_empty() {
        return Err(obstacle(
            "KcmRegion",
            format!(
                "ClusterDeployment {namespace}/{name} lives in KCM region {region:?}; its kubeconfig is there, and this version does not read it"
            ),
        ));
    }
    let wanted = deployment.spec.template.clone().unwrap_or_default();
    let Some(template) = template else {
        return Err(obstacle(
            "TemplateMissing",
            format!("ClusterTemplate {namespace}/{wanted} was not found"),
        ));
    };
    let providers = template
        .status
        .as_ref()
        .map(|status| status.providers.as_slice())
        .unwrap_or_default();
    if !providers.iter().any(|provider| provider == ADOPTED) {
        return Ok(SecretRef {
            namespace,
            name: format!("{name}-kubeconfig"),
        });
    }
    let wanted = deployment.spec.credential.clone().unwrap_or_default();
    let Some(credential) = credential else {
        return Err(obstacle(
            "CredentialMissing",
            format!("Credential {namespace}/{wanted} was not found"),
        ));
    };
    let identity = credential.spec.identity_ref.clone().unwrap_or_default();
    if identity.kind.as_deref() != Some("Secret") {
        let kind = identity.kind.unwrap_or_default();
        return Err(obstacle(
            "CredentialNoSecret",
            format!(
                "Credential {namespace}/{wanted}: identityRef is of kind {kind:?}; an adopted cluster needs a Secret"
            ),
        ));
    }
    let from = identity
        .namespace
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| namespace.clone());
    if from != namespace && !allowed_namespaces.contains(&from) {
        return Err(obstacle(
            "NamespaceNotAllowed",
            format!(
                "Credential {namespace}/{wanted}: identityRef.namespace {from:?} is neither that of the ClusterDeployment nor in Mesh.spec.credentialNamespaces"
            ),
        ));
    }
    match identity.name.filter(|n| !n.is_empty()) {
        Some(name) => Ok(SecretRef {
            namespace: from,
            name,
        }),
        None => Err(obstacle(
            "CredentialNoSecret",
            format!("Credential {namespace}/{wanted}: identityRef has no name"),
        )),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<User>>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
    #[serde(default)]
    current_context: Option<String>,
}

/// `clusters[].cluster`, `users[].user`, `contexts[].context`.
#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(default)]
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
}

/// Reduces the kubeconfig in a Secret to what may be used.
///
/// # Errors
///
/// When there is none, it cannot be read, or it is refused; never with a word of its content but names.
pub fn kubeconfig(
    secret: &SecretRef,
    data: &BTreeMap<String, ByteString>,
) -> Result<ClusterAccess, Obstacle> {
    let malformed = |why: &str| obstacle("KubeconfigMalformed", format!("{secret}: {why}"));
    let bytes = match data.get(KEY) {
        Some(bytes) => bytes,
        // Sveltos takes the first key there is.
        None => data
            .values()
            .next()
            .ok_or_else(|| malformed("it has no data"))?,
    };
    if bytes.0.len() > LIMIT {
        return Err(malformed("it is larger than 256 KiB"));
    }
    let text = std::str::from_utf8(&bytes.0).map_err(|_e| malformed("it is not UTF-8 text"))?;
    // The parser's own words may quote the text, and the text holds keys.
    let file: File =
        serde_saphyr::from_str(text).map_err(|_e| malformed("it is not a kubeconfig"))?;
    let (cluster, user) = current(&file).map_err(|why| malformed(&why))?;
    let server =
        server(cluster).map_err(|(reason, why)| obstacle(reason, format!("{secret}: {why}")))?;
    let auth = auth(user).map_err(|(reason, why)| obstacle(reason, format!("{secret}: {why}")))?;
    let ca_pem = match &cluster.certificate_authority_data {
        Some(text) => Some(
            decode(text).ok_or_else(|| malformed("certificate-authority-data is not base64"))?,
        ),
        None => None,
    };
    let mut access = ClusterAccess {
        server,
        tls_server_name: cluster.tls_server_name.clone(),
        ca_pem,
        auth,
        fingerprint: String::new(),
    };
    access.fingerprint = fingerprint(&access);
    Ok(access)
}

fn current(file: &File) -> Result<(&Cluster, &User), String> {
    let wanted = file
        .current_context
        .as_deref()
        .filter(|name| !name.is_empty());
    let context = match wanted {
        Some(name) => file.contexts.iter().find(|c| c.name == name),
        None => file.contexts.first(),
    };
    let context = &context.ok_or("it has no current context")?.value;
    let cluster = file.clusters.iter().find(|c| c.name == context.cluster);
    let user = file.users.iter().find(|u| u.name == context.user);
    match (cluster, user) {
        (Some(cluster), Some(user)) => Ok((&cluster.value, &user.value)),
        (None, _) => Err(format!("it has no cluster {:?}", context.cluster)),
        (_, None) => Err(format!("it has no user {:?}", context.user)),
    }
}

type Refusal = (&'static str, String);

fn server(cluster: &Cluster) -> Result<String, Refusal> {
    let refuse = |why: &str| Err(("KubeconfigRefused", why.to_owned()));
    if cluster.certificate_authority.is_some() {
        return refuse("certificate-authority names a file; it must be inline");
    }
    if cluster.insecure_skip_tls_verify == Some(true) {
        return refuse("insecure-skip-tls-verify: a server that is not verified is not talked to");
    }
    if cluster.proxy_url.is_some() {
        return refuse("proxy-url is not supported");
    }
    let uri: Result<http::Uri, _> = cluster.server.parse();
    let Ok(uri) = uri else {
        return Err(("KubeconfigMalformed", "server is not a URL".to_owned()));
    };
    let Some(host) = uri.host().filter(|_| uri.scheme_str() == Some("https")) else {
        return refuse("server must be an https URL");
    };
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return refuse("server must not hold a user or a password");
    }
    let host = host
        .trim_matches(['[', ']'])
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let local = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_name) => host == "localhost" || host.ends_with(".localhost"),
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    if host.parse::<IpAddr>().is_err() && last.starts_with(|c: char| c.is_ascii_digit()) {
        // Resolvers still take "127.1" and "2130706433" for addresses.
        let why = "server is neither an address nor a host name".to_owned();
        return Err(("KubeconfigMalformed", why));
    }
    if local {
        return Err((
            "ServerIsLoopback",
            format!(
                "server {:?} leads to ourselves, not to the cluster; use an address that management can reach",
                cluster.server
            ),
        ));
    }
    Ok(cluster.server.clone())
}

fn auth(user: &User) -> Result<Auth, Refusal> {
    let refuse = |why: &str| Err(("KubeconfigRefused", why.to_owned()));
    if user.exec.is_some() {
        return refuse(
            "user.exec would run a program; use a token or an inline client certificate",
        );
    }
    if user.auth_provider.is_some() {
        return refuse(
            "user.auth-provider would run a program; use a token or an inline client certificate",
        );
    }
    if user.token_file.is_some() || user.client_certificate.is_some() || user.client_key.is_some() {
        return refuse(
            "tokenFile, client-certificate and client-key name files; they must be inline",
        );
    }
    if user.username.is_some() || user.password.is_some() || user.impersonate.is_some() {
        return refuse("username, password and impersonation are not supported");
    }
    if let (Some(certificate), Some(key)) = (&user.client_certificate_data, &user.client_key_data) {
        let bad = || {
            (
                "KubeconfigMalformed",
                "client certificate or key is not base64".to_owned(),
            )
        };
        let certificate_pem = decode(certificate).ok_or_else(bad)?;
        let key = decode(key)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(bad)?;
        return Ok(Auth::Certificate {
            certificate_pem,
            key_pem: Redacted::new(key),
        });
    }
    match user
        .token
        .as_deref()
        .map(str::trim)
        .filter(|token| !token.is_empty())
    {
        Some(token) if token.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Auth::Token(Redacted::new(token.to_owned())))
        }
        Some(_) => Err((
            "KubeconfigMalformed",
            "token holds characters that no token has".to_owned(),
        )),
        None => {
            refuse("the user has neither a token nor an inline client certificate with its key")
        }
    }
}

/// Base64 as kubeconfigs have it: what `ByteString` reads.
fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    serde_json::from_value::<ByteString>(serde_json::Value::String(compact))
        .ok()
        .map(|bytes| bytes.0)
}

fn fingerprint(access: &ClusterAccess) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    add(access.server.as_bytes());
    add(access
        .tls_server_name
        .as_deref()
        .unwrap_or_default()
        .as_bytes());
    add(access.ca_pem.as_deref().unwrap_or_default());
    match &access.auth {
        Auth::Token(token) => add(token.reveal().as_bytes()),
        Auth::Certificate {
            certificate_pem,
            key_pem,
        } => {
            add(certificate_pem);
            add(key_pem.reveal().as_bytes());
        }
    }
    let mut hex = String::new();
    for byte in hash.finalize() {
        for nibble in [byte >> 4, byte & 0xf] {
            hex.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    hex
}
