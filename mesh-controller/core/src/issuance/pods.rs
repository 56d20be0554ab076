//! What runs where, as far as it matters to who may ask for whom.

use std::collections::BTreeMap;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its service account.
    pub account: String,
    /// Its node; empty as long as it has none.
    pub node: String,
    /// It has ended, well or not.
    pub over: bool,
}

/// All pods of a cluster, and how many of each service account run on each node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// By namespace and name.
    pods: BTreeMap<(String, String), Pod>,
    /// By node, namespace and account; none is 0.
    running: BTreeMap<(String, String, String), u32>,
}

impl Pods {
    /// Notes a pod, in place of what was known under its name.
    pub fn put(&mut self, namespace: &str, name: &str, pod: Pod) {
        self.remove(namespace, name);
        if let Some(place) = place(namespace, &pod) {
            *self.running.entry(place).or_default() += 1;
        }
        self.pods
            .insert((namespace.to_owned(), name.to_owned()), pod);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let Some(pod) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        if let Some(place) = place(namespace, &pod)
            && let Some(count) = self.running.get_mut(&place)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.running.remove(&place);
            }
        }
    }

    /// The pod of this name.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Whether a pod of this service account is on this node and has not ended.
    #[must_use]
    pub fn runs(&self, node: &str, namespace: &str, account: &str) -> bool {
        let place = (node.to_owned(), namespace.to_owned(), account.to_owned());
        self.running.contains_key(&place)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

fn place(namespace: &str, pod: &Pod) -> Option<(String, String, String)> {
    let counts = !pod.over && !pod.node.is_empty();
    counts.then(|| (pod.node.clone(), namespace.to_owned(), pod.account.clone()))
}
