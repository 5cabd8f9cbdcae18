//! Deterministic simulation of instances, clients and networks.
//!
//! One thread, virtual time, one seed. [`World`] is a switch with parties on it; a party is a
//! Godwit node ([`node::Node`]) or a host on smoltcp ([`host::Host`]), which shares no code with our
//! TCP. Rules of each link ([`net::Rules`]) lose, delay, reorder, repeat and corrupt; checkers
//! ([`check`]) watch every segment. [`scenario`] puts a cluster and a client together; [`run`] runs
//! one seed and reports.
//!
//! The same seed and the same code give the same trace, frame for frame.

pub mod check;
pub mod content;
pub mod crowd;
pub mod host;
pub mod net;
pub mod node;
pub mod pcap;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod script;
pub mod steps;
pub mod storm;
pub mod swarm;
pub mod transfer;
mod weather;
pub mod wire;
pub mod world;

pub use run::{Options, Report, run};
pub use world::{Party, World};
