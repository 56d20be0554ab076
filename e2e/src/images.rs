//! The images of the fleet, all named `kof.test/<name>:<tag>`, made from local programs.
//!
//! A tag of an image made here is the hash of what it is made from (the pause image, whose name
//! is in containerd's configuration, and nothing else is called `:1`), so "is it there already" is
//! a question of names and a new build of the product is a new image.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::components::{Components, Istio};
use crate::oci::{self, Source};
use crate::{paths, progress};

/// User that images run as unless they say otherwise, as in distroless `nonroot`.
const NONROOT: u32 = 65532;
/// User of Istio's proxies.
const PROXY: u32 = 1337;

/// An image that lies in the cache as a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Short name, such as `echo`.
    pub short: String,
    /// Full name with tag.
    pub name: String,
    /// The tar.
    pub tar: PathBuf,
}

/// The images every cluster gets.
#[derive(Clone, Debug)]
pub struct Images(Vec<Image>);

impl Images {
    /// Makes what is missing in the cache.
    pub fn ensure(components: &Components) -> Result<Self> {
        let c = components;
        let vm = |name: &str| c.debian(&format!("usr/bin/{name}"));
        let mut all = [
            (recipe("pause", &c.program("pause"), "/pause")?, Some("1")),
            (recipe("coredns", &c.coredns(), "/coredns")?, None),
            (busybox(c), None),
            (
                recipe("echo", &c.program("echo"), "/usr/local/bin/echo")?,
                None,
            ),
            (
                recipe("vmauth", &c.program("vmauth"), "/usr/local/bin/vmauth")?,
                None,
            ),
            (
                recipe(
                    "victoria-metrics",
                    &vm("victoria-metrics"),
                    "/usr/local/bin/victoria-metrics",
                )?,
                None,
            ),
            (
                recipe("vmagent", &vm("vmagent"), "/usr/local/bin/vmagent")?,
                None,
            ),
            (recipe("envoy", &c.envoy(), "/usr/local/bin/envoy")?, None),
        ];
        all.iter_mut()
            .map(|(image, tag)| write(image, *tag))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// All of them.
    pub fn all(&self) -> &[Image] {
        &self.0
    }

    /// Those a node needs before its first pod.
    pub fn boot(&self) -> impl Iterator<Item = &Image> {
        self.0
            .iter()
            .filter(|i| ["pause", "coredns"].contains(&i.short.as_str()))
    }

    /// Full name of an image by its short one.
    pub fn name(&self, short: &str) -> Result<&str> {
        let found = self.0.iter().find(|i| i.short == short);
        Ok(&found
            .with_context(|| format!("the fleet has no image {short:?}"))?
            .name)
    }
}

/// The product's image, `kof.test/mesh-controller:<hash>`, made from a built binary.
pub fn product(binary: &Path) -> Result<Image> {
    write(
        &mut recipe("mesh-controller", binary, "/usr/local/bin/mesh-controller")?,
        None,
    )
}

/// Istio's two images: `istio-proxy` (pilot-agent with Envoy, and `nft` for its init container) and `pilot` (istiod).
pub fn istio(components: &Components, istio: &Istio) -> Result<[Image; 2]> {
    let at = |name: &str| format!("/usr/local/bin/{name}");
    let agent = istio.program("pilot-agent");
    let mut proxy = recipe("istio-proxy", &agent, &at("pilot-agent"))?
        .program(&components.envoy(), &at("envoy"))?;
    proxy.user = PROXY;
    proxy.entries.push((
        "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json".to_owned(),
        Source::File(istio.file("tools/packaging/common/envoy_bootstrap.json")),
    ));
    // `pilot-agent istio-iptables --native-nftables` calls it
    proxy = proxy.unpacked(
        &components.debian("usr/sbin/nft"),
        &components.debian("usr/lib/x86_64-linux-gnu"),
        &at("nft"),
    )?;
    let discovery = istio.program("pilot-discovery");
    let mut pilot = recipe("pilot", &discovery, &at("pilot-discovery"))?;
    pilot.user = PROXY;
    Ok([write(&mut proxy, None)?, write(&mut pilot, None)?])
}

/// An image of a dynamically linked program whose clock runs `offset` ahead (or behind), such as
/// `+10m`: the same program with libfaketime loaded before it.
///
/// Linux has one wall clock for all namespaces (a time namespace covers the monotonic clocks
/// only), so a clock cannot be wrong for a whole member here. What such an image gives is a
/// process that *reads* a wrong wall clock; kernel, API server and other pods keep the right one.
pub fn with_clock(
    components: &Components,
    short: &str,
    binary: &Path,
    offset: &str,
) -> Result<Image> {
    let library = "/usr/local/lib/libfaketime.so.1";
    let from = components.debian("usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
    let program = format!("/usr/local/bin/{short}");
    let mut image = recipe(short, binary, &program)?.program(&from, library)?;
    image.env = vec![
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME={offset}"),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    write(&mut image, None)
}

fn recipe(short: &str, binary: &Path, path: &str) -> Result<oci::Image> {
    oci::Image {
        name: format!("kof.test/{short}"),
        entrypoint: vec![path.to_owned()],
        user: NONROOT,
        env: Vec::new(),
        entries: vec![("/tmp".to_owned(), Source::Directory(0o1777))],
    }
    .program(binary, path)
}

fn busybox(components: &Components) -> oci::Image {
    let tools = [
        "sh", "cat", "ls", "wget", "nslookup", "nc", "ip", "sleep", "id", "ping", "ps", "mount",
        "timeout", "date", "grep", "head", "tail", "env", "mkdir", "rm", "cp", "vi", "wc", "sort",
    ];
    let mut entries = vec![
        ("/tmp".to_owned(), Source::Directory(0o1777)),
        (
            "/bin/busybox".to_owned(),
            Source::File(components.debian("bin/busybox")),
        ),
        // a static program cannot load the C library's resolver, so wget knows addresses only
        (
            "/bin/fetch".to_owned(),
            Source::File(components.program("echo")),
        ),
    ];
    entries.extend(tools.map(|t| (format!("/bin/{t}"), Source::Link("/bin/busybox".to_owned()))));
    oci::Image {
        name: "kof.test/busybox".to_owned(),
        entrypoint: vec!["/bin/sh".to_owned()],
        user: NONROOT,
        env: Vec::new(),
        entries,
    }
}

/// Gives the image its tag and writes it unless the cache has it.
fn write(image: &mut oci::Image, tag: Option<&str>) -> Result<Image> {
    let cache = paths::cache()?;
    let mut text = format!("2 {image:?}\n");
    for (path, source) in &image.entries {
        if let Source::File(file) = source {
            // a component's folder is named after what it was made from, so its path is enough
            if !file.starts_with(&cache) {
                text.extend([path.as_str(), " ", &oci::sha256_file(file)?, "\n"]);
            }
        }
    }
    let key: String = oci::sha256(text).chars().take(12).collect();
    let short = image.name.rsplit('/').next().unwrap_or_default().to_owned();
    image.name = format!("{}:{}", image.name, tag.unwrap_or(&key));
    let folder = cache.join("images");
    std::fs::create_dir_all(&folder)?;
    let tar = folder.join(format!("{short}-{key}.tar"));
    if !tar.exists() {
        let _lock = paths::lock(&folder.join("lock"), "another run writes images")?;
        if !tar.exists() {
            image
                .write(&tar)
                .with_context(|| format!("failed to make image {}", image.name))?;
            progress::step(format!("image {}: made", image.name));
        }
    }
    Ok(Image {
        short,
        name: image.name.clone(),
        tar,
    })
}
