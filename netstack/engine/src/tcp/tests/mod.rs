//! Behaviour of whole connections, two of them over a link ([`super::testing::Pair`]).

mod attacks;
mod bulk;
mod ecn;
mod memory;
mod moves;
mod mtu;
mod pacing;
mod recovery;
mod states;
mod timeouts;
mod windows;

/// A million idle connections are to fit 1 GiB with the tables that lead to them.
#[test]
fn a_connection_block_stays_small() {
    let size = size_of::<super::Connection>();
    assert!(size <= 816, "{size} octets");
}
