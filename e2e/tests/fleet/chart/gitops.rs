//! A tool that applies the rendered chart again and again, as a field manager of its own.

use anyhow::{Result, ensure};
use mesh_e2e::progress;

use super::{ESTABLISHED, Field, Helm, NAMESPACE, RELEASE, chart, says, with_field};

/// Applies as such a tool does, and never by force: a field that somebody else set otherwise is an error.
async fn apply(field: &Field, text: &str) -> Result<String> {
    let file = field.folder.0.join("rendered.yaml");
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    let args = [
        "apply",
        "--server-side",
        "--field-manager=gitops",
        "-f",
        &file,
    ];
    field.cluster.kubectl(&args).await
}

/// Everything that is applied, with its generation: a change of what is wanted raises it.
async fn generations(field: &Field) -> Result<String> {
    let kinds =
        "deployment,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget";
    let path = r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.metadata.managedFields[*].manager}{"\n"}{end}"#;
    let ours = "app.kubernetes.io/instance=kof-istio";
    let args = ["-n", NAMESPACE, "get", kinds, "-l", ours, "-o", path];
    let mut text = field.cluster.kubectl(&args).await?;
    let path =
        r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation}{"\n"}{end}"#;
    let args = ["get", "crd,mesh,clusterrole,clusterrolebinding", "-o", path];
    let all = field.cluster.kubectl(&args).await?;
    // the controller's own, for agents, comes by itself
    let ours = all.lines().filter(|line| {
        let ours = ["mesh.kof.", "kof-istio", "Mesh/"];
        ours.iter().any(|part| line.contains(part)) && !line.contains("/meshagents.")
    });
    text.extend(ours.flat_map(|line| [line, "\n"]));
    Ok(text)
}

async fn rendered(field: &Field, helm: &Helm, more: &[&str]) -> Result<String> {
    let mut args: Vec<&str> = more.to_vec();
    for image in &field.images {
        args.extend(["--set", image]);
    }
    helm.template(&args).await
}

async fn ready(field: &Field) -> Result<()> {
    let args = [
        "-n",
        NAMESPACE,
        "rollout",
        "status",
        "deployment/mesh-controller",
        "--timeout=180s",
    ];
    field.cluster.kubectl(&args).await?;
    says(
        &field.cluster,
        &["deployment", "mesh-controller"],
        "{.status.readyReplicas}",
        "2",
    )
    .await
}

/// Without Helm in the cluster: definitions and objects are the tool's, the controller and the Job work with them.
#[test]
fn a_tool_that_applies_the_chart_again_is_never_contradicted() -> Result<()> {
    with_field("chart-gitops", |field| async move {
        field
            .cluster
            .kubectl(&["create", "namespace", NAMESPACE])
            .await?;
        for helm in &field.helms {
            let text = rendered(&field, helm, &["--include-crds", "--no-hooks"]).await?;
            ensure!(
                text.contains("kind: CustomResourceDefinition"),
                "no definitions"
            );
            // the first time the kind of the Mesh is not known yet
            if apply(&field, &text).await.is_err() {
                field.cluster.kubectl(&ESTABLISHED).await?;
                apply(&field, &text).await?;
            }
            ready(&field).await?;
            let before = generations(&field).await?;
            ensure!(
                before.contains("Mesh/default") && before.contains("gitops"),
                "{before}"
            );
            // the Job of the chart, as such tools run it
            let job = rendered(&field, helm, &["--show-only", "templates/crds-job.yaml"]).await?;
            apply(&field, &job).await?;
            let done = [
                "-n",
                NAMESPACE,
                "wait",
                "--for=condition=Complete",
                "job/mesh-controller-crds",
                "--timeout=90s",
            ];
            field.cluster.kubectl(&done).await?;
            field.cluster.delete(&job).await?;
            apply(&field, &text).await?;
            let after = generations(&field).await?;
            ensure!(before == after, "something was changed:\n{before}\n{after}");
        }
        Ok(())
    })
}

/// Over a release of Helm's: what is the same is shared, and who wants something else is told by whom and where.
#[test]
fn a_tool_beside_helm_is_told_of_what_differs() -> Result<()> {
    with_field("chart-two-managers", |field| async move {
        for helm in &field.helms {
            let chart = chart();
            let mut args = vec![
                "upgrade",
                "--install",
                RELEASE,
                &chart,
                "-n",
                NAMESPACE,
                "--create-namespace",
            ];
            args.extend(["--wait", "--timeout", "180s"]);
            for image in &field.images {
                args.extend(["--set", image]);
            }
            helm.run(&args).await?;
            let text = rendered(&field, helm, &["--no-hooks"]).await?;
            apply(&field, &text).await?;
            let before = generations(&field).await?;
            helm.run(&args).await?;
            apply(&field, &text).await?;
            ensure!(before == generations(&field).await?, "{before}");
            let other = rendered(&field, helm, &["--no-hooks", "--set", "replicas=3"]).await?;
            let said = apply(&field, &other).await.err().map(|e| format!("{e:#}"));
            let said = said.unwrap_or_default();
            ensure!(
                said.contains("conflict with \"helm\"") && said.contains(".spec.replicas"),
                "{said}"
            );
            says(
                &field.cluster,
                &["deployment", "mesh-controller"],
                "{.spec.replicas}",
                "2",
            )
            .await?;
            progress::step(format!("Helm {}: beside a tool", helm.major));
            helm.run(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait"])
                .await?;
        }
        Ok(())
    })
}
