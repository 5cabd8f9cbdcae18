//! The instances behind one virtual address: members, the channel between them, steering.

/// Names an instance in its cluster; configured, 1 or more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MemberId(pub u32);
