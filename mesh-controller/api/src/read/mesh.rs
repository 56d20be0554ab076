//! `Mesh` to rules.

use std::collections::BTreeSet;

use mesh_core::{
    contract::{Backend, Caller, Contract, Grant, Protocol},
    facts::{Obstacle, plain_serial},
    istio::{Discovery, Flavour, IstioRules, Plane},
    lifetime::Lifetime,
    names::{MeshName, TrustDomain},
    peer::{self, Policy},
    remote::SHORTEST,
};

use super::obstacle;
use crate::mesh::{self as api, Mesh};

/// What an operator decided for a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRules {
    /// Its name.
    pub name: MeshName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// What may cross gateways.
    pub contract: Contract,
    /// What carries the links of its members.
    pub plane: Plane,
    /// What was decided about members in the Istio plane.
    pub istio: IstioRules,
    /// What was decided about regions that do not answer.
    pub dead_peer: peer::Rules,
    /// Life of a generated root.
    pub root_life: Lifetime,
    /// Life of an intermediate.
    pub intermediate_life: Lifetime,
    /// Life of a leaf.
    pub leaf_life: Lifetime,
    /// Pods of the agent per member.
    pub replicas: i32,
    /// Whether a root may be made.
    pub generate_root: bool,
    /// The Secret of the root, in namespace istio-system.
    pub root_secret: String,
    /// The root's key is in this token.
    pub root_token: Option<api::Pkcs11>,
    /// Certificates for workloads.
    pub workloads: Option<WorkloadRules>,
    /// Serial numbers of intermediates that nobody is to believe any more, as [`plain_serial`] writes them.
    pub revoked: BTreeSet<String>,
    /// Namespaces, besides the ClusterDeployment's, that kubeconfigs may come from.
    pub credential_namespaces: Vec<String>,
}

impl MeshRules {
    /// How workloads of a member get certificates. Where Istio carries the links and nothing else was decided, the member's istiod signs.
    #[must_use]
    pub fn workloads_in(&self, plane: Plane) -> Option<WorkloadRules> {
        let istiod = || WorkloadRules {
            issuer: api::WorkloadIssuer::Istiod,
            life: self.leaf_life,
            most: ISTIO_MOST,
            node_accounts: Vec::new(),
            services: Vec::new(),
        };
        let wished = self.workloads.clone();
        match plane {
            Plane::Envoy => wished,
            Plane::Istio => Some(wished.unwrap_or_else(istiod)),
        }
    }
}

/// What a certificate lives at most where nobody decided (the default of `spec.workloads.maxLifetime`).
const ISTIO_MOST: Lifetime = Lifetime::from_secs(7 * 24 * 3600);

/// How workloads of members get certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRules {
    /// Who signs them.
    pub issuer: api::WorkloadIssuer,
    /// How long they live when nothing else is asked for.
    pub life: Lifetime,
    /// How long they live at most.
    pub most: Lifetime,
    /// Service accounts, `namespace/name`, that may ask for pods of their node.
    pub node_accounts: Vec<String>,
    /// Services by which the CA is called besides its own.
    pub services: Vec<api::CaService>,
}

