//! The messages of Istio's CA, made by the build from `proto/ca.proto`.

#![expect(
    unused_qualifications,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::default_trait_access,
    clippy::doc_markdown,
    reason = "written by a machine"
)]

tonic::include_proto!("istio.v1.auth");
