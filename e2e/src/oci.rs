//! Container images from local files: an OCI image layout inside a tar, written without a registry
//! and without an engine. One layer that is not compressed (it never travels), owned by root, all
//! times 0: the same input gives the same digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use serde_json::json;

/// What one entry of the image is made from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A local file; its executable bit is kept.
    File(PathBuf),
    /// A symbolic link with this target.
    Link(String),
    /// An empty directory with this mode.
    Directory(u32),
}

/// An image to be written.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Full name with tag, such as `kof.test/echo:1`.
    pub name: String,
    /// What the container runs.
    pub entrypoint: Vec<String>,
    /// Numeric user.
    pub user: u32,
    /// Further environment, `NAME=value`.
    pub env: Vec<String>,
    /// Entries: path in the image and where it comes from.
    pub entries: Vec<(String, Source)>,
}

/// Hexadecimal SHA-256 of bytes.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    let mut digest = Digest::new(&SHA256);
    digest.update(bytes.as_ref());
    hex(digest)
}

/// Hexadecimal SHA-256 of a file.
pub fn sha256_file(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(sha256(bytes))
}

fn hex(digest: Digest) -> String {
    let bytes = digest.finish();
    let digit = |n: u8| char::from_digit(n.into(), 16).unwrap_or_default();
    let bytes = bytes.as_ref().iter();
    bytes.flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

impl Image {
    /// Adds a file together with the shared libraries it needs, as `ldd` lists them, each under
    /// the path the loader looks for. A static program brings none.
    pub fn program(mut self, file: &Path, path: &str) -> Result<Self> {
        self.entries
            .push((path.to_owned(), Source::File(file.to_owned())));
        for library in needs(file, None)? {
            self.library(&library, &library.display().to_string(), file)?;
        }
        Ok(self)
    }

    /// Adds a program out of an unpacked distribution, with libraries that may lie in its folder `libraries`. Those come
    /// under `/usr/lib/<triplet>`, where the loader looks by itself.
    pub fn unpacked(mut self, file: &Path, libraries: &Path, path: &str) -> Result<Self> {
        self.entries
            .push((path.to_owned(), Source::File(file.to_owned())));
        let triplet = libraries.file_name().unwrap_or_default();
        for library in needs(file, Some(libraries))? {
            let at = match library.strip_prefix(libraries) {
                Ok(name) => Path::new("/usr/lib").join(triplet).join(name),
                Err(_) => library.clone(),
            };
            self.library(&library, &at.display().to_string(), file)?;
        }
        Ok(self)
    }

    fn library(&mut self, library: &Path, at: &str, of: &Path) -> Result<()> {
        let real = std::fs::canonicalize(library)
            .with_context(|| format!("failed to find {} of {}", library.display(), of.display()))?;
        if !self.entries.iter().any(|(path, _)| path == at) {
            self.entries.push((at.to_owned(), Source::File(real)));
        }
        Ok(())
    }

    /// Writes the image as a tar that `ctr images import` reads.
    pub fn write(&self, to: &Path) -> Result<()> {
        let partial = to.with_extension("partial");
        let layer = to.with_extension("layer");
        let digest = self.write_layer(&layer)?;
        let size = std::fs::metadata(&layer)?.len();
        let path = "PATH=/usr/local/bin:/usr/bin:/bin".to_owned();
        let env: Vec<&String> = std::iter::once(&path).chain(&self.env).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint, "User": self.user.to_string(),
                "Env": env,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", sha256(&config)), "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{digest}"), "size": size }],
        }))?;
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", sha256(&manifest)), "size": manifest.len(),
                "annotations": { "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag } }],
        }))?;
        let mut out = tar::Builder::new(BufWriter::new(create(&partial)?));
        append(&mut out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(
            &mut out,
            &format!("blobs/sha256/{}", sha256(&config)),
            &config,
        )?;
        append(
            &mut out,
            &format!("blobs/sha256/{}", sha256(&manifest)),
            &manifest,
        )?;
        append(&mut out, "index.json", &index)?;
        let mut header = header(size, 0o644, tar::EntryType::Regular);
        out.append_data(
            &mut header,
            format!("blobs/sha256/{digest}"),
            File::open(&layer)?,
        )?;
        out.into_inner()?.flush()?;
        std::fs::remove_file(&layer)?;
        std::fs::rename(&partial, to).with_context(|| format!("failed to write {}", to.display()))
    }

    /// Writes the layer and returns its digest.
    fn write_layer(&self, to: &Path) -> Result<String> {
        let mut out = tar::Builder::new(Hashed {
            to: BufWriter::new(create(to)?),
            digest: Digest::new(&SHA256),
        });
        let mut made = BTreeSet::new();
        for (path, source) in &self.entries {
            let path = path.trim_start_matches('/');
            for parent in Path::new(path)
                .ancestors()
                .skip(1)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                if !parent.as_os_str().is_empty() && made.insert(parent.to_owned()) {
                    let mut header = header(0, 0o755, tar::EntryType::Directory);
                    out.append_data(&mut header, parent, std::io::empty())?;
                }
            }
            match source {
                Source::Directory(permissions) => {
                    let mut header = header(0, *permissions, tar::EntryType::Directory);
                    if made.insert(PathBuf::from(path)) {
                        out.append_data(&mut header, path, std::io::empty())?;
                    }
                }
                Source::Link(target) => {
                    let mut header = header(0, 0o777, tar::EntryType::Symlink);
                    out.append_link(&mut header, path, target)?;
                }
                Source::File(file) => {
                    let opened = File::open(file)
                        .with_context(|| format!("failed to open {}", file.display()))?;
                    let about = opened.metadata()?;
                    let permissions = if about.permissions().mode() & 0o111 == 0 {
                        0o644
                    } else {
                        0o755
                    };
                    let mut header = header(about.len(), permissions, tar::EntryType::Regular);
                    out.append_data(&mut header, path, opened)?;
                }
            }
        }
        let mut hashed = out.into_inner()?;
        hashed.flush()?;
        Ok(hex(hashed.digest))
    }
}

