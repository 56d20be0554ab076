//! docs/rights.md lists the rights of every account, and nothing else.

use std::{collections::BTreeSet, fs, path::PathBuf};

use mesh_core::{istio::Discovery, lifetime::Lifetime};
use serde_json::Value;

use super::*;
use crate::{
    mesh::{CaService, WorkloadIssuer},
    read::WorkloadRules,
};

/// Where, what, which of them, what may be done.
type Right = (String, String, String, BTreeSet<String>);

fn file(path: &str) -> String {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    fs::read_to_string(root.join(path)).unwrap()
}

fn words(text: &str) -> Vec<&str> {
    let words = text.split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).collect()
}

fn verbs(words: &[&str]) -> BTreeSet<String> {
    let spelled = words.iter().copied().flat_map(|word| match word {
        "read" => vec!["get", "list", "watch"],
        verb => vec![verb],
    });
    spelled.map(str::to_owned).collect()
}

/// The rows below a heading, up to the next one of its level: all of them, or those that are there always.
fn documented(account: &str, optional: bool) -> BTreeSet<Right> {
    let text = file("docs/rights.md");
    let below = text.split_once(&format!("\n## {account}\n")).unwrap().1;
    let section = below.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| where "));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [place, what, names, may, when, why] = cells[..] else {
            panic!("{row}");
        };
        assert_ne!(why, "", "{row}");
        let there = optional || when == "always";
        let what = words(what).into_iter().filter(move |_| there);
        what.map(|what| {
            let names = words(names).into_iter().collect::<BTreeSet<&str>>();
            let names = names.into_iter().collect::<Vec<&str>>().join(",");
            (place.to_owned(), what.to_owned(), names, verbs(&words(may)))
        })
        .collect::<Vec<Right>>()
    })
    .collect()
}

fn list<'a>(rule: &'a Value, field: &str) -> Vec<&'a str> {
    let items = rule[field].as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap()).collect()
}

/// What a role grants.
fn granted(role: &Value) -> Vec<Right> {
    let place = match role["kind"].as_str().unwrap() {
        "ClusterRole" => "cluster",
        _ => role["metadata"]["namespace"]
            .as_str()
            .unwrap_or("istio-system"),
    };
    let rules = role["rules"].as_array().unwrap().iter();
    rules
        .flat_map(|rule| {
            let mut what: Vec<String> = list(rule, "nonResourceURLs")
                .into_iter()
                .map(str::to_owned)
                .collect();
            for group in list(rule, "apiGroups") {
                what.extend(
                    list(rule, "resources")
                        .into_iter()
                        .map(|resource| match group {
                            "" => resource.to_owned(),
                            group => format!("{resource}.{group}"),
                        }),
                );
            }
            let names: BTreeSet<&str> = list(rule, "resourceNames").into_iter().collect();
            let names = names.into_iter().collect::<Vec<&str>>().join(",");
            let may = verbs(&list(rule, "verbs"));
            what.into_iter()
                .map(move |what| (place.to_owned(), what, names.clone(), may.clone()))
        })
        .collect()
}

/// The roles of the chart, as far as they can be read without Helm.
fn chart(template: &str) -> Vec<Value> {
    let text = file(&format!("charts/kof-istio/templates/{template}"));
    let plain: Vec<&str> = text.lines().filter(|line| !line.contains("{{")).collect();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&plain.join("\n")).unwrap();
    documents
        .into_iter()
        .filter(|d| d.get("rules").is_some())
        .collect()
}

/// What an account is granted by these objects: roles have its name, or begin with it.
fn of(objects: &[Rendered], account: &str) -> BTreeSet<Right> {
    let roles = objects
        .iter()
        .filter(|object| object.kind.kind.ends_with("Role") && object.name.starts_with(account));
    roles.flat_map(|role| granted(&role.body)).collect()
}

fn everything() -> Vec<Rendered> {
    let mut settings = settings();
    settings.workloads = Some(WorkloadRules {
        issuer: WorkloadIssuer::Agent,
        life: Lifetime::from_secs(86_400),
        most: Lifetime::from_secs(86_400),
        node_accounts: Vec::new(),
        services: vec![CaService::IstioCsr],
    });
    let mut region = istio::region();
    let delivery = region.istio.as_mut().unwrap();
    delivery.discovery = Discovery::RemoteSecrets;
    delivery.read_secrets = true;
    delivery.readers = ["child1".parse().unwrap()].into();
    let mut objects = member_objects(&istio::child(), &settings);
    objects.extend(member_objects(&region, &settings));
    objects
}

#[test]
fn the_rights_of_members_accounts_are_the_documented_ones() {
    let all = everything();
    for account in ["mesh-agent", "mesh-probe", "mesh-reader"] {
        assert_eq!(of(&all, account), documented(account, true), "{account}");
    }
    let plain = delivery(Role::Child, "region1", &["192.0.2.1"]);
    let plain = member_objects(&plain, &settings());
    assert_eq!(of(&plain, "mesh-agent"), documented("mesh-agent", false));
}

#[test]
fn the_rights_of_the_charts_accounts_are_the_documented_ones() {
    let of = |templates: &[&str]| -> BTreeSet<Right> {
        let roles = templates.iter().flat_map(|template| chart(template));
        roles.flat_map(|role| granted(&role)).collect()
    };
    let always = of(&["rbac.yaml"]);
    assert_eq!(always, documented("mesh-controller", false));
    let all = of(&["rbac.yaml", "rbac-remote-secrets.yaml"]);
    assert_eq!(all, documented("mesh-controller", true));
    assert_eq!(
        of(&["crds-job.yaml"]),
        documented("mesh-controller-crds", true)
    );
}

#[test]
fn nobody_is_granted_everything_or_more_than_he_holds() {
    for account in [
        "mesh-agent",
        "mesh-probe",
        "mesh-reader",
        "mesh-controller",
        "mesh-controller-crds",
    ] {
        for right in documented(account, true) {
            let (_, what, names, may) = &right;
            assert!(
                ![what, names].iter().any(|text| text.contains('*')),
                "{right:?}"
            );
            for verb in ["*", "escalate", "bind", "impersonate"] {
                assert!(!may.contains(verb), "{right:?}");
            }
        }
    }
}
