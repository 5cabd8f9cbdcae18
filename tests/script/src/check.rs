//! Assertions on a connection as seen from outside.

use std::time::Duration;

use godwit_netstack::tcp::Phase;

use crate::flow::Flow;
use crate::script::{Check, Test, Wanted};

/// What was found.
enum Got {
    Word(&'static str),
    Number(i64),
    Time(Duration),
}

/// Everything that can be checked.
const KEYS: &[&str] = &[
    "state",
    "error",
    "phase",
    "cwnd",
    "ssthresh",
    "mss",
    "in-flight",
    "sacked",
    "lost",
    "snd-una",
    "snd-nxt",
    "snd-wnd",
    "rcv-nxt",
    "rcv-wnd",
    "out-of-order-octets",
    "tx-bytes",
    "rx-bytes",
    "readable",
    "queued",
    "send-room",
    "finished",
    "sack",
    "timestamps",
    "reordering",
    "reordering-window",
    "srtt",
    "rttvar",
    "min-rtt",
    "rto",
    "segments-in",
    "segments-out",
    "retransmits",
    "timeouts",
    "probes",
    "recoveries",
    "undos",
    "duplicates",
    "paws",
    "out-of-window",
    "challenges",
    "challenges-limited",
    "bad-acks",
    "out-of-order",
    "isn-ahead",
    "isn-apart",
    "pacing-rate",
    "receive-buffer",
    "pmtu",
    "ecn",
    "congestion-marks",
    "ecn-reductions",
    "mtu-probes",
];

/// Keys that say what the round-trip estimator knows: it learns nothing from segments that
/// another owner sent.
const ESTIMATOR: &[&str] = &["srtt", "rttvar", "min-rtt", "rto"];

pub(crate) fn is_key(key: &str) -> bool {
    KEYS.contains(&key)
}

pub(crate) fn is_estimator(key: &str) -> bool {
    ESTIMATOR.contains(&key)
}

fn yes(value: bool) -> Got {
    Got::Word(if value { "yes" } else { "no" })
}

fn find(flow: &Flow, key: &str) -> Option<Got> {
    let view = flow.view.as_ref();
    if key == "isn-ahead" {
        return flow.isn_ahead.map(yes);
    }
    if key == "isn-apart" {
        return flow.isn_apart.map(|apart| Got::Number(apart.into()));
    }
    if key == "state" && (flow.gone || view.is_none()) {
        return Some(Got::Word("CLOSED"));
    }
    let view = view?;
    let info = &view.info;
    let counters = &info.counters;
    let number = |value: u32| Got::Number(i64::from(value));
    let count = |value: u64| Got::Number(value as i64);
    Some(match key {
        "state" => Got::Word(info.state.name()),
        "error" => Got::Word(match view.error {
            None => "none",
            Some(error) => error_name(error),
        }),
        "phase" => Got::Word(match info.phase {
            Phase::Open => "open",
            Phase::Recovery => "recovery",
            Phase::Loss => "loss",
        }),
        "cwnd" => number(info.cwnd),
        "ssthresh" if info.ssthresh == u32::MAX => Got::Word("none"),
        "ssthresh" => number(info.ssthresh),
        "mss" => number(info.mss.into()),
        "in-flight" => number(info.in_flight),
        "sacked" => number(info.sacked),
        "lost" => number(info.lost),
        "snd-una" => Got::Number(flow.ours_relative(info.snd_una.raw())),
        "snd-nxt" => Got::Number(flow.ours_relative(info.snd_nxt.raw())),
        "snd-wnd" => number(info.snd_wnd),
        "rcv-nxt" => Got::Number(flow.theirs_relative(info.rcv_nxt.raw())),
        "rcv-wnd" => number(info.rcv_wnd),
        "out-of-order-octets" => number(info.out_of_order),
        "tx-bytes" => count(info.tx_bytes),
        "rx-bytes" => count(info.rx_bytes),
        "readable" => Got::Number(view.readable as i64),
        "queued" => Got::Number(view.queued as i64),
        "send-room" => Got::Number(view.send_room as i64),
        "finished" => yes(view.finished),
        "sack" => yes(info.sack),
        "timestamps" => yes(info.timestamps),
        "reordering" => yes(info.reordering),
        "reordering-window" => number(info.reordering_window.into()),
        "srtt" => Got::Time(info.srtt?),
        "rttvar" => Got::Time(info.rttvar),
        "min-rtt" => Got::Time(info.min_rtt?),
        "rto" => Got::Time(info.rto),
        "segments-in" => count(counters.segments_in),
        "segments-out" => count(counters.segments_out),
        "retransmits" => count(counters.retransmits),
        "timeouts" => count(counters.timeouts),
        "probes" => count(counters.probes),
        "recoveries" => count(counters.recoveries),
        "undos" => count(counters.undos),
        "duplicates" => count(counters.duplicates_reported),
        "paws" => count(counters.paws),
        "out-of-window" => count(counters.out_of_window),
        "challenges" => count(counters.challenges),
        "challenges-limited" => count(counters.challenges_limited),
        "bad-acks" => count(counters.bad_acks),
        "out-of-order" => count(counters.out_of_order),
        "pacing-rate" => match info.pacing_rate {
            Some(rate) => count(rate),
            None => Got::Word("none"),
        },
        "receive-buffer" => number(info.receive_buffer),
        "pmtu" => number(info.pmtu.into()),
        "ecn" => yes(info.ecn),
        "congestion-marks" => count(counters.congestion_marks),
        "ecn-reductions" => count(counters.ecn_reductions),
        "mtu-probes" => count(counters.mtu_probes),
        _ => return None,
    })
}

fn error_name(error: godwit_netstack::tcp::ConnectionError) -> &'static str {
    use godwit_netstack::tcp::ConnectionError as E;
    match error {
        E::Refused => "refused",
        E::Reset => "reset",
        E::TimedOut => "timed-out",
        E::Aborted => "aborted",
        E::Unreachable => "unreachable",
        _ => "other",
    }
}

