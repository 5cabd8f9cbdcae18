//! TCP options (RFC 9293 section 3.2, RFC 7323, RFC 2018): typed, parsed once, emitted aligned.

use crate::seq::SeqNumber;

/// Octets of options a header can hold.
pub const MAX_OPTIONS: usize = 40;
/// SACK ranges a segment can hold.
pub const MAX_SACK: usize = 4;
/// Octets the timestamps option takes, with its padding.
pub const TIMESTAMPS_LEN: usize = 12;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const USER_TIMEOUT: u8 = 28;

/// The timestamps option (RFC 7323 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the clock value echoed; meaningful only with ACK.
    pub echo: u32,
}

/// A range of sequence numbers a receiver holds, or reports as duplicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackRange {
    /// The first number of the range.
    pub start: SeqNumber,
    /// The number after the last.
    pub end: SeqNumber,
}

/// Up to [`MAX_SACK`] ranges, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackRanges {
    ranges: [SackRange; MAX_SACK],
    count: u8,
}

impl SackRanges {
    /// No ranges.
    pub const EMPTY: SackRanges = SackRanges {
        ranges: [SackRange {
            start: SeqNumber::new(0),
            end: SeqNumber::new(0),
        }; MAX_SACK],
        count: 0,
    };

    /// Add a range; silently full beyond [`MAX_SACK`].
    pub fn push(&mut self, range: SackRange) {
        if let Some(slot) = self.ranges.get_mut(usize::from(self.count)) {
            *slot = range;
            self.count += 1;
        }
    }

    /// The ranges in order.
    pub fn as_slice(&self) -> &[SackRange] {
        self.ranges
            .get(..usize::from(self.count))
            .unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The options of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Maximum segment size; SYN only.
    pub mss: Option<u16>,
    /// Window scale; SYN only. As received: values above 14 count as 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    /// SACK permitted; SYN only.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK ranges.
    pub sack: SackRanges,
    /// User timeout as on the wire: bit 15 says minutes instead of seconds (RFC 5482 section 4).
    pub user_timeout: Option<u16>,
}

/// Octets `at..at + N` of `bytes`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Options being written into a header.
struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, octets: &[u8]) {
        if let Some(room) = self.out.get_mut(self.at..self.at + octets.len()) {
            room.copy_from_slice(octets);
            self.at += octets.len();
        }
    }

    fn put_number(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }
}

