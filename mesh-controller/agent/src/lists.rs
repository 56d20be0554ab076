//! Revocation lists: which are good, and which of them Istio's proxies are given as one text (`ca-crl.pem`).

pub(crate) mod maps;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use mesh_api::agent::{Crl, MeshAgentSpec, Workloads as Wish};
use mesh_ca::{CertFacts, CrlFacts, crl_facts, merge_crls, split_crls, verify_crl};
use mesh_core::{
    facts::Obstacle,
    revocation::proxies::{self, Case, ENDS_SOON, List, Reader, Step, decide, fitting},
};

use crate::{report::Draft, wanted::Wanted};

/// Most CAs or namespaces that are named.
const NAMED: usize = 3;

/// A list that can be gone by.
#[derive(Clone, Debug)]
pub(crate) struct Good {
    /// It, PEM.
    pub(crate) text: String,
    facts: CrlFacts,
}

/// Lists, and what was found out about them.
pub(crate) struct Crls<'a> {
    by_issuer: BTreeMap<&'a str, &'a str>,
    now: Timestamp,
    again: Option<Timestamp>,
}

impl<'a> Crls<'a> {
    pub(crate) fn new(lists: impl IntoIterator<Item = &'a Crl>, now: Timestamp) -> Self {
        let by_issuer = lists
            .into_iter()
            .map(|crl| (crl.issuer.as_str(), crl.list.as_str()));
        Self {
            by_issuer: by_issuer.collect(),
            now,
            again: None,
        }
    }

    /// The list of this CA, if there is a good one that does not end soon.
    pub(crate) fn good(&mut self, certificate: &str) -> Option<Good> {
        self.good_of(&read(certificate)?, certificate)
    }

    fn good_of(&mut self, ca: &CertFacts, certificate: &str) -> Option<Good> {
        let list = *self.by_issuer.get(ca.key_fingerprint.as_str())?;
        self.turns([ca.not_before, ca.not_after]);
        if let Ok(it) = crl_facts(list.as_bytes()) {
            let end = it.next_update.saturating_sub(ENDS_SOON);
            self.turns([it.this_update, end.unwrap_or(it.next_update)]);
        }
        let facts = verify_crl(list, certificate, self.now).ok()?;
        (facts.next_update.duration_since(self.now) > ENDS_SOON).then(|| Good {
            text: list.to_owned(),
            facts,
        })
    }

    /// What is said now may not be true any more from then on.
    fn turns(&mut self, at: [Timestamp; 2]) {
        let next = at.into_iter().filter(|at| *at > self.now);
        self.again = next.chain(self.again).min();
    }

    /// When to look again though nothing else changes.
    pub(crate) fn again(&self) -> Option<Timestamp> {
        self.again
    }
}

fn read(certificate: &str) -> Option<CertFacts> {
    mesh_ca::facts(certificate).ok()?.into_iter().next()
}

/// Something that is worked out only when what it comes from changes, or at an instant that it names.
#[derive(Debug)]
pub(crate) struct Worked<K, V>(Option<(K, [Option<Timestamp>; 2], V)>);

impl<K, V> Default for Worked<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq, V> Worked<K, V> {
    pub(crate) fn get(
        &mut self,
        from: K,
        now: Timestamp,
        work: impl FnOnce() -> (V, Option<Timestamp>),
    ) -> &V {
        let is_good = |(known, [since, until], _): &(K, [Option<Timestamp>; 2], V)| {
            *known == from
                && since.is_none_or(|since| since <= now)
                && until.is_none_or(|until| now < until)
        };
        let known = self.0.take().filter(is_good);
        let entry = known.unwrap_or_else(|| {
            let (value, until) = work();
            (from, [Some(now), until], value)
        });
        &self.0.insert(entry).2
    }
}

