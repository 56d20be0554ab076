//! Istio in a cluster of the fleet, as a user has it: its own charts, installed with Helm.
//!
//! Istiod's images are made from its Go module, Envoy is the one of the wheel. That one lacks Istio's extensions, so what
//! needs them is off (metrics by `istio.stats`, metadata exchange, `istio.alpn`). Sidecars are injected by istiod's own
//! webhook; their init container takes the pod's traffic over with `nft`, the backend that the image has a program for.
//!
//! Nothing here makes certificates: without Secret `cacerts`, which is the product's to give, istiod signs by itself.

mod remove;
mod workloads;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::components::{Components, Istio};
use crate::{Cluster, images, x509};

pub use remove::remove;
pub use workloads::{clients, eject, inject};

/// Where Istio is.
pub const NAMESPACE: &str = "istio-system";
/// Helm release of the east-west gateway; its pods are labelled `istio: eastwestgateway`.
pub const GATEWAY: &str = "istio-eastwestgateway";
/// The release whose source the programs and charts are made from.
const VERSION: &str = "1.31.0";
/// How long a Deployment of Istio's may take.
const ROLLOUT: &str = "--timeout=120s";

/// One line a request: what was asked, by whom, what came of it. `details` and `fail` say why one failed.
const ACCESS_LOG: &str = "[%START_TIME%] code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% sni=%REQUESTED_SERVER_NAME% \
    peer=%DOWNSTREAM_PEER_URI_SAN% issuer=%DOWNSTREAM_PEER_ISSUER% up=%UPSTREAM_HOST% cluster=%UPSTREAM_CLUSTER% \
    uppeer=%UPSTREAM_PEER_URI_SAN% from=%DOWNSTREAM_REMOTE_ADDRESS% path=%REQ(:PATH)% \
    details=%RESPONSE_CODE_DETAILS% fail=%UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

/// Istio's programs in a fleet.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Charts and CRDs.
    pub source: Istio,
    /// Name of the image with pilot-agent and Envoy.
    pub proxy: String,
    /// Name of the image with istiod.
    pub pilot: String,
}

impl Programs {
    /// Makes the images and puts them into these clusters.
    pub async fn load(
        components: &Components,
        source: Istio,
        clusters: &[&Cluster],
    ) -> Result<Self> {
        let made = images::istio(components, &source)?;
        for cluster in clusters {
            cluster.load_images(&made).await?;
        }
        let [proxy, pilot] = made.map(|image| image.name);
        Ok(Self {
            source,
            proxy,
            pilot,
        })
    }

    async fn chart(
        &self,
        cluster: &Cluster,
        release: &str,
        chart: &str,
        values: &Value,
    ) -> Result<()> {
        let folder = x509::folder()?;
        let file = folder.join("values.json");
        let result = async {
            std::fs::write(&file, values.to_string())?;
            // as a release of it is made: the source says no version
            let chart = self.source.file(chart).display().to_string();
            let to = folder.display().to_string();
            let version = ["--version", VERSION, "--app-version", VERSION];
            let args = [
                &["package", chart.as_str(), "-d", to.as_str()],
                version.as_slice(),
            ];
            let said = cluster.helm(&args.concat()).await?;
            let path = said.lines().find_map(|l| l.split_once(" saved it to: "));
            let chart = path
                .context("helm does not say where the chart is")?
                .1
                .trim()
                .to_owned();
            let file = file.display().to_string();
            let args = [
                "upgrade",
                "--install",
                release,
                &chart,
                "-n",
                NAMESPACE,
                "--create-namespace",
                "-f",
                &file,
            ];
            cluster.helm(&args).await
        }
        .await;
        std::fs::remove_dir_all(&folder)?;
        result
            .map(drop)
            .with_context(|| format!("failed to install {release} in {}", cluster.name()))
    }
}

/// What a user decides about an istiod. Its cluster ID is the cluster's name.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// Trust domain of the mesh.
    pub trust_domain: &'a str,
    /// Value `global.network`; empty: none.
    pub network: &'a str,
    /// Further environment of istiod.
    pub env: &'a [(&'a str, &'a str)],
}

