//! What a link does to frames: loses, delays, repeats, reorders and corrupts them, by rule.

use bytes::Bytes;
use godwit_netstack::{Duration, Instant};

use crate::rng::Rng;
use crate::wire::Segment;

/// Losses that come in runs: a two-state (Gilbert) channel that loses everything while bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Chance per frame, in a million, that a run begins.
    pub enter_ppm: u32,
    /// Chance per frame, in a million, that it ends.
    pub leave_ppm: u32,
}

/// A limited rate with a tail-drop queue before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Octets a second.
    pub octets_per_second: u64,
    /// Octets the queue holds.
    pub queue: u64,
}

/// What happens to frames in one direction of a link. The default is a perfect, instant wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Chance of a loss, in a million.
    pub loss_ppm: u32,
    /// Losses in runs.
    pub burst: Option<Burst>,
    /// Chance in a million that a frame arrives twice.
    pub duplicate_ppm: u32,
    /// Chance in a million that a frame is late by up to `reorder_by`, so that others overtake it.
    pub reorder_ppm: u32,
    /// Bound of that lateness.
    pub reorder_by: Duration,
    /// Propagation delay.
    pub delay: Duration,
    /// Bound of a random addition to the delay that keeps frames in order.
    pub jitter: Duration,
    /// Limited rate; unlimited if `None`.
    pub rate: Option<Rate>,
    /// Chance in a million that one bit of an IP packet flips.
    pub corrupt_ppm: u32,
    /// Nothing passes.
    pub black_hole: bool,
}

impl Rules {
    /// A clean wire with the given delay.
    pub const fn delayed(delay: Duration) -> Rules {
        Rules {
            loss_ppm: 0,
            burst: None,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_by: Duration::ZERO,
            delay,
            jitter: Duration::ZERO,
            rate: None,
            corrupt_ppm: 0,
            black_hole: false,
        }
    }
}

/// One direction of a link: its rules and what it remembers.
#[derive(Debug)]
pub struct Wire {
    /// The rules; may change at any time.
    pub rules: Rules,
    rng: Rng,
    in_burst: bool,
    /// When the transmitter is free again (limited rate).
    free_at: Instant,
    /// Arrival of the last frame that kept its place.
    last_arrival: Instant,
    /// Frames that went in.
    pub frames: u64,
    /// Frames lost by rule.
    pub lost: u64,
}

/// Both directions between a party and the switch.
#[derive(Debug)]
pub struct Link {
    /// From the party to the switch.
    pub up: Wire,
    /// From the switch to the party.
    pub down: Wire,
}

impl Link {
    pub(crate) fn new(rules: Rules, rng: &Rng, port: usize) -> Link {
        Link {
            up: Wire::new(rules, rng.split(1, port as u64)),
            down: Wire::new(rules, rng.split(2, port as u64)),
        }
    }

    /// Put `rules` on both directions.
    pub fn set(&mut self, rules: Rules) {
        self.up.rules = rules;
        self.down.rules = rules;
    }

    /// Let nothing pass in either direction, or go on as the rules say.
    pub fn set_black_hole(&mut self, dead: bool) {
        self.up.rules.black_hole = dead;
        self.down.rules.black_hole = dead;
    }
}

/// Octets on the wire that are not in the frame: preamble, FCS and gap.
const WIRE_OVERHEAD: u64 = 24;
const ETHERNET_HEADER: usize = 14;

impl Wire {
    pub(crate) fn new(rules: Rules, rng: Rng) -> Wire {
        Wire {
            rules,
            rng,
            in_burst: false,
            free_at: Instant::ZERO,
            last_arrival: Instant::ZERO,
            frames: 0,
            lost: 0,
        }
    }

    /// What becomes of a frame put in at `now`: its arrivals (none: lost; two: duplicated).
    pub(crate) fn send(&mut self, now: Instant, frame: Bytes) -> Vec<(Instant, Bytes)> {
        self.frames += 1;
        if self.loses() {
            self.lost += 1;
            return Vec::new();
        }
        let Some(sent) = self.transmitted(now, frame.len()) else {
            self.lost += 1;
            return Vec::new();
        };
        let mut arrivals = Vec::with_capacity(1);
        if self.rng.chance(self.rules.duplicate_ppm) {
            arrivals.push((self.arrival(sent), frame.clone()));
        }
        let frame = self.corrupted(frame);
        arrivals.push((self.arrival(sent), frame));
        arrivals
    }

    fn loses(&mut self) -> bool {
        if self.rules.black_hole || self.rng.chance(self.rules.loss_ppm) {
            return true;
        }
        let Some(burst) = self.rules.burst else {
            return false;
        };
        let turn = if self.in_burst {
            burst.leave_ppm
        } else {
            burst.enter_ppm
        };
        self.in_burst ^= self.rng.chance(turn);
        self.in_burst
    }

    /// When the last bit has left the transmitter; `None` if the queue is full.
    fn transmitted(&mut self, now: Instant, octets: usize) -> Option<Instant> {
        let Some(rate) = self.rules.rate else {
            return Some(now);
        };
        let per_second = rate.octets_per_second.max(1);
        let time = |octets: u64| {
            Duration::from_nanos(
                (u128::from(octets) * 1_000_000_000 / u128::from(per_second)) as u64,
            )
        };
        if self.free_at.since(now) > time(rate.queue) {
            return None;
        }
        self.free_at = self.free_at.max(now) + time(octets as u64 + WIRE_OVERHEAD);
        Some(self.free_at)
    }

