//! Memory shared with devices, owned by one side at a time.
//!
//! - [`Pool`] and [`Buffer`]: fixed-size buffers for a device to write into
//! - [`ReceiveQueue`] and [`TransmitQueue`]: virtqueues that own their buffers until the device has
//!   given them back, so that their users need no `unsafe`
//! - [`ReceiveRing`] and [`TransmitRing`]: the same for cards whose descriptors are written back in
//!   place, or answered in rings of their own ([`Format`])
//! - [`Shared`]: a table that both sides write to
//!
//! Virtual and physical addresses are equal (see [`crate::mm`]), on the host trivially so. What a
//! device writes into a ring is checked: an index that is not outstanding, or a length beyond the
//! buffer, is a [`DeviceFault`].

mod answers;
mod descriptors;
mod pool;
mod queue;
mod ring;
mod shared;

pub use answers::{Answer, Answered, Format};
pub use descriptors::{Limits, Part, ReceiveRing, TransmitRing};
pub use pool::{Buffer, Pool};
pub use queue::{QueueOptions, ReceiveQueue, Slices, TransmitQueue};
pub use shared::Shared;

use virtio_drivers::transport::Transport;

/// What virtqueues have to know of a transport beside what `virtio-drivers` has it say.
pub trait QueueTransport: Transport {
    /// Whether a queue has exactly as many descriptors as the device says, as over PCI before virtio 1.0 (virtio 1.2,
    /// section 4.1.5.1.3.1).
    fn has_fixed_queues(&self) -> bool;
}

/// What devices that take page numbers mean by a page, in bytes.
pub const PAGE: usize = 4096;

/// The device broke the protocol; its queues are not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceFault {
    /// It gave back something it was not given.
    UnknownBuffer(u32),
    /// It gave back more than it was given.
    Index(u16),
    /// It says that it wrote more bytes than the buffer holds.
    Length(u32),
    /// It says that a packet lies in so many buffers, which no packet does.
    BufferCount(u16),
    /// It gave back fewer buffers than it says that the packet lies in.
    MissingBuffers {
        /// How many it said.
        said: u16,
        /// How many there were.
        given: u16,
    },
    /// The queue is in use, or there is none, or it is too small.
    NoQueue,
    /// There is no memory for the queue.
    OutOfMemory,
    /// It does not get its work done, however often it is reset.
    Stalled,
    /// It does not answer any more.
    Gone,
    /// It does not begin to work, and says so.
    Refused,
}

impl core::fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownBuffer(index) => write!(f, "device returned buffer {index}, not given"),
            Self::Index(count) => write!(f, "device returned {count} buffers, more than given"),
            Self::Length(len) => write!(f, "device wrote {len} bytes, more than the buffer holds"),
            Self::BufferCount(count) => write!(f, "device says a packet lies in {count} buffers"),
            Self::MissingBuffers { said, given } => {
                write!(f, "device returned {given} of {said} buffers of a packet")
            }
            Self::NoQueue => f.write_str("no such queue, or too small a one"),
            Self::OutOfMemory => f.write_str("no memory for the queue"),
            Self::Stalled => f.write_str("device does nothing, however often it is reset"),
            Self::Gone => f.write_str("device does not answer any more"),
            Self::Refused => f.write_str("device refuses to work as it is told to"),
        }
    }
}

impl core::error::Error for DeviceFault {}
