//! A segment that was sent against the one that was to be sent.

use crate::flow::Flow;
use crate::script::{OptionSpec, SegmentSpec, Value};
use crate::wire::{ACK, PSH, RST, SYN, Segment, TcpOption, flags_text};

/// What is different, one phrase each; nothing if the segment is as wanted.
///
/// PSH is looked at only where it is asked for; windows, urgent pointers, codepoints and the
/// options of a SYN only where they are written. Without options a segment must have timestamps
/// if they were agreed on, and nothing else.
pub(crate) fn differences(flow: &Flow, spec: &SegmentSpec, got: &Segment) -> Vec<String> {
    let mut out = Vec::new();
    let ignored = if spec.flags & PSH == 0 { PSH } else { 0 };
    if got.flags & !ignored != spec.flags {
        let (wanted, got) = (flags_text(spec.flags), flags_text(got.flags));
        out.push(format!("flags {got}, not {wanted}"));
    }
    let seq = flow.ours_relative(got.seq);
    if got.seq != flow.ours_raw(spec.seq) {
        out.push(format!("sequence number {seq}, not {}", spec.seq));
    }
    let wanted = spec.end - spec.seq;
    if got.payload.len() as i64 != wanted {
        out.push(format!("{} octets, not {wanted}", got.payload.len()));
    }
    match spec.ack {
        Some((ack, _)) if got.flags & ACK != 0 && got.ack != flow.theirs_raw(ack) => {
            out.push(format!("ack {}, not {ack}", flow.theirs_relative(got.ack)));
        }
        _ => {}
    }
    if let Some(window) = &spec.window
        && !window.contains(&u32::from(got.window))
    {
        out.push(format!("win {}, not {}", got.window, range_text(window)));
    }
    if let Some(urgent) = spec.urgent
        && urgent != got.urgent
    {
        out.push(format!("urg {}, not {urgent}", got.urgent));
    }
    if let Some(ecn) = spec.ecn
        && ecn != got.ecn
    {
        let names = ["not-ect", "ect1", "ect0", "ce"];
        let name = |ecn: u8| names[usize::from(ecn & 3)];
        out.push(format!("{}, not {}", name(got.ecn), name(ecn)));
    }
    if spec.may_fragment != got.may_fragment {
        out.push(match got.may_fragment {
            true => "without DF".into(),
            false => "with DF".into(),
        });
    }
    options(flow, spec, got, &mut out);
    out
}

fn range_text(range: &std::ops::RangeInclusive<u32>) -> String {
    match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}..{}", range.start(), range.end()),
    }
}

fn options(flow: &Flow, spec: &SegmentSpec, got: &Segment, out: &mut Vec<String>) {
    let is_syn = got.flags & SYN != 0;
    let Some(wanted) = &spec.options else {
        if is_syn || got.flags & RST != 0 {
            return;
        }
        let stamped = got.timestamps().is_some();
        if stamped != flow.uses_timestamps() {
            out.push(match stamped {
                true => "timestamps that were not agreed on".into(),
                false => "no timestamps, though agreed on".into(),
            });
        }
        for option in &got.options {
            if !matches!(option, TcpOption::Timestamps(..)) {
                out.push(format!("an option not expected: {option:?}"));
            }
        }
        return;
    };
    if wanted.contains(&OptionSpec::Anything) {
        return;
    }
    for spec in wanted {
        if *spec == OptionSpec::NoTimestamps {
            if got.timestamps().is_some() {
                out.push("timestamps where there must be none".into());
            }
        } else if !got
            .options
            .iter()
            .any(|option| matches_option(flow, spec, option))
        {
            out.push(format!("not the option {}", describe(spec)));
        }
    }
    // On a SYN everything is said; later timestamps go without saying.
    for option in &got.options {
        let implied = matches!(option, TcpOption::Timestamps(..)) && !is_syn;
        if !implied && !wanted.iter().any(|spec| matches_option(flow, spec, option)) {
            out.push(format!("an option not expected: {option:?}"));
        }
    }
}

fn describe(spec: &OptionSpec) -> String {
    let value = |value: &Value| match value {
        Value::Any => "*".to_owned(),
        Value::Link => "link".to_owned(),
        Value::Is(value) => value.to_string(),
    };
    match spec {
        OptionSpec::Mss(mss) => format!("mss {}", value(mss)),
        OptionSpec::WindowScale(shift) => format!("wscale {}", value(shift)),
        OptionSpec::SackPermitted => "sack-ok".into(),
        OptionSpec::Timestamps(a, b) => format!("ts {} {}", value(a), value(b)),
        OptionSpec::Sack(ranges) => {
            let ranges: Vec<_> = ranges.iter().map(|(a, b)| format!("{a}:{b}")).collect();
            format!("sack {}", ranges.join(" "))
        }
        OptionSpec::SackAny => "sack *".into(),
        OptionSpec::Raw(octets) => format!("hex {}", crate::wire::hex(octets)),
        OptionSpec::Anything => "*".into(),
        OptionSpec::NoTimestamps => "no-ts".into(),
    }
}

fn matches_option(flow: &Flow, spec: &OptionSpec, option: &TcpOption) -> bool {
    let is = |wanted: &Value, got: u32| match wanted {
        Value::Any => true,
        Value::Is(wanted) => *wanted == got,
        Value::Link => false,
    };
    match (spec, option) {
        (OptionSpec::Mss(Value::Link), TcpOption::Mss(mss)) => *mss == flow.link_mss,
        (OptionSpec::Mss(wanted), TcpOption::Mss(mss)) => is(wanted, (*mss).into()),
        (OptionSpec::WindowScale(wanted), TcpOption::WindowScale(shift)) => {
            is(wanted, (*shift).into())
        }
        (OptionSpec::SackPermitted, TcpOption::SackPermitted) => true,
        (OptionSpec::Timestamps(value, echo), TcpOption::Timestamps(v, e)) => {
            is(value, flow.stamp_relative(*v)) && is(echo, *e)
        }
        (OptionSpec::SackAny, TcpOption::Sack(_)) => true,
        (OptionSpec::Sack(wanted), TcpOption::Sack(got)) => {
            let raw =
                |relative: &(i64, i64)| (flow.theirs_raw(relative.0), flow.theirs_raw(relative.1));
            wanted.iter().map(raw).collect::<Vec<_>>() == *got
        }
        (OptionSpec::Raw(wanted), TcpOption::Raw(got)) => wanted == got,
        _ => false,
    }
}
