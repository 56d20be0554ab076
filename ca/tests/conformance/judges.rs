//! The judges, each a function from a case to its complaints. None of them shares code with what it judges, except that webpki is also asked
//! by the crate itself.

mod boringssl;
mod gnutls;
mod go;
mod openssl;
mod webpki;

use std::process::Command;

use crate::case::Case;
use crate::table::Row;

pub use go::siblings;
pub use openssl::run as openssl;

/// What one judge has to say against a case.
pub type Complaints = Vec<String>;

/// The columns of the tables, in order.
pub const NAMES: [&str; 7] = [
    "OpenSSL",
    "GnuTLS",
    "Go",
    "webpki",
    "BoringSSL",
    "zlint",
    "rules",
];

/// What every judge says, in the order of [`NAMES`].
pub fn all(case: &Case) -> [Complaints; 7] {
    let mut by_voice = go::voices(case);
    [
        openssl::judge(case),
        gnutls::judge(case),
        by_voice.remove("go").unwrap_or_default(),
        webpki::judge(case),
        boringssl::judge(case),
        by_voice.remove("zlint").unwrap_or_default(),
        by_voice.remove("rules").unwrap_or_default(),
    ]
}

/// The verdicts on many cases, in their order. The judges mostly wait for processes, so some are asked at once.
pub fn rows(cases: &[Case]) -> Vec<Row> {
    const AT_ONCE: usize = 4;
    let judged = |case: &Case| Row {
        name: case.name.clone(),
        said: all(case),
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = cases
            .chunks(cases.len().div_ceil(AT_ONCE))
            .map(|part| scope.spawn(move || part.iter().map(judged).collect::<Vec<_>>()))
            .collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().unwrap())
            .collect()
    })
}

/// Runs a program: its output, or what it complained about.
#[expect(
    clippy::panic_in_result_fn,
    reason = "a judge that is missing is no complaint of a judge"
)]
fn run(program: &str, args: &[&str], how_to_get_it: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run ({error}): {how_to_get_it}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// A program named by a variable, made by `make unit`.
fn provided(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(path) if std::path::Path::new(&path).is_file() => path,
        Ok(path) => panic!("{variable} names {path:?}, which is no file"),
        Err(error) => panic!("{variable}: {error}: `make unit` provides the judges"),
    }
}
