//! Commands that need no cluster.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::args::{CrdFormat, CrdsArgs};

/// Prints the custom resource definitions, or writes one file each.
pub(crate) fn crds(args: &CrdsArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.values_schema {
        return values_schema(file);
    }
    let crds = if args.member {
        vec![mesh_api::crd::<mesh_api::agent::MeshAgent>()]
    } else {
        mesh_api::crds()
    };
    let Some(folder) = &args.output else {
        let text = match args.format {
            CrdFormat::Yaml => serde_saphyr::to_string_multiple(&crds)?,
            CrdFormat::Json => pretty(&crds)?,
        };
        return print(&text);
    };
    for crd in &crds {
        let name = crd
            .metadata
            .name
            .as_deref()
            .context("a definition has no name")?;
        let (text, ending) = match args.format {
            CrdFormat::Yaml => (serde_saphyr::to_string(crd)?, "yaml"),
            CrdFormat::Json => (pretty(crd)?, "json"),
        };
        write(&folder.join(format!("{name}.{ending}")), &text)?;
    }
    Ok(())
}

/// Puts the schema of `Mesh.spec` where the chart's schema refers to it.
fn values_schema(file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    let mut schema: serde_json::Value = serde_json::from_str(&text)?;
    *schema
        .pointer_mut("/definitions/meshSpec")
        .context("the schema has no definition meshSpec")? = mesh_api::mesh_values();
    write(file, &pretty(&schema)?)
}

fn pretty(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints a text, or writes it into a file.
pub(crate) fn emit(text: &str, file: Option<&PathBuf>) -> anyhow::Result<()> {
    match file {
        None => print(text),
        Some(file) => write(file, text),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("failed to print")
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}
