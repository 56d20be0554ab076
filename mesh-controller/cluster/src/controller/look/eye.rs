//! Reading the state: who asks, who is dismissed, what is known of each member, and by which door it is reached.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt as _;
use mesh_api::{
    labels,
    member::{MeshMember, MeshMemberStatus},
    mesh::MeshStatus,
    read::{self, MeshRules, SecretRef},
    render::{management_membership, management_source},
};
use mesh_core::{
    facts::{
        Access, Crl, Facts, Life, MemberFacts, MemberKey, Obstacle, Reach, RootFacts, plain_serial,
    },
    names::{MeshName, TrustDomain},
    plan::{Action, MemberPlan},
    remote::{Pairs, RemoteFacts},
    revocation::{Revocation, progress},
};

use super::{
    Asked, Constants, DEPLOYMENT, Door, KUBECONFIG, MANAGEMENT, SOURCE_GONE, Terms, Wish,
    member_key,
};
use crate::{
    controller::index::{Observed, State},
    vault::ROOT_PENDING,
    watches::Key,
};

/// The state as a look sees it.
pub(super) struct Eye<'a> {
    pub(super) state: &'a State,
    pub(super) constants: &'a Constants,
}

impl Eye<'_> {
    /// What all lifecycle objects ask for.
    pub(super) fn asked(&self) -> BTreeMap<MemberKey, Asked> {
        let mut asked = BTreeMap::new();
        if self.constants.management_member {
            let source = management_source(&self.constants.install);
            let key = MemberKey {
                namespace: source.namespace.clone(),
                name: source.name.clone(),
            };
            let overrides = self.overrides(&key);
            let membership =
                management_membership(&self.constants.management_mesh, overrides.as_ref());
            asked.insert(
                key,
                Asked {
                    source,
                    membership,
                    kubeconfig: None,
                },
            );
        }
        for (key, deployment) in self.state.deployments.iter() {
            let config = Key::new(&key.namespace, format!("kof-cluster-config-{}", key.name));
            let config = self.state.configs.get(&config).map(AsRef::as_ref);
            let key = member_key(key);
            let Some(membership) =
                read::membership(deployment, config, self.overrides(&key).as_ref())
            else {
                continue;
            };
            let source = mesh_api::member::Source {
                kind: DEPLOYMENT.to_owned(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: deployment.uid().unwrap_or_default(),
            };
            let kubeconfig = self.kubeconfig(deployment, &membership.mesh).ok();
            // A cluster of this name cannot be told from management's own member.
            asked.entry(key).or_insert(Asked {
                source,
                membership,
                kubeconfig,
            });
        }
        asked
    }

    fn overrides(&self, key: &MemberKey) -> Option<mesh_api::member::Overrides> {
        self.state
            .members
            .get(&Key::new(&key.namespace, &key.name))
            .and_then(|object| object.spec.overrides.clone())
    }

    fn kubeconfig(
        &self,
        deployment: &mesh_api::foreign::ClusterDeployment,
        mesh: &str,
    ) -> Result<SecretRef, Obstacle> {
        let namespace = deployment.namespace().unwrap_or_default();
        let named = |name: &Option<String>| Key::new(&namespace, name.clone().unwrap_or_default());
        let template = self.state.templates.get(&named(&deployment.spec.template));
        let credential = self
            .state
            .credentials
            .get(&named(&deployment.spec.credential));
        let allowed = self
            .state
            .meshes
            .get(&Key::new("", mesh))
            .map(|m| m.spec.credential_namespaces.clone());
        read::kubeconfig_ref(
            deployment,
            template.map(AsRef::as_ref),
            credential.map(AsRef::as_ref),
            &allowed.unwrap_or_default(),
        )
    }

    /// Members to be deleted: what they were made from is gone, is another object now, or no longer asks. Nothing is concluded from a
    /// list that was never seen whole.
    pub(super) fn dismissed(&self, asked: &BTreeMap<MemberKey, Asked>) -> BTreeSet<MemberKey> {
        self.state
            .members
            .iter()
            .filter(|(_, object)| object.metadata.deletion_timestamp.is_none())
            .filter(|(key, object)| {
                let source = &object.spec.source;
                let certain = match source.kind.as_str() {
                    MANAGEMENT => true,
                    // One that cannot be read may still ask.
                    DEPLOYMENT => {
                        let at = Key::new(source.namespace.clone(), source.name.clone());
                        self.state.deployments.is_warm()
                            && !self.state.deployments.is_unreadable(&at)
                    }
                    _ => false,
                };
                certain
                    && asked
                        .get(&member_key(key))
                        .is_none_or(|asked| asked.source != *source)
            })
            .map(|(key, _)| member_key(key))
            .collect()
    }

    /// What is known of a member, and the mesh it belongs to.
    pub(super) fn member(
        &self,
        key: &MemberKey,
        object: &MeshMember,
        asked: Option<&Asked>,
    ) -> (MeshName, MemberFacts) {
        let spec = &object.spec;
        let asked = asked.filter(|asked| asked.source == spec.source);
        let remembered = object.status.as_ref().map(read::remembered);
        let (anchors, gateway, uid) = remembered.unwrap_or_default();
        let observed = self.state.observed.get(key).cloned().unwrap_or_default();
        let life = self.life(object, &observed);
        let mut claim = match asked.filter(|_| life == Life::Active) {
            Some(asked) => asked.membership.claim.clone(),
            None => read::claim(
                &spec.cluster,
                spec.role,
                spec.region.as_deref(),
                spec.overrides.as_ref(),
            ),
        };
        let mesh_text = asked.map_or(spec.mesh.as_str(), |asked| asked.membership.mesh.as_str());
        let mesh = mesh_text
            .parse()
            .unwrap_or_else(|e: mesh_core::names::NameError| {
                claim = Err(Obstacle::new("BadName", format!("mesh: {e}")));
                default_mesh()
            });
        if life != Life::Active && never_there(uid.as_ref(), &observed) {
            claim = Err(Obstacle::new(
                "NeverEnrolled",
                "nothing was ever delivered to this cluster",
            ));
        }
        let created = object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let facts = MemberFacts {
            created,
            claim,
            life,
            access: observed.access,
            reach: observed.reach,
            delivered: observed.delivered,
            hindrances: observed.hindrances,
            agent: observed.agent,
            anchors: observed.anchors.unwrap_or(anchors),
            crls: observed
                .lists
                .unwrap_or_else(|| remembered_lists(object.status.as_ref())),
            signs: object
                .status
                .as_ref()
                .and_then(|status| status.signer_generation)
                .unwrap_or(1),
            // A load balancer that says nothing for a while takes nothing away: the last known address stays.
            gateway: observed
                .gateway
                .filter(|now| !now.is_empty())
                .unwrap_or(gateway),
            istio: observed.istio,
            hosts: object
                .status
                .as_ref()
                .map(read::remembered_hosts)
                .unwrap_or_default(),
            remote: RemoteFacts {
                advertised: spec.overrides.as_ref().and_then(|o| o.api_server.clone()),
                ..observed.remote
            },
        };
        (mesh, facts)
    }

    fn life(&self, object: &MeshMember, observed: &Observed) -> Life {
        let Some(since) = &object.metadata.deletion_timestamp else {
            return Life::Active;
        };
        let forced = object
            .annotations()
            .get(labels::FORCE_REMOVAL)
            .is_some_and(|value| value == "true");
        Life::Leaving {
            since: since.0,
            forced,
            // As long as it answers, there is something to clean.
            gone: !matches!(observed.reach, Reach::Answers { .. }) && self.gone(object),
        }
    }

    /// Neither the lifecycle object nor a kubeconfig is left, so there is no cluster to clean.
    fn gone(&self, object: &MeshMember) -> bool {
        let source = &object.spec.source;
        if source.kind != DEPLOYMENT
            || !self.state.deployments.is_warm()
            || !self.state.secrets.is_warm()
        {
            return false;
        }
        let at = Key::new(&source.namespace, &source.name);
        if self.state.deployments.is_unreadable(&at) {
            return false;
        }
        let there = self.state.deployments.get(&at);
        let source_gone =
            there.is_none_or(|deployment| deployment.uid().as_deref() != Some(&source.uid));
        let secret_gone = self.last_kubeconfig(object).is_none_or(|r| {
            self.state
                .secrets
                .get(&Key::new(r.namespace, r.name))
                .is_none()
        });
        source_gone && secret_gone
    }

    /// The Secret the kubeconfig was last taken from; only from where it may have come.
    fn last_kubeconfig(&self, object: &MeshMember) -> Option<SecretRef> {
        let (namespace, name) = object.annotations().get(KUBECONFIG)?.split_once('/')?;
        let mesh = self.state.meshes.get(&Key::new("", &object.spec.mesh));
        let allowed = mesh.is_some_and(|mesh| {
            mesh.spec
                .credential_namespaces
                .iter()
                .any(|allowed| allowed == namespace)
        });
        let own = object.namespace().as_deref() == Some(namespace);
        (own || allowed).then(|| SecretRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    pub(super) fn facts(
        &self,
        mesh: &MeshName,
        rules: Option<&Result<MeshRules, Obstacle>>,
        members: BTreeMap<MemberKey, MemberFacts>,
    ) -> Facts {
        let given = rules.and_then(|rules| rules.as_ref().ok());
        let root = match rules {
            Some(Ok(_)) => self.root(mesh),
            Some(Err(why)) => Err(why.clone()),
            None => Err(Obstacle::new(
                "NoMesh",
                format!("Mesh {mesh} does not exist"),
            )),
        };
        Facts {
            mesh: mesh.clone(),
            trust_domain: given.map_or_else(default_trust_domain, |g| g.trust_domain.clone()),
            contract: given.map(|g| g.contract.clone()).unwrap_or_default(),
            plane: given.map(|g| g.plane).unwrap_or_default(),
            istio: given.map(|g| g.istio.clone()).unwrap_or_default(),
            dead_peer: given.map(|g| g.dead_peer).unwrap_or_default(),
            root,
            revoked: self.revoked(mesh, rules),
            epochs: BTreeMap::new(),
            crl: self.list(mesh),
            members,
        }
    }

    fn mesh_status(&self, mesh: &MeshName) -> Option<&MeshStatus> {
        let object = self.state.meshes.get(&Key::new("", mesh.as_str()))?;
        object.status.as_ref()
    }

    /// The root's list, once it is recorded: nobody is told one that could be forgotten.
    fn list(&self, mesh: &MeshName) -> Option<Crl> {
        let root = self.state.roots.get(mesh.as_str())?.as_ref().ok()?;
        Some(Crl {
            issuer: root.key.clone(),
            number: 0,
            until: None,
            list: self.mesh_status(mesh)?.crl.clone()?,
        })
    }

    /// How far revocations have come.
    pub(super) fn revocations(
        &self,
        facts: &Facts,
        rules: Option<&MeshRules>,
        now: Timestamp,
    ) -> Vec<Revocation> {
        let before = self.mesh_status(&facts.mesh).map(read::revocations);
        let before = before.unwrap_or_default();
        let Some(rules) = rules else {
            return before;
        };
        if facts.revoked.is_empty() {
            return Vec::new();
        }
        let most = rules.intermediate_life.signed();
        let mut found = progress(facts, &rules.revoked, &before, most, now);
        for revocation in &mut found {
            if let Some(found) = &mut revocation.found
                && found.key.is_none()
            {
                found.key = key_of(facts, &revocation.serial);
            }
        }
        found
    }

    /// What a person revoked, and what was revoked before: that is never taken back by taking the wish away.
    fn revoked(
        &self,
        mesh: &MeshName,
        rules: Option<&Result<MeshRules, Obstacle>>,
    ) -> BTreeSet<String> {
        let wished = rules
            .and_then(|rules| rules.as_ref().ok())
            .map(|rules| rules.revoked.clone());
        let recorded = self.mesh_status(mesh).map(|status| &status.revocations);
        let recorded = recorded.into_iter().flatten();
        recorded
            .map(|known| plain_serial(&known.serial))
            .chain(wished.into_iter().flatten())
            .collect()
    }

    /// The root may be used once it is recorded: what was recorded is never replaced.
    fn root(&self, mesh: &MeshName) -> Result<RootFacts, Obstacle> {
        let pending = |why: String| Err(Obstacle::new(ROOT_PENDING, why));
        match self.state.roots.get(mesh.as_str()) {
            None => pending(format!("the root of Mesh {mesh} is being opened")),
            Some(Err(why)) => Err(why.clone()),
            Some(Ok(root)) => {
                let object = self.state.meshes.get(&Key::new("", mesh.as_str()));
                let recorded = object
                    .and_then(|mesh| mesh.status.as_ref())
                    .and_then(|status| status.root.as_ref());
                match recorded {
                    Some(recorded) if recorded.fingerprint == root.status.fingerprint => {
                        Ok(root.facts.clone())
                    }
                    Some(_) | None => pending(format!("the root of Mesh {mesh} is being recorded")),
                }
            }
        }
    }

    fn door(&self, object: &MeshMember, asked: Option<&Asked>) -> Door {
        if object.spec.source.kind == MANAGEMENT {
            return Door::Management;
        }
        let leaving = object.metadata.deletion_timestamp.is_some();
        if asked.is_some_and(|asked| asked.membership.claim.is_err()) && !leaving {
            return Door::Unneeded;
        }
        if !self.state.secrets.is_warm() {
            return Door::Unneeded;
        }
        let source = &object.spec.source;
        let key = Key::new(&source.namespace, &source.name);
        let deployment = self.state.deployments.get(&key);
        let deployment = deployment.filter(|found| found.uid().as_deref() == Some(&source.uid));
        let mesh = asked.map_or(object.spec.mesh.as_str(), |a| a.membership.mesh.as_str());
        let last = self
            .last_kubeconfig(object)
            .map(|last| self.opened(Ok(last)));
        match deployment {
            Some(deployment) => match self.kubeconfig(deployment, mesh) {
                Err(_) if !self.sees_references() => last.unwrap_or(Door::Unneeded),
                reference => self.opened(reference),
            },
            None if !self.state.deployments.is_settled() => last.unwrap_or(Door::Unneeded),
            None => last
                .filter(|door| matches!(door, Door::Secret { .. }))
                .unwrap_or_else(|| {
                    Door::Closed(Obstacle::new(
                        SOURCE_GONE,
                        format!("{} {key} is gone", source.kind),
                    ))
                }),
        }
    }

    /// What a lifecycle object refers to was listed, or is of a kind that does not exist.
    fn sees_references(&self) -> bool {
        self.state.templates.is_settled() && self.state.credentials.is_settled()
    }

    fn opened(&self, reference: Result<SecretRef, Obstacle>) -> Door {
        match reference {
            Err(why) => Door::Closed(why),
            Ok(reference) => match self
                .state
                .secrets
                .get(&Key::new(&reference.namespace, &reference.name))
            {
                Some(meta) => Door::Secret {
                    version: meta.metadata.resource_version.clone().unwrap_or_default(),
                    reference,
                },
                None => Door::Closed(Obstacle::new(
                    "KubeconfigMissing",
                    format!("{reference} does not exist"),
                )),
            },
        }
    }

    pub(super) fn wish(
        &self,
        key: &MemberKey,
        object: &MeshMember,
        asked: Option<&Asked>,
        planned: (&MemberPlan, Option<Terms>),
    ) -> Wish {
        let (plan, terms) = planned;
        let ready = object.finalizers().iter().any(|f| f == labels::FINALIZER);
        let uid = object.uid();
        Wish {
            door: self.door(
                object,
                asked.filter(|asked| asked.source == object.spec.source),
            ),
            expected: object
                .status
                .as_ref()
                .and_then(|status| status.cluster_uid.clone()),
            member: uid.filter(|_| ready),
            action: plan.action.clone(),
            remotes: plan.remotes.clone(),
            terms,
            asked: self.state.asked.get(key).copied(),
        }
    }

    /// A cluster that asks and has no object yet: its task may knock meanwhile.
    pub(super) fn first_wish(&self, key: &MemberKey, asked: &Asked) -> Wish {
        let door = match (&asked.membership.claim, &asked.kubeconfig) {
            (Ok(_), _) if asked.source.kind == MANAGEMENT => Door::Management,
            (Ok(_), Some(reference)) => self.opened(Ok(reference.clone())),
            (Err(_), _) | (Ok(_), None) => Door::Unneeded,
        };
        Wish {
            door,
            expected: None,
            member: None,
            action: Action::Wait,
            remotes: Pairs::new(),
            terms: None,
            asked: self.state.asked.get(key).copied(),
        }
    }
}

/// Lists that a member reported before this process began. They were judged then.
fn remembered_lists(status: Option<&MeshMemberStatus>) -> Vec<Crl> {
    let lists = status.map(read::remembered_lists).unwrap_or_default();
    lists
        .into_iter()
        .map(|crl| Crl {
            issuer: crl.issuer,
            number: 0,
            until: None,
            list: crl.list,
        })
        .collect()
}

/// Fingerprint of the key of the certificate with this serial number.
fn key_of(facts: &Facts, serial: &str) -> Option<String> {
    let anchor = facts
        .members
        .values()
        .flat_map(|member| &member.anchors)
        .find(|anchor| plain_serial(&anchor.serial) == serial)?;
    let read = mesh_ca::facts(&anchor.certificate).ok()?;
    Some(read.into_iter().next()?.key_fingerprint)
}

/// Nothing of ours can be there: no delivery was ever recorded, and there is no way to look.
fn never_there(recorded: Option<&String>, observed: &Observed) -> bool {
    let no_way =
        matches!(observed.access, Access::Refused(_)) || matches!(observed.reach, Reach::Lost(_));
    recorded.is_none() && observed.delivered.is_none() && no_way
}

#[expect(clippy::expect_used, reason = "constants; a test reads them")]
pub(super) fn default_mesh() -> MeshName {
    labels::DEFAULT_MESH
        .parse()
        .expect("the default mesh has a valid name")
}

#[expect(clippy::expect_used, reason = "constants; a test reads them")]
pub(super) fn default_trust_domain() -> TrustDomain {
    "mesh.kof.internal".parse().expect("a valid trust domain")
}
