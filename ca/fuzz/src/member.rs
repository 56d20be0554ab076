//! A member, as the rules of issuing know it.

use mesh_core::issuance::{Pod, Pods};

/// Longest life that may be asked for, in seconds.
pub const LONGEST: u32 = 86_400;
/// The account that may ask for workloads of its node.
pub const NODE_ACCOUNT: &str = "istio-system/ztunnel";

/// ztunnel and a workload on one node, another workload on another.
#[must_use]
pub fn pods() -> Pods {
    let mut pods = Pods::default();
    for (namespace, account, node) in [
        ("istio-system", "ztunnel", "n1"),
        ("kof", "collector", "n1"),
        ("kof", "elsewhere", "n2"),
    ] {
        let pod = Pod {
            uid: format!("uid-{account}"),
            account: account.to_owned(),
            node: node.to_owned(),
            over: false,
        };
        pods.put(namespace, &format!("{account}-0"), pod);
    }
    pods
}
