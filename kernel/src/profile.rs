//! A sampling profiler: what the timer interrupts is written down, with who called it.
//!
//! While it is on ([`start`]), the timer also interrupts so many times a second, wherever the loop
//! is ([`limit`]); each time the instruction pointer and the return addresses up the chain of frame
//! pointers go into a buffer of fixed size, which the loop empties ([`take`]). When it is full, or in
//! use at that moment, samples are lost and counted. Names are for who reads them: addresses are all
//! that is told.
//!
//! A function that has not yet set up its frame, or has none (those that copy memory), hides its
//! caller: that one is missing from the sample, the callers above are not.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::sync::Lock;

/// Samples a second at most: more, and the image does nothing else.
pub const FASTEST: u32 = 10_000;
/// Addresses of a sample at most.
#[cfg_attr(not(godwit_image), allow(dead_code))]
const DEEPEST: usize = 63;
/// Words of the buffer: some seconds of ordinary samples, or a tenth of one that are as deep as can be.
const WORDS: usize = 1 << 14;

/// Time between samples; 0 while nothing is sampled.
static PERIOD_NS: AtomicU64 = AtomicU64::new(0);
/// When the next sample is due.
static NEXT_NS: AtomicU64 = AtomicU64::new(0);
/// Samples that found no room, or came while the others were taken away.
static LOST: AtomicU32 = AtomicU32::new(0);
static SAMPLES: Lock<Samples> = Lock::new(Samples { words: Vec::new() });

/// Samples, each a count and so many addresses, the innermost first.
#[derive(Debug)]
struct Samples {
    words: Vec<u32>,
}

#[cfg_attr(not(godwit_image), allow(dead_code))]
impl Samples {
    /// Adds a sample, if there is room for it: nothing is allocated.
    fn push(&mut self, addresses: impl Iterator<Item = u64>) -> bool {
        let start = self.words.len();
        let mut room = self.words.capacity().saturating_sub(start);
        let mut count = 0;
        for word in core::iter::once(0).chain(addresses.take(DEEPEST)) {
            if room == 0 {
                self.words.truncate(start);
                return false;
            }
            room -= 1;
            count += 1;
            // An image lies below 4 GiB.
            self.words.push(word as u32);
        }
        if let Some(first) = self.words.get_mut(start) {
            *first = count - 1;
        }
        true
    }
}

/// Samples so many times a second from now on. `false`: it is on already, or there is no memory.
pub fn start(hertz: u32) -> bool {
    if PERIOD_NS.load(Ordering::Relaxed) != 0 {
        return false;
    }
    let mut samples = SAMPLES.lock();
    samples.words.clear();
    if samples.words.try_reserve_exact(WORDS).is_err() {
        return false;
    }
    drop(samples);
    LOST.store(0, Ordering::Relaxed);
    let period = 1_000_000_000 / u64::from(hertz.clamp(1, FASTEST));
    NEXT_NS.store(crate::clock::now_ns() + period, Ordering::Relaxed);
    PERIOD_NS.store(period, Ordering::Relaxed);
    #[cfg(godwit_image)]
    crate::alarm::arm(None);
    true
}

/// Samples no more, and gives the buffer back.
pub fn stop() {
    PERIOD_NS.store(0, Ordering::Relaxed);
    SAMPLES.lock().words = Vec::new();
}

/// Appends what has been sampled, in words of four octets, the lowest first; how many samples
/// have been lost since the start.
pub fn take(out: &mut Vec<u8>) -> u32 {
    let mut samples = SAMPLES.lock();
    out.extend(samples.words.iter().flat_map(|word| word.to_le_bytes()));
    samples.words.clear();
    LOST.load(Ordering::Relaxed)
}

/// When the timer has to interrupt at the latest, if others ask for `deadline_ns`.
#[cfg(godwit_image)]
pub(crate) fn limit(deadline_ns: Option<u64>) -> Option<u64> {
    /// Late samples are taken now, but after the timer has been set.
    const SOON_NS: u64 = 10_000;
    if PERIOD_NS.load(Ordering::Relaxed) == 0 {
        return deadline_ns;
    }
    let next = NEXT_NS.load(Ordering::Relaxed);
    let next = next.max(crate::clock::now_ns() + SOON_NS);
    Some(deadline_ns.map_or(next, |deadline| deadline.min(next)))
}

/// The timer has interrupted what was at `rip`.
#[cfg(godwit_image)]
pub(crate) fn tick(rip: u64, frame: u64) {
    let period = PERIOD_NS.load(Ordering::Relaxed);
    let (now, next) = (crate::clock::now_ns(), NEXT_NS.load(Ordering::Relaxed));
    if period == 0 {
        return;
    }
    // The timer and the clock need not agree to the last bit.
    if now + period / 8 < next {
        // It was for somebody else, and a loop that polls sets it for nobody.
        crate::alarm::arm(None);
        return;
    }
    NEXT_NS.store(next.max(now) + period, Ordering::Relaxed);
    let callers = core::iter::once(rip).chain(crate::mm::callers(frame));
    let taken = SAMPLES.try_lock().is_some_and(|mut all| all.push(callers));
    LOST.fetch_add(u32::from(!taken), Ordering::Relaxed);
    crate::alarm::arm(None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_whole_or_lost_and_nothing_is_allocated_for_it() {
        let mut samples = Samples {
            words: Vec::with_capacity(8),
        };
        let room = samples.words.capacity();
        assert!(samples.push([0x10_0000, 0x10_0010].into_iter()));
        assert!(samples.push([0x10_0020, 0x10_0030].into_iter()));
        assert_eq!(
            samples.words,
            [2, 0x10_0000, 0x10_0010, 2, 0x10_0020, 0x10_0030]
        );
        assert!(!samples.push(0..room as u64));
        assert_eq!(samples.words.len(), 6, "nothing of what was lost is left");
        assert_eq!(samples.words.capacity(), room);
    }

    #[test]
    fn a_chain_without_an_end_is_cut() {
        let mut samples = Samples {
            words: Vec::with_capacity(200),
        };
        assert!(samples.push(1..));
        assert_eq!(samples.words.len(), 1 + DEEPEST);
    }

    #[test]
    fn only_one_profile_is_made_at_a_time() {
        assert!(start(100));
        assert!(!start(100));
        let mut out = Vec::new();
        SAMPLES.lock().push([0x0102_0304].into_iter());
        assert_eq!(take(&mut out), 0);
        assert_eq!(out, [1, 0, 0, 0, 4, 3, 2, 1]);
        stop();
        assert!(start(1_000_000));
        assert_eq!(PERIOD_NS.load(Ordering::Relaxed), 100_000);
        stop();
        assert_eq!(SAMPLES.lock().words.capacity(), 0);
    }
}
