//! Numbers, times and ranges of them.

use std::time::Duration;

use super::Result;

/// A whole number; `_` may group digits.
pub(super) fn integer(text: &str) -> Result<i64> {
    let digits = text.replace('_', "");
    digits
        .parse()
        .map_err(|_| format!("`{text}` is not a whole number"))
}

/// A relative sequence number: within half a circle of the initial one, either way.
pub(super) fn sequence(text: &str) -> Result<i64> {
    let number = integer(text)?;
    match number.unsigned_abs() < 1 << 32 {
        true => Ok(number),
        false => Err(format!("`{text}` is not a relative sequence number")),
    }
}

/// A 32-bit number.
pub(super) fn word(text: &str) -> Result<u32> {
    u32::try_from(integer(text)?).map_err(|_| format!("`{text}` does not fit 32 bits"))
}

/// `a` or `a..b`.
pub(super) fn word_range(text: &str) -> Result<(u32, u32)> {
    let (low, high) = match text.split_once("..") {
        Some((low, high)) => (word(low)?, word(high)?),
        None => (word(text)?, word(text)?),
    };
    match low <= high {
        true => Ok((low, high)),
        false => Err(format!("`{text}` is no range")),
    }
}

/// A time with its unit (`250us`, `40ms`, `1.5s`, `2min`), or bare, in seconds.
pub(super) fn duration(text: &str) -> Result<Duration> {
    let (number, nanos_each) = if let Some(number) = text.strip_suffix("us") {
        (number, 1e3)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1e6)
    } else if let Some(number) = text.strip_suffix("min") {
        (number, 60e9)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1e9)
    } else {
        (text, 1e9)
    };
    let value: f64 = number
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{text}` is not a time"))?;
    let nanos = value * nanos_each;
    match nanos.is_finite() && (0.0..=1e18).contains(&nanos) {
        true => Ok(Duration::from_nanos(nanos.round() as u64)),
        false => Err(format!("`{text}` is not a time")),
    }
}

/// `a`, `a~tolerance` or `a..b`; `tolerance` where none is said.
pub(super) fn span(text: &str, tolerance: Duration) -> Result<(Duration, Duration)> {
    if let Some((low, high)) = text.split_once("..") {
        let (low, high) = (duration(low)?, duration(high)?);
        return match low <= high {
            true => Ok((low, high)),
            false => Err(format!("`{text}` is no range")),
        };
    }
    let (middle, tolerance) = match text.split_once('~') {
        Some((middle, tolerance)) => (duration(middle)?, duration(tolerance)?),
        None => (duration(text)?, tolerance),
    };
    Ok((middle.saturating_sub(tolerance), middle + tolerance))
}

pub(super) fn on_off(text: &str) -> Result<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("`{other}` is neither `on` nor `off`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_tolerances() {
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("0.04").unwrap(), Duration::from_millis(40));
        let ms = Duration::from_millis;
        assert_eq!(span("300ms~5ms", ms(0)).unwrap(), (ms(295), ms(305)));
        assert_eq!(span("1s..2s", ms(0)).unwrap(), (ms(1000), ms(2000)));
        for wrong in ["x", "-1", "1e300", "nan", "1s..", "2..1"] {
            assert!(span(wrong, ms(0)).is_err(), "{wrong}");
        }
    }
}
