//! What is put before the judges.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// What kind of thing is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Root,
    Intermediate,
    Leaf,
    Server,
    List,
}

impl Role {
    /// As the Go program calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Leaf => "leaf",
            Self::Server => "server",
            Self::List => "crl",
        }
    }
}

/// One thing to be judged, with all that is needed to shake hands below or beside it. All texts are PEM.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub role: Role,
    /// What is judged.
    pub own: String,
    /// What a peer presents: leaf first.
    pub chain: String,
    /// Key of the leaf.
    pub key: String,
    pub anchors: String,
    /// Revocation lists of every CA in the chain; empty: nobody asks for revocation.
    pub lists: String,
    /// The anchor is an intermediate, as in the Envoys we drive: then only the leaf's list is asked for.
    pub partial: bool,
    /// The name the peer is expected to have: a URI, or a DNS name for a server.
    pub peer: String,
}

/// A folder that is gone when the test is over.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: the paths of sockets in it have little room.
        let path = std::env::temp_dir().join(format!("mesh-jd-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and says where.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// The blocks of a PEM text, each with its lines.
pub fn blocks(text: &str) -> Vec<String> {
    text.split_inclusive("-----\n")
        .collect::<Vec<_>>()
        .chunks(2)
        .map(<[&str]>::concat)
        .collect()
}

/// The bytes of each block.
pub fn ders(text: &str) -> Vec<Vec<u8>> {
    pem::parse_many(text)
        .unwrap()
        .into_iter()
        .map(pem::Pem::into_contents)
        .collect()
}
