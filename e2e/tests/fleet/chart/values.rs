//! Values: each wrong one is refused, by its name.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mesh_e2e::components::{ChartTools, Components};
use mesh_e2e::paths;
use serde_json::Value;

use super::{Folder, Helm};

/// Values of other charts, or for them: nothing in them is known here.
const OPEN: [&str; 4] = ["global", "istio.base", "istio.istiod", "istio.gateway"];

/// A value, what is wrong with it, and a word of the message beside its name.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "image.repository",
        r#""kof-istio/mesh-controller:1.0""#,
        "pattern",
    ),
    ("image.repository", r#""""#, "pattern"),
    ("image.tag", r#""1.0 beta""#, "pattern"),
    ("image.digest", r#""sha256:12""#, "pattern"),
    ("image.pullPolicy", r#""Sometimes""#, "'Always'"),
    ("envoy.tag", r#""""#, "pattern"),
    ("imagePullSecrets", r#"["a","a"]"#, "equal"),
    ("imagePullSecrets", r#"[{"name":"a"}]"#, "string"),
    ("memberPullSecrets", r#"["Not_A_Name"]"#, "pattern"),
    ("replicas", "0", "minimum"),
    ("replicas", "99", "maximum"),
    ("replicas", "1.5", "integer"),
    ("replicas", r#""2""#, "integer"),
    ("log", r#""verbose""#, "pattern"),
    ("management.member", r#""yes""#, "boolean"),
    ("defaultMesh.spec.dataplane", r#""istio""#, "dataplane"),
    ("defaultMesh.spec.dataPlane", r#""linkerd""#, "'istio'"),
    ("defaultMesh.spec.root.generated", "true", "generated"),
    ("pkcs11.module", r#""lib.so""#, "pattern"),
    ("pkcs11.env", r#"[{"value":"a"}]"#, "name"),
    ("serviceMonitor.interval", r#""soon""#, "pattern"),
    (
        "networkPolicy.metricsFrom",
        r#"[{"namespace":"a"}]"#,
        "namespace",
    ),
    (
        "networkPolicy.metricsFrom",
        r#"[{"ipBlock":{"cidr":"10.0.0.0"}}]"#,
        "pattern",
    ),
    ("podDisruptionBudget.maxUnavailable", r#""half""#, "pattern"),
    ("podDisruptionBudget.maxUnavailable", "0", "minimum"),
    (
        "topologySpreadConstraints",
        r#"[{"maxSkew":1,"topologyKey":"zone"}]"#,
        "whenUnsatisfiable",
    ),
    ("podSecurityContext.runAsNonroot", "true", "runAsNonroot"),
    (
        "podSecurityContext.seccompProfile.type",
        r#""runtime/default""#,
        "'RuntimeDefault'",
    ),
    ("securityContext.capabilities.drop", r#""ALL""#, "array"),
    ("resources.requests.memory", r#""lots""#, "pattern"),
    ("resources.limit", "{}", "limit"),
    ("commonLabels.team", r#""a b""#, "pattern"),
    ("podLabels", r#"{"a":1}"#, "string"),
    ("tolerations", r#"[{"effect":"Never"}]"#, "'NoSchedule'"),
    ("priorityClassName", r#""High Priority""#, "pattern"),
    ("istio.version", r#""latest""#, "pattern"),
    ("istio.repository.url", r#""charts.example.com""#, "pattern"),
    (
        "istio.clusterSelector",
        r#"[{"key":"a","operator":"Equals"}]"#,
        "'In'",
    ),
];

/// The names of all values, and whether each holds further ones.
fn names(at: &str, values: &Value, into: &mut BTreeSet<(String, bool)>) {
    for (name, value) in values.as_object().into_iter().flatten() {
        let name = if at.is_empty() {
            name.clone()
        } else {
            format!("{at}.{name}")
        };
        names(&name, value, into);
        into.insert((name, value.is_object()));
    }
}

/// A name in Helm's messages: `at '/a/b'`, or the part of it that no schema knows.
fn named(said: &str, name: &str) -> bool {
    let whole = format!("/{}", name.replace('.', "/"));
    let (parent, last) = whole.rsplit_once('/').unwrap_or_default();
    said.contains(&format!("at '{whole}"))
        || said.contains(&format!("at '{parent}'")) && said.contains(&format!("'{last}'"))
}

async fn is_refused(helm: &Helm, name: &str, value: &str, word: &str) -> Result<()> {
    let set = format!("{name}={value}");
    let said = helm
        .refused(&[
            "template",
            "kof-istio",
            &super::chart(),
            "-n",
            "istio-system",
            "--set-json",
            &set,
        ])
        .await
        .with_context(|| set.clone())?;
    ensure!(named(&said, name) && said.contains(word), "{set}: {said}");
    Ok(())
}

#[test]
fn wrong_values_are_refused_by_their_names() -> Result<()> {
    let (tools, components) = (ChartTools::ensure()?, Components::ensure()?);
    let folder = Folder::new()?;
    let values = std::fs::read_to_string(paths::project().join("charts/kof-istio/values.yaml"))?;
    let mut all = BTreeSet::new();
    names("", &serde_saphyr::from_str(&values)?, &mut all);
    ensure!(all.len() > 50, "{all:?}");
    let mut wrong: Vec<(String, String, String)> = WRONG
        .iter()
        .map(|(name, value, word)| ((*name).to_owned(), (*value).to_owned(), (*word).to_owned()))
        .collect();
    for (name, holds) in &all {
        // nothing of ours is a list of lists
        wrong.push((name.clone(), "[[]]".to_owned(), String::new()));
        if *holds && !OPEN.contains(&name.as_str()) {
            wrong.push((
                format!("{name}.noSuchValue"),
                "{}".to_owned(),
                String::new(),
            ));
        }
    }
    wrong.push((
        "noSuchValue".to_owned(),
        "1".to_owned(),
        "noSuchValue".to_owned(),
    ));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            for helm in Helm::both(&components, &tools, &folder.0) {
                helm.template(&[]).await?;
                let cases = wrong
                    .iter()
                    .map(|(name, value, word)| is_refused(&helm, name, value, word));
                stream::iter(cases)
                    .buffer_unordered(4)
                    .try_collect::<()>()
                    .await?;
            }
            Ok(())
        })
}

/// What needs more than a type.
#[test]
fn values_that_do_not_go_together_are_refused() -> Result<()> {
    let (tools, components) = (ChartTools::ensure()?, Components::ensure()?);
    let folder = Folder::new()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            for helm in Helm::both(&components, &tools, &folder.0) {
                let elsewhere = ["template", "kof-istio", &super::chart(), "-n", "default"];
                let said = helm.refused(&elsewhere).await?;
                ensure!(
                    said.contains("must be installed in namespace istio-system"),
                    "{said}"
                );
                let deliver = [
                    "template",
                    "kof-istio",
                    &super::chart(),
                    "-n",
                    "istio-system",
                    "--set",
                    "istio.deliver=true",
                ];
                let said = helm.refused(&deliver).await?;
                ensure!(said.contains("defaultMesh.spec.dataPlane"), "{said}");
            }
            Ok(())
        })
}
