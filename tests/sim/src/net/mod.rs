//! The simulated Ethernet: one learning switch, and a link with rules from it to every party.

mod icmp;
mod link;
mod switch;

pub use icmp::Complaint;
pub use link::{Burst, Link, Narrow, Rate, Rules, Wire};
pub use switch::Switch;

/// A port of the switch; parties are numbered by the port they are attached to.
pub type Port = usize;