    fn arrival(&mut self, sent: Instant) -> Instant {
        let jitter = self.rng.below(self.rules.jitter.as_nanos() as u64);
        let at = sent + self.rules.delay + Duration::from_nanos(jitter);
        if self.rng.chance(self.rules.reorder_ppm) {
            let late = self.rng.below(self.rules.reorder_by.as_nanos() as u64);
            return at + Duration::from_nanos(late);
        }
        self.last_arrival = self.last_arrival.max(at);
        self.last_arrival
    }

    /// One bit of an IP packet may flip. Never of ARP, which has no checksum: a real link's FCS
    /// would have caught that; what is simulated is a fault the end-to-end checks must catch. They
    /// need not catch two at once, whose effects on the checksum may cancel out, so what is damaged
    /// already is left alone (seeds 1259, 1683 and 2502 of three instances).
    fn corrupted(&mut self, frame: Bytes) -> Bytes {
        let ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if !ip || !self.rng.chance(self.rules.corrupt_ppm) {
            return frame;
        }
        let bits = (frame.len() - ETHERNET_HEADER) as u64 * 8;
        let bit = self.rng.below(bits) as usize;
        if is_damaged(&frame) {
            return frame;
        }
        let mut octets = frame.to_vec();
        if let Some(octet) = octets.get_mut(ETHERNET_HEADER + bit / 8) {
            *octet ^= 1 << (bit % 8);
        }
        octets.into()
    }
}

/// Whether the checksums of a TCP segment are wrong.
fn is_damaged(frame: &Bytes) -> bool {
    Segment::parse(frame).is_some_and(|segment| !segment.checksums_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(rules: Rules) -> Wire {
        Wire::new(rules, Rng::new(3))
    }

    fn ip_frame(tag: u8) -> Bytes {
        let mut frame = vec![0; 60];
        frame[12] = 0x08;
        frame[59] = tag;
        frame.into()
    }

    #[test]
    fn jitter_keeps_frames_in_order_and_reordering_does_not() {
        let mut calm = wire(Rules {
            jitter: Duration::from_micros(500),
            ..Rules::delayed(Duration::from_micros(10))
        });
        let mut wild = wire(Rules {
            reorder_ppm: 300_000,
            reorder_by: Duration::from_micros(500),
            ..Rules::delayed(Duration::from_micros(10))
        });
        let arrivals = |wire: &mut Wire| {
            (0..200)
                .flat_map(|n| wire.send(Instant::from_nanos(n * 1000), ip_frame(0)))
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        assert!(arrivals(&mut calm).is_sorted());
        assert!(!arrivals(&mut wild).is_sorted());
    }

    #[test]
    fn a_limited_rate_spaces_frames_and_drops_what_its_queue_cannot_hold() {
        let mut wire = wire(Rules {
            rate: Some(Rate {
                octets_per_second: 1_000_000,
                queue: 1000,
            }),
            ..Rules::default()
        });
        let arrivals: Vec<_> = (0..100)
            .flat_map(|_| wire.send(Instant::ZERO, vec![0; 476].into()))
            .map(|(at, _)| at.as_micros())
            .collect();
        assert_eq!(
            arrivals,
            [500, 1000, 1500],
            "500 octets each, 1 octet a microsecond"
        );
        assert_eq!(wire.lost, 97);
    }

    #[test]
    fn a_burst_loses_neighbours() {
        let mut wire = wire(Rules {
            burst: Some(Burst {
                enter_ppm: 10_000,
                leave_ppm: 200_000,
            }),
            ..Rules::default()
        });
        let lost: Vec<bool> = (0..10_000)
            .map(|_| wire.send(Instant::ZERO, ip_frame(0)).is_empty())
            .collect();
        let losses = lost.iter().filter(|lost| **lost).count();
        let pairs = lost.windows(2).filter(|w| w[0] && w[1]).count();
        assert!((200..900).contains(&losses), "{losses}");
        assert!(
            pairs * 10 > losses * 6,
            "{pairs} of {losses} have a lost neighbour"
        );
    }

    #[test]
    fn a_damaged_segment_is_not_damaged_again() {
        let mut wire = wire(Rules {
            corrupt_ppm: 1_000_000,
            ..Rules::default()
        });
        // A TCP segment without an octet of sense in it, so with wrong checksums.
        let mut frame = vec![0; 54];
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[17] = 40;
        frame[23] = 6;
        frame[46] = 0x50;
        let frame = Bytes::from(frame);
        let (_, after) = wire.send(Instant::ZERO, frame.clone()).remove(0);
        assert_eq!(after, frame);
    }

    #[test]
    fn corruption_flips_one_bit_behind_the_ethernet_header() {
        let mut wire = wire(Rules {
            corrupt_ppm: 1_000_000,
            ..Rules::default()
        });
        let before = ip_frame(9);
        let (_, after) = wire.send(Instant::ZERO, before.clone()).remove(0);
        let flipped: u32 = before
            .iter()
            .zip(&after)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!(flipped, 1);
        assert_eq!(before[..14], after[..14]);
    }
}
