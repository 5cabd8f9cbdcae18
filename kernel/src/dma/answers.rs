//! How devices with rings of descriptors say what they are done with: in the descriptors, or in
//! [`Answers`], a ring of its own that only the device writes to.
//!
//! Nobody tells the other side how far such a ring is filled. Instead a bit of each entry says whether
//! it was written in an odd lap or in an even one, so that what is new can be told from what has lain
//! there since the lap before.

use super::DeviceFault;
use super::descriptors::{Cursor, Words};
use core::sync::atomic::Ordering;

/// In which order a descriptor has its two words, and where the device says that it is done with it.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    /// The address, then the control word, which the device writes back.
    AddressFirst,
    /// The control word, which the device writes back, then the address.
    ControlFirst,
    /// The address, then the control word. The device answers in a ring of its own.
    Answered(Answered),
}

/// What a ring with answers looks like.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The bit of a descriptor's control word that is set in odd laps.
    pub lap_bit: u64,
    /// Places for answers: not fewer than there may be descriptors in use.
    pub size: u16,
    /// What an entry of 16 bytes says.
    pub read: fn([u64; 2]) -> Answer,
}

/// What a device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// It was written in an odd lap.
    pub lap: bool,
    /// The descriptor that it is about, if it is about one of this ring.
    pub index: Option<u16>,
    /// What else it says, as the driver wants to have it.
    pub control: u64,
}

/// The ring of answers.
#[derive(Debug)]
pub(super) struct Answers {
    words: Words,
    read: fn([u64; 2]) -> Answer,
    next: Cursor,
}

impl Answers {
    /// An empty one, if the device has answers.
    pub(super) fn new(format: &Format) -> Result<Option<Self>, DeviceFault> {
        let Format::Answered(answered) = format else {
            return Ok(None);
        };
        Ok(Some(Self {
            words: Words::new(answered.size, &Format::AddressFirst)?,
            read: answered.read,
            next: Cursor::START,
        }))
    }

    pub(super) fn address(&self) -> u64 {
        self.words.address()
    }

    /// The next answer, if it is there.
    pub(super) fn next(&self) -> Option<Answer> {
        // The word with the lap first: the device writes it last.
        let second = self.words.at(self.next.index, true).load(Ordering::Acquire);
        let first = self.words.at(self.next.index, false);
        let answer = (self.read)([first.load(Ordering::Relaxed), second]);
        (answer.lap == self.next.lap).then_some(answer)
    }

    /// Goes on to the one behind it.
    pub(super) fn advance(&mut self) {
        self.next = self.words.step(self.next, 1);
    }

    /// As new, after a reset of the device.
    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.next = Cursor::START;
    }
}
