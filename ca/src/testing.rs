//! What the tests share: a fixed time, a mesh of two members, and OpenSSL as a judge.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use jiff::{SignedDuration, Timestamp};
use mesh_core::names::{ClusterName, MeshName, SpiffeId};

use crate::{
    Authority, CheckedCsr, IntermediateSubject, Issued, PrivateKey, Requested, RootMaterial,
    check_csr,
};

pub(crate) const YEAR: SignedDuration = SignedDuration::from_hours(24 * 365);
pub(crate) const MONTH: SignedDuration = SignedDuration::from_hours(24 * 30);
pub(crate) const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// 2026-11-21T04:00:00Z.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_795_233_600).unwrap()
}

pub(crate) fn mesh() -> MeshName {
    "default".parse().unwrap()
}

pub(crate) fn subject(cluster: &str, generation: u32) -> IntermediateSubject {
    IntermediateSubject {
        mesh: mesh(),
        cluster: cluster.parse::<ClusterName>().unwrap(),
        generation,
    }
}

pub(crate) fn identity(cluster: &str) -> SpiffeId {
    format!("spiffe://{cluster}.mesh.example/ns/istio-system/sa/gateway")
        .parse()
        .unwrap()
}

pub(crate) fn root() -> (Authority, RootMaterial) {
    Authority::generate_root(&mesh(), 1, YEAR * 10, now()).unwrap()
}

pub(crate) fn request(key: &PrivateKey) -> CheckedCsr {
    check_csr(key.csr_pem().unwrap().as_bytes(), Requested::Nothing).unwrap()
}

/// A member: its key, what management signed for it, and the authority it becomes.
pub(crate) struct Member {
    pub(crate) key: PrivateKey,
    pub(crate) issued: Issued,
    pub(crate) authority: Authority,
}

pub(crate) fn member(root: &Authority, cluster: &str) -> Member {
    let key = PrivateKey::generate().unwrap();
    let issued = root
        .sign_intermediate(&request(&key), &subject(cluster, 1), MONTH, now())
        .unwrap();
    let authority = Authority::of(&issued.chain_pem, &key).unwrap();
    Member {
        key,
        issued,
        authority,
    }
}

/// A folder that is gone when the test is over.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mesh-ca-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and says where.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs the OpenSSL command line: its output, or what it complained about.
pub(crate) fn openssl(args: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl")
        .args(args)
        .output()
        .map_err(|error| format!("these tests need the openssl command, version 3: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// OpenSSL's strict word on a chain (leaf first) under an anchor, at a time, for both directions of TLS.
pub(crate) fn openssl_verify(
    chain: &str,
    anchor: &str,
    partial: bool,
    at: Timestamp,
) -> Result<(), String> {
    let folder = Folder::new();
    let (leaf, rest) = chain.split_once("-----END CERTIFICATE-----\n").unwrap();
    let leaf = folder.file("leaf.pem", format!("{leaf}-----END CERTIFICATE-----\n"));
    let anchor = folder.file("anchor.pem", anchor);
    let rest = (!rest.is_empty()).then(|| folder.file("rest.pem", rest));
    let at = at.as_second().to_string();
    for purpose in ["sslserver", "sslclient"] {
        let mut args = vec![
            "verify",
            "-x509_strict",
            "-no-CApath",
            "-no-CAstore",
            "-purpose",
            purpose,
            "-attime",
            &at,
            "-CAfile",
            &anchor,
        ];
        if partial {
            args.push("-partial_chain");
        }
        if let Some(rest) = &rest {
            args.extend(["-untrusted", rest]);
        }
        args.push(&leaf);
        openssl(&args)?;
    }
    Ok(())
}
