//! What tests of the chart need, beside a fleet.

use std::path::PathBuf;

use anyhow::Result;

use super::{Family, Kind, PLAIN, ensure, require_tools};

/// The Helm of the generation before. Made only for tests of the chart.
const HELM3: Family = Family {
    name: "helm3",
    folder: "helm3",
    kind: Kind::Go {
        packages: &["tool"],
        // as its releases are made: without a cluster it goes by the Kubernetes it was made with
        flags: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0 \
            -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37 \
            -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37",
    },
    takes: "2 min",
};

/// A registry for charts. Made only for tests of the chart.
const REGISTRY: Family = Family {
    name: "registry",
    folder: "registry",
    kind: Kind::Go {
        packages: &["."],
        flags: PLAIN,
    },
    takes: "20 s",
};

/// What tests of the chart need, beside a fleet.
#[derive(Clone, Debug)]
pub struct ChartTools {
    helm3: PathBuf,
    registry: PathBuf,
}

impl ChartTools {
    /// Makes them if need be. This needs the machine's own network, so not on threads of [`crate::run`].
    pub fn ensure() -> Result<Self> {
        require_tools()?;
        Ok(Self {
            helm3: ensure(&HELM3)?,
            registry: ensure(&REGISTRY)?,
        })
    }

    /// Helm 3.
    pub fn helm3(&self) -> PathBuf {
        self.helm3.join("bin/helm")
    }

    /// A registry of OCI artifacts: it prints its address on loopback, and keeps everything in memory.
    pub fn registry(&self) -> PathBuf {
        self.registry.join("bin/registry")
    }
}
