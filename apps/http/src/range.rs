//! Byte ranges (RFC 9110 section 14), one range at a time.

use core::ops::Range;

/// What a `Range` field asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// The whole: the field is not one we honour (RFC 9110 lets a server ignore it).
    Whole,
    /// Some octets.
    Part(Range<u64>),
    /// Octets that are not there: 416.
    Unsatisfiable,
}

/// The part of `size` octets that `field` asks for.
pub(crate) fn wanted(field: &[u8], size: u64) -> Wanted {
    parse(field, size).unwrap_or(Wanted::Whole)
}

fn parse(field: &[u8], size: u64) -> Option<Wanted> {
    let text = core::str::from_utf8(field).ok()?;
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        // The last so many octets.
        let octets = number(last)?.min(size);
        return Some(if octets == 0 {
            Wanted::Unsatisfiable
        } else {
            Wanted::Part(size - octets..size)
        });
    }
    let first = number(first)?;
    let last = match last {
        "" => u64::MAX,
        last => number(last)?,
    };
    if last < first {
        return None;
    }
    if first >= size {
        return Some(Wanted::Unsatisfiable);
    }
    Some(Wanted::Part(first..last.saturating_add(1).min(size)))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_within_the_file_are_honoured() {
        for (field, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..100),
            ("bytes=10-19", 10..20),
            ("Bytes = 99-", 99..100),
            ("bytes=50-1000", 50..100),
            ("bytes=0-18446744073709551615", 0..100),
            ("bytes=-1", 99..100),
            ("bytes=-500", 0..100),
        ] {
            assert_eq!(wanted(field.as_bytes(), 100), Wanted::Part(part), "{field}");
        }
    }

    #[test]
    fn ranges_beyond_the_file_are_unsatisfiable() {
        for field in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(
                wanted(field.as_bytes(), 100),
                Wanted::Unsatisfiable,
                "{field}"
            );
        }
        assert_eq!(wanted(b"bytes=-5", 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(b"bytes=0-", 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn what_is_no_single_sound_range_is_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=18446744073709551616-",
        ] {
            assert_eq!(wanted(field.as_bytes(), 100), Wanted::Whole, "{field}");
        }
        assert_eq!(wanted(b"bytes=\xff-", 100), Wanted::Whole);
    }
}