/// One and the same wish.
#[derive(Clone, Debug)]
pub(crate) struct Same(pub(crate) Arc<Wanted>);

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The CAs that proxies of this cluster may meet, by their keys, and what is known of their lists.
#[derive(Debug, Default)]
pub(crate) struct Met {
    cas: BTreeMap<String, Ca>,
    good: BTreeMap<String, Good>,
    /// Those whose good list finds no room.
    crowded: BTreeSet<String>,
}

#[derive(Debug)]
struct Ca {
    /// Whose it is, for a person.
    owner: String,
    certificate: String,
    /// Its key identifier.
    ski: Option<String>,
    is_root: bool,
}

impl Ca {
    /// Only the root revokes: a list of another that names certificates would have lists switched on for all who meet that CA.
    fn may_say(&self, facts: &CrlFacts) -> bool {
        self.is_root || facts.serials.is_empty()
    }
}

impl Met {
    /// The member's own intermediates, the roots, and the intermediates of the members that it meets. What ends soon, or has not begun, is
    /// of no use to anybody.
    pub(crate) fn new(
        spec: &MeshAgentSpec,
        wish: &Wish,
        said: &Draft,
        now: Timestamp,
    ) -> (Self, Option<Timestamp>) {
        let own = said
            .held()
            .iter()
            .map(|it| ((true, false), &spec.cluster, &it.certificate));
        let root = "the root".to_owned();
        let roots = wish.bundle.roots.iter().map(|it| ((true, true), &root, it));
        let peers = spec.trusts.iter().flat_map(|trust| {
            let certificates = trust.certificates.iter();
            certificates.map(|it| ((false, false), &trust.cluster, it))
        });
        let mut crls = Crls::new(spec.crls.iter().chain(said.crls()), now);
        let mut met = Self::default();
        let mut lengths = BTreeMap::new();
        for ((is_own, is_root), owner, certificate) in own.chain(roots).chain(peers) {
            let Some(facts) = read(certificate) else {
                continue;
            };
            let end = facts.not_after.saturating_sub(ENDS_SOON);
            let end = end.unwrap_or(facts.not_after);
            crls.turns([facts.not_before, end]);
            if !facts.is_valid_at(now) || end <= now {
                continue;
            }
            let ca = Ca {
                owner: owner.clone(),
                certificate: certificate.clone(),
                ski: facts.ski.clone(),
                is_root,
            };
            let good = crls.good_of(&facts, certificate);
            if let Some(good) = good.filter(|good| ca.may_say(&good.facts)) {
                lengths.insert(facts.key_fingerprint.clone(), (is_own, good.text.len()));
                met.good.insert(facts.key_fingerprint.clone(), good);
            }
            met.cas.entry(facts.key_fingerprint).or_insert(ca);
        }
        let fitting = fitting(&lengths);
        met.crowded = lengths
            .into_keys()
            .filter(|ca| !fitting.contains(ca))
            .collect();
        met.good.retain(|ca, _| fitting.contains(ca));
        (met, crls.again())
    }

    /// What is to become of a text that stands somewhere; empty: none does.
    pub(crate) fn choose(
        &self,
        standing: &str,
        reader: Reader,
        now: Timestamp,
    ) -> Result<Choice, Obstacle> {
        let texts = canonical(standing);
        let begun = !texts.is_empty();
        let held = self.held(texts, now);
        let facts = |lists: &BTreeMap<String, Good>| -> proxies::Lists {
            lists
                .iter()
                .map(|(ca, good)| (ca.clone(), list(&good.facts)))
                .collect()
        };
        let met: BTreeSet<String> = self.cas.keys().cloned().collect();
        let case = Case {
            met: &met,
            known: &facts(&self.good),
            standing: &facts(&held),
            begun,
            reader,
        };
        let decision = decide(case, now);
        let obstacle = (!decision.missing.is_empty()).then(|| self.missing(&decision.missing));
        let text = match decision.step {
            // What is not as we write it is nobody's word.
            Step::Keep if !begun => Text::Leave,
            Step::Keep => Text::Keep,
            Step::Withdraw => Text::Withdraw,
            Step::Write { newest, kept } => {
                let of = |cas: BTreeSet<String>, lists: &BTreeMap<String, Good>| -> Vec<String> {
                    let good = cas.iter().filter_map(|ca| lists.get(ca));
                    good.map(|good| good.text.clone()).collect()
                };
                let mut texts = of(newest, &self.good);
                texts.extend(of(kept, &held));
                let merged = merge_crls(texts.iter().map(String::as_str));
                Text::Write(merged.map_err(|error| {
                    Obstacle::new("ListsNotWritten", mesh_core::text::chain(&error))
                })?)
            }
        };
        Ok(Choice { text, obstacle })
    }

