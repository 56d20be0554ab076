//! The servers, each a process of its own on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::process::{Child, Command};

use super::{
    client::{Ask, Protocol, Target},
    material::{Authorities, Provisioner, SERVER as NAME},
};
use crate::{
    components::{Istio, StepCa},
    exec, wait_for,
};

// Names as istiod wants them, and two more.
pub(super) const ROOT: &str = "root-cert.pem";
pub(super) const INTERMEDIATE: &str = "ca-cert.pem";
pub(super) const INTERMEDIATE_KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
pub(super) const SERVER: &str = "server.pem";
pub(super) const SERVER_KEY: &str = "server-key.pem";
/// Where istiod looks for them, below the folder it runs in.
const CACERTS: &str = "etc/cacerts";

/// Where everything of a run lies; removed with this value.
pub(super) struct Place {
    folder: PathBuf,
    root: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A server that runs. It ends with this value.
pub(super) struct Server {
    pub(super) target: Target,
    pub(super) pid: u32,
    _process: Child,
}

/// A file of the folder.
pub(super) fn read(folder: &Path, name: &str) -> Result<String> {
    let file = folder.join(name);
    std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
}

impl Place {
    /// Writes what the servers read.
    pub(super) fn new(authorities: &Authorities, kubeconfig: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("kof-istio-bench-{}", std::process::id()));
        let place = Self {
            folder,
            root: authorities.root.clone(),
        };
        let cacerts = place.cacerts();
        std::fs::create_dir_all(&cacerts)?;
        std::fs::set_permissions(&place.folder, std::fs::Permissions::from_mode(0o700))?;
        for (name, text) in [
            (ROOT, &authorities.root),
            (INTERMEDIATE, &authorities.intermediate),
            (CHAIN, &authorities.intermediate),
            (INTERMEDIATE_KEY, &authorities.intermediate_key),
            (SERVER, &authorities.server),
            (SERVER_KEY, &authorities.server_key),
        ] {
            std::fs::write(cacerts.join(name), text)?;
        }
        std::fs::write(place.kubeconfig(), kubeconfig)?;
        Ok(place)
    }

    pub(super) fn cacerts(&self) -> PathBuf {
        self.folder.join(CACERTS)
    }

    /// Kubeconfig of the administrator.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The least of servers: this program again.
    pub(super) async fn minimal(&self, asks: Vec<Ask>) -> Result<Server> {
        let address = free()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("bench-ca-minimal")
            .arg(self.cacerts())
            .arg(address.to_string());
        let target = Target::new(address, NAME, &self.root, Protocol::Istio, asks)?;
        self.start("minimal", command, target, || async move {
            let found = tokio::net::TcpStream::connect(address).await;
            found.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// The real istiod with plug-in certificates, without limits towards the API server and without webhooks.
    pub(super) async fn istiod(&self, istio: &Istio, asks: Vec<Ask>) -> Result<Server> {
        let [grpc, http, plain, webhooks, metrics, ctrlz] = addresses()?;
        let at = |name: &str| self.cacerts().join(name).display().to_string();
        let mut command = Command::new(istio.program("pilot-discovery"));
        command
            .arg("discovery")
            .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
            .args([
                format!("--secureGRPCAddr={grpc}"),
                format!("--httpAddr={http}"),
                format!("--grpcAddr={plain}"),
                format!("--httpsAddr={webhooks}"),
                format!("--monitoringAddr={metrics}"),
                format!("--ctrlz_address={}", ctrlz.ip()),
                format!("--ctrlz_port={}", ctrlz.port()),
                format!("--tlsCertFile={}", at(SERVER)),
                format!("--tlsKeyFile={}", at(SERVER_KEY)),
                format!("--caCertFile={}", at(ROOT)),
                "--domain=cluster.local".to_owned(),
                "--kubernetesApiQPS=1000000".to_owned(),
                "--kubernetesApiBurst=1000000".to_owned(),
            ])
            .envs([
                ("POD_NAME", "istiod"),
                ("POD_NAMESPACE", "istio-system"),
                ("SERVICE_ACCOUNT", "istiod"),
                ("REVISION", "default"),
                ("CLUSTER_ID", "Kubernetes"),
                ("PILOT_CERT_PROVIDER", "istiod"),
                ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
                ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
                ("CLOUD_PLATFORM", "none"),
            ]);
        let target = Target::new(grpc, NAME, &self.root, Protocol::Istio, asks)?;
        let url = format!("http://{http}/ready");
        self.start("istiod", command, target, || answers(url.clone()))
            .await
    }

    /// The real step-ca without a database, which is its fastest: it then keeps used tokens in memory.
    pub(super) async fn step_ca(
        &self,
        step_ca: &StepCa,
        asks: impl FnOnce(&Provisioner) -> Result<Vec<Ask>> + Send,
    ) -> Result<Server> {
        let address = free()?;
        let provisioner = Provisioner::generate(address)?;
        let at = |name: &str| self.cacerts().join(name).display().to_string();
        let config = json!({
            "root": at(ROOT), "crt": at(INTERMEDIATE), "key": at(INTERMEDIATE_KEY),
            "address": address.to_string(), "dnsNames": [NAME, address.ip().to_string()],
            // Tokens are made before it starts.
            "authority": { "provisioners": [provisioner.described()?], "disableIssuedAtCheck": true },
        });
        let file = self.folder.join("step-ca.json");
        std::fs::write(&file, config.to_string())?;
        let mut command = Command::new(step_ca.program());
        command.arg(&file).env("STEPPATH", self.folder.join("step"));
        let target = Target::new(
            address,
            NAME,
            &self.root,
            Protocol::Step,
            asks(&provisioner)?,
        )?;
        let url = format!("https://{address}/health");
        self.start("step-ca", command, target, || answers(url.clone()))
            .await
    }

    /// Starts a server and waits until it is there.
    pub(super) async fn start<Fut>(
        &self,
        name: &str,
        mut command: Command,
        target: Target,
        ready: impl Fn() -> Fut + Send + Sync,
    ) -> Result<Server>
    where
        Fut: Future<Output = Result<(), String>> + Send,
    {
        let log = self.folder.join(format!("{name}.log"));
        let out = std::fs::File::create(&log)?;
        let mut process = command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let found = wait_for(name, Duration::from_mins(2), || async { Ok(ready().await) }).await;
        if let Err(error) = found {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(15)..)
                .unwrap_or_default();
            return Err(error.context(tail.join("\n")));
        }
        if let Some(status) = process.try_wait()? {
            anyhow::bail!("{name} ended: {status}");
        }
        let pid = process.id().context("it has ended")?;
        Ok(Server {
            target,
            pid,
            _process: process,
        })
    }
}

async fn answers(url: String) -> Result<(), String> {
    let asked = exec::command("curl", ["-skf", "-m", "2", &url]);
    let said = exec::run_async(asked).await;
    said.map(drop).map_err(|error| format!("{error:#}"))
}

/// An address of loopback that was free a moment ago.
pub(super) fn free() -> Result<SocketAddr> {
    let [address] = addresses()?;
    Ok(address)
}

pub(super) fn addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    // All are held until all are known, so that they differ.
    let held = (0..N)
        .map(|_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()?;
    let found = held
        .iter()
        .map(std::net::TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()?;
    found.try_into().ok().context("no free ports")
}
