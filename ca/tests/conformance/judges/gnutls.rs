//! `GnuTLS`, by its `certtool`.

use super::Complaints;
use crate::case::{Case, Folder, Role, blocks};

const SERVER: &str = "1.3.6.1.5.5.7.3.1";
const CLIENT: &str = "1.3.6.1.5.5.7.3.2";

fn run(args: &[&str]) -> Result<String, String> {
    super::run(
        "certtool",
        args,
        "`apt-get install gnutls-bin` brings it, and `make unit` runs that",
    )
}

pub fn judge(case: &Case) -> Complaints {
    let folder = Folder::new();
    let mut said = Vec::new();
    let mut ask = |args: &[&str], wanted: &str| said.extend(complaint(args, wanted));
    let own = folder.file("own.pem", &case.own);
    let anchors = folder.file("anchors.pem", &case.anchors);
    let chain = folder.file("chain.pem", &case.chain);
    let lists = folder.file("lists.pem", &case.lists);
    for purpose in [SERVER, CLIENT] {
        let mut args = vec![
            "--verify",
            "--verify-purpose",
            purpose,
            "--verify-profile",
            "medium",
        ];
        args.extend(["--infile", &chain, "--load-ca-certificate", &anchors]);
        if !case.lists.is_empty() {
            args.extend(["--load-crl", &lists]);
        }
        if case.role == Role::Server {
            args.extend(["--verify-hostname", &case.peer]);
        }
        ask(&args, "The certificate is trusted");
    }
    if case.role == Role::List {
        ask(&["--crl-info", "--infile", &own], "Issuer");
        said.extend(list(&own, case, &folder));
    } else {
        ask(&["--certificate-info", "--infile", &own], "Serial Number");
    }
    said.dedup();
    said
}

fn complaint(args: &[&str], wanted: &str) -> Option<String> {
    match run(args) {
        Ok(answer) if answer.contains(wanted) => None,
        Ok(answer) | Err(answer) => Some(short(&answer)),
    }
}

/// A list is judged beside one CA at a time; one of them must have signed it.
fn list(own: &str, case: &Case, folder: &Folder) -> Option<String> {
    let mut last = None;
    for issuer in blocks(&case.anchors)
        .into_iter()
        .chain(blocks(&case.chain).into_iter().skip(1))
    {
        let issuer = folder.file("issuer.pem", issuer);
        let args = [
            "--verify-crl",
            "--infile",
            own,
            "--load-ca-certificate",
            &issuer,
        ];
        last = complaint(&args, "Verification output: Verified.");
        last.as_ref()?;
    }
    last
}

/// The line that says what is wrong.
fn short(answer: &str) -> String {
    let line = answer
        .lines()
        .rfind(|line| line.contains("Not verified") || line.contains("error"));
    line.or_else(|| answer.lines().rfind(|line| !line.trim().is_empty()))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
