//! Which revocation lists Istio's proxies are given in one text (`ca-crl.pem`), and when.
//!
//! A proxy that was given lists refuses everything below a CA that has no living one among them. So it is given none before something is
//! revoked, and then not before there is one of every CA that it may meet. From then on its lists are kept alive: one that cannot be renewed
//! costs its own CA, never the others. Once nothing is revoked any more they are taken back, if whoever reads them can be told so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

/// A list that ends within this is not given any more.
pub const ENDS_SOON: SignedDuration = SignedDuration::from_mins(5);

/// What a list of one CA says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Grows with each list of a CA.
    pub number: u64,
    /// When its life began.
    pub from: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Serial numbers in it.
    pub serials: BTreeSet<String>,
}

impl List {
    /// It can be gone by for a while.
    #[must_use]
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.until.duration_since(now) > ENDS_SOON
    }

    /// Less than a quarter of its life is left. The next one was made at half of it: so the text is not written anew for each list that
    /// somebody renews.
    fn is_old(&self, now: Timestamp) -> bool {
        self.until.duration_since(now) < self.until.duration_since(self.from) / 4
    }
}

/// Lists by the CA: SHA-256 of its public key, lower-case hex.
pub type Lists = BTreeMap<String, List>;

/// Most bytes of a text: all that one member is told, and more. A `ConfigMap` holds 1 MiB.
const TEXT_MAX: usize = 768 * 1024;

/// The CAs whose lists fit into a text: those of the mesh itself first (`true`), then the shortest of others. Who fills his list to hurt others
/// loses it. Given is the length of each.
#[must_use]
pub fn fitting(lists: &BTreeMap<String, (bool, usize)>) -> BTreeSet<String> {
    let mut order: Vec<_> = lists.iter().collect();
    order.sort_by_key(|(ca, (own, bytes))| (!own, *bytes, *ca));
    let mut left = TEXT_MAX;
    let fits = |(ca, (_, bytes)): (&String, &(bool, usize))| {
        left = left.checked_sub(*bytes)?;
        Some(ca.clone())
    };
    order.into_iter().map_while(fits).collect()
}

/// Who reads the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The proxies themselves: they go by what stands there, and by none once an empty text does.
    Proxies,
    /// istiod, which hands it on to proxies: it never forgets what it has read, so what was begun is kept alive.
    Istiod,
}

/// What is known about the text of one member.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The CAs that proxies here may meet.
    pub met: &'a BTreeSet<String>,
    /// The newest good list of each CA, as far as there is one.
    pub known: &'a Lists,
    /// What stands in the text, as far as it is good; nothing if there is none, or an empty one.
    pub standing: &'a Lists,
    /// A text of ours stands, also if no list in it is good any more: whoever reads it refuses everybody below a CA without one.
    pub begun: bool,
    /// Who reads it.
    pub reader: Reader,
}

/// What is to become of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It stays as it is, also if there is none.
    Keep,
    /// It is written anew.
    Write {
        /// The CAs whose newest lists it is to hold.
        newest: BTreeSet<String>,
        /// The CAs whose lists it holds already, since there are no newer ones.
        kept: BTreeSet<String>,
    },
    /// Nothing is revoked: there is to be none.
    Withdraw,
}

/// What is to become of the text, and what cannot be as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// CAs without a living list, while something is revoked: as long as no text stands, they are waited for; afterwards proxies refuse what is
    /// below them.
    pub missing: BTreeSet<String>,
}

/// Decides.
#[must_use]
pub fn decide(case: Case<'_>, now: Timestamp) -> Decision {
    let Case {
        met,
        known,
        standing,
        begun,
        reader,
    } = case;
    let alive: BTreeMap<&String, &List> = known
        .iter()
        .filter(|(ca, list)| met.contains(*ca) && list.is_alive(now))
        .collect();
    let missing: BTreeSet<String> = met
        .iter()
        .filter(|ca| !alive.contains_key(ca))
        .cloned()
        .collect();
    let is_revoked = alive.values().any(|list| !list.serials.is_empty());
    // Somebody who knows more has written the text.
    let is_behind = alive.iter().any(|(ca, list)| {
        let held = standing.get(*ca).filter(|held| held.is_alive(now));
        held.is_some_and(|held| held.number > list.number)
    });
    let rest = |step| Decision {
        step,
        missing: BTreeSet::new(),
    };
    match (begun, is_revoked, missing.is_empty()) {
        // Whether something is revoked is known only when every list is.
        (false, false, false) => rest(Step::Keep),
        (false, false, true) => rest(Step::Withdraw),
        (true, false, true) if reader == Reader::Proxies && !is_behind => rest(Step::Withdraw),
        (false, true, false) => Decision {
            step: Step::Keep,
            missing,
        },
        (false, true, true) => rest(Step::Write {
            newest: met.clone(),
            kept: BTreeSet::new(),
        }),
        (true, _, _) => go_on(met, &alive, standing, now),
    }
}

/// Keeps a text alive that was begun.
fn go_on(
    met: &BTreeSet<String>,
    alive: &BTreeMap<&String, &List>,
    standing: &Lists,
    now: Timestamp,
) -> Decision {
    let held = |ca: &String| standing.get(ca).filter(|list| list.is_alive(now));
    let newer = |ca: &String, list: &List| held(ca).is_none_or(|old| old.number < list.number);
    let urgent = |(ca, list): (&&String, &&List)| {
        held(ca).is_none_or(|old| {
            old.number < list.number
                && (!list.serials.is_subset(&old.serials)
                    || (old.is_old(now) && old.until < list.until))
        })
    };
    let missing = met
        .iter()
        .filter(|ca| !alive.contains_key(ca) && held(ca).is_none())
        .cloned()
        .collect();
    if !alive.iter().any(urgent) {
        return Decision {
            step: Step::Keep,
            missing,
        };
    }
    let newest: BTreeSet<String> = alive
        .iter()
        .filter(|(ca, list)| newer(ca, list))
        .map(|(ca, _)| (*ca).clone())
        .collect();
    let kept = met
        .iter()
        .filter(|ca| !newest.contains(*ca) && held(ca).is_some())
        .cloned()
        .collect();
    Decision {
        step: Step::Write { newest, kept },
        missing,
    }
}

#[cfg(test)]
mod tests;
