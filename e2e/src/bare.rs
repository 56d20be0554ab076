//! Bare API servers: real ones, without a node. They stand for members whose API server is all that matters, and share
//! one etcd under a prefix each. They listen in the fleet's network and end with the value that holds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::components::Components;
use crate::{exec, wait_for};

/// Address of the fleet's network in which tests are.
const ADDRESS: &str = "172.30.0.1";
/// Port of the first; the others follow.
const PORT: u16 = 16_443;
/// Token of their administrator: they live for one test in a network without an uplink.
const TOKEN: &str = "administrator-of-a-test";

/// Running API servers.
#[derive(Debug)]
pub struct Bare {
    // Ended when dropped.
    _processes: Vec<Child>,
    folder: PathBuf,
    count: u16,
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl Bare {
    /// Starts some, and waits until all answer.
    pub async fn start(components: &Components, count: u16) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("kof-istio-bare-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let at = |name: &str| folder.join(name).display().to_string();
        std::fs::write(
            at("tokens"),
            format!("{TOKEN},admin,admin,system:masters\n"),
        )?;
        exec::run_async(exec::command(
            "openssl",
            ["genrsa", "-out", &at("sa.key"), "2048"],
        ))
        .await?;
        let spawn = |program: &str, args: &[String]| -> Result<Child> {
            let log = std::fs::File::create(folder.join(format!("{program}.log")))?;
            let mut command = Command::new(program);
            command
                .args(args)
                .env("PATH", components.node_path())
                .kill_on_drop(true);
            command
                .stdin(std::process::Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            command
                .spawn()
                .with_context(|| format!("failed to start {program}"))
        };
        let etcd = "http://127.0.0.1:23790";
        let mut processes = vec![spawn(
            "etcd",
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                "--listen-peer-urls=http://127.0.0.1:23800".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?];
        for n in 0..count {
            processes.push(spawn(
                "kube-apiserver",
                &[
                    format!("--etcd-servers={etcd}"),
                    format!("--etcd-prefix=/bare{n}"),
                    format!("--bind-address={ADDRESS}"),
                    format!("--advertise-address={ADDRESS}"),
                    format!("--secure-port={}", PORT + n),
                    format!("--cert-dir={}", at(&format!("pki{n}"))),
                    format!("--token-auth-file={}", at("tokens")),
                    format!("--service-account-key-file={}", at("sa.key")),
                    format!("--service-account-signing-key-file={}", at("sa.key")),
                    "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                    "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                    "--authorization-mode=RBAC".to_owned(),
                    "--disable-admission-plugins=ServiceAccount".to_owned(),
                ],
            )?);
        }
        let this = Self {
            _processes: processes,
            folder,
            count,
        };
        for n in 0..count {
            let url = format!("https://{ADDRESS}:{}/readyz", PORT + n);
            wait_for(
                &format!("bare API server {n}"),
                Duration::from_mins(4),
                || async {
                    let header = format!("authorization: Bearer {TOKEN}");
                    let asked = exec::command("curl", ["-skf", "-m", "2", "-H", &header, &url]);
                    Ok(exec::run_async(asked).await.map_err(|e| format!("{e:#}")))
                },
            )
            .await?;
        }
        Ok(this)
    }

    /// The kubeconfig of one's administrator.
    pub fn kubeconfig(&self, n: u16) -> Result<String> {
        anyhow::ensure!(n < self.count, "there is no API server {n}");
        let ca = read(&self.folder.join(format!("pki{n}/apiserver.crt")))?;
        let ca = serde_json::to_value(k8s_openapi::ByteString(ca))?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "k", "cluster": { "server": format!("https://{ADDRESS}:{}", PORT + n), "certificate-authority-data": ca } }],
            "users": [{ "name": "u", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        })
        .to_string())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))
}
