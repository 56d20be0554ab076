//! Custom resource definitions across releases.

/// What an upgrade does with a definition that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Apply ours.
    Apply,
    /// Leave it: it is of a later release, and an older one would take away fields that hold data.
    Leave,
}

/// What to do with a definition of the release `there`, if it says any, when ours is of the release `ours`.
#[must_use]
pub fn step(there: Option<&str>, ours: &str) -> Step {
    match (there.and_then(release), release(ours)) {
        (Some(there), Some(ours)) if there > ours => Step::Leave,
        _ => Step::Apply,
    }
}

/// `1.2.3` out of a version like `1.2.3-rc1`.
fn release(version: &str) -> Option<[u64; 3]> {
    let (numbers, _) = version.split_once(['-', '+']).unwrap_or((version, ""));
    let mut parts = numbers.split('.').map(str::parse);
    let release = [
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    ];
    parts.next().is_none().then_some(release)
}

#[cfg(test)]
mod tests {
    use super::{Step, step};

    #[test]
    fn a_definition_never_goes_back() {
        for (there, ours, expected) in [
            (None, "0.1.0", Step::Apply),
            (Some("0.1.0"), "0.1.0", Step::Apply),
            (Some("0.9.0"), "0.10.0", Step::Apply),
            (Some("0.10.0"), "0.9.0", Step::Leave),
            (Some("1.0.0"), "0.9.9", Step::Leave),
            (Some("0.1.1"), "0.1.0", Step::Leave),
            // Candidates of one release are of that release.
            (Some("0.2.0-rc2"), "0.2.0-rc1", Step::Apply),
            (Some("0.2.0-rc1"), "0.1.9+build", Step::Leave),
            // What says nothing is ours to mend.
            (Some("latest"), "0.1.0", Step::Apply),
            (Some("1.2"), "0.1.0", Step::Apply),
            (Some("1.2.3.4"), "0.1.0", Step::Apply),
        ] {
            assert_eq!(step(there, ours), expected, "{there:?} -> {ours}");
        }
    }
}
