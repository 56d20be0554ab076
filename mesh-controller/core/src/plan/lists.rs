//! The revocation lists that one member is told: not more than fit into an object.

use std::collections::BTreeMap;

use crate::facts::Crl;

/// Most bytes of lists that one member is told. A list of nothing has half a kilobyte; an object of Kubernetes may have a megabyte and a half.
const TOTAL_MAX: usize = 512 * 1024;

/// Lists that are gathered, by the key that signed them.
#[derive(Debug, Default)]
pub(super) struct Lists<'a> {
    own: Option<&'a Crl>,
    others: BTreeMap<&'a str, &'a Crl>,
}

impl<'a> Lists<'a> {
    /// With the root's, which is always told.
    pub(super) fn new(root: Option<&'a Crl>) -> Self {
        Self {
            own: root,
            others: BTreeMap::new(),
        }
    }

    /// Adds those of a member.
    pub(super) fn extend(&mut self, lists: &'a [Crl]) {
        for list in lists {
            let newest = self.others.entry(&list.issuer).or_insert(list);
            if newest.number < list.number {
                *newest = list;
            }
        }
    }

    /// As many as fit, the shortest first: who fills his list to hurt others loses it.
    pub(super) fn within(self) -> BTreeMap<String, String> {
        let mut lists: Vec<&Crl> = self.others.into_values().collect();
        lists.sort_by_key(|list| (list.list.len(), &list.issuer));
        let mut left = TOTAL_MAX;
        let mut told = BTreeMap::new();
        for list in self.own.into_iter().chain(lists) {
            let Some(rest) = left.checked_sub(list.list.len()) else {
                break;
            };
            left = rest;
            told.entry(list.issuer.clone())
                .or_insert_with(|| list.list.clone());
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(issuer: &str, number: u64, bytes: usize) -> Crl {
        Crl {
            issuer: issuer.to_owned(),
            number,
            until: None,
            list: "x".repeat(bytes),
        }
    }

    #[test]
    fn of_two_lists_of_a_key_the_newer_one_is_told() {
        let known = [list("a", 2, 7), list("a", 1, 5), list("a", 3, 9)];
        let mut lists = Lists::new(None);
        lists.extend(&known);
        assert_eq!(lists.within()["a"].len(), 9);
    }

    #[test]
    fn what_is_too_much_is_left_out_and_never_the_root_s() {
        let root = list("root", 1, 1000);
        let greedy: Vec<Crl> = (0..40)
            .map(|i| list(&format!("greedy{i}"), 1, 16 * 1024))
            .collect();
        let honest: Vec<Crl> = (0..200)
            .map(|i| list(&format!("honest{i}"), 1, 500))
            .collect();
        let mut lists = Lists::new(Some(&root));
        lists.extend(&greedy);
        lists.extend(&honest);
        let told = lists.within();
        assert!(told.values().map(String::len).sum::<usize>() <= TOTAL_MAX);
        assert!(told.contains_key("root"));
        assert_eq!(told.keys().filter(|k| k.starts_with("honest")).count(), 200);
        assert!(told.keys().filter(|k| k.starts_with("greedy")).count() < 40);
    }
}
