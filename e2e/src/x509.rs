//! Certificates in the eyes of OpenSSL's command: requests that tests send, and what they get back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;

use crate::exec;

/// An empty folder of one's own.
pub fn folder() -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("kof-istio-x509-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
    Ok(path)
}

/// Calls `work` with an empty folder that is removed afterwards.
fn in_folder<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = folder()?;
    let result = work(&path);
    std::fs::remove_dir_all(&path)?;
    result
}

fn openssl(folder: &Path, args: &[&str]) -> Result<String> {
    exec::run(exec::command("openssl", args).current_dir(folder))
}

/// A certificate request with a new key of curve P-256 and an empty subject, with these extensions (`name=value`).
pub fn request(extensions: &[&str]) -> Result<String> {
    request_with(
        &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        extensions,
    )
}

/// As [`request`], with another kind of key.
pub fn request_with(key: &[&str], extensions: &[&str]) -> Result<String> {
    in_folder(|folder| {
        let mut args = vec!["req", "-new", "-nodes", "-keyout", "key.pem", "-subj", "/"];
        args.push("-newkey");
        args.extend(key);
        for extension in extensions {
            args.extend(["-addext", extension]);
        }
        openssl(folder, &args)
    })
}

/// A root that nobody uses, PEM.
pub fn root(name: &str) -> Result<String> {
    in_folder(|folder| root_with_key(name, folder))
}

/// A root, PEM, whose key is left in `key.pem` in this folder.
pub fn root_with_key(name: &str, folder: &Path) -> Result<String> {
    let subject = format!("/CN={name}");
    openssl(
        folder,
        &[
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-keyout",
            "key.pem",
            "-subj",
            &subject,
            "-days",
            "3650",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ],
    )
}

/// A certificate in words: `openssl x509 -noout -text`.
pub fn text(certificate: &str) -> Result<String> {
    about(certificate, &["-text", "-certopt", "no_pubkey,no_sigdump"])
}

/// Its public key in words.
pub fn public_key(certificate: &str) -> Result<String> {
    about(
        certificate,
        &[
            "-text",
            "-certopt",
            "no_header,no_version,no_serial,no_signame,no_validity,no_subject,no_issuer,no_extensions,no_sigdump",
        ],
    )
}

/// Its serial number, lower-case hex.
pub fn serial(certificate: &str) -> Result<String> {
    let said = about(certificate, &["-serial"])?;
    let number = said.trim().trim_start_matches("serial=");
    Ok(number.to_ascii_lowercase())
}

/// When it ends.
pub fn not_after(certificate: &str) -> Result<Timestamp> {
    let said = about(certificate, &["-enddate", "-dateopt", "iso_8601"])?;
    let end = said.trim().trim_start_matches("notAfter=");
    end.replace(' ', "T")
        .parse()
        .with_context(|| format!("no time: {end}"))
}

fn about(certificate: &str, what: &[&str]) -> Result<String> {
    in_folder(|folder| {
        std::fs::write(folder.join("certificate.pem"), certificate)?;
        openssl(
            folder,
            &[&["x509", "-noout", "-in", "certificate.pem"], what].concat(),
        )
    })
}

/// Has OpenSSL verify a leaf up to one of these roots through these intermediates; returns how.
pub fn verify(leaf: &str, intermediates: &[String], roots: &[String]) -> Result<String> {
    in_folder(|folder| {
        std::fs::write(folder.join("leaf.pem"), leaf)?;
        std::fs::write(folder.join("roots.pem"), roots.concat())?;
        let mut words = vec![
            "verify",
            "-x509_strict",
            "-show_chain",
            "-CAfile",
            "roots.pem",
        ];
        // a file without a certificate is an error to OpenSSL
        if !intermediates.is_empty() {
            std::fs::write(folder.join("intermediates.pem"), intermediates.concat())?;
            words.extend(["-untrusted", "intermediates.pem"]);
        }
        words.push("leaf.pem");
        openssl(folder, &words)
    })
}

/// Has OpenSSL verify a revocation list of this CA; returns it in words.
pub fn verify_list(list: &str, ca: &str) -> Result<String> {
    in_folder(|folder| {
        std::fs::write(folder.join("list.pem"), list)?;
        std::fs::write(folder.join("ca.pem"), ca)?;
        // the verdict is on stderr, and not always in the exit code
        let script =
            "openssl crl -in list.pem -CAfile ca.pem -noout -verify -issuer -nextupdate 2>&1";
        let said = exec::run(exec::command("sh", ["-ec", script]).current_dir(folder))?;
        ensure!(said.contains("verify OK"), "{said}");
        Ok(said)
    })
}

/// The revocation lists of a PEM text, each in words.
pub fn lists(pem: &str) -> Result<Vec<String>> {
    const END: &str = "-----END X509 CRL-----";
    let texts = pem.split_inclusive(END).filter(|t| t.contains(END));
    texts
        .map(|list| {
            in_folder(|folder| {
                std::fs::write(folder.join("list.pem"), list)?;
                openssl(folder, &["crl", "-in", "list.pem", "-noout", "-text"])
            })
        })
        .collect()
}

/// A JSON web token with other claims, signed (RS256) with the key in this file.
pub fn resign(
    token: &str,
    key: &Path,
    change: impl FnOnce(&mut serde_json::Value),
) -> Result<String> {
    let mut parts = token.split('.');
    let header = parts.next().context("no header")?;
    let claims = parts.next().context("no claims")?;
    in_folder(|folder| {
        let shell =
            |script: &str| exec::run(exec::command("sh", ["-ec", script]).current_dir(folder));
        // base64 of URLs has no padding, and the decoder wants it
        let padding = "=".repeat((4 - claims.len() % 4) % 4);
        std::fs::write(folder.join("claims"), format!("{claims}{padding}"))?;
        let mut claims = serde_json::from_str(&shell("basenc -d --base64url claims")?)?;
        change(&mut claims);
        std::fs::write(folder.join("claims"), claims.to_string())?;
        let encode = |file: &str| format!("basenc --base64url -w0 {file} | tr -d =");
        let body = format!("{header}.{}", shell(&encode("claims"))?);
        std::fs::write(folder.join("body"), &body)?;
        let sign = format!(
            "openssl dgst -sha256 -sign '{}' -out signature body; {}",
            key.display(),
            encode("signature")
        );
        Ok(format!("{body}.{}", shell(&sign)?))
    })
}

#[cfg(test)]
mod tests {
    use super::{not_after, request, root, serial, text, verify};

    #[test]
    fn openssl_is_understood() {
        let root = root("nobody").unwrap();
        assert!(text(&root).unwrap().contains("CN = nobody"));
        assert!(serial(&root).unwrap().len() > 8);
        assert!(not_after(&root).unwrap() > jiff::Timestamp::now());
        let verdict = verify(&root, &[], std::slice::from_ref(&root)).unwrap();
        assert!(verdict.contains("OK"), "{verdict}");
        let request = request(&["subjectAltName=critical,URI:spiffe://x/ns/a/sa/b"]).unwrap();
        assert!(request.contains("BEGIN CERTIFICATE REQUEST"));
    }
}
