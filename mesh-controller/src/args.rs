//! What a deployment decides: flags, each with its environment variable. What an operator decides is in the
//! `Mesh` object and never here.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// Connects k0rdent clusters for kof: certificates, names, gateways.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Group)]
pub(crate) struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,mesh_xds=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true)]
    pub(crate) log_level: String,
    /// How it is written; `auto` means plain on a terminal and JSON elsewhere.
    #[arg(long, env = "MESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto, global = true)]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Auto,
    Json,
    Plain,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run on the management cluster: enrol clusters and keep them connected.
    Controller(ControllerArgs),
    /// Run in a member: issue certificates, drive the Envoy beside, probe paths, report.
    Agent(AgentArgs),
    /// Run in a member, in a pod with a sidecar of Istio: probe regions as such pods reach them, report, and do nothing else.
    Probe(ProbeArgs),
    /// Print the configuration that the agent's Envoy starts with.
    Bootstrap(BootstrapArgs),
    /// Print the custom resource definitions.
    Crds(CrdsArgs),
    /// Bring the custom resource definitions of the management cluster up to those of this release; later ones are left.
    UpgradeCrds(UpgradeCrdsArgs),
    /// Ask a running controller or agent whether it does its work, and wait until it says so.
    Ready(ReadyArgs),
}

#[derive(Debug, Group)]
pub(crate) struct AdminArgs {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    #[arg(
        long,
        env = "MESH_ADMIN_ADDRESS",
        default_value = "0.0.0.0:15014",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) admin_address: SocketAddr,
}

#[derive(Debug, Group)]
pub(crate) struct ControllerArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Name of this pod; holder of the leader's Lease.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: String,
    /// Namespace of the controller: its Lease and the roots are there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub(crate) namespace: String,
    /// Image that agents in members run: this one.
    #[arg(long, env = "MESH_AGENT_IMAGE")]
    pub(crate) agent_image: String,
    /// Image of the Envoy beside them.
    #[arg(long, env = "MESH_ENVOY_IMAGE")]
    pub(crate) envoy_image: String,
    /// Secrets in namespace istio-system of members to pull images with, separated by commas.
    #[arg(
        long,
        env = "MESH_PULL_SECRETS",
        value_delimiter = ',',
        value_name = "NAMES"
    )]
    pub(crate) pull_secrets: Vec<String>,
    /// What agents log, as --log-level.
    #[arg(long, env = "MESH_AGENT_LOG", default_value = "info")]
    pub(crate) agent_log: String,
    /// Whether the management cluster is a member itself, so that its queries reach the regions.
    #[arg(long, env = "MESH_MANAGEMENT_MEMBER", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) management_member: bool,
    /// The mesh of the management cluster.
    #[arg(long, env = "MESH_MANAGEMENT_MESH", default_value = "default")]
    pub(crate) management_mesh: String,
    /// Driver (a shared library) of the PKCS#11 token that holds the key of a root, for meshes with `root.pkcs11`.
    #[arg(long, env = "MESH_PKCS11_MODULE", value_name = "FILE")]
    pub(crate) pkcs11_module: Option<PathBuf>,
    /// Kubeconfig of the management cluster; default: the service account of the pod.
    #[arg(long, env = "MESH_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Name of this pod; its entry in the status of the `MeshAgent`.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: String,
    /// Socket on which Envoy fetches its configuration and its certificates.
    #[arg(
        long,
        env = "MESH_XDS_SOCKET",
        default_value = "/run/mesh/xds.sock",
        value_name = "FILE"
    )]
    pub(crate) xds_socket: PathBuf,
    /// Where that Envoy takes telemetry; probes go in there too.
    #[arg(
        long,
        env = "MESH_INTAKE",
        default_value = "0.0.0.0:8427",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) intake: SocketAddr,
    /// Where that Envoy takes the calls of other members.
    #[arg(
        long,
        env = "MESH_GATEWAY",
        default_value = "0.0.0.0:15443",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) gateway: SocketAddr,
    /// Where workloads ask for certificates; only listened on when the mesh wants this agent to give them.
    #[arg(
        long,
        env = "MESH_CA_ADDRESS",
        default_value = "0.0.0.0:15012",
        value_name = "ADDRESS:PORT"
    )]
    pub(crate) ca_address: SocketAddr,
    /// Kubeconfig of the own cluster; default: the service account of the pod.
    #[arg(long, env = "MESH_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Name of this pod; its entry in the status of the `MeshAgent`.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: String,
    /// Kubeconfig of the own cluster; default: the service account of the pod.
    #[arg(long, env = "MESH_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct BootstrapArgs {
    /// Socket on which Envoy fetches its configuration and its certificates.
    #[arg(
        long,
        env = "MESH_XDS_SOCKET",
        default_value = "/run/mesh/xds.sock",
        value_name = "FILE"
    )]
    pub(crate) xds_socket: PathBuf,
    /// Its name to the agent: that of the pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub(crate) pod_name: String,
    /// Port of its own administration, on 127.0.0.1.
    #[arg(long, env = "MESH_ENVOY_ADMIN_PORT", default_value_t = 15000)]
    pub(crate) admin_port: u16,
    /// Write it into this file instead of printing it.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct CrdsArgs {
    /// How they are written.
    #[arg(long, value_enum, default_value_t = CrdFormat::Yaml)]
    pub(crate) format: CrdFormat,
    /// The one that the controller delivers to members, in place of those that the chart installs.
    #[arg(long)]
    pub(crate) member: bool,
    /// Put the schema of `Mesh.spec` into this schema of the chart's values, and do nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) values_schema: Option<PathBuf>,
    /// Write one file per definition into this folder instead of printing them.
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct UpgradeCrdsArgs {
    /// Kubeconfig of the management cluster; default: the service account of the pod.
    #[arg(long, env = "MESH_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct ReadyArgs {
    /// Where its admin port is.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) within: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CrdFormat {
    Yaml,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn are_consistent() {
        Args::command().debug_assert();
    }

    /// The controller delivers pods that are started like this.
    #[test]
    fn a_pod_that_probes_needs_no_more_than_its_name() {
        let args = Args::try_parse_from(["mesh-controller", "probe", "--pod-name", "a"]).unwrap();
        assert!(matches!(args.command, Command::Probe(args) if args.pod_name == "a"));
    }

    #[test]
    fn every_flag_of_a_process_has_an_environment_variable_and_a_help() {
        for command in Args::command().get_subcommands() {
            for arg in command
                .get_arguments()
                .filter(|a| !matches!(a.get_id().as_str(), "help" | "version"))
            {
                assert!(arg.get_help().is_some(), "{}", arg.get_id());
                if matches!(command.get_name(), "controller" | "agent" | "probe") {
                    assert!(arg.get_env().is_some(), "{}", arg.get_id());
                }
            }
        }
    }
}
