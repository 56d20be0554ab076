//! What a consumer's istiod says about the regions that it reads, and when that is worth telling.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::names::ClusterName;

/// How long a region is out of step before it is told. A changed secret, and an istiod that was restarted, are over sooner.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// How a consumer's istiod stands to a region; what is worse comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Synced {
    /// It has read everything there.
    Synced,
    /// It could not be asked.
    Unasked,
    /// It is at it.
    Syncing,
    /// It could not read everything there in time.
    Timeout,
    /// It does not know the region.
    Absent,
    /// It reads the region by a Secret that is not ours.
    Foreign,
}

impl Synced {
    /// From the word for it, ours or that of `/debug/clusterz`.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        match word {
            "synced" => Some(Self::Synced),
            "unasked" => Some(Self::Unasked),
            "syncing" => Some(Self::Syncing),
            "timeout" => Some(Self::Timeout),
            "absent" | "closed" => Some(Self::Absent),
            "foreign" => Some(Self::Foreign),
            _ => None,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Unasked => "unasked",
            Self::Syncing => "syncing",
            Self::Timeout => "timeout",
            Self::Absent => "absent",
            Self::Foreign => "foreign",
        }
    }
}

/// What is said about one region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// How istiod stands to it.
    pub state: Synced,
    /// The Secret that is not ours, or why istiod could not be asked.
    pub note: Option<String>,
}

impl Said {
    /// Nothing but a word.
    #[must_use]
    pub const fn of(state: Synced) -> Self {
        Self { state, note: None }
    }
}

/// What several istiods say about the same region: the worst of it. A region of which one of them says nothing is absent there.
#[must_use]
pub fn worst(
    regions: &BTreeSet<ClusterName>,
    all: &[BTreeMap<ClusterName, Said>],
) -> BTreeMap<ClusterName, Said> {
    let of = |region: &ClusterName| {
        let said = all.iter().map(|said| {
            let known = said.get(region).cloned();
            known.unwrap_or(Said::of(Synced::Absent))
        });
        said.max()
    };
    let said = regions
        .iter()
        .filter_map(|region| Some((region.clone(), of(region)?)));
    said.collect()
}

/// Remembers what was told, so that only what lasts is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    told: BTreeMap<ClusterName, Said>,
    /// Since when a region is not as it was told.
    since: BTreeMap<ClusterName, Timestamp>,
}

impl Track {
    /// Takes in what was heard now. That a region is synced is told at once; all else when it has lasted.
    pub fn hear(
        &mut self,
        heard: &BTreeMap<ClusterName, Said>,
        now: Timestamp,
    ) -> &BTreeMap<ClusterName, Said> {
        self.told.retain(|region, _| heard.contains_key(region));
        self.since.retain(|region, _| heard.contains_key(region));
        for (region, said) in heard {
            let good = said.state == Synced::Synced;
            if self.told.get(region) == Some(said) {
                self.since.remove(region);
                continue;
            }
            let since = *self.since.entry(region.clone()).or_insert(now);
            // A clock that was stepped back begins anew.
            let lasted = now.duration_since(since);
            if lasted < SignedDuration::ZERO {
                self.since.insert(region.clone(), now);
            }
            if good || lasted >= PATIENCE {
                self.told.insert(region.clone(), said.clone());
                self.since.remove(region);
            }
        }
        &self.told
    }

    /// Everything heard last was as told, and good.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.since.is_empty() && self.told.values().all(|said| said.state == Synced::Synced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn heard(state: Synced) -> BTreeMap<ClusterName, Said> {
        [(region("region1"), Said::of(state))].into()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn what_is_over_soon_is_not_told() {
        let mut track = Track::default();
        assert!(track.hear(&heard(Synced::Syncing), at(0)).is_empty());
        assert!(!track.is_quiet());
        assert_eq!(
            *track.hear(&heard(Synced::Synced), at(1)),
            heard(Synced::Synced)
        );
        assert!(track.is_quiet());
        for second in [2, 11] {
            let told = track.hear(&heard(Synced::Syncing), at(second));
            assert_eq!(*told, heard(Synced::Synced));
        }
        assert!(!track.is_quiet());
        assert_eq!(
            *track.hear(&heard(Synced::Syncing), at(12)),
            heard(Synced::Syncing)
        );
        assert!(!track.is_quiet(), "bad is looked at often");
        assert_eq!(
            *track.hear(&heard(Synced::Synced), at(13)),
            heard(Synced::Synced)
        );
    }

    #[test]
    fn one_bad_state_after_another_has_lasted_as_long_as_both() {
        let mut track = Track::default();
        track.hear(&heard(Synced::Absent), at(0));
        track.hear(&heard(Synced::Syncing), at(6));
        assert_eq!(
            *track.hear(&heard(Synced::Timeout), at(10)),
            heard(Synced::Timeout)
        );
    }

    #[test]
    fn a_clock_that_goes_back_tells_nothing_sooner() {
        let mut track = Track::default();
        track.hear(&heard(Synced::Absent), at(0));
        assert!(track.hear(&heard(Synced::Absent), at(-100)).is_empty());
        assert!(track.hear(&heard(Synced::Absent), at(-91)).is_empty());
        assert_eq!(
            *track.hear(&heard(Synced::Absent), at(-90)),
            heard(Synced::Absent)
        );
    }

    #[test]
    fn regions_that_are_not_called_any_more_are_forgotten() {
        let mut track = Track::default();
        track.hear(&heard(Synced::Synced), at(0));
        assert!(track.hear(&BTreeMap::new(), at(1)).is_empty());
        assert!(track.is_quiet());
    }

    #[test]
    fn of_several_istiods_the_worst_counts() {
        let regions = [region("region1"), region("region2")].into();
        let one = [
            (region("region1"), Said::of(Synced::Synced)),
            (region("region2"), Said::of(Synced::Synced)),
            (region("other"), Said::of(Synced::Timeout)),
        ];
        let said = worst(&regions, &[one.clone().into(), heard(Synced::Timeout)]);
        let states: Vec<Synced> = said.values().map(|said| said.state).collect();
        assert_eq!(states, [Synced::Timeout, Synced::Absent]);
        let said = worst(&regions, &[one.into()]);
        assert!(said.values().all(|said| said.state == Synced::Synced));
        assert!(worst(&regions, &[]).is_empty(), "nobody was asked");
    }

    #[test]
    fn every_word_is_read_back() {
        for state in [
            Synced::Synced,
            Synced::Unasked,
            Synced::Syncing,
            Synced::Timeout,
            Synced::Absent,
            Synced::Foreign,
        ] {
            assert_eq!(Synced::read(state.as_str()), Some(state));
        }
        assert_eq!(Synced::read("closed"), Some(Synced::Absent));
        assert_eq!(Synced::read("Synced"), None);
    }
}
