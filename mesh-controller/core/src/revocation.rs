//! Revocation of intermediates: how far each one has come, and when the root's list is due.

pub mod proxies;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::{
    facts::{Anchor, Claim, Facts, MemberFacts, MemberKey, plain_serial},
    names::ClusterName,
    plan::calls,
};

/// An intermediate that nobody is to believe any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Its serial number, as [`plain_serial`] writes it.
    pub serial: String,
    /// What is known of it; none: no member was ever seen with it.
    pub found: Option<Found>,
    /// When the wish was seen.
    pub since: Timestamp,
    /// When it ends by itself, or at the latest: it is revoked until then, whoever takes the wish away.
    pub until: Timestamp,
    /// The wish stands.
    pub wished: bool,
    /// From the wish until every Envoy that believed it had let go of it.
    pub done_after: Option<SignedDuration>,
    /// Members whose Envoys have not said so yet.
    pub waiting_for: Vec<MemberKey>,
}

/// Whose certificate it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The member's ID.
    pub cluster: ClusterName,
    /// Its generation.
    pub generation: u32,
    /// SHA-256 of its public key, lower-case hex, once somebody looked: the key is never certified again.
    pub key: Option<String>,
}

/// How far each revocation has come: those of `facts.revoked`, in that order. What is recorded of one that is done stays.
///
/// `most`: how long an intermediate lives at most; one that nobody has seen is revoked for so long.
#[must_use]
pub fn progress(
    facts: &Facts,
    wished: &BTreeSet<String>,
    before: &[Revocation],
    most: SignedDuration,
    now: Timestamp,
) -> Vec<Revocation> {
    let before: BTreeMap<&str, &Revocation> = before
        .iter()
        .map(|known| (known.serial.as_str(), known))
        .collect();
    let owners = owners(facts);
    facts
        .revoked
        .iter()
        .map(|serial| {
            let known = before.get(serial.as_str()).copied();
            let owner = owners.get(serial);
            let found = owner
                .and_then(|owner| owner.found(known))
                .or_else(|| known.and_then(|known| known.found.clone()));
            let since = known.map_or(now, |known| known.since);
            let until = owner
                .map(|owner| owner.anchor.not_after)
                .or_else(|| known.map(|known| known.until))
                .unwrap_or_else(|| now.saturating_add(most).unwrap_or(Timestamp::MAX));
            let done = known.and_then(|known| known.done_after);
            let waiting_for = match (&found, done) {
                (Some(found), None) => believers(facts, serial, found),
                (_, _) => Vec::new(),
            };
            let is_over = found.is_some() && waiting_for.is_empty();
            Revocation {
                serial: serial.clone(),
                found,
                since,
                until,
                wished: wished.contains(serial),
                done_after: done.or_else(|| is_over.then(|| now.duration_since(since))),
                waiting_for,
            }
        })
        .filter(|revocation| revocation.wished || revocation.until > now)
        .collect()
}

/// A number that changes whenever a certificate of a member is revoked: the connections that were let in by it are drained then.
#[must_use]
pub fn epochs(revocations: &[Revocation]) -> BTreeMap<ClusterName, u64> {
    let mut epochs = BTreeMap::new();
    for found in revocations
        .iter()
        .filter_map(|revocation| revocation.found.as_ref())
    {
        let epoch: &mut u64 = epochs.entry(found.cluster.clone()).or_default();
        *epoch = epoch.saturating_add(u64::from(found.generation));
    }
    epochs
}

struct Owner<'a> {
    claim: Option<&'a Claim>,
    anchor: &'a Anchor,
}

impl Owner<'_> {
    fn found(&self, known: Option<&Revocation>) -> Option<Found> {
        Some(Found {
            cluster: self.claim?.cluster.clone(),
            generation: self.anchor.generation,
            key: known
                .and_then(|known| known.found.as_ref())
                .and_then(|found| found.key.clone()),
        })
    }
}

fn owners(facts: &Facts) -> BTreeMap<String, Owner<'_>> {
    let mut owners = BTreeMap::new();
    if facts.revoked.is_empty() {
        return owners;
    }
    for member in facts.members.values() {
        for anchor in member.anchors.iter().filter(|a| a.is_among(&facts.revoked)) {
            let claim = member.claim.as_ref().ok();
            owners
                .entry(plain_serial(&anchor.serial))
                .or_insert(Owner { claim, anchor });
        }
    }
    owners
}

/// Members at least one of whose Envoys may still believe it.
fn believers(facts: &Facts, serial: &str, found: &Found) -> Vec<MemberKey> {
    let owner = facts
        .members
        .values()
        .filter_map(|member| member.claim.as_ref().ok())
        .find(|claim| claim.cluster == found.cluster);
    facts
        .members
        .iter()
        .filter(|(_, member)| {
            member
                .claim
                .as_ref()
                .is_ok_and(|claim| claim.cluster != found.cluster)
        })
        .filter(|(_, member)| may_believe(member, owner, serial))
        .map(|(key, _)| key.clone())
        .collect()
}

fn may_believe(member: &MemberFacts, owner: Option<&Claim>, serial: &str) -> bool {
    let meets = match (&member.claim, owner) {
        (Ok(claim), Some(owner)) => calls(claim, owner).is_some() || calls(owner, claim).is_some(),
        // Whoever it met cannot be told any more.
        (Ok(_), None) => true,
        (Err(_), _) => false,
    };
    let Some(delivered) = &member.delivered else {
        // Nothing was delivered since this process began; without a certificate of its own it never met anybody.
        return meets && !member.anchors.is_empty();
    };
    let told = delivered
        .delivery
        .trusts
        .values()
        .flat_map(|trust| &trust.anchors)
        .any(|anchor| plain_serial(&anchor.serial) == serial);
    let replicas = member
        .agent
        .iter()
        .flat_map(|agent| agent.replicas.values());
    let mut accepted = replicas.map(|replica| replica.accepted >= Some(delivered.generation));
    told || (meets && !(accepted.next() == Some(true) && accepted.all(|accepted| accepted)))
}

/// What a revocation list says, as far as its renewal depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFacts {
    /// SHA-256 of the public key that signed it, lower-case hex.
    pub issuer: String,
    /// When it was signed.
    pub from: Timestamp,
    /// When the next one must be there.
    pub until: Timestamp,
    /// Serial numbers in it, as [`plain_serial`] writes them.
    pub serials: BTreeSet<String>,
}

/// Whether a list must be signed: there is none of this key, one is missing in it, or half of its life is over.
#[must_use]
pub fn is_list_due(
    list: Option<&ListFacts>,
    issuer: &str,
    revoked: &BTreeSet<String>,
    now: Timestamp,
) -> bool {
    list.filter(|list| list.issuer == issuer)
        .is_none_or(|list| {
            let half = list.until.duration_since(list.from) / 2;
            !revoked.is_subset(&list.serials)
                || list.from.checked_add(half).is_ok_and(|half| now >= half)
        })
}

#[cfg(test)]
mod tests;
