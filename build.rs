//! Compiles the contract in `proto/` with protox, so that no `protoc` is needed.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message as _;

const CONTRACT: &str = "orderquery/v1/order_service.proto";

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([CONTRACT], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Reflection and the JSON of `get --json` read the contract from here.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::pb::codec::Codec")
        // These hold personal data: `pb.rs` writes a Debug for them that shows none.
        .skip_debug([".orderquery.v1.Order", ".orderquery.v1.Recipient"])
        .compile_fds(descriptors)?;
    Ok(())
}