/// The shared libraries of a program, where the loader finds them: first in `also`, if given.
fn needs(file: &Path, also: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut command = std::process::Command::new("ldd");
    command.arg(file);
    if let Some(folder) = also {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let listed = command.output().context("failed to start ldd")?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let found = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    Ok(found.map(PathBuf::from).collect())
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("failed to create {}", path.display()))
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_entry_type(kind);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn append(out: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(bytes.len() as u64, 0o644, tar::EntryType::Regular);
    Ok(out.append_data(&mut header, path, bytes)?)
}

/// A writer that knows the digest of what went through it.
struct Hashed<W> {
    to: W,
    digest: Digest,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{Image, Source, sha256};

    #[test]
    fn digests_are_hexadecimal() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
    }

    #[test]
    fn the_same_input_is_the_same_image() {
        let folder = std::env::temp_dir().join(format!("oci-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let image = Image {
            name: "kof.test/x:1".to_owned(),
            entries: vec![
                ("/usr/bin/x".to_owned(), Source::File(program)),
                ("/bin/x".to_owned(), Source::Link("/usr/bin/x".to_owned())),
                ("/tmp".to_owned(), Source::Directory(0o1777)),
            ],
            ..Image::default()
        };
        image.write(&folder.join("a.tar")).unwrap();
        image.write(&folder.join("b.tar")).unwrap();
        let [a, b] = ["a.tar", "b.tar"].map(|f| std::fs::read(folder.join(f)).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(sha256(&a), sha256(&b));
        let mut names: Vec<String> = Vec::new();
        for entry in tar::Archive::new(a.as_slice()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names.first().unwrap(), "oci-layout");
        assert!(names.contains(&"index.json".to_owned()));
        assert_eq!(
            names.len(),
            5,
            "layout, index, manifest, configuration, one layer: {names:?}"
        );
    }
}