    /// The good ones of these lists.
    fn held(&self, texts: Vec<String>, now: Timestamp) -> BTreeMap<String, Good> {
        let mut held = BTreeMap::new();
        for text in texts {
            let Ok(facts) = crl_facts(text.as_bytes()) else {
                continue;
            };
            let pointed = |ca: &&Ca| ca.ski.as_ref().is_none_or(|ski| *ski == facts.aki);
            let signed = |ca: &&Ca| verify_crl(&text, &ca.certificate, now).is_ok();
            let good = |ca: &&Ca| pointed(ca) && ca.may_say(&facts) && signed(ca);
            let found = self.cas.iter().find(|(_, ca)| good(ca));
            if let Some((key, _)) = found {
                held.insert(key.clone(), Good { text, facts });
            }
        }
        held
    }

    fn missing(&self, missing: &BTreeSet<String>) -> Obstacle {
        let (crowded, without): (Vec<&String>, Vec<&String>) =
            missing.iter().partition(|ca| self.crowded.contains(*ca));
        let parts = [
            ("there is no living revocation list of", without),
            ("there is no room for the revocation list of", crowded),
        ];
        let parts = parts.into_iter().filter_map(|(words, cas)| {
            let cas = cas.into_iter().filter_map(|ca| self.cas.get(ca));
            let owners: BTreeSet<&str> = cas.map(|ca| ca.owner.as_str()).collect();
            (!owners.is_empty()).then(|| format!("{words} {}", named(&owners)))
        });
        Obstacle::new(
            "ListsIncomplete",
            format!(
                "a certificate is revoked, and {}: proxies are given lists only when there is one of every CA, \
                 and those that have been given lists refuse what is below a CA without one",
                parts.collect::<Vec<_>>().join(", and ")
            ),
        )
    }
}

/// The first of these, and how many more there are.
fn named(all: &BTreeSet<&str>) -> String {
    let named: Vec<&str> = all.iter().take(NAMED).copied().collect();
    let more = match all.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// The lists of a text, good or not, if it is as we write it.
fn canonical(standing: &str) -> Vec<String> {
    let texts = split_crls(standing).unwrap_or_default();
    let merged = merge_crls(texts.iter().map(String::as_str));
    if merged.ok().as_deref() == Some(standing) {
        texts
    } else {
        Vec::new()
    }
}

fn list(facts: &CrlFacts) -> List {
    List {
        number: facts.number,
        from: facts.this_update,
        until: facts.next_update,
        serials: facts.serials.keys().cloned().collect(),
    }
}

/// How many certificates are revoked by a text.
pub(crate) fn count(text: &str) -> u32 {
    let lists = split_crls(text).unwrap_or_default();
    let serials = lists
        .iter()
        .filter_map(|list| crl_facts(list.as_bytes()).ok())
        .map(|facts| facts.serials.len());
    u32::try_from(serials.sum::<usize>()).unwrap_or(u32::MAX)
}

/// What is to become of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// It stays as it is.
    Keep,
    /// There is no good one, and it cannot be said whether there should be.
    Leave,
    /// This takes its place.
    Write(String),
    /// There is to be none.
    Withdraw,
}

/// What is to become of a text, and what a person must look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) text: Text,
    pub(crate) obstacle: Option<Obstacle>,
}

#[cfg(test)]
mod tests;
