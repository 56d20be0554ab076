//! From words to objects. Pure: same words, same objects, byte for byte.

mod intent;
mod istio;
mod member;
mod probe;
mod remote;
mod status;
mod workload;

pub use intent::mesh_agent;
pub use istio::is_static;
pub use member::{
    ManagedKind, MemberSettings, Rendered, member_objects, namespace_kind, prunable,
    workload_entry_kind,
};
pub use remote::{RemoteSecret, remote_secret, secret_kind};
pub use status::{
    MemberView, MeshView, WARNING, management_membership, management_source, member_status,
    mesh_member, mesh_status, path_lines,
};

#[cfg(test)]
mod tests;
