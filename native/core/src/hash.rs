//! The two names of a chunk: its digest, which finds churn, and its identity, which is trusted.

use twox_hash::XxHash3_128;

use crate::types::{DIGEST_BYTES, ID_BYTES, Key};

/// XXH3-128 with the vault's seed, in canonical byte order. Never asked for of a zero chunk.
pub(crate) fn digest(chunk: &[u8], seed: u64) -> [u8; DIGEST_BYTES] {
    XxHash3_128::oneshot_with_seed(seed, chunk).to_be_bytes()
}

/// BLAKE3-256 under the vault's key.
pub(crate) fn identity(chunk: &[u8], key: &Key) -> [u8; ID_BYTES] {
    *blake3::keyed_hash(key, chunk).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    // Computed with the C library (through Python's xxhash) and with the reference BLAKE3.
    #[test]
    fn known_answers() {
        let chunk: Vec<u8> = (0..16384_u32).map(|i| (i * 7 + 3) as u8).collect();
        assert_eq!(hex(&digest(&chunk, 0)), "9bcfdb9efa4dafd727dfea7e2deaa657");
        assert_eq!(hex(&digest(&chunk, u64::MAX)), "47ad9c5a8e9050fdb93135a24d548bd2");
        assert_eq!(
            hex(&identity(&chunk, &[9; 32])),
            "9079fb0470aadf76bc0dcc7fc492d65ad1c3a09ca869b608ead53877ce90c60a"
        );
    }
}
