//! The Go program: crypto/x509, zlint, and our rules as Go reads a certificate.

use std::collections::BTreeMap;

use super::{Complaints, provided, run};
use crate::case::{Case, Folder, Role, blocks};

/// Runs the program.
pub fn ask(args: &[&str]) -> Result<String, String> {
    run(
        &provided("JUDGE_BIN"),
        args,
        "`make unit` builds it with Go",
    )
}

/// The complaints of each voice.
pub fn voices(case: &Case) -> BTreeMap<String, Complaints> {
    let folder = Folder::new();
    let own = folder.file("own.pem", &case.own);
    let above = folder.file("above.pem", blocks(&case.chain)[1..].concat());
    let anchors = folder.file("anchors.pem", &case.anchors);
    let mut args = vec![
        "-role",
        case.role.name(),
        "-own",
        &own,
        "-above",
        &above,
        "-anchors",
        &anchors,
    ];
    if case.role == Role::Server {
        args.push(&case.peer);
    }
    sorted(
        &ask(&args).unwrap_or_else(|error| panic!("{}: the Go program failed: {error}", case.name)),
    )
}

/// What is said about certificates of one issuer, side by side.
pub fn siblings(certificates: &str) -> BTreeMap<String, Complaints> {
    let folder = Folder::new();
    let own = folder.file("own.pem", certificates);
    sorted(&ask(&["-role", "siblings", "-own", &own]).unwrap())
}

fn sorted(lines: &str) -> BTreeMap<String, Complaints> {
    let mut voices: BTreeMap<String, Complaints> = BTreeMap::new();
    for line in lines.lines() {
        let (voice, complaint) = line.split_once(": ").unwrap();
        voices
            .entry(voice.to_owned())
            .or_default()
            .push(complaint.to_owned());
    }
    voices
}
