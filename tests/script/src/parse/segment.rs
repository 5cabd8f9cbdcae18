//! Segments as written after `in` and `out`.

use super::Result;
use super::values::{integer, sequence, word, word_range};
use crate::script::{Flaw, Martian, OptionSpec, SegmentSpec, Value};
use crate::wire::{FLAGS, SYN};

/// `FLAGS SEQ[:END] [ack N[..M]] [win N] [urg N] [ect0|ect1|ce|not-ect] [may-fragment] [by N] [new]
/// [bad-checksum|bad-header-checksum|cut N|offset N|from WHO|to WHO|atomic|routed N] [forged] [lost] [<options>]`.
pub(super) fn parse(text: &str) -> Result<SegmentSpec> {
    let (text, options) = match text.split_once('<') {
        None => (text, None),
        Some((before, rest)) => {
            let list = rest
                .trim_end()
                .strip_suffix('>')
                .ok_or("`<` without `>` at the end")?;
            (before, Some(parse_options(list)?))
        }
    };
    let mut words = text.split_whitespace();
    let flags = parse_flags(words.next().ok_or("a segment begins with its flags")?)?;
    let seq = words.next().ok_or("the sequence number is missing")?;
    let (seq, end) = match seq.split_once(':') {
        None => (sequence(seq)?, sequence(seq)?),
        Some((seq, end)) => (sequence(seq)?, sequence(end)?),
    };
    if end < seq || end - seq > 1 << 24 {
        return Err(format!("`{seq}:{end}` is no range of octets"));
    }
    let mut spec = SegmentSpec {
        flags,
        seq,
        end,
        ack: None,
        window: None,
        urgent: None,
        ecn: None,
        may_fragment: false,
        options,
        by: None,
        new: false,
        flaw: None,
        forged: false,
        lost: false,
    };
    while let Some(name) = words.next() {
        let mut value = || words.next().ok_or(format!("`{name}` wants a value"));
        match name {
            "ack" => {
                let text = value()?;
                spec.ack = Some(match text.split_once("..") {
                    None => (sequence(text)?, sequence(text)?),
                    Some((first, last)) => (sequence(first)?, sequence(last)?),
                });
            }
            "win" => {
                let (low, high) = word_range(value()?)?;
                spec.window = Some(low..=high);
            }
            "urg" => {
                let pointer = u16::try_from(integer(value()?)?);
                spec.urgent =
                    Some(pointer.map_err(|_| "an urgent pointer has 16 bits".to_owned())?);
            }
            "by" => spec.by = Some(word(value()?)?.max(1)),
            "not-ect" => spec.ecn = Some(0),
            "ect1" => spec.ecn = Some(1),
            "ect0" => spec.ecn = Some(2),
            "ce" => spec.ecn = Some(3),
            "may-fragment" => spec.may_fragment = true,
            "new" => spec.new = true,
            "bad-checksum" => spec.flaw = Some(Flaw::Checksum),
            "bad-header-checksum" => spec.flaw = Some(Flaw::HeaderChecksum),
            "cut" => spec.flaw = Some(Flaw::Cut(word(value()?)? as usize)),
            "offset" => {
                let offset = u8::try_from(word(value()?)?).ok();
                let offset = offset.filter(|offset| *offset < 16);
                spec.flaw = Some(Flaw::Offset(offset.ok_or("an offset has 4 bits")?));
            }
            "from" => spec.flaw = Some(Flaw::From(parse_martian(value()?)?)),
            "to" => spec.flaw = Some(Flaw::To(parse_martian(value()?)?)),
            "atomic" => spec.flaw = Some(Flaw::Atomic),
            "routed" => {
                let left = u8::try_from(word(value()?)?);
                let left = left.map_err(|_| "places left have 8 bits".to_owned())?;
                spec.flaw = Some(Flaw::Routed(left));
            }
            "forged" => spec.forged = true,
            "lost" => spec.lost = true,
            other => return Err(format!("`{other}` is no part of a segment")),
        }
    }
    let train = spec.ack.is_some_and(|(first, last)| first != last);
    if train && spec.by.is_none() {
        return Err("a range of acknowledgements wants `by N`".into());
    }
    if train && seq != end {
        return Err("a train is of octets or of acknowledgements, not both".into());
    }
    if spec.new && flags & SYN == 0 {
        return Err("only a SYN begins a new connection".into());
    }
    Ok(spec)
}

