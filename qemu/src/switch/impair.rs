//! What a link does to the frames that cross it.

use std::time::{Duration, Instant};

/// What happens to frames on their way from the switch to a port.
///
/// A frame from any port to any other is impaired once, so a loss of 1% and a delay of 5 ms mean
/// 1% and 5 ms in each direction, and a round trip of 10 ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Share of frames lost, 0.0 to 1.0.
    pub loss: f64,
    /// Share of frames delivered twice, 0.0 to 1.0.
    pub duplicate: f64,
    /// Share of frames held back by `reorder_by`, so that later ones overtake them.
    pub reorder: f64,
    /// How long a reordered frame is held back in addition to `delay`.
    pub reorder_by: Duration,
    /// Delay of every frame.
    pub delay: Duration,
    /// At most this much is added to `delay`, at random: frames may overtake each other.
    pub jitter: Duration,
    /// Bits per second; `None` is unlimited.
    pub rate: Option<u64>,
}

impl Impairment {
    /// A link that does nothing to frames.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// When the copies of a frame leave; none: the frame is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fate {
    pub first: Option<Instant>,
    pub second: Option<Instant>,
}

/// An impairment at work: its chance, and how long its link is busy.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) impairment: Impairment,
    chance: Chance,
    busy_until: Option<Instant>,
}

impl Link {
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            chance: Chance(seed),
            busy_until: None,
        }
    }

    /// Decides on a frame of `len` bytes.
    pub fn decide(&mut self, now: Instant, len: usize) -> Fate {
        let impairment = self.impairment.clone();
        if self.chance.hits(impairment.loss) {
            return Fate::default();
        }
        let mut start = now;
        if let Some(rate) = impairment.rate.filter(|rate| *rate > 0) {
            let begin = self.busy_until.map_or(now, |busy| busy.max(now));
            start = begin + Duration::from_nanos(len as u64 * 8 * 1_000_000_000 / rate);
            self.busy_until = Some(start);
        }
        let first = Some(start + self.latency(&impairment));
        let second = self
            .chance
            .hits(impairment.duplicate)
            .then(|| start + self.latency(&impairment));
        Fate { first, second }
    }

    fn latency(&mut self, impairment: &Impairment) -> Duration {
        let mut latency = impairment.delay + impairment.jitter.mul_f64(self.chance.unit());
        if self.chance.hits(impairment.reorder) {
            latency += impairment.reorder_by;
        }
        latency
    }
}

/// splitmix64: small, seedable, good enough for losing frames.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_decides_the_same() {
        let impairment = Impairment {
            loss: 0.3,
            duplicate: 0.2,
            ..Impairment::default()
        };
        let now = Instant::now();
        let fates = |seed| {
            let mut link = Link::new(impairment.clone(), seed);
            (0..100).map(|_| link.decide(now, 100)).collect::<Vec<_>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }

    #[test]
    fn loss_is_near_what_was_asked() {
        let mut link = Link::new(
            Impairment {
                loss: 0.1,
                ..Impairment::default()
            },
            1,
        );
        let now = Instant::now();
        let lost = (0..10_000)
            .filter(|_| link.decide(now, 100).first.is_none())
            .count();
        assert!((900..1100).contains(&lost), "{lost} of 10000");
    }

    #[test]
    fn a_rate_spaces_frames() {
        let mut link = Link::new(
            Impairment {
                rate: Some(8_000_000),
                ..Impairment::default()
            },
            1,
        );
        let now = Instant::now();
        link.decide(now, 1000);
        let second = link.decide(now, 1000).first.unwrap();
        assert_eq!(
            second - now,
            Duration::from_millis(2),
            "1000 bytes take a millisecond each"
        );
    }
}
