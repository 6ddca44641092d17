//! Generates the code for every `.proto` file of this crate, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "arx/node/v1/node.proto",
        "arx/admin/v1/admin.proto",
        "arx/nested/v1/nested.proto",
        "arx/peer/v1/peer.proto",
        "arx/signer/v1/signer.proto",
        "csi/csi.proto",
        "kubelet/registration.proto",
        "etcd/rpc.proto",
        "envoy/sds.proto",
        "envoy/tls.proto",
        "google/rpc/status.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .codec_path("crate::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
