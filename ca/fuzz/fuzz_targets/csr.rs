//! Certificate requests, DER or PEM. What is accepted is signed, what is signed is believed, and nothing but the key comes from the request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_ca::{Requested, check_csr};
use mesh_fuzz::{block, came, given};
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Whether it is taken.
fn judge(data: &[u8]) -> bool {
    let taken = given::judge(data);
    if let Ok(checked) = check_csr(data, Requested::Nothing)
        && taken
        && data.first() == Some(&0x30)
    {
        // As text it is the same request, unless it is too long as that.
        let text = block("CERTIFICATE REQUEST", data);
        if text.len() <= mesh_ca::CSR_MAX {
            assert_eq!(check_csr(text.as_bytes(), Requested::Nothing), Ok(checked));
        }
    }
    taken
}
