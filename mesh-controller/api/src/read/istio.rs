//! What is seen of Istio in a member.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, EnvVar, Namespace, Pod, Service},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use mesh_core::istio::{DEFAULT_REVISION, IstioFacts, Istiod, ServiceFacts, config_map};

use crate::labels;

/// Label of a namespace or gateway with its network.
const NETWORK: &str = "topology.istio.io/network";
/// Label that the injector puts on pods with a sidecar.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Label with the revision of a control plane.
const REVISION: &str = "istio.io/rev";
/// Most Services and accounts that are taken note of.
const MOST: usize = 1000;

/// Objects of a member that say something about Istio.
#[derive(Clone, Debug, Default)]
pub struct IstioObjects<'a> {
    /// Deployments in istio-system with label `app=istiod`.
    pub istiods: Vec<&'a Deployment>,
    /// `ConfigMap`s in istio-system with mesh configurations, by name.
    pub configs: BTreeMap<&'a str, &'a ConfigMap>,
    /// Namespace istio-system.
    pub namespace: Option<&'a Namespace>,
    /// Services in istio-system with label `istio=eastwestgateway`.
    pub gateways: Vec<&'a Service>,
    /// Services in kof.
    pub services: Vec<&'a Service>,
    /// Pods in kof.
    pub pods: Vec<&'a Pod>,
}

/// Reads them.
#[must_use]
pub fn istio(objects: &IstioObjects<'_>) -> IstioFacts {
    let label = |namespace: &Namespace| namespace.metadata.labels.as_ref()?.get(NETWORK).cloned();
    let named = |service: &Service| {
        Some((
            service.metadata.name.clone()?,
            self::service(service, &objects.pods),
        ))
    };
    IstioFacts {
        istiods: objects
            .istiods
            .iter()
            .map(|it| istiod(it, &objects.configs))
            .collect(),
        network: objects.namespace.and_then(label),
        gateways: objects
            .gateways
            .iter()
            .filter(|gateway| !is_ours(&gateway.metadata))
            .filter_map(|gateway| gateway.metadata.name.clone())
            .collect(),
        services: objects
            .services
            .iter()
            .filter_map(|it| named(it))
            .take(MOST)
            .collect(),
    }
}

/// Whether we made an object, whichever of our installs that was.
#[must_use]
pub fn is_ours(meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    labels
        .and_then(|all| all.get(labels::MANAGED_BY))
        .is_some_and(|by| by == labels::MANAGED_BY_US)
}

fn istiod(deployment: &Deployment, configs: &BTreeMap<&str, &ConfigMap>) -> Istiod {
    let meta = &deployment.metadata;
    let label = |name: &str| {
        meta.labels
            .as_ref()
            .and_then(|labels| labels.get(name))
            .cloned()
    };
    let pod = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
    let discovery = containers
        .iter()
        .find(|c| c.name == "discovery")
        .or_else(|| containers.first());
    let env = discovery.and_then(|c| c.env.as_deref()).unwrap_or_default();
    let value = |name: &str| {
        let found = env.iter().find(|e: &&EnvVar| e.name == name)?;
        found.value.clone().filter(|value| !value.is_empty())
    };
    let revision = value("REVISION")
        .or_else(|| label(REVISION))
        .unwrap_or_else(|| DEFAULT_REVISION.to_owned());
    let config = config_map(&revision);
    let tag = discovery
        .and_then(|c| c.image.as_deref()?.rsplit_once(':'))
        .map(|(_, tag)| tag.to_owned());
    let is_version = |text: &String| {
        text.trim_start_matches('v')
            .starts_with(|c: char| c.is_ascii_digit())
    };
    Istiod {
        name: meta.name.clone().unwrap_or_default(),
        version: label("app.kubernetes.io/version")
            .or(tag)
            .filter(is_version),
        cluster: value("CLUSTER_ID"),
        trust_domain: configs
            .get(config.as_str())
            .and_then(|map| trust_domain(map)),
        leaves_out_secrets: value("PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER")
            .is_some_and(|v| v == "false"),
        revision,
        ready: deployment
            .status
            .as_ref()
            .and_then(|s| s.ready_replicas)
            .is_some_and(|n| n > 0),
    }
}

/// The trust domain in a mesh configuration, which is YAML; the one line is found without reading all of it.
fn trust_domain(map: &ConfigMap) -> Option<String> {
    let text = map.data.as_ref()?.get("mesh")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("trustDomain:"))?;
    let value = line.split(" #").next()?.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn service(service: &Service, pods: &[&Pod]) -> ServiceFacts {
    let spec = service.spec.as_ref();
    let selector = spec
        .and_then(|spec| spec.selector.clone())
        .unwrap_or_default();
    let ports = spec
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let mut facts = ServiceFacts {
        ours: is_ours(&service.metadata),
        ports: ports
            .iter()
            .filter_map(|port| {
                let number = u16::try_from(port.port).ok()?;
                let target = match &port.target_port {
                    Some(IntOrString::Int(target)) => target.to_string(),
                    Some(IntOrString::String(name)) => name.clone(),
                    None => number.to_string(),
                };
                Some((number, target))
            })
            .collect(),
        selector,
        accounts: BTreeSet::new(),
        bare: 0,
    };
    if facts.selector.is_empty() {
        return facts;
    }
    for pod in pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
    {
        let empty = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
        if !facts
            .selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
        {
            continue;
        }
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        if labels.get(TLS_MODE).is_some_and(|mode| mode == "istio") && facts.accounts.len() < MOST {
            facts
                .accounts
                .insert(account.unwrap_or_else(|| "default".to_owned()));
        } else {
            facts.bare += 1;
        }
    }
    facts
}
