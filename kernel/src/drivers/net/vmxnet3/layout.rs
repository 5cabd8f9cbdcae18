//! Registers, commands, the shared area and descriptors of vmxnet3, as far as they are in use.
//! Offsets are in bytes, bits are those of little-endian words.

/// Registers of the first window, "pass-through": one of each kind per vector or queue, the first is
/// meant here.
pub mod passthrough {
    /// Forbids the vector to interrupt (1), or allows it (0).
    pub const INTERRUPT_MASK: usize = 0x000;
    /// The descriptor behind the last one to be sent.
    pub const TRANSMIT_TAIL: usize = 0x600;
    /// The descriptor behind the last empty buffer.
    pub const RECEIVE_TAIL: usize = 0x800;
}

/// Registers of the second window, "virtual device".
pub mod device {
    /// Versions of the device and of the interface: a bit each to read, one to be written.
    pub const DEVICE_VERSION: usize = 0x00;
    pub const INTERFACE_VERSION: usize = 0x08;
    /// Address of the shared area.
    pub const SHARED_LOW: usize = 0x10;
    pub const SHARED_HIGH: usize = 0x18;
    /// Takes a command; to be read for what came of it.
    pub const COMMAND: usize = 0x20;
    /// The address in use.
    pub const ADDRESS_LOW: usize = 0x28;
    pub const ADDRESS_HIGH: usize = 0x30;
    /// Whether the line is up. To read it lets go of the line, and masks the vector.
    pub const INTERRUPT_CAUSE: usize = 0x38;
    /// Takes events that have been seen.
    pub const EVENTS_SEEN: usize = 0x40;
}

/// The first version, of either kind: all there is in it is enough.
pub const VERSION_1: u32 = 1;

/// Commands.
pub mod command {
    /// Does as the shared area says. Comes to 0 if it worked.
    pub const ACTIVATE: u32 = 0xcafe_0000;
    /// Stops, but forgets nothing.
    pub const QUIESCE: u32 = 0xcafe_0001;
    /// Forgets everything.
    pub const RESET: u32 = 0xcafe_0002;
    /// Reports on the queues in their descriptions.
    pub const QUEUE_STATUS: u32 = 0xf00d_0000;
    /// Counts in the descriptions of the queues.
    pub const STATISTICS: u32 = 0xf00d_0001;
    /// Bit 0: there is a link. The upper half: Mbit/s.
    pub const LINK: u32 = 0xf00d_0002;
    /// The address it was made with.
    pub const ADDRESS_LOW: u32 = 0xf00d_0003;
    pub const ADDRESS_HIGH: u32 = 0xf00d_0004;
    /// How it interrupts: two bits for the kind, two for who masks.
    pub const INTERRUPTS: u32 = 0xf00d_0008;
}

/// Who masks a vector that has interrupted: 0 the device does, if it is asked to.
pub const MASKED_BY: u32 = 0b11 << 2;

/// The shared area.
pub mod shared {
    pub const MAGIC: usize = 0;
    pub const DRIVER_VERSION: usize = 8;
    pub const GUEST: usize = 12;
    pub const DEVICE_VERSIONS: usize = 16;
    pub const INTERFACE_VERSIONS: usize = 20;
    pub const FEATURES: usize = 24;
    pub const QUEUES: usize = 40;
    pub const QUEUES_LEN: usize = 52;
    pub const MTU: usize = 56;
    /// Buffers of a received frame at most.
    pub const RECEIVE_PIECES: usize = 60;
    pub const TRANSMIT_QUEUES: usize = 62;
    pub const RECEIVE_QUEUES: usize = 63;
    pub const AUTOMATIC_MASK: usize = 80;
    pub const VECTORS: usize = 81;
    pub const RECEIVE_FILTER: usize = 120;
    /// What has happened, until it was seen.
    pub const EVENTS: usize = 696;
}

/// What an area of this kind begins with.
pub const MAGIC: u32 = 0xbabe_fee1;
/// A 64-bit guest that takes frames in the way Linux does.
pub const GUEST: u32 = 0b10 | 1 << 2;
/// Verify checksums.
pub const CHECK: u64 = 1;
/// What is for us, multicasts (all of them) and broadcasts.
pub const WANTED: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3;
/// Events: the receive or the transmit queue has stopped because of an error.
pub const STOPPED: u32 = 0b11;

/// The description of a queue: `DESCRIPTION` bytes, first that of the transmit queue.
pub mod queue {
    pub const DESCRIPTION: usize = 256;
    /// Addresses: the ring; in a transmit queue data in the ring, in a receive queue a second ring;
    /// the answers.
    pub const RING: usize = 16;
    pub const SECOND_RING: usize = 24;
    pub const ANSWERS: usize = 32;
    /// Sizes, in entries. Those of a receive queue and a transmit queue are at the same places.
    pub const RING_SIZE: usize = 56;
    pub const SECOND_SIZE: usize = 60;
    pub const ANSWERS_SIZE: usize = 64;
    /// Why it has stopped.
    pub const ERROR: usize = 84;
    /// Frames there was no buffer for.
    pub const RECEIVE_MISSED: usize = 152;
}

/// Rings are multiples of so many entries.
pub const RING_UNIT: u16 = 32;

// Descriptors: the control word of an empty buffer is its length and the lap.
pub const RECEIVE_LAP: u64 = 1 << 31;

// The control word of a piece to be sent. The length has 14 bits.
pub const TRANSMIT_LAP: u64 = 1 << 14;
/// Where a checksum is stored, or how large segments are.
pub const SIZE_AT: u32 = 18;
/// Where a checksum begins, or how long all headers are.
pub const HEADERS_AT: u32 = 32;
pub const HEADERS_MOST: usize = 0x3ff;
pub const SUM: u64 = 0b10 << 42;
pub const CUT: u64 = 0b11 << 42;
pub const LAST: u64 = 1 << 44;
pub const ANSWER: u64 = 1 << 45;

// An answer, its first word.
pub const INDEX: u64 = 0xfff;
pub const FRAME_END: u64 = 1 << 14;
pub const FRAME_BEGIN: u64 = 1 << 15;
pub const RING_AT: u32 = 16;
pub const RING_NUMBER: u64 = 0x3ff;
pub const NOT_CHECKED: u64 = 1 << 30;

// Its second word.
pub const LENGTH: u64 = 0x3fff;
pub const ERROR: u64 = 1 << 14;
/// A VLAN tag and a sum, neither of which is asked for.
pub const UNUSED: u64 = 0xffff_ffff << 16;
pub const RIGHT_SUM: u64 = 1 << 48;
pub const UDP: u64 = 1 << 49;
pub const TCP: u64 = 1 << 50;
pub const RIGHT_IPV4: u64 = 1 << 51;
pub const IPV6: u64 = 1 << 52;
pub const IPV4: u64 = 1 << 53;
pub const FRAGMENT: u64 = 1 << 54;
pub const KIND_AT: u32 = 56;
pub const KIND: u64 = 0x7f;
pub const SENT: u64 = 0;
pub const RECEIVED: u64 = 3;
pub const UNSAID: u64 = 0;
pub const LAP: u64 = 1 << 63;
