//! TCP sequence numbers (RFC 9293 section 3.4): points on a circle, not numbers.
//!
//! There is no `Ord`: "less than" only means something within half the circle, so comparisons are
//! named for what they say.

use core::fmt;

use serde::{Deserialize, Serialize};

/// A sequence number modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SeqNumber(u32);

impl SeqNumber {
    /// The sequence number whose wire form is `raw`.
    pub const fn new(raw: u32) -> SeqNumber {
        SeqNumber(raw)
    }

    /// The wire form.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The number `count` octets further on, modulo 2^32.
    pub const fn add(self, count: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_add(count))
    }

    /// The number `count` octets back, modulo 2^32.
    pub const fn sub(self, count: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_sub(count))
    }

    /// Octets from `origin` forward to `self`, modulo 2^32.
    pub const fn distance_from(self, origin: SeqNumber) -> u32 {
        self.0.wrapping_sub(origin.0)
    }

    /// Whether `self` lies in the half circle before `other`.
    pub const fn before(self, other: SeqNumber) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` is `other` or lies before it.
    pub const fn at_or_before(self, other: SeqNumber) -> bool {
        !other.before(self)
    }

    /// Whether `self` lies in the half circle after `other`.
    pub const fn after(self, other: SeqNumber) -> bool {
        other.before(self)
    }

    /// Whether `self` is `other` or lies after it.
    pub const fn at_or_after(self, other: SeqNumber) -> bool {
        !self.before(other)
    }

    /// Whether `self` is one of the `size` numbers from `start` on.
    pub const fn in_window(self, start: SeqNumber, size: u32) -> bool {
        self.distance_from(start) < size
    }

    /// The later of two numbers within half a circle of each other.
    pub const fn later(self, other: SeqNumber) -> SeqNumber {
        if self.before(other) { other } else { self }
    }

    /// The earlier of two numbers within half a circle of each other.
    pub const fn earlier(self, other: SeqNumber) -> SeqNumber {
        if self.before(other) { self } else { other }
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::SeqNumber;

    #[test]
    fn comparisons_hold_across_the_wrap() {
        let late = SeqNumber::new(u32::MAX - 1);
        let early = late.add(4);
        assert!(late.before(early) && early.after(late));
        assert_eq!(early.distance_from(late), 4);
        assert!(early.in_window(late, 5) && !early.in_window(late, 4));
    }
}