impl Options {
    /// Read the options of a header. Unknown ones are skipped; a malformed one ends the list, as
    /// what follows cannot be trusted.
    pub fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        // The layout nearly every segment of an established connection has.
        if bytes.len() == TIMESTAMPS_LEN
            && bytes.starts_with(&[NOP, NOP, TIMESTAMPS, 10])
            && let (Some(value), Some(echo)) = (number(bytes, 4), number(bytes, 8))
        {
            options.timestamps = Some(Timestamps { value, echo });
            return options;
        }
        while let Some(&kind) = bytes.first() {
            if kind == END {
                break;
            }
            if kind == NOP {
                bytes = bytes.get(1..).unwrap_or_default();
                continue;
            }
            let Some(length) = bytes.get(1).map(|length| usize::from(*length)) else {
                break;
            };
            let Some(body) = bytes.get(2..length) else {
                break;
            };
            options.take(kind, body);
            bytes = bytes.get(length..).unwrap_or_default();
        }
        options
    }

    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body.len()) {
            (MSS, 2) => self.mss = array(body, 0).map(u16::from_be_bytes),
            (WINDOW_SCALE, 1) => self.window_scale = body.first().map(|shift| (*shift).min(14)),
            (SACK_PERMITTED, 0) => self.sack_permitted = true,
            (TIMESTAMPS, 8) => {
                if let (Some(value), Some(echo)) = (number(body, 0), number(body, 4)) {
                    self.timestamps = Some(Timestamps { value, echo });
                }
            }
            (USER_TIMEOUT, 2) => self.user_timeout = array(body, 0).map(u16::from_be_bytes),
            (SACK, 8 | 16 | 24 | 32) => {
                let (pairs, _) = body.as_chunks::<8>();
                for pair in pairs {
                    if let (Some(start), Some(end)) = (number(pair, 0), number(pair, 4)) {
                        self.sack.push(SackRange {
                            start: SeqNumber::new(start),
                            end: SeqNumber::new(end),
                        });
                    }
                }
            }
            _ => {}
        }
    }

    /// Octets [`Options::emit`] writes: a multiple of 4, at most [`MAX_OPTIONS`].
    pub fn len(&self) -> usize {
        let mut len = 0;
        if self.mss.is_some() {
            len += 4;
        }
        if self.timestamps.is_some() {
            len += TIMESTAMPS_LEN;
        } else if self.sack_permitted {
            len += 4;
        }
        if self.window_scale.is_some() {
            len += 4;
        }
        if self.user_timeout.is_some() {
            len += 4;
        }
        len + self.sack_len(len)
    }

    /// Whether there are no options at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ranges that fit beside `other` octets of options.
    fn sack_fitting(&self, other: usize) -> &[SackRange] {
        let fit = MAX_OPTIONS.saturating_sub(other + 4) / 8;
        let ranges = self.sack.as_slice();
        ranges.get(..fit).unwrap_or(ranges)
    }

    fn sack_len(&self, other: usize) -> usize {
        match self.sack_fitting(other).len() {
            0 => 0,
            count => 4 + 8 * count,
        }
    }

    /// Write the options into the first [`Options::len`] octets of `out`. SACK ranges that do not
    /// fit the header are left out, the last first.
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let mut writer = Writer { out, at: 0 };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            writer.put(&[MSS, 4, high, low]);
        }
        if let Some(timestamps) = self.timestamps {
            writer.put(match self.sack_permitted {
                true => &[SACK_PERMITTED, 2, TIMESTAMPS, 10],
                false => &[NOP, NOP, TIMESTAMPS, 10],
            });
            writer.put_number(timestamps.value);
            writer.put_number(timestamps.echo);
        } else if self.sack_permitted {
            writer.put(&[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if let Some(shift) = self.window_scale {
            writer.put(&[NOP, WINDOW_SCALE, 3, shift]);
        }
        if let Some(timeout) = self.user_timeout {
            let [high, low] = timeout.to_be_bytes();
            writer.put(&[USER_TIMEOUT, 4, high, low]);
        }
        let ranges = self.sack_fitting(writer.at);
        if !ranges.is_empty() {
            writer.put(&[NOP, NOP, SACK, (2 + 8 * ranges.len()) as u8]);
            for range in ranges {
                writer.put_number(range.start.raw());
                writer.put_number(range.end.raw());
            }
        }
        writer.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(options: Options) -> Options {
        let mut out = [0; MAX_OPTIONS];
        let len = options.emit(&mut out);
        assert_eq!(len, options.len());
        assert_eq!(len % 4, 0);
        Options::parse(&out[..len])
    }

    #[test]
    fn a_syn_carries_every_option() {
        let options = Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 7, echo: 9 }),
            sack: SackRanges::EMPTY,
            user_timeout: Some(0x8005),
        };
        assert_eq!(round(options), options);
    }

    #[test]
    fn ranges_that_do_not_fit_beside_timestamps_are_left_out() {
        let mut options = Options {
            timestamps: Some(Timestamps { value: 1, echo: 2 }),
            ..Options::default()
        };
        for n in 0..4 {
            options.sack.push(SackRange {
                start: SeqNumber::new(n * 10),
                end: SeqNumber::new(n * 10 + 5),
            });
        }
        let parsed = round(options);
        assert_eq!(parsed.sack.as_slice(), &options.sack.as_slice()[..3]);
        options.timestamps = None;
        assert_eq!(round(options), options);
    }

    #[test]
    fn malformed_lists_end_where_they_break() {
        // A length of 0 or 1 must not loop, one beyond the end must not be read.
        for list in [&[MSS, 0, 5, 180][..], &[MSS, 1], &[MSS], &[MSS, 9, 5, 180]] {
            assert_eq!(Options::parse(list), Options::default());
        }
        let parsed = Options::parse(&[NOP, MSS, 4, 5, 180, 254, 4, 1, 1, WINDOW_SCALE, 3, 20]);
        assert_eq!(parsed.mss, Some(1460));
        assert_eq!(parsed.window_scale, Some(14), "shifts above 14 count as 14");
    }
}
