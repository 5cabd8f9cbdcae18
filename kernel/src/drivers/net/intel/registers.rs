//! Registers in use (SDM section 13.4, 82574 chapter 10) and the bits of descriptors (SDM section
//! 3.2.3 and 3.3).

pub const CONTROL: usize = 0x0000;
pub const STATUS: usize = 0x0008;
pub const CONTROL_EXTENDED: usize = 0x0018;
/// FCAL, FCAH, FCT and FCTTV.
pub const FLOW_CONTROL: [usize; 4] = [0x0028, 0x002c, 0x0030, 0x0170];
pub const INTERRUPT_CAUSE: usize = 0x00c0;
pub const INTERRUPT_CAUSE_SET: usize = 0x00c8;
pub const INTERRUPT_MASK_SET: usize = 0x00d0;
pub const INTERRUPT_MASK_CLEAR: usize = 0x00d8;
pub const RECEIVE_CONTROL: usize = 0x0100;
pub const TRANSMIT_CONTROL: usize = 0x0400;
pub const TRANSMIT_GAP: usize = 0x0410;
pub const RECEIVE_BASE: usize = 0x2800;
pub const RECEIVE_LENGTH: usize = 0x2808;
pub const RECEIVE_HEAD: usize = 0x2810;
pub const RECEIVE_TAIL: usize = 0x2818;
pub const RECEIVE_DELAY: usize = 0x2820;
pub const TRANSMIT_BASE: usize = 0x3800;
pub const TRANSMIT_LENGTH: usize = 0x3808;
pub const TRANSMIT_HEAD: usize = 0x3810;
pub const TRANSMIT_TAIL: usize = 0x3818;
/// TXDCTL; on PCI Express only.
pub const TRANSMIT_DESCRIPTORS: usize = 0x3828;
/// MPC, cleared by reading.
pub const MISSED: usize = 0x4010;
pub const RECEIVE_CHECKSUM: usize = 0x5000;
/// RAL0 and RAH0.
pub const RECEIVE_ADDRESS: usize = 0x5400;

// CTRL.
/// On PCI Express only.
pub const MASTER_DISABLE: u32 = 1 << 2;
pub const AUTO_SPEED: u32 = 1 << 5;
pub const SET_LINK_UP: u32 = 1 << 6;
pub const RESET: u32 = 1 << 26;
/// Link reset, inverted loss of signal, forced speed and duplex, flow control, VLANs, PHY reset.
pub const CONTROL_UNWANTED: u32 =
    1 << 3 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;

// STATUS.
pub const LINK_UP: u32 = 1 << 1;
/// On PCI Express only.
pub const MASTER_ENABLED: u32 = 1 << 19;

// CTRL_EXT, on PCI Express only.
pub const DRIVER_LOADED: u32 = 1 << 28;

// ICR, ICS, IMS and IMC.
pub const CAUSE_SENT: u32 = 1;
pub const CAUSE_LINK: u32 = 1 << 2;
pub const CAUSE_OVERRUN: u32 = 1 << 6;
pub const CAUSE_RECEIVED: u32 = 1 << 7;

// RCTL: enabled, all multicasts, broadcasts, buffers of 2048 bytes, nothing longer than a frame
// with VLAN tag, without frame check sequence.
pub const RECEIVE_ENABLED: u32 = 1 << 1;
pub const RECEIVE_WANTED: u32 = RECEIVE_ENABLED | 1 << 4 | 1 << 15 | 1 << 26;

// TCTL: enabled, short packets padded, collision threshold 15 and distance 64 bytes as recommended
// for full duplex.
pub const TRANSMIT_WANTED: u32 = 1 << 1 | 1 << 3 | 15 << 4 | 64 << 12;

// TIPG: the recommended gaps for copper.
pub const GAP: u32 = 8 | 8 << 10 | 6 << 20;

// TXDCTL: one descriptor is enough to be written back (WTHRESH, in descriptors), and bit 22, which
// has to be set.
pub const WRITE_BACK_AT_ONCE: u32 = 1 << 16 | 1 << 22 | 1 << 24;

// RXCSUM.
pub const CHECK_IP: u32 = 1 << 8;
pub const CHECK_TRANSPORT: u32 = 1 << 9;

// RAH.
pub const ADDRESS_VALID: u32 = 1 << 31;

// Descriptors, second word. DD is at the same place in both directions.
pub const DONE: u64 = 1 << 32;

// Received: EOP, IXSM, TCPCS; CE, SE, SEQ, CXE, RXE; TCPE, IPE.
pub const END_OF_PACKET: u64 = 1 << 33;
pub const NOT_CHECKED: u64 = 1 << 34;
pub const TRANSPORT_CHECKED: u64 = 1 << 37;
pub const FRAME_ERRORS: u64 = 1 << 40 | 1 << 41 | 1 << 42 | 1 << 44 | 1 << 47;
pub const CHECKSUM_ERRORS: u64 = 1 << 45 | 1 << 46;

// To be sent: EOP, IFCS, TSE, RS, DEXT; DTYP of a data descriptor; IXSM, TXSM.
pub const END: u64 = 1 << 24;
pub const INSERT_FCS: u64 = 1 << 25;
pub const SEGMENT: u64 = 1 << 26;
pub const REPORT: u64 = 1 << 27;
pub const EXTENDED: u64 = 1 << 29;
pub const DATA: u64 = 1 << 20 | EXTENDED;
pub const INSERT_IP_CHECKSUM: u64 = 1 << 40;
pub const INSERT_TRANSPORT_CHECKSUM: u64 = 1 << 41;

// Contexts: TCP, IPv4.
pub const CONTEXT_TCP: u64 = 1 << 24;
pub const CONTEXT_IPV4: u64 = 1 << 25;
