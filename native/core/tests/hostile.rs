//! What the fuzzers of `native/fuzz` have found worth keeping, run again: every seed and every crash there ever was.
//!
//! The bodies are those of the fuzz targets, so this needs neither cargo-fuzz nor a compiler with sanitizers.

#![allow(clippy::unwrap_used, clippy::pedantic, unreachable_pub)] // a test fails by panicking; the bodies are shared

use std::fs;
use std::path::Path;

#[path = "../../fuzz/bodies/decode.rs"]
mod decode;
#[path = "../../fuzz/bodies/frames.rs"]
mod frames;
#[path = "../../fuzz/bodies/verbs.rs"]
mod verbs;

/// Runs every kept input of a target, and each of them cut off and with bits turned over.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the seeds of {target} are lost");
    for file in files {
        let input = fs::read(file).unwrap();
        run(&input);
        for at in [0, 1, input.len() / 2, input.len().saturating_sub(1)] {
            run(&input[..at.min(input.len())]);
            let mut turned = input.clone();
            if let Some(byte) = turned.get_mut(at) {
                *byte ^= 0x81;
            }
            run(&turned);
        }
    }
}

#[test]
fn packs_of_any_bytes_are_answered_with_statuses() {
    replay("decode", decode::run);
}

#[test]
fn frames_of_any_bytes_are_refused() {
    replay("frames", frames::run);
}

#[test]
fn verbs_refuse_any_arguments_that_make_no_sense() {
    replay("verbs", verbs::run);
}
