//! Named, versioned bytes: what a node should have. No protocol and no gRPC types here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

#[cfg(test)]
mod tests;

/// A type of xDS resource, in the order in which additions are sent (make before break).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Clusters.
    Cds,
    /// Endpoints of clusters.
    Eds,
    /// Secrets: certificates, keys and trust anchors.
    Sds,
    /// Listeners.
    Lds,
    /// Routes of listeners.
    Rds,
}

impl Kind {
    /// All kinds in the order of sending.
    pub const ALL: [Self; 5] = [Self::Cds, Self::Eds, Self::Sds, Self::Lds, Self::Rds];

    /// The protobuf type URL that names this kind on the wire.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cds => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Eds => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Sds => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Lds => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Rds => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind with this type URL, if it is one that is served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Listeners and clusters can be subscribed to as a whole; the others only by name.
    pub const fn has_wildcard(self) -> bool {
        matches!(self, Self::Cds | Self::Lds)
    }

    /// The short name people use: `CDS`, `EDS`, `SDS`, `LDS`, `RDS`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Cds => "CDS",
            Self::Eds => "EDS",
            Self::Sds => "SDS",
            Self::Lds => "LDS",
            Self::Rds => "RDS",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// A pointer from one resource to another: a cluster to its endpoints, a listener to its routes.
pub type Reference = (Kind, Arc<str>);

/// One resource: a name, a body, and a version that is a hash of the body.
///
/// The version is the same on every replica and after every restart as long as the body is, so an
/// Envoy that reconnects is told only what really changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Name, unique in its kind.
    pub name: Arc<str>,
    /// 128 bits of the SHA-256 of the body, in hex.
    pub version: Arc<str>,
    /// The encoded message, as it goes into `Any.value`.
    pub body: Bytes,
    /// What this resource needs to be complete.
    pub refs: BTreeSet<Reference>,
}

impl Resource {
    /// A resource whose version is the hash of `body`.
    pub fn new(name: impl Into<Arc<str>>, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let version = hash(&[&body]);
        Self {
            name: name.into(),
            version,
            body,
            refs: BTreeSet::new(),
        }
    }

    /// The same resource with references.
    pub fn with_refs(mut self, refs: impl IntoIterator<Item = Reference>) -> Self {
        self.refs.extend(refs);
        self
    }
}

/// Bodies of secrets are keys, so no body is ever shown.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Everything one node should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts up with every change at one [`crate::Store`]; zero before it was stored there.
    pub generation: u64,
    kinds: BTreeMap<Kind, BTreeMap<Arc<str>, Resource>>,
}

impl Snapshot {
    /// An empty snapshot: the node should have nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a resource.
    ///
    /// # Errors
    /// [`CheckError::Duplicate`] when the kind already has one of that name (a delta client
    /// refuses a response that names a resource twice).
    pub fn insert(&mut self, kind: Kind, resource: Resource) -> Result<(), CheckError> {
        let kind_map = self.kinds.entry(kind).or_default();
        if kind_map.contains_key(&resource.name) {
            return Err(CheckError::Duplicate {
                kind,
                name: resource.name,
            });
        }
        kind_map.insert(Arc::clone(&resource.name), resource);
        Ok(())
    }

    /// The resource of this kind and name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.kinds.get(&kind)?.get(name)
    }

    /// All resources of a kind, sorted by name.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.kinds.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.kinds.values().map(BTreeMap::len).sum()
    }

    /// Whether there is no resource at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hash over all names and versions: equal digests mean equal content.
    pub fn digest(&self) -> Arc<str> {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.len() * 3);
        for (kind, resources) in &self.kinds {
            for resource in resources.values() {
                parts.push(kind.short().as_bytes());
                parts.push(resource.name.as_bytes());
                parts.push(resource.version.as_bytes());
            }
        }
        hash(&parts)
    }

    /// Checks that the snapshot is whole: every reference resolves.
    ///
    /// # Errors
    /// [`CheckError::Dangling`] with the first reference that leads nowhere.
    pub fn check(&self) -> Result<(), CheckError> {
        for (kind, resources) in &self.kinds {
            for resource in resources.values() {
                for (to, name) in &resource.refs {
                    if self.get(*to, name).is_none() {
                        return Err(CheckError::Dangling {
                            from: *kind,
                            name: Arc::clone(&resource.name),
                            to: *to,
                            missing: Arc::clone(name),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// What a client of this snapshot ends up with: the roots (clusters and listeners) and all
    /// they refer to.
    pub fn reachable(&self) -> BTreeSet<Reference> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<Reference> = [Kind::Cds, Kind::Lds]
            .into_iter()
            .flat_map(|kind| self.iter(kind).map(move |r| (kind, Arc::clone(&r.name))))
            .collect();
        while let Some((kind, name)) = todo.pop() {
            if let Some(resource) = self.get(kind, &name)
                && seen.insert((kind, name))
            {
                todo.extend(resource.refs.iter().cloned());
            }
        }
        seen
    }
}

/// Why a snapshot is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Two resources of one kind share a name.
    #[error("failed to add {kind} resource {name:?}: the name is taken")]
    Duplicate {
        /// Kind of both.
        kind: Kind,
        /// Their name.
        name: Arc<str>,
    },
    /// A resource refers to one that is not there.
    #[error("failed to resolve {to} {missing:?}, which {from} {name:?} refers to")]
    Dangling {
        /// Kind of the resource that refers.
        from: Kind,
        /// Its name.
        name: Arc<str>,
        /// Kind it refers to.
        to: Kind,
        /// Name it refers to.
        missing: Arc<str>,
    },
}

/// 128 bits of SHA-256 over length-prefixed parts, in hex.
fn hash(parts: &[&[u8]]) -> Arc<str> {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    let mut hex = String::with_capacity(32);
    for byte in sha.finalize().iter().take(16) {
        for nibble in [byte >> 4, byte & 0xf] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    hex.into()
}