/// Reads a `Mesh`.
///
/// # Errors
///
/// The first thing in it that cannot be kept.
pub fn mesh(mesh: &Mesh) -> Result<MeshRules, Obstacle> {
    let name = mesh.metadata.name.clone().unwrap_or_default();
    let refuse =
        |what: &str, why: String| obstacle("InvalidMesh", format!("Mesh {name}, {what}: {why}"));
    let spec = &mesh.spec;
    let life = |what: &str, text: &str, min: u32| life(what, text, min, &refuse);
    let contract = match (&spec.contract, &spec.kof_version) {
        (None, None) => Contract::default(),
        (Some(own), None) => contract(own),
        (None, Some(version)) => {
            Contract::of_kof(version).map_err(|e| refuse("spec.kofVersion", e.to_string()))?
        }
        (Some(_), Some(_)) => {
            return Err(refuse(
                "spec.kofVersion",
                "spec.contract decides the same: one of the two must go".to_owned(),
            ));
        }
    };
    contract
        .check()
        .map_err(|e| refuse("spec.contract", e.to_string()))?;
    let rules = MeshRules {
        name: name
            .parse()
            .map_err(|e: mesh_core::names::NameError| refuse("metadata.name", e.to_string()))?,
        trust_domain: spec
            .trust_domain
            .parse()
            .map_err(|e: mesh_core::names::NameError| refuse("spec.trustDomain", e.to_string()))?,
        contract,
        plane: data_plane(spec.data_plane),
        istio: istio(&spec.istio, &refuse)?,
        dead_peer: silence(&spec.dead_peer, &refuse)?,
        root_life: life("spec.lifetimes.root", &spec.lifetimes.root, 3600)?,
        // Kubernetes grants no request for less than ten minutes (CertificateSigningRequest v1).
        intermediate_life: life(
            "spec.lifetimes.intermediate",
            &spec.lifetimes.intermediate,
            600,
        )?,
        leaf_life: life("spec.lifetimes.leaf", &spec.lifetimes.leaf, 10)?,
        replicas: spec.agent.replicas.clamp(1, 9),
        generate_root: spec.root.generate,
        root_secret: spec
            .root
            .secret_name
            .clone()
            .unwrap_or_else(|| format!("{name}-mesh-root")),
        root_token: spec.root.pkcs11.clone(),
        workloads: spec
            .workloads
            .as_ref()
            .map(|wished| workloads(wished, &spec.lifetimes.leaf, &refuse))
            .transpose()?,
        revoked: spec
            .revoked
            .iter()
            .map(|revoked| plain_serial(&revoked.serial))
            .collect(),
        credential_namespaces: spec.credential_namespaces.clone(),
    };
    if let Some(why) = token_conflict(&spec.root) {
        return Err(refuse("spec.root", why.to_owned()));
    }
    if rules.leaf_life > rules.intermediate_life || rules.intermediate_life > rules.root_life {
        return Err(refuse(
            "spec.lifetimes",
            "a leaf must not outlive its intermediate, nor that its root".to_owned(),
        ));
    }
    Ok(rules)
}

/// Says no to one field of a `Mesh`.
type Refuse<'a> = &'a dyn Fn(&str, String) -> Obstacle;

fn life(what: &str, text: &str, min: u32, refuse: Refuse<'_>) -> Result<Lifetime, Obstacle> {
    let life: Lifetime = text
        .parse()
        .map_err(|e: mesh_core::lifetime::LifetimeError| refuse(what, e.to_string()))?;
    if life.as_secs() < min {
        let least = Lifetime::from_secs(min);
        return Err(refuse(what, format!("{life} is shorter than {least}")));
    }
    Ok(life)
}

/// What contradicts itself about a root in a token.
fn token_conflict(root: &api::RootSource) -> Option<&'static str> {
    match (&root.pkcs11, root.generate, &root.secret_name) {
        (Some(_), true, _) => {
            Some("a key in a token is not generated: set pkcs11 or generate, not both")
        }
        (Some(_), false, None) => {
            Some("pkcs11 needs secretName, the Secret that holds the certificate (tls.crt)")
        }
        (Some(_), false, Some(_)) | (None, _, _) => None,
    }
}

fn workloads(
    wished: &api::WorkloadOptions,
    leaf: &String,
    refuse: Refuse<'_>,
) -> Result<WorkloadRules, Obstacle> {
    let text = wished.lifetime.as_ref().unwrap_or(leaf);
    let most = &wished.max_lifetime;
    let rules = WorkloadRules {
        issuer: wished.issuer,
        life: life("spec.workloads.lifetime", text, 10, refuse)?,
        most: life("spec.workloads.maxLifetime", most, 10, refuse)?,
        node_accounts: wished.node_accounts.clone(),
        services: wished.services.clone(),
    };
    let is_account = |text: &str| {
        text.split_once('/')
            .is_some_and(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains('/'))
    };
    if let Some(bad) = rules.node_accounts.iter().find(|text| !is_account(text)) {
        return Err(refuse(
            "spec.workloads.nodeAccounts",
            format!("{bad:?} is not namespace/name"),
        ));
    }
    if rules.life > rules.most {
        let (life, most) = (rules.life, rules.most);
        return Err(refuse(
            "spec.workloads",
            format!("lifetime {life} is longer than maxLifetime {most}"),
        ));
    }
    Ok(rules)
}

/// What carries links.
#[must_use]
pub const fn data_plane(plane: api::DataPlane) -> Plane {
    match plane {
        api::DataPlane::Envoy => Plane::Envoy,
        api::DataPlane::Istio => Plane::Istio,
    }
}