/// Installs the charts `base` and `istiod`, or upgrades them, and waits for istiod.
pub async fn install(cluster: &Cluster, programs: &Programs, options: &Options<'_>) -> Result<()> {
    programs
        .chart(cluster, "istio-base", "manifests/charts/base", &json!({}))
        .await?;
    let mut env = json!({
        "ISTIO_MULTIROOT_MESH": "true",
        // no metadata service answers here, and every proxy would wait 2 s for one
        "CLOUD_PLATFORM": "none",
        "PILOT_ENABLE_ALPN_FILTER": "false",
        "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    });
    for (name, value) in options.env {
        if let Some(env) = env.as_object_mut() {
            env.insert((*name).to_owned(), json!(value));
        }
    }
    let small = json!({ "requests": { "cpu": "10m", "memory": "64Mi" } });
    let values = json!({
        "image": programs.pilot,
        "autoscaleEnabled": false,
        "telemetry": { "enabled": false },
        "resources": small,
        // with it istiod is a `restricted` pod
        "seccompProfile": { "type": "RuntimeDefault" },
        "env": env,
        "meshConfig": {
            "trustDomain": options.trust_domain,
            "accessLogFile": "/dev/stdout",
            "accessLogFormat": ACCESS_LOG,
            "defaultConfig": { "proxyMetadata": { "PROXY_CONFIG_XDS_AGENT": "true", "CLOUD_PLATFORM": "none" } },
        },
        "global": {
            "multiCluster": { "clusterName": cluster.name() },
            "network": options.network,
            "nativeNftables": true,
            "proxy": { "image": programs.proxy, "resources": small, "readinessPeriodSeconds": 1 },
            "proxy_init": { "image": programs.proxy },
        },
    });
    let chart = "manifests/charts/istio-control/istio-discovery";
    programs.chart(cluster, "istiod", chart, &values).await?;
    rolled_out(cluster, NAMESPACE, "istiod").await
}

/// Installs the chart `gateway` as the east-west gateway of a network, and returns its address.
pub async fn install_gateway(
    cluster: &Cluster,
    programs: &Programs,
    network: &str,
) -> Result<String> {
    let values = json!({
        "networkGateway": network,
        "autoscaling": { "enabled": false },
        "securityContext": {
            "seccompProfile": { "type": "RuntimeDefault" },
            "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
        },
        "resources": { "requests": { "cpu": "10m", "memory": "64Mi" } },
        // its image is `auto` until istiod sees the pod, and a name without a tag is always pulled
        "imagePullPolicy": "IfNotPresent",
    });
    programs
        .chart(cluster, GATEWAY, "manifests/charts/gateway", &values)
        .await?;
    rolled_out(cluster, NAMESPACE, GATEWAY).await?;
    cluster
        .load_balancer(NAMESPACE, GATEWAY, Duration::from_secs(30))
        .await
}

/// Installs the CRDs of the Gateway API, which istiod sees without a restart.
pub async fn install_gateway_api(cluster: &Cluster, programs: &Programs) -> Result<()> {
    let file = programs.source.file(remove::GATEWAY_API);
    let file = file.display().to_string();
    let args = ["apply", "--server-side", "-f", &file];
    cluster.kubectl(&args).await.map(drop)
}

/// What istiod knows, such as `/debug/endpointz` or `/debug/edsz?proxyID=POD.NAMESPACE`.
pub async fn debug(cluster: &Cluster, path: &str) -> Result<Value> {
    let command = ["pilot-discovery", "request", "GET", path];
    let said = cluster.exec(NAMESPACE, "deploy/istiod", &command).await?;
    let text = answer(&said);
    serde_json::from_str(&text).with_context(|| format!("istiod answered {path} with {text}"))
}

/// What the Envoy of a pod says on its administration port, such as `clusters` (`deploy/x` means one of its pods).
pub async fn envoy(cluster: &Cluster, namespace: &str, pod: &str, path: &str) -> Result<String> {
    let command = ["pilot-agent", "request", "GET", path];
    let said = cluster
        .exec_in(namespace, pod, "istio-proxy", &command)
        .await?;
    Ok(answer(&said))
}

/// The last lines of a proxy's access log, as [`install`] has it written.
pub async fn access_log(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    lines: u16,
) -> Result<Vec<String>> {
    let tail = format!("--tail={lines}");
    let args = ["-n", namespace, "logs", pod, "-c", "istio-proxy", &tail];
    let said = cluster.kubectl(&args).await?;
    let requests = said.lines().filter(|l| l.contains("] code="));
    Ok(requests.map(str::to_owned).collect())
}

/// The programs log to the same stream as what they print: lines that begin with the year.
fn answer(said: &str) -> String {
    let stamped = |line: &str| {
        let (year, rest) = line.split_at_checked(4).unwrap_or_default();
        year.bytes().all(|b| b.is_ascii_digit()) && rest.starts_with(['/', '-'])
    };
    let lines: Vec<&str> = said.lines().filter(|l| !stamped(l)).collect();
    lines.join("\n")
}

async fn rolled_out(cluster: &Cluster, namespace: &str, deployment: &str) -> Result<()> {
    let deployment = format!("deployment/{deployment}");
    let args = ["-n", namespace, "rollout", "status", &deployment, ROLLOUT];
    cluster.kubectl(&args).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn log_lines_are_no_part_of_an_answer() {
        let said = "2026/11/30 04:06:46 INFO GOMEMLIMIT\n2026-11-30T04:08:06.433432Z\twarn\tOS CA\n{\n \"a\": 2026\n}\n2026\n";
        assert_eq!(answer(said), "{\n \"a\": 2026\n}\n2026");
    }
}
