use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::ResourceExt as _;
use kube::api::PartialObjectMeta;
use mesh_api::{
    foreign::{
        ClusterDeployment, ClusterDeploymentSpec, ClusterTemplate, ClusterTemplateSpec,
        ClusterTemplateStatus,
    },
    labels,
    member::MeshMemberStatus,
    mesh::{Mesh, MeshSpec, RootSource},
    render::mesh_member,
};
use mesh_core::facts::Reach;

use super::{
    eye::{default_mesh, default_trust_domain},
    *,
};
use crate::{
    controller::{
        index::{Observed, Store},
        register::{Job, JobId, jobs},
    },
    watches::{Key, Refusal, Seen},
};

const NAMESPACE: &str = "kcm-system";

fn constants() -> Constants {
    Constants {
        install: "install".to_owned(),
        management_member: false,
        management_mesh: "default".to_owned(),
    }
}

fn meta(namespace: Option<&str>, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("1".to_owned()),
        ..ObjectMeta::default()
    }
}

fn deployment(name: &str) -> ClusterDeployment {
    let spec = ClusterDeploymentSpec {
        template: Some("t".to_owned()),
        ..ClusterDeploymentSpec::default()
    };
    let labels = [
        (labels::ISTIO_ROLE, "member"),
        (labels::KOF_ROLE, "regional"),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata = ObjectMeta {
        labels: Some(labels.into()),
        ..meta(Some(NAMESPACE), name)
    };
    ClusterDeployment {
        metadata,
        spec,
        status: None,
    }
}

/// A state in which `region1` asks, and everything was listed.
fn state() -> State {
    let mut state = State::default();
    let spec = MeshSpec {
        trust_domain: "mesh.example".to_owned(),
        root: RootSource {
            generate: true,
            secret_name: None,
            pkcs11: None,
        },
        ..MeshSpec::default()
    };
    state.meshes.see(Seen::All {
        objects: vec![Mesh {
            metadata: meta(None, "default"),
            spec,
            status: None,
        }],
        refused: Vec::new(),
    });
    let template = ClusterTemplate {
        metadata: meta(Some(NAMESPACE), "t"),
        spec: ClusterTemplateSpec {},
        status: Some(ClusterTemplateStatus {
            providers: vec!["infrastructure-aws".to_owned()],
        }),
    };
    state.templates.see(Seen::All {
        objects: vec![template],
        refused: Vec::new(),
    });
    state.deployments.see(Seen::All {
        objects: vec![deployment("region1")],
        refused: Vec::new(),
    });
    state.credentials.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    state.configs.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    state.members.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    let secret = PartialObjectMeta::<Secret> {
        metadata: meta(Some(NAMESPACE), "region1-kubeconfig"),
        ..PartialObjectMeta::default()
    };
    state.secrets.see(Seen::All {
        objects: vec![secret],
        refused: Vec::new(),
    });
    state
}

fn key() -> MemberKey {
    MemberKey {
        namespace: NAMESPACE.to_owned(),
        name: "region1".to_owned(),
    }
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// What the API server makes of what is written.
fn stand(state: &mut State, change: impl FnOnce(&mut MeshMember)) {
    let asked = look(state, &constants(), now())
        .asked
        .remove(&key())
        .unwrap();
    let mut object = mesh_member(&asked.source, &asked.membership);
    object.metadata.uid = Some("member-uid".to_owned());
    object.metadata.resource_version = Some("7".to_owned());
    object.annotations_mut().insert(
        KUBECONFIG.to_owned(),
        format!("{NAMESPACE}/region1-kubeconfig"),
    );
    change(&mut object);
    state.members.see(Seen::Applied(object));
}

fn leaving(object: &mut MeshMember) {
    object.metadata.deletion_timestamp = Some(Time(now()));
}

fn with_status(object: &mut MeshMember) {
    object.status = Some(MeshMemberStatus {
        cluster_uid: Some("cluster".to_owned()),
        ..MeshMemberStatus::default()
    });
}

fn work(state: &State) -> Option<Job> {
    let found = look(state, &constants(), now());
    jobs(state, &found, now()).remove(&JobId::Member(key()))
}

#[test]
fn one_who_asks_is_enrolled_once() {
    let mut state = state();
    let Some(Job::Enrol(object)) = work(&state) else {
        panic!("not enrolled")
    };
    assert_eq!(object.spec.cluster, "region1");
    assert_eq!(
        object.annotations()[KUBECONFIG],
        "kcm-system/region1-kubeconfig"
    );
    stand(&mut state, |_| ());
    assert!(work(&state).is_none(), "{:?}", work(&state));
}

#[test]
fn its_task_may_knock_before_but_writes_nothing_there() {
    let state = state();
    let wish = look(&state, &constants(), now())
        .wishes
        .remove(&key())
        .unwrap();
    assert!(matches!(wish.door, Door::Secret { .. }), "{:?}", wish.door);
    assert_eq!((wish.member, wish.action), (None, Action::Wait));
}

#[test]
fn nothing_is_concluded_from_a_world_that_was_not_seen_whole() {
    let mut state = state();
    stand(&mut state, |_| ());
    state.deployments = Store::default();
    assert!(work(&state).is_none());
    state.deployments.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    assert!(
        matches!(work(&state), Some(Job::Dismiss { .. })),
        "{:?}",
        work(&state)
    );
    state.secrets = Store::default();
    assert!(work(&state).is_none());
}

#[test]
fn another_object_of_the_same_name_is_another_cluster() {
    let mut state = state();
    stand(&mut state, |_| ());
    let mut reborn = deployment("region1");
    reborn.metadata.uid = Some("another".to_owned());
    state.deployments.see(Seen::Applied(reborn));
    assert!(matches!(work(&state), Some(Job::Dismiss { .. })));
    let wish = look(&state, &constants(), now())
        .wishes
        .remove(&key())
        .unwrap();
    assert_eq!(wish.expected, None);
}

#[test]
fn one_that_leaves_is_let_go_when_nothing_is_left_and_not_before() {
    let mut state = state();
    stand(&mut state, |object| {
        leaving(object);
        with_status(object);
    });
    let observed = Observed {
        reach: Reach::Answers {
            cluster_uid: "cluster".to_owned(),
        },
        ..Observed::default()
    };
    state.observed.insert(key(), observed);
    assert!(work(&state).is_none(), "{:?}", work(&state));
    state.observed.get_mut(&key()).unwrap().withdrawn = true;
    let Some(Job::Release { finalizers, .. }) = work(&state) else {
        panic!("not released")
    };
    assert!(finalizers.is_empty());
}

#[test]
fn a_lost_one_waits_unless_nothing_ever_was_there_or_its_cluster_is_gone() {
    let lost = Observed {
        reach: Reach::Lost(Obstacle::new("Timeout", "lost")),
        ..Observed::default()
    };
    let mut state = state();
    stand(&mut state, |object| {
        leaving(object);
        with_status(object);
    });
    state.observed.insert(key(), lost.clone());
    assert!(work(&state).is_none());
    state.deployments.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    assert!(work(&state).is_none(), "its kubeconfig is still there");
    state.secrets.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    assert!(matches!(work(&state), Some(Job::Release { .. })));

    let mut state = self::state();
    stand(&mut state, leaving);
    state.observed.insert(key(), lost);
    assert!(
        matches!(work(&state), Some(Job::Release { .. })),
        "nothing was ever there"
    );
}

#[test]
fn a_cluster_that_answers_is_cleaned_even_if_its_source_and_kubeconfig_are_gone() {
    let mut state = state();
    stand(&mut state, |object| {
        leaving(object);
        with_status(object);
    });
    let reach = Reach::Answers {
        cluster_uid: "cluster".to_owned(),
    };
    state.observed.insert(
        key(),
        Observed {
            reach,
            ..Observed::default()
        },
    );
    state.deployments.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    state.secrets.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    assert!(work(&state).is_none());
    let wish = look(&state, &constants(), now())
        .wishes
        .remove(&key())
        .unwrap();
    assert_eq!(wish.action, Action::Withdraw);
    // The session that answers is kept by this reason.
    assert!(
        matches!(&wish.door, Door::Closed(why) if why.reason == SOURCE_GONE),
        "{:?}",
        wish.door
    );
}

#[test]
fn no_door_is_called_closed_before_everything_was_seen() {
    let mut state = state();
    stand(&mut state, |object| {
        object.metadata.annotations = None;
    });
    for cold in [0, 1, 2] {
        let mut state = self::state();
        stand(&mut state, |object| {
            object.metadata.annotations = None;
        });
        match cold {
            0 => state.secrets = Store::default(),
            1 => state.templates = Store::default(),
            _ => state.deployments = Store::default(),
        }
        let wish = look(&state, &constants(), now())
            .wishes
            .remove(&key())
            .unwrap();
        assert_eq!(wish.door, Door::Unneeded, "{cold}");
    }
    let why = Obstacle::new("NotFound", "no such kind");
    state.templates = Store::default();
    state.templates.see(Seen::Interrupted { absent: true, why });
    let wish = look(&state, &constants(), now())
        .wishes
        .remove(&key())
        .unwrap();
    assert!(
        matches!(&wish.door, Door::Closed(why) if why.reason == "TemplateMissing"),
        "{:?}",
        wish.door
    );
}

#[test]
fn a_person_may_force_it() {
    let mut state = state();
    stand(&mut state, |object| {
        leaving(object);
        with_status(object);
        object
            .annotations_mut()
            .insert(labels::FORCE_REMOVAL.to_owned(), "true".to_owned());
    });
    assert!(matches!(work(&state), Some(Job::Release { .. })));
}

#[test]
fn what_was_remembered_holds_until_something_is_seen() {
    let mut state = state();
    stand(&mut state, |object| {
        object.status = Some(MeshMemberStatus {
            addresses: vec![mesh_api::member::Address {
                host: "192.0.2.1".to_owned(),
                port: 15443,
            }],
            ..MeshMemberStatus::default()
        });
    });
    let told = look(&state, &constants(), now())
        .told
        .remove(&key())
        .unwrap();
    assert_eq!(told.facts.gateway.len(), 1);
    state.observed.insert(
        key(),
        Observed {
            gateway: Some(BTreeSet::new()),
            ..Observed::default()
        },
    );
    let told = look(&state, &constants(), now())
        .told
        .remove(&key())
        .unwrap();
    assert_eq!(
        told.facts.gateway.len(),
        1,
        "an empty answer takes nothing away"
    );
    let moved = mesh_core::facts::Target {
        host: "192.0.2.2".to_owned(),
        port: 15443,
    };
    state.observed.insert(
        key(),
        Observed {
            gateway: Some(BTreeSet::from([moved.clone()])),
            ..Observed::default()
        },
    );
    let told = look(&state, &constants(), now())
        .told
        .remove(&key())
        .unwrap();
    assert_eq!(told.facts.gateway, BTreeSet::from([moved]));
}

#[test]
fn a_kubeconfig_is_not_taken_from_where_it_may_not_come() {
    let mut state = state();
    stand(&mut state, |object| {
        leaving(object);
        object.annotations_mut().insert(
            KUBECONFIG.to_owned(),
            "kube-system/region1-kubeconfig".to_owned(),
        );
    });
    state.deployments.see(Seen::All {
        objects: Vec::new(),
        refused: Vec::new(),
    });
    let wish = look(&state, &constants(), now())
        .wishes
        .remove(&key())
        .unwrap();
    assert!(matches!(wish.door, Door::Closed(_)), "{:?}", wish.door);
}

#[test]
fn without_a_root_nothing_is_told_while_it_is_being_opened() {
    let mut state = state();
    stand(&mut state, |_| ());
    let found = look(&state, &constants(), now());
    assert!(found.told[&key()].pending);
    state.roots.insert(
        "default".to_owned(),
        Err(Obstacle::new("RootMissing", "gone")),
    );
    let found = look(&state, &constants(), now());
    assert!(!found.told[&key()].pending);
    assert_eq!(found.wishes[&key()].terms, None);
}

#[test]
fn constants_are_valid() {
    assert_eq!(default_mesh().as_str(), labels::DEFAULT_MESH);
    assert_eq!(default_trust_domain().as_str(), "mesh.kof.internal");
}

#[test]
fn one_whose_source_cannot_be_read_is_kept_also_by_a_controller_that_never_could() {
    let mut state = state();
    stand(&mut state, with_status);
    state.deployments = Store::default();
    let refused = Refusal {
        key: Key::new(NAMESPACE, "region1"),
        why: "spec: of another version".to_owned(),
    };
    state.deployments.see(Seen::All {
        objects: Vec::new(),
        refused: vec![refused],
    });
    assert!(!matches!(work(&state), Some(Job::Dismiss { .. })));
    // Once it is known to be gone, it is gone.
    state
        .deployments
        .see(Seen::Deleted(Key::new(NAMESPACE, "region1")));
    assert!(matches!(work(&state), Some(Job::Dismiss { .. })));
}

#[test]
fn what_others_left_stays_told_until_somebody_has_looked_again() {
    let mut state = state();
    stand(&mut state, |object| {
        with_status(object);
        let left = mesh_api::member::Leftover {
            object: "Secret istio-system/x".to_owned(),
            message: String::new(),
        };
        object.status.as_mut().unwrap().leftovers.push(left);
    });
    let missing = Obstacle::new("RootMissing", "gone");
    state
        .roots
        .insert("default".to_owned(), Err(missing.clone()));
    let observed = Observed {
        reach: Reach::Lost(missing),
        ..Observed::default()
    };
    state.observed.insert(key(), observed);
    let told = |state: &State| {
        let found = look(state, &constants(), now());
        let mut jobs = jobs(state, &found, now());
        match jobs.remove(&JobId::MemberStatus(key())) {
            Some(Job::Tell { status, .. }) => status.leftovers.len(),
            other => panic!("{other:?}"),
        }
    };
    state.observed.get_mut(&key()).unwrap().access = mesh_core::facts::Access::Found;
    assert_eq!(told(&state), 1);
    state.observed.get_mut(&key()).unwrap().leftovers = Some(BTreeSet::new());
    assert_eq!(told(&state), 0);
}