fn istio(wished: &api::IstioOptions, refuse: Refuse<'_>) -> Result<IstioRules, Obstacle> {
    let accounts = |what: &str, list: &[String]| -> Result<BTreeSet<String>, Obstacle> {
        if let Some(bad) = list.iter().find(|text| !is_account(text)) {
            let why = format!("{bad:?} is neither namespace/name nor namespace/*");
            return Err(refuse(what, why));
        }
        Ok(list.iter().cloned().collect())
    };
    let callers = &wished.callers;
    Ok(IstioRules {
        revision: wished.revision.clone(),
        discovery: match wished.discovery {
            api::Discovery::Static => Discovery::Static,
            api::Discovery::RemoteSecrets => Discovery::RemoteSecrets,
        },
        read_secrets: wished.remote_read_secrets,
        token_life: life(
            "spec.istio.remoteTokenLifetime",
            &wished.remote_token_lifetime,
            SHORTEST,
            refuse,
        )?,
        flavour: match wished.gateway {
            api::GatewayFlavour::Classic => Flavour::Classic,
            api::GatewayFlavour::GatewayApi => Flavour::GatewayApi,
        },
        tracing: wished.tracing_provider.clone(),
        accounts: [
            (
                Caller::Child,
                accounts("spec.istio.callers.child", &callers.child)?,
            ),
            (
                Caller::Management,
                accounts("spec.istio.callers.management", &callers.management)?,
            ),
        ]
        .into(),
    })
}

/// What was decided about regions that do not answer.
fn silence(wished: &api::DeadPeerOptions, refuse: Refuse<'_>) -> Result<peer::Rules, Obstacle> {
    let within = |what: &str, text: &str, (least, most): (u32, u32)| {
        let long = life(what, text, least, refuse)?;
        let most = Lifetime::from_secs(most);
        if long > most {
            return Err(refuse(what, format!("{long} is longer than {most}")));
        }
        Ok(long)
    };
    let back = "spec.deadPeer.returnAfter";
    Ok(peer::Rules {
        policy: policy(wished.policy),
        after: within("spec.deadPeer.after", &wished.after, peer::AFTER)?,
        return_after: within(back, &wished.return_after, peer::RETURN_AFTER)?,
    })
}

const fn policy(policy: api::DeadPeerPolicy) -> Policy {
    match policy {
        api::DeadPeerPolicy::Keep => Policy::Keep,
        api::DeadPeerPolicy::Mark => Policy::Mark,
        api::DeadPeerPolicy::Withdraw => Policy::Withdraw,
    }
}

/// What an agent is to do about regions that do not answer. One whose controller says nothing about that does nothing.
#[must_use]
pub fn dead_peer(wished: Option<&crate::agent::DeadPeer>) -> peer::Rules {
    let usual = peer::Rules::default();
    match wished {
        None => peer::Rules {
            policy: Policy::Keep,
            ..usual
        },
        Some(wished) => peer::Rules {
            policy: policy(wished.policy),
            after: Lifetime::from_secs(wished.after_seconds.max(peer::AFTER.0)),
            return_after: Lifetime::from_secs(
                wished.return_after_seconds.max(peer::RETURN_AFTER.0),
            ),
        },
    }
}

/// `namespace/name`, where the name may be `*`.
fn is_account(text: &str) -> bool {
    let label = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    };
    text.split_once('/')
        .is_some_and(|(namespace, name)| label(namespace) && (name == "*" || label(name)))
}

fn contract(contract: &api::Contract) -> Contract {
    Contract {
        backends: contract.backends.iter().map(backend).collect(),
        grants: contract.grants.iter().map(grant).collect(),
    }
}

fn backend(backend: &api::Backend) -> Backend {
    Backend {
        name: backend.name.clone(),
        namespace: backend.namespace.clone(),
        service: backend.service.clone(),
        port: backend.port,
        protocol: protocol(backend.protocol),
    }
}

/// What a backend speaks.
pub(super) const fn protocol(protocol: api::Protocol) -> Protocol {
    match protocol {
        api::Protocol::Http => Protocol::Http,
        api::Protocol::Grpc => Protocol::Grpc,
    }
}

fn grant(grant: &api::Grant) -> Grant {
    Grant {
        caller: match grant.caller {
            api::Caller::Child => Caller::Child,
            api::Caller::Management => Caller::Management,
        },
        prefix: grant.prefix.clone(),
        backend: grant.backend.clone(),
    }
}
