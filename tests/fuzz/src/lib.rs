//! Fuzz targets: everything that reads what a stranger sends, as functions of octets.
//!
//! A target must return for every input, whatever the input is: it must not panic, not run for
//! ever and not grow without bound. [`TARGETS`] has them all, each with seeds: inputs that are as
//! they should be, from which a fuzzer (or `tests/corpus.rs`, without one) makes others.
//!
//! `README.md` says how to fuzz with cargo-fuzz, and what of that goes into `corpus/`, which every
//! `cargo test` runs.
#![forbid(unsafe_code)]

mod link;
mod targets;

use std::path::PathBuf;

/// One way in.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What must return for every input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    targets::admin::TARGET,
    targets::beacons::TARGET,
    targets::config::TARGET,
    targets::datagrams::TARGET,
    targets::frames::TARGET,
    targets::handover::TARGET,
    targets::http::TARGET,
    targets::members::TARGET,
    targets::messages::TARGET,
    targets::options::TARGET,
    targets::segments::TARGET,
    targets::state::TARGET,
    targets::stream::TARGET,
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Run one input of a target by its name, as cargo-fuzz calls it.
///
/// # Panics
/// If there is no such target, or the input broke something.
pub fn run(name: &str, input: &[u8]) {
    let target = target(name).expect("a target of that name");
    (target.run)(input);
}

/// Where inputs worth keeping are kept.
pub fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}
