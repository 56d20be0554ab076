//! Which generation of its intermediate a member signs with, and which it is to hold besides.
//!
//! A generation has its own key. The next is *prepared* at two thirds of the life of the one in use: made, signed by the root,
//! shown to peers. It is *signed with* once every peer that verifies this member has accepted it. The number is kept in
//! `MeshMember.status` before the member is told of it, so no restart takes it back.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::facts::Anchor;

/// The root dates intermediates back by this; it is not part of their life.
pub const DATED_BACK: SignedDuration = SignedDuration::from_hours(1);

/// What is known about the intermediates of one member.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The generation it was told to sign with last; from 1.
    pub signs: u32,
    /// The intermediates it holds.
    pub held: &'a [Anchor],
    /// Serial numbers that a person revoked, as [`crate::facts::plain_serial`] writes them.
    pub revoked: &'a BTreeSet<String>,
    /// The generations that every peer that verifies this member has accepted.
    pub accepted: &'a BTreeSet<u32>,
    /// The end of the root, if known: nothing it signs lives longer.
    pub root_ends: Option<Timestamp>,
    /// Whose they are, so that members do not all renew at once.
    pub seed: &'a str,
}

/// What the generations of a member are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generations {
    /// It signs with this.
    pub sign: u32,
    /// It is to hold this besides.
    pub prepare: Option<u32>,
    /// What makes waiting for peers wrong.
    pub emergency: Option<Emergency>,
    /// When it may be otherwise even if nothing happens until then.
    pub wake_at: Option<Timestamp>,
}

/// Why the next generation is signed with although not every peer has accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emergency {
    /// The one in use was revoked.
    Revoked,
    /// The one in use is over, or in the last tenth of its life.
    Ends,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            sign: 1,
            prepare: None,
            emergency: None,
            wake_at: None,
        }
    }
}

/// Decides.
#[must_use]
pub fn generations(known: Known<'_>, now: Timestamp) -> Generations {
    let signs = known.signs.max(1);
    let stay = Generations {
        sign: signs,
        ..Generations::default()
    };
    let Some(next) = known.next(signs, now) else {
        return stay;
    };
    let prepared = known.usable(next, now).is_some();
    let current = known.usable(signs, now);
    let emergency = match current {
        Some(current) if now >= last_tenth(current) => Some(Emergency::Ends),
        Some(_) => None,
        // Nothing was seen yet. Where only a newer one is seen, there is nothing to go on with.
        None if !known.has(signs) && !prepared => return stay,
        None if known.is_revoked(signs) => Some(Emergency::Revoked),
        None => Some(Emergency::Ends),
    };
    if prepared && (emergency.is_some() || known.accepted.contains(&next)) {
        return Generations {
            sign: next,
            prepare: None,
            emergency: emergency.filter(|_| !known.accepted.contains(&next)),
            wake_at: None,
        };
    }
    let due = current.map(|current| due(current, known.seed));
    let is_due =
        due.is_none_or(|due| now >= due) && !current.is_some_and(|current| known.is_cut(current));
    let last = current.map(last_tenth);
    Generations {
        prepare: (prepared || is_due).then_some(next),
        emergency,
        wake_at: [due, last]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min(),
        ..stay
    }
}

impl Known<'_> {
    fn of(&self, generation: u32) -> impl Iterator<Item = &Anchor> {
        self.held.iter().filter(move |a| a.generation == generation)
    }

    fn has(&self, generation: u32) -> bool {
        self.of(generation).next().is_some()
    }

    fn is_revoked(&self, generation: u32) -> bool {
        self.of(generation)
            .any(|anchor| anchor.is_among(self.revoked))
    }

    /// The longest-lived of this generation that can be signed with. One whose key is on another, revoked certificate cannot.
    fn usable(&self, generation: u32, now: Timestamp) -> Option<&Anchor> {
        self.of(generation)
            .filter(|anchor| anchor.not_after > now && !self.is_revoked(generation))
            .max_by_key(|anchor| anchor.not_after)
    }

    /// The first generation above that can be signed with; if there is none, the first that is not used up already.
    fn next(&self, signs: u32, now: Timestamp) -> Option<u32> {
        let above =
            |generation: &u32| *generation > signs && self.usable(*generation, now).is_some();
        let held = self
            .held
            .iter()
            .map(|anchor| anchor.generation)
            .filter(above)
            .min();
        held.or_else(|| self.first_new(signs))
    }

    fn first_new(&self, signs: u32) -> Option<u32> {
        (signs.checked_add(1)?..=u32::MAX).find(|next| !self.has(*next))
    }

    /// It ends with the root, or nearly: another would not live longer.
    fn is_cut(&self, anchor: &Anchor) -> bool {
        self.root_ends
            .is_some_and(|root| root.duration_since(anchor.not_after) < life(anchor) / 10)
    }
}

fn begin(anchor: &Anchor) -> Timestamp {
    anchor
        .not_before
        .saturating_add(DATED_BACK)
        .map_or(anchor.not_after, |begin| begin.min(anchor.not_after))
}

fn life(anchor: &Anchor) -> SignedDuration {
    anchor.not_after.duration_since(begin(anchor))
}

/// Two thirds of its life, earlier by up to a fifteenth of it.
fn due(anchor: &Anchor, seed: &str) -> Timestamp {
    let life = life(anchor).as_secs();
    let wait = life / 3 * 2 - life / 15 * i64::from(hash(seed)) / 256;
    begin(anchor)
        .saturating_add(SignedDuration::from_secs(wait))
        .unwrap_or(anchor.not_after)
}

fn last_tenth(anchor: &Anchor) -> Timestamp {
    anchor
        .not_after
        .saturating_sub(life(anchor) / 10)
        .unwrap_or(anchor.not_after)
}

/// A byte that is the same for the same name always (FNV-1a, folded).
fn hash(seed: &str) -> u8 {
    let hash = seed.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.to_le_bytes().iter().fold(0, |all, byte| all ^ byte)
}

#[cfg(test)]
mod tests;
