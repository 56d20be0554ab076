//! A root whose key is in a PKCS#11 token (SoftHSM2): it signs for a member, and status says so when it cannot.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::{exec, paths, progress, scenario, wait_for, x509};
use serde_json::{Value, json};

use crate::{Link, PODS, SOON, with_link};

/// Name of the mesh, of the token, and of the key in it.
const MESH: &str = "token";
const PIN: &str = "secret-7413";
/// Where the controller finds the driver and the token.
const MOUNT: &str = "/token";
const DRIVER: &str = "/usr/lib/softhsm/libsofthsm2.so";

#[test]
fn a_root_in_a_token_signs_for_members() -> Result<()> {
    with_link("token", |link| async move {
        // below the fleet's own folder, which the nodes see
        let folder = paths::state()?.join("token");
        let result = async { with_token(&link, &folder).await }.await;
        let mended = back(&link).await;
        let removed = std::fs::remove_dir_all(&folder);
        result?;
        mended?;
        removed.context("failed to remove the token")
    })
}

/// Everything as it was.
async fn back(link: &Link) -> Result<()> {
    scenario::undeploy(&link.management, "child1").await?;
    scenario::gone(&link.management, "child1", PODS).await?;
    for object in ["mesh/token", "secret/token-mesh-root", "secret/token-pin"] {
        let delete = ["-n", "istio-system", "delete", object, "--ignore-not-found"];
        link.management.kubectl(&delete).await?;
    }
    let product = scenario::product()?;
    scenario::install_product(&link.fleet, &product, &[]).await?;
    link.management.pod_security("istio-system", None).await?;
    scenario::deploy(&link.management, "child1", scenario::CHILD).await?;
    link.whole().await
}

async fn with_token(link: &Link, folder: &Path) -> Result<()> {
    let root = token(folder)?;
    let product = scenario::product()?;
    let values = [
        format!("pkcs11.module={MOUNT}/libsofthsm2.so"),
        "pkcs11.volumes[0].name=token".to_owned(),
        format!("pkcs11.volumes[0].hostPath.path={}", folder.display()),
        "pkcs11.volumeMounts[0].name=token".to_owned(),
        format!("pkcs11.volumeMounts[0].mountPath={MOUNT}"),
        "pkcs11.env[0].name=SOFTHSM2_CONF".to_owned(),
        format!("pkcs11.env[0].value={MOUNT}/softhsm2.conf"),
        "pkcs11.env[1].name=LD_LIBRARY_PATH".to_owned(),
        format!("pkcs11.env[1].value={MOUNT}"),
    ];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    // the token is in a folder of the node
    let level = Some("privileged");
    link.management.pod_security("istio-system", level).await?;
    scenario::install_product(&link.fleet, &product, &values).await?;
    let secret = |name: &str, key: &str, value: &str| {
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "istio-system" }, "stringData": { key: value } }).to_string()
    };
    let mesh = json!({
        "apiVersion": "mesh.kof.k0rdent.mirantis.com/v1alpha1", "kind": "Mesh", "metadata": { "name": MESH },
        "spec": { "root": { "secretName": "token-mesh-root", "pkcs11": { "tokenLabel": MESH, "keyLabel": MESH, "pinSecretName": "token-pin" } } },
    });
    let with_pin = |pin: &str| secret("token-pin", "pin", pin);
    let objects = [
        secret("token-mesh-root", "tls.crt", &root),
        with_pin("not-it"),
        mesh.to_string(),
    ];
    link.management.apply(&objects.join("\n---\n")).await?;
    reason(link, "RootTokenPin").await?;
    // with the right one it goes on by itself
    link.management.apply(&with_pin(PIN)).await?;
    reason(link, "").await?;

    link.move_child(Some(MESH)).await?;
    let signed = wait_for("an intermediate signed in the token", PODS, || async {
        let member = match scenario::member(&link.management, "child1").await {
            Ok(member) => member,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let condition = scenario::condition(&member, "IntermediateReady");
        let held = member
            .status
            .and_then(|s| s.intermediates.into_iter().next());
        Ok(held.ok_or_else(|| format!("{condition:?}")))
    })
    .await?;
    let verdict = x509::verify(&signed.certificate, &[], std::slice::from_ref(&root))?;
    progress::step(verdict.trim().replace('\n', ", "));
    let list = status(link).await?;
    let list = list.get("crl").and_then(Value::as_str).context("no list")?;
    progress::step(x509::verify_list(list, &root)?.trim());

    // Whoever reads logs does not learn the PIN.
    let logs = [
        "-n",
        "istio-system",
        "logs",
        "-l",
        "app=mesh-controller",
        "--tail=-1",
    ];
    let logs = link.management.kubectl(&logs).await?;
    ensure!(!logs.contains(PIN), "the PIN is in the log");
    let shown = status(link).await?.to_string();
    ensure!(!shown.contains(PIN), "the PIN is in the status");
    Ok(())
}

