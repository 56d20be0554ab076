//! What a request is judged against, and how many are answered in a while.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use mesh_core::{facts::plain_serial, names::ClusterName};
use tokio::time::Instant;

use super::{Verdict, deny};
use crate::controller::look::Terms;

/// What was certified before in a mesh, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Whose intermediate of which generation a key is on.
    keys: BTreeMap<String, (ClusterName, u32)>,
    /// Keys on certificates that are revoked.
    revoked: BTreeSet<String>,
}

impl Known {
    /// Takes in a certificate that the root signed.
    pub(crate) fn certificate(
        &mut self,
        pem: &str,
        whose: (&ClusterName, u32),
        revoked: &BTreeSet<String>,
    ) {
        let read = mesh_ca::facts(pem)
            .ok()
            .and_then(|facts| facts.into_iter().next());
        let Some(facts) = read else { return };
        if revoked.contains(&plain_serial(&facts.serial)) {
            self.revoked.insert(facts.key_fingerprint.clone());
        }
        self.keys
            .insert(facts.key_fingerprint, (whose.0.clone(), whose.1));
    }

    /// Takes in the key of a certificate that is revoked.
    pub(crate) fn revoked(&mut self, key: &str) {
        self.revoked.insert(key.to_owned());
    }
}

/// What the requests of one member are judged against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) terms: &'a Terms,
    /// The generations that the member is told to have.
    pub(crate) wanted: &'a [u32],
    /// The ends of the halves of the intermediates that its agent reports to hold, by generation.
    pub(crate) held: &'a BTreeMap<u32, Timestamp>,
    pub(crate) known: &'a Known,
}

impl Bench<'_> {
    /// The generation that a request is about: our agents say so in its name.
    pub(super) fn generation(&self, name: &str) -> Result<u32, Verdict> {
        let cluster = &self.terms.cluster;
        let rest = name
            .strip_prefix("mesh-intermediate-")
            .and_then(|rest| rest.strip_prefix(cluster.as_str()))
            .and_then(|rest| rest.strip_prefix("-g"));
        let Some(rest) = rest else {
            let message =
                format!("the name of the request is not that of an intermediate of {cluster}");
            return Err(deny("AnotherMember", message));
        };
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let Ok(generation) = number.parse::<u32>() else {
            return Err(deny(
                "BadName",
                "the name of the request says no generation",
            ));
        };
        if self.wanted.contains(&generation) {
            return Ok(generation);
        }
        // What is not wanted yet may be wanted soon; what is behind never comes back.
        if self.wanted.iter().all(|wanted| generation < *wanted) {
            let message = format!(
                "generation {generation} is over; {:?} is wanted",
                self.wanted
            );
            return Err(deny("OldGeneration", message));
        }
        Err(Verdict::Wait(format!(
            "generation {generation} is not wanted; {:?} is",
            self.wanted
        )))
    }

    /// Whether a key may be certified for this generation.
    pub(super) fn key(&self, key: &str, generation: u32) -> Result<(), Verdict> {
        if self.known.revoked.contains(key) {
            return Err(deny(
                "RevokedKey",
                "the key is on a certificate that was revoked",
            ));
        }
        if key == self.terms.root.key {
            return Err(deny("KeyReused", "the key is that of the root"));
        }
        match self.known.keys.get(key) {
            Some((cluster, known)) if *cluster != self.terms.cluster => Err(deny(
                "KeyReused",
                format!("the key is on the intermediate of {cluster}, generation {known}"),
            )),
            Some((_, known)) if *known != generation => Err(deny(
                "KeyReused",
                format!("the key is on generation {known} already"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the member has what it asks for, and need not ask yet.
    pub(super) fn is_answered(&self, generation: u32, now: Timestamp) -> bool {
        self.held.get(&generation).is_some_and(|half| now < *half)
    }
}

/// Answers to one member within [`WINDOW`].
const MOST: usize = 20;
/// See [`MOST`].
const WINDOW: Duration = Duration::from_mins(1);

/// How many answers one member was given lately.
#[derive(Debug, Default)]
pub(crate) struct Bucket(VecDeque<Instant>);

impl Bucket {
    /// Takes the right to one more answer, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        while self
            .0
            .front()
            .is_some_and(|at| now.duration_since(*at) >= WINDOW)
        {
            self.0.pop_front();
        }
        if self.0.len() >= MOST {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_answered_so_often_a_minute_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::default();
        let given = (0..600)
            .filter(|second| bucket.take(start + Duration::from_secs(*second)))
            .count();
        assert_eq!(given, 10 * MOST);
        assert!(bucket.0.len() <= MOST);
    }
}
