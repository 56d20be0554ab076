//! Whether an istiod can be given a remote secret, as far as Secrets of the region go.
//!
//! Read from and seen with istiod 1.31.0 (`pkg/kube/multicluster`, `pilot/pkg/credentials/kube`). It watches Secrets of every cluster that it
//! reads. Where that is refused, the cluster is never synced, and since a changed token takes over only once the new one has synced (1.30 and later), the
//! old one stays in force until it ends: Services that are new in the region are not seen from then on. The switch by
//! which it is told to leave Secrets alone (1.31) makes 1.31 end with a nil pointer when it reads another cluster.

use crate::{facts::Obstacle, istio::Istiod};

/// The first release of which nobody knows that the switch ends it.
const MENDED: (u32, u32) = (1, 32);
/// The first release that lets the old token serve until the new one has synced.
const SWAPS: (u32, u32) = (1, 30);
/// The first release with the switch.
const SWITCH: (u32, u32) = (1, 31);

/// Why a remote secret would harm one of these control planes, or not be of use for long; `may` tells whether readers may read Secrets.
#[must_use]
pub fn unfit(istiods: &[Istiod], may: bool) -> Option<Obstacle> {
    istiods.iter().find_map(|istiod| one(istiod, may))
}

fn one(istiod: &Istiod, may: bool) -> Option<Obstacle> {
    let release = istiod.version.as_deref().and_then(crate::istio::release);
    let version = istiod.version.as_deref().unwrap_or("of unknown version");
    let name = &istiod.name;
    let switched = istiod.leaves_out_secrets && release.is_none_or(|release| release >= SWITCH);
    if switched && release.is_none_or(|release| release < MENDED) {
        let message = format!(
            "istiod {version} (Deployment istio-system/{name}) would crash: with PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER=false it ends when it reads another cluster; \
             take that away, or leave spec.istio.discovery of the Mesh at static"
        );
        return Some(Obstacle::new("IstiodWouldCrash", message));
    }
    if !may && !switched && release.is_some_and(|release| release >= SWAPS) {
        let message = format!(
            "istiod {version} (Deployment istio-system/{name}) never finishes reading a region whose Secrets it may not read, and would not follow it once its token is renewed: \
             set spec.istio.remoteReadSecrets of the Mesh, which lets it read all Secrets of the region, or leave spec.istio.discovery at static"
        );
        return Some(Obstacle::new("RemoteReaderTooSmall", message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(version: Option<&str>, switched: bool, may: bool) -> Option<String> {
        let istiod = Istiod {
            version: version.map(str::to_owned),
            leaves_out_secrets: switched,
            ..Istiod::default()
        };
        unfit(&[Istiod::default(), istiod], may).map(|why| why.reason)
    }

    #[test]
    fn what_an_istiod_can_live_with_depends_on_its_version() {
        let (crash, small) = (Some("IstiodWouldCrash"), Some("RemoteReaderTooSmall"));
        let cases = [
            (Some("1.29.2"), [None, None, None, None]),
            (Some("1.30.1"), [small, None, small, None]),
            (Some("1.31.0"), [small, None, crash, crash]),
            (Some("1.31-alpha.x"), [small, None, crash, crash]),
            (Some("1.32.0"), [small, None, None, None]),
            (None, [None, None, crash, crash]),
        ];
        for (version, expected) in cases {
            let seen = [(false, false), (false, true), (true, false), (true, true)];
            let seen = seen.map(|(switched, may)| reason(version, switched, may));
            assert_eq!(
                seen.each_ref().map(Option::as_deref),
                expected,
                "{version:?}"
            );
        }
    }
}
