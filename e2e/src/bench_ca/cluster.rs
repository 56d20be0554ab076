//! Who asks: service accounts and pods in a real API server, and tokens that it made for them.

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use mesh_core::names::{SpiffeId, TrustDomain};
use serde_json::json;

use super::material::TRUST_DOMAIN;

/// Requests to the API server at once, while things are made.
const AT_ONCE: usize = 16;
/// What Istio's agents ask for.
const AUDIENCE: &str = "istio-ca";
/// Namespace of the workloads.
const NAMESPACE: &str = "workloads";

/// A token, and whom it proves.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) identity: SpiffeId,
    pub(super) text: String,
}

/// The pods that ask.
pub(super) struct Workloads {
    client: Client,
    domain: TrustDomain,
    pods: Vec<Pod>,
}

/// A client of the administrator.
pub(super) async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Makes a namespace.
pub(super) async fn namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .with_context(|| format!("failed to make namespace {name}"))?;
    Ok(())
}

impl Workloads {
    /// Makes so many service accounts with so many pods each. The pods are bound to a node and run nowhere.
    pub(super) async fn create(client: Client, accounts: usize, each: usize) -> Result<Self> {
        namespace(&client, NAMESPACE).await?;
        let pods = stream::iter(0..accounts)
            .map(|number| {
                let client = client.clone();
                async move {
                    let name = format!("workload-{number}");
                    let account: ServiceAccount =
                        serde_json::from_value(json!({ "metadata": { "name": name } }))?;
                    Api::namespaced(client.clone(), NAMESPACE)
                        .create(&PostParams::default(), &account)
                        .await?;
                    let mut made = Vec::new();
                    for replica in 0..each {
                        let pod: Pod = serde_json::from_value(json!({
                            "metadata": { "name": format!("{name}-{replica}") },
                            "spec": { "serviceAccountName": name, "nodeName": "node", "containers": [{ "name": "app", "image": "none" }] },
                        }))?;
                        made.push(
                            Api::<Pod>::namespaced(client.clone(), NAMESPACE)
                                .create(&PostParams::default(), &pod)
                                .await?,
                        );
                    }
                    anyhow::Ok(made)
                }
            })
            .buffered(AT_ONCE)
            .try_concat()
            .await
            .context("failed to make the workloads")?;
        Ok(Self {
            client,
            domain: TRUST_DOMAIN.parse()?,
            pods,
        })
    }

    /// All identities, each once.
    pub(super) fn identities(&self) -> Vec<SpiffeId> {
        let mut found: Vec<_> = self.pods.iter().map(|pod| self.identity(pod)).collect();
        found.dedup();
        found
    }

    fn identity(&self, pod: &Pod) -> SpiffeId {
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref());
        self.domain.workload(NAMESPACE, account.unwrap_or_default())
    }

    /// New tokens, spread over all pods and bound to them, as kubelets ask for them.
    pub(super) async fn tokens(&self, count: usize) -> Result<Vec<Token>> {
        stream::iter(self.pods.iter().cycle().take(count))
            .map(|pod| async move {
                let identity = self.identity(pod);
                let account = pod
                    .spec
                    .as_ref()
                    .and_then(|s| s.service_account_name.as_deref());
                let request = TokenRequest {
                    spec: TokenRequestSpec {
                        audiences: vec![AUDIENCE.to_owned()],
                        expiration_seconds: Some(43_200),
                        bound_object_ref: Some(BoundObjectReference {
                            api_version: Some("v1".to_owned()),
                            kind: Some("Pod".to_owned()),
                            name: Some(pod.name_any()),
                            uid: pod.uid(),
                        }),
                    },
                    ..TokenRequest::default()
                };
                let answer = Api::<ServiceAccount>::namespaced(self.client.clone(), NAMESPACE)
                    .create_token_request(
                        account.unwrap_or_default(),
                        &PostParams::default(),
                        &request,
                    )
                    .await?;
                let text = answer.status.context("no token in the answer")?.token;
                anyhow::Ok(Token { identity, text })
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
            .context("failed to make tokens")
    }
}