fn parse_martian(text: &str) -> Result<Martian> {
    Ok(match text {
        "loopback" => Martian::Loopback,
        "multicast" => Martian::Multicast,
        "broadcast" => Martian::Broadcast,
        "unspecified" => Martian::Unspecified,
        "us" => Martian::Us,
        "stranger" => Martian::Stranger,
        other => return Err(format!("`{other}` is no address to come from or go to")),
    })
}

fn parse_flags(text: &str) -> Result<u8> {
    if text == "-" {
        return Ok(0);
    }
    text.chars().try_fold(0, |flags, letter| {
        let known = FLAGS.iter().find(|(_, name)| *name == letter);
        known.map(|(bit, _)| flags | bit).ok_or(format!(
            "`{text}`: flags are letters of SFRPUEW and `.` for ACK"
        ))
    })
}

fn parse_value(text: Option<&str>) -> Result<Value> {
    match text {
        None => Err("a value is missing".into()),
        Some("*") => Ok(Value::Any),
        Some("link") => Ok(Value::Link),
        Some(text) => Ok(Value::Is(word(text)?)),
    }
}

fn parse_options(text: &str) -> Result<Vec<OptionSpec>> {
    let mut options = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        options.push(parse_option(part)?);
    }
    Ok(options)
}

fn parse_option(text: &str) -> Result<OptionSpec> {
    let mut words = text.split_whitespace();
    let option = match words.next().unwrap_or_default() {
        "*" => OptionSpec::Anything,
        "mss" => OptionSpec::Mss(parse_value(words.next())?),
        "wscale" => OptionSpec::WindowScale(parse_value(words.next())?),
        "sack-ok" => OptionSpec::SackPermitted,
        "no-ts" => OptionSpec::NoTimestamps,
        "ts" => match words.next() {
            None => OptionSpec::Timestamps(Value::Any, Value::Any),
            value => OptionSpec::Timestamps(parse_value(value)?, parse_value(words.next())?),
        },
        "sack" => {
            let ranges: Vec<&str> = words.by_ref().collect();
            if ranges == ["*"] {
                return Ok(OptionSpec::SackAny);
            }
            let pairs = ranges.iter().map(|range| {
                let (start, end) = range
                    .split_once(':')
                    .ok_or(format!("`{range}` is no range"))?;
                Ok((sequence(start)?, sequence(end)?))
            });
            let pairs: Vec<_> = pairs.collect::<Result<_>>()?;
            if pairs.is_empty() || pairs.len() > 4 {
                return Err("SACK has one to four ranges".into());
            }
            OptionSpec::Sack(pairs)
        }
        // RFC 5482 section 3: the granularity bit and 15 bits of count.
        "uto" => {
            let value = word(words.next().unwrap_or_default())?;
            let value = u16::try_from(value).map_err(|_| "`uto` has 16 bits".to_owned())?;
            let [high, low] = value.to_be_bytes();
            OptionSpec::Raw(vec![28, 4, high, low])
        }
        "hex" => OptionSpec::Raw(parse_hex(words.next().unwrap_or_default())?),
        other => return Err(format!("`{other}` is not an option")),
    };
    match words.next() {
        None => Ok(option),
        Some(extra) => Err(format!("`{extra}` after an option")),
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect();
    match digits {
        Some(digits) if !digits.is_empty() && digits.len() % 2 == 0 && digits.len() <= 80 => {
            Ok(digits
                .chunks(2)
                .map(|pair| pair[0] << 4 | pair[1])
                .collect())
        }
        _ => Err(format!("`{text}` is not up to 40 octets in hexadecimal")),
    }
}