/// Whether `got` stands in relation `test` to the range `low..=high`.
pub(crate) fn compare<T: PartialOrd>(test: Test, got: &T, low: &T, high: &T) -> bool {
    match test {
        Test::Equal => low <= got && got <= high,
        Test::NotEqual => got < low || got > high,
        Test::Less => got < low,
        Test::AtMost => got <= high,
        Test::Greater => got > high,
        Test::AtLeast => got >= low,
    }
}

/// Hold an assertion against a flow's connection. `Err` says what was found instead.
pub(crate) fn hold(flow: &Flow, check: &Check) -> Result<(), String> {
    let mss = flow.view.as_ref().map_or(0, |view| view.info.mss);
    let got = find(flow, &check.key);
    let (right, found) = match (got, &check.wanted) {
        (None, Wanted::Word(word)) if word == "none" => (check.test == Test::Equal, "none".into()),
        (None, _) => (
            false,
            "nothing (no connection was seen, or no value yet)".to_owned(),
        ),
        (Some(Got::Word(word)), Wanted::Word(wanted)) => match check.test {
            Test::Equal => (word == wanted, word.to_owned()),
            Test::NotEqual => (word != wanted, word.to_owned()),
            _ => (false, format!("{word}, which is not a number")),
        },
        // No threshold is more than any number.
        (Some(Got::Word("none")), _) => {
            let more = matches!(check.test, Test::Greater | Test::AtLeast | Test::NotEqual);
            (more, "none".to_owned())
        }
        (Some(Got::Number(got)), Wanted::Number(low, high)) => {
            (compare(check.test, &got, low, high), got.to_string())
        }
        (Some(Got::Number(got)), Wanted::Segments(count)) => {
            let wanted = (count * f64::from(mss)).round() as i64;
            let right = compare(check.test, &got, &wanted, &wanted);
            (
                right,
                format!("{got} ({:.2}mss)", got as f64 / f64::from(mss.max(1))),
            )
        }
        (Some(Got::Time(got)), Wanted::Time(low, high)) => {
            (compare(check.test, &got, low, high), format!("{got:?}"))
        }
        (Some(Got::Time(got)), _) => (false, format!("{got:?}, which is a time")),
        (Some(Got::Number(got)), _) => (false, format!("{got}, which is a number")),
        (Some(Got::Word(word)), _) => (false, word.to_owned()),
    };
    match right {
        true => Ok(()),
        false => Err(format!("`{}` is {found}", check.key)),
    }
}