/// Waits until condition `RootReady` of the mesh is false for this reason, or true when there is none.
async fn reason(link: &Link, reason: &str) -> Result<()> {
    wait_for(&format!("RootReady, reason {reason:?}"), SOON, || async {
        let status = status(link).await?;
        let conditions = status.get("conditions").and_then(Value::as_array);
        let found = conditions
            .into_iter()
            .flatten()
            .find(|c| c.get("type").is_some_and(|t| t == "RootReady"));
        let is =
            |key: &str, value: &str| found.and_then(|c| c.get(key)).is_some_and(|v| v == value);
        let fits = if reason.is_empty() {
            is("status", "True")
        } else {
            is("status", "False") && is("reason", reason)
        };
        Ok(if fits {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })
    .await
}

async fn status(link: &Link) -> Result<Value> {
    let mesh = ["get", "mesh", MESH, "-o", "json"];
    let mesh: Value = serde_json::from_str(&link.management.kubectl(&mesh).await?)?;
    Ok(mesh.get("status").cloned().unwrap_or_default())
}

/// Makes a root, moves its key into a new token in this folder as docs/certificates.md says, and puts the driver beside it.
/// Returns the root's certificate.
fn token(folder: &Path) -> Result<String> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let tokens = folder.join("tokens");
    std::fs::create_dir_all(&tokens)?;
    let conf = |tokens: &str| {
        format!("directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    };
    let outside = folder.join("outside.conf");
    std::fs::write(&outside, conf(&tokens.display().to_string()))?;
    std::fs::write(
        folder.join("softhsm2.conf"),
        conf(&format!("{MOUNT}/tokens")),
    )?;

    let root = x509::root_with_key("root in a token", folder)?;
    let openssl = |args: &[&str]| exec::run(exec::command("openssl", args).current_dir(folder));
    openssl(&[
        "pkey", "-in", "key.pem", "-outform", "DER", "-out", "key.der",
    ])?;
    openssl(&[
        "pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "pub.der",
    ])?;
    let tool = |args: &[&str]| {
        let mut command = exec::command("pkcs11-tool", ["--module", DRIVER]);
        command
            .args(args)
            .current_dir(folder)
            .env("SOFTHSM2_CONF", &outside);
        exec::run(&mut command).context("packages softhsm2 and opensc are needed")
    };
    tool(&["--init-token", "--label", MESH, "--so-pin", PIN])?;
    let login = ["--token-label", MESH, "--login", "--pin", PIN];
    tool(&[
        "--token-label",
        MESH,
        "--login",
        "--login-type",
        "so",
        "--so-pin",
        PIN,
        "--init-pin",
        "--new-pin",
        PIN,
    ])?;
    for (file, kind) in [("key.der", "privkey"), ("pub.der", "pubkey")] {
        let object = [
            "--write-object",
            file,
            "--type",
            kind,
            "--label",
            MESH,
            "--id",
            "01",
            "--usage-sign",
        ];
        tool(&[&login[..], &object].concat())?;
    }
    for file in ["key.pem", "key.der", "pub.der", "outside.conf"] {
        std::fs::remove_file(folder.join(file))?;
    }
    libraries(folder)?;
    open_to_all(folder)?;
    Ok(root)
}

/// The driver, and the libraries that it wants besides those of the C library.
fn libraries(folder: &Path) -> Result<()> {
    std::fs::copy(DRIVER, folder.join("libsofthsm2.so"))?;
    let wanted = exec::run(&mut exec::command("ldd", [DRIVER]))?;
    let paths = wanted
        .lines()
        .filter_map(|l| l.split_once("=> ")?.1.split_whitespace().next());
    for path in paths.map(PathBuf::from).filter(|p| p.is_absolute()) {
        let name = path.file_name().context("a library without a name")?;
        let ours = ["libcrypto", "libstdc++", "libgcc_s"];
        if ours.iter().any(|n| name.to_string_lossy().starts_with(n)) {
            std::fs::copy(&path, folder.join(name))?;
        }
    }
    Ok(())
}

/// The controller runs as nobody in particular.
fn open_to_all(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            open_to_all(&path)?;
        } else {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        }
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777))?;
    Ok(())
}
