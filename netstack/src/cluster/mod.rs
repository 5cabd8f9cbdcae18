//! The instances behind one virtual address: members, the channel between them, steering.
//!
//! - [`noise`]: the encrypted stream of a channel; [`message`]: what is said in it;
//!   [`channel`]: the two together, for one peer.
//! - [`beacon`]: how members find each other;
//! - [`keys`]: which keys a member takes; [`budget`]: what a peer may cost.
//! - [`members`]: who is there and how loaded; [`balance`]: when to give sessions away, and to whom.
//! - [`lease`]: what a voter promises; [`election`]: who becomes the ingress, and for how long.
//! - [`steering`]: whose flow is which, as the ingress keeps it.
//!
//! Nothing here sends: [`crate::instance`] carries octets between channels and the stack.

pub mod balance;
pub mod beacon;
pub mod budget;
pub mod channel;
pub mod election;
pub mod keys;
pub mod lease;
pub mod members;
pub mod message;
pub mod noise;
mod primitives;
pub mod rng;
pub mod steering;

use core::fmt;

use serde::{Deserialize, Serialize};

/// Port of the instance channel, at the instances' own addresses.
pub const CHANNEL_PORT: u16 = 9101;
/// UDP port of the [`beacon`].
pub const BEACON_PORT: u16 = 9102;

/// Names an instance in its cluster; configured, 1 or more.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
pub struct MemberId(pub u32);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names one boot of an instance: random, new at every start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}
