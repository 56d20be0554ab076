//! The faults that the command line offers, by name.

use anyhow::{Result, bail};

use crate::provider::Hurt;

/// One line per fault, for help.
pub const FAULTS: &str = "\
node                 kill the node at once, as by a power failure; mend boots it with its data
network              cut the node off from everything outside it
api                  the API server does not run
api-hang             the API server accepts connections and never answers
stop:<component>     a component does not run (etcd, kubelet, kube-proxy, containerd,
                     kube-controller-manager, kube-scheduler, load-balancer)
freeze:<component>   a component is there and does nothing";

/// The fault with this name.
pub fn parse(name: &str) -> Result<Hurt> {
    Ok(match name {
        "node" => Hurt::NodeKilled,
        "network" => Hurt::Partitioned,
        "api" => Hurt::Stopped("kube-apiserver".to_owned()),
        "api-hang" => Hurt::Frozen("kube-apiserver".to_owned()),
        other => match other.split_once(':') {
            Some(("stop", component)) => Hurt::Stopped(component.to_owned()),
            Some(("freeze", component)) => Hurt::Frozen(component.to_owned()),
            _ => bail!("no fault {name:?}; there are:\n{FAULTS}"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::provider::Hurt;

    #[test]
    fn names_of_faults() {
        assert_eq!(
            parse("api-hang").unwrap(),
            Hurt::Frozen("kube-apiserver".to_owned())
        );
        assert_eq!(
            parse("stop:etcd").unwrap(),
            Hurt::Stopped("etcd".to_owned())
        );
        assert!(
            parse("earthquake")
                .unwrap_err()
                .to_string()
                .contains("api-hang")
        );
    }

    #[test]
    fn every_fault_of_the_help_is_known() {
        for line in super::FAULTS.lines().filter(|l| !l.starts_with(' ')) {
            let name = line.split_whitespace().next().unwrap();
            assert!(
                parse(&name.replace("<component>", "etcd")).is_ok(),
                "{name}"
            );
        }
    }
}
