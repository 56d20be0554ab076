//! OpenSSL's command, strictly.

use super::Complaints;
use crate::case::{Case, Folder, Role, blocks};

/// Runs the command.
pub fn run(args: &[&str]) -> Result<String, String> {
    super::run("openssl", args, "OpenSSL 3 is needed on the machine")
}

pub fn judge(case: &Case) -> Complaints {
    let folder = Folder::new();
    let mut said = Vec::new();
    let mut ask = |args: &[&str]| {
        if let Err(complaint) = run(args) {
            said.push(short(&complaint));
        }
    };
    let own = folder.file("own.pem", &case.own);
    let anchors = folder.file("anchors.pem", &case.anchors);
    ask(&["asn1parse", "-in", &own, "-noout"]);
    let chain = blocks(&case.chain);
    let leaf = folder.file("leaf.pem", &chain[0]);
    let rest = folder.file("rest.pem", chain[1..].concat());
    let lists = folder.file("lists.pem", &case.lists);
    for purpose in ["sslserver", "sslclient"] {
        let mut args = vec![
            "verify",
            "-x509_strict",
            "-check_ss_sig",
            "-no-CApath",
            "-no-CAstore",
        ];
        args.extend(["-purpose", purpose, "-CAfile", &anchors]);
        if chain.len() > 1 {
            args.extend(["-untrusted", &rest]);
        }
        if case.partial {
            args.push("-partial_chain");
        }
        if !case.lists.is_empty() {
            args.push(if case.partial {
                "-crl_check"
            } else {
                "-crl_check_all"
            });
            args.extend(["-CRLfile", &lists]);
        }
        if case.role == Role::Server {
            args.extend(["-verify_hostname", &case.peer]);
        }
        args.push(&leaf);
        ask(&args);
    }
    if case.role == Role::Root {
        ask(&[
            "verify",
            "-x509_strict",
            "-check_ss_sig",
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
            &own,
            &own,
        ]);
    }
    if case.role == Role::List {
        let issuers = folder.file(
            "issuers.pem",
            format!("{}{}", case.anchors, chain[1..].concat()),
        );
        // It says "verify failure" and exits with 0.
        match run(&["crl", "-in", &own, "-CAfile", &issuers, "-noout"]) {
            Ok(_) if crl_verifies(&own, &issuers) => {}
            Ok(_) => said.push("the list is not signed by its issuer".to_owned()),
            Err(complaint) => said.push(short(&complaint)),
        }
    }
    said.dedup();
    said
}

fn crl_verifies(list: &str, issuers: &str) -> bool {
    let output = std::process::Command::new("openssl")
        .args(["crl", "-in", list, "-CAfile", issuers, "-noout"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).contains("verify OK")
}

/// The line that says what is wrong.
fn short(complaint: &str) -> String {
    let line = complaint
        .lines()
        .find(|line| line.starts_with("error ") || line.contains("failure"))
        .or_else(|| complaint.lines().find(|line| line.contains("error")));
    line.unwrap_or(complaint).trim().to_owned()
}
