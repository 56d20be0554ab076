//! Makes the messages of Istio's CA from their description; no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/ca.proto");
    let set = protox::compile(["proto/ca.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(test)]")
        .compile_fds(set)?;
    Ok(())
}
