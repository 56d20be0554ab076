//! Running other programs: what they said is part of the error.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns what it wrote to standard output. A command that fails
/// is an error with the last lines of what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {name}"))?;
    finish(&name, &output)
}

/// As [`run`], without blocking the thread.
pub async fn run_async(command: Command) -> Result<String> {
    let name = describe(&command);
    let mut command = tokio::process::Command::from(command);
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("failed to start {name}"))?;
    finish(&name, &output)
}

/// A command with arguments.
pub fn command<I: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = I>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args().take(12) {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

fn finish(name: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() {
            String::from_utf8_lossy(&output.stdout)
        } else {
            said
        };
        let lines: Vec<&str> = said.trim().lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(15)..)
            .unwrap_or_default();
        bail!("{name}: {}: {}", output.status, tail.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
