//! One cluster in the hands of a test.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;

use crate::components::Components;
use crate::images::{Image, Images};
use crate::nodes::{self, Nodes};
use crate::provider::{Handle, Hurt, Provider as _};
use crate::{exec, manifest, wait_for};

/// A client of the cluster that a kubeconfig names, as its administrator.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("failed to read {}", kubeconfig.display()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.read_timeout = Some(Duration::from_mins(1));
    Ok(Client::try_from(config)?)
}

/// A running cluster.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) handle: Handle,
    pub(crate) provider: Nodes,
    pub(crate) components: Components,
    images: Images,
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    pub(crate) async fn new(
        handle: Handle,
        provider: Nodes,
        components: Components,
        images: Images,
    ) -> Result<Self> {
        let client = client(&handle.kubeconfig).await?;
        Ok(Self {
            handle,
            provider,
            components,
            images,
            client,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.handle.name
    }

    /// How its provider sees it: number, files.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A client as administrator. It works on threads of [`crate::run`] only.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's kubeconfig. Its server address is reachable from pods of every cluster,
    /// so it is what a platform would put into a `<cluster>-kubeconfig` Secret.
    pub fn kubeconfig(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.handle.kubeconfig)?)
    }

    /// Address of the node.
    pub fn node_address(&self) -> String {
        format!("172.30.0.{}", 10 + u32::from(self.handle.index))
    }

    /// Puts images into the cluster.
    pub async fn load_images(&self, images: &[Image]) -> Result<()> {
        self.provider.load(&self.handle, images).await
    }

    /// Puts another image into the cluster under a name that pods use already. Pods that start
    /// from now on run it.
    pub async fn load_image_as(&self, image: &Image, name: &str) -> Result<()> {
        self.load_images(std::slice::from_ref(image)).await?;
        if image.name == name {
            return Ok(());
        }
        self.provider.rename(&self.handle, image, name).await
    }

    /// Applies YAML documents; `{{image:<short>}}` stands for an image of the fleet.
    pub async fn apply(&self, text: &str) -> Result<()> {
        manifest::apply(&self.client, &manifest::render(text, &self.images)?)
            .await
            .with_context(|| format!("failed to apply to {}", self.name()))
    }

    /// Deletes the objects of YAML documents.
    pub async fn delete(&self, text: &str) -> Result<()> {
        manifest::delete(&self.client, &manifest::render(text, &self.images)?).await
    }

    /// Runs kubectl as administrator and returns what it printed.
    pub async fn kubectl<S: AsRef<std::ffi::OsStr> + Sync>(&self, args: &[S]) -> Result<String> {
        let mut command = exec::command(self.components.kubectl(), ["--kubeconfig"]);
        command.arg(&self.handle.kubeconfig).args(args);
        exec::run_async(command).await
    }

    /// Runs Helm as administrator (`install`, `upgrade`, `uninstall`, …) and returns what it printed.
    pub async fn helm<S: AsRef<std::ffi::OsStr> + Sync>(&self, args: &[S]) -> Result<String> {
        let mut command = exec::command(self.components.helm(), args);
        command.env("KUBECONFIG", &self.handle.kubeconfig);
        exec::run_async(command).await
    }

    /// Installs or upgrades a chart and waits until what it made is ready.
    pub async fn helm_install(
        &self,
        release: &str,
        chart: &Path,
        namespace: &str,
        set: &[&str],
    ) -> Result<()> {
        let chart = chart.display().to_string();
        let mut args = vec![
            "upgrade",
            "--install",
            release,
            &chart,
            "-n",
            namespace,
            "--create-namespace",
        ];
        args.extend(["--wait", "--timeout", "120s"]);
        for value in set {
            args.extend(["--set", value]);
        }
        self.helm(&args)
            .await
            .with_context(|| format!("failed to install {release} in {}", self.name()))
            .map(drop)
    }

    /// Runs a command in a running pod's first container (`deploy/x` means one of its pods) and
    /// returns what it printed.
    pub async fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let args = [&["-n", namespace, "exec", pod, "--"], command].concat();
        self.kubectl(&args).await
    }

    /// As [`Cluster::exec`], in a container named.
    pub async fn exec_in(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Result<String> {
        let args = [
            &["-n", namespace, "exec", pod, "-c", container, "--"],
            command,
        ]
        .concat();
        self.kubectl(&args).await
    }

    /// A command on the node itself: its mounts, network and programs, as root.
    pub async fn on_node(&self, args: &[&str]) -> Result<String> {
        let mut command = nodes::inside(&self.handle)?;
        command.args(args);
        exec::run_async(command).await
    }

    /// Breaks something.
    pub async fn hurt(&self, what: &Hurt) -> Result<()> {
        self.provider.hurt(&self.handle, what).await
    }

    /// Mends what [`Cluster::hurt`] broke.
    pub async fn mend(&self, what: &Hurt) -> Result<()> {
        self.provider.mend(&self.handle, what).await
    }

    /// Says which pods a namespace admits (a Pod Security level), or takes that back: then it is `restricted`, as every namespace of the fleet.
    pub async fn pod_security(&self, namespace: &str, level: Option<&str>) -> Result<()> {
        let label = "pod-security.kubernetes.io/enforce";
        let change = level.map_or_else(|| format!("{label}-"), |level| format!("{label}={level}"));
        let args = ["label", "namespace", namespace, "--overwrite", &change];
        self.kubectl(&args).await.map(drop)
    }

    /// Deletes a Secret.
    pub async fn delete_secret(&self, namespace: &str, name: &str) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client(), namespace);
        secrets.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes the pods that a label selector matches, without grace, and returns how many.
    pub async fn kill_pods(&self, namespace: &str, selector: &str) -> Result<usize> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let found = pods.list(&ListParams::default().labels(selector)).await?;
        for pod in &found.items {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            pods.delete(name, &DeleteParams::default().grace_period(0))
                .await?;
        }
        Ok(found.items.len())
    }

    /// Kills the first process of a container (as a crash would) and returns its process id on
    /// the node. The kubelet starts the container again.
    pub async fn kill_container(
        &self,
        namespace: &str,
        selector: &str,
        container: &str,
    ) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let mut killed = 0_u32;
        for pod in pods.list(&ListParams::default().labels(selector)).await? {
            let statuses = pod
                .status
                .and_then(|s| s.container_statuses)
                .unwrap_or_default();
            for id in statuses
                .iter()
                .filter(|s| s.name == container)
                .filter_map(|s| s.container_id.as_deref())
            {
                let id = id.trim_start_matches("containerd://");
                self.on_node(&["ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", id])
                    .await?;
                killed += 1;
            }
        }
        anyhow::ensure!(
            killed > 0,
            "no container {container} of {namespace} {selector} runs in {}",
            self.name()
        );
        Ok(())
    }

    /// The address that the load balancer gave a Service, once it has.
    pub async fn load_balancer(
        &self,
        namespace: &str,
        service: &str,
        deadline: Duration,
    ) -> Result<String> {
        let services: Api<Service> = Api::namespaced(self.client(), namespace);
        wait_for(
            &format!("an address of {namespace}/{service}"),
            deadline,
            || async {
                let found = services.get(service).await.map_err(|e| e.to_string());
                Ok(found.and_then(|s| {
                    let first = s
                        .status
                        .and_then(|s| s.load_balancer?.ingress?.into_iter().next());
                    first
                        .and_then(|i| i.ip.or(i.hostname))
                        .ok_or_else(|| "no address".to_owned())
                }))
            },
        )
        .await
    }

    /// Gives names to addresses in the cluster's own DNS (`hosts` format), in place of those given
    /// before. The new names are served when this returns.
    pub async fn set_hosts(&self, hosts: &str) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client(), "kube-system");
        let change = Patch::Merge(json!({ "data": { "hosts": format!("{hosts}\n") } }));
        maps.patch("coredns-hosts", &PatchParams::default(), &change)
            .await?;
        self.kubectl(&[
            "-n",
            "kube-system",
            "rollout",
            "restart",
            "deployment/coredns",
        ])
        .await?;
        self.kubectl(&[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            "--timeout=60s",
        ])
        .await?;
        Ok(())
    }
}
