//! Bare API servers: real ones, without a node. They stand for members whose API server is all that matters, and share
//! one etcd under a prefix each. They listen in the fleet's network and end with the value that holds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::components::Components;
use crate::{exec, wait_for};

/// Where they listen.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    address: &'static str,
    /// Port of the first; the others follow.
    port: u16,
    /// Ports of etcd, on loopback: for clients, and for peers that it has not.
    etcd: [u16; 2],
    /// Who keeps the endpoints of the Service `kubernetes`, which may not point at loopback.
    reconciler: &'static str,
}

impl Place {
    /// The address of the fleet's network in which tests are.
    pub const FLEET: Self = Self {
        address: "172.30.0.1",
        port: 16_443,
        etcd: [23_790, 23_800],
        reconciler: "lease",
    };
    /// The machine's own loopback.
    pub const LOOPBACK: Self = Self {
        address: "127.0.0.1",
        port: 17_443,
        etcd: [23_791, 23_801],
        reconciler: "none",
    };

    fn url(&self, n: u16) -> String {
        format!("https://{}:{}", self.address, self.port + n)
    }
}

/// Token of their administrator: they live for one test in a network without an uplink.
const TOKEN: &str = "administrator-of-a-test";

/// Running API servers.
#[derive(Debug)]
pub struct Bare {
    /// etcd, then the API servers. Ended when dropped.
    processes: Vec<Child>,
    place: Place,
    folder: PathBuf,
    count: u16,
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl Bare {
    /// Starts some in the fleet's network, and waits until all answer.
    pub async fn start(components: &Components, count: u16) -> Result<Self> {
        Self::start_at(&components.node_path(), Place::FLEET, count).await
    }

    /// Starts some from programs on this `PATH`, and waits until all answer.
    pub async fn start_at(path: &str, place: Place, count: u16) -> Result<Self> {
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
            command.args(args).env("PATH", path).kill_on_drop(true);
            command
                .stdin(std::process::Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            command
                .spawn()
                .with_context(|| format!("failed to start {program}"))
        };
        let [etcd, peers] = place.etcd.map(|port| format!("http://127.0.0.1:{port}"));
        let mut processes = vec![spawn(
            "etcd",
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peers}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?];
        for n in 0..count {
            processes.push(spawn(
                "kube-apiserver",
                &[
                    format!("--etcd-servers={etcd}"),
                    format!("--etcd-prefix=/bare{n}"),
                    format!("--bind-address={}", place.address),
                    format!("--advertise-address={}", place.address),
                    format!("--secure-port={}", place.port + n),
                    format!("--cert-dir={}", at(&format!("pki{n}"))),
                    format!("--token-auth-file={}", at("tokens")),
                    format!("--service-account-key-file={}", at("sa.key")),
                    format!("--service-account-signing-key-file={}", at("sa.key")),
                    "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                    "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                    "--authorization-mode=RBAC".to_owned(),
                    format!("--endpoint-reconciler-type={}", place.reconciler),
                    "--disable-admission-plugins=ServiceAccount".to_owned(),
                ],
            )?);
        }
        let this = Self {
            processes,
            place,
            folder,
            count,
        };
        for n in 0..count {
            let url = format!("{}/readyz", place.url(n));
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

    /// The process of one.
    pub fn process(&self, n: u16) -> Result<u32> {
        let child = self.processes.get(usize::from(n) + 1);
        child
            .and_then(Child::id)
            .with_context(|| format!("API server {n} does not run"))
    }

    /// The kubeconfig of one's administrator.
    pub fn kubeconfig(&self, n: u16) -> Result<String> {
        anyhow::ensure!(n < self.count, "there is no API server {n}");
        let ca = read(&self.folder.join(format!("pki{n}/apiserver.crt")))?;
        let ca = serde_json::to_value(k8s_openapi::ByteString(ca))?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "k", "cluster": { "server": self.place.url(n), "certificate-authority-data": ca } }],
            "users": [{ "name": "u", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        })
        .to_string())
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))
}
