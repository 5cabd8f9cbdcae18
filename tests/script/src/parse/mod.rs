//! A file's text into a [`Script`]. Nothing here panics on any text: what cannot be read is
//! reported with its line.

mod assert;
mod header;
mod open;
mod segment;
mod values;

use std::time::Duration;

use crate::script::{Action, Drain, Line, ParseError, Script, Setting, When};
use crate::wire::Icmp;
use values::{duration, integer, on_off, sequence, span};

type Result<T> = std::result::Result<T, String>;

/// Lines a script may have once its blocks are repeated.
const MAX_LINES: usize = 20_000;

/// A line with its comment gone.
#[derive(Clone)]
struct Raw {
    number: usize,
    text: String,
}

impl Script {
    /// Read a script; `name` is how errors and reports call it.
    pub fn parse(name: &str, text: &str) -> std::result::Result<Script, ParseError> {
        let fail = |line, message| ParseError {
            name: name.to_owned(),
            line,
            message,
        };
        if !text.trim_start().starts_with('#') {
            return Err(fail(
                1,
                "a script opens with a comment that says what it shows".into(),
            ));
        }
        let mut raw = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let text = line.split('#').next().unwrap_or_default().trim().to_owned();
            if !text.is_empty() {
                raw.push(Raw {
                    number: index + 1,
                    text,
                });
            }
        }
        let mut header = header::Header::default();
        let mut body = &raw[..];
        while let [first, rest @ ..] = body {
            if !header
                .take(&first.text)
                .map_err(|message| fail(first.number, message))?
            {
                break;
            }
            body = rest;
        }
        let mut lines = Vec::new();
        let mut both_roles = false;
        let mut last = 0;
        for raw in repeat(body).map_err(|(line, message)| fail(line, message))? {
            last = raw.number;
            let read = parse_line(&raw, &mut both_roles);
            lines.extend(read.map_err(|message| fail(raw.number, message))?);
        }
        if lines.is_empty() {
            return Err(fail(last, "nothing happens in this script".into()));
        }
        Ok(Script {
            name: name.to_owned(),
            header: header.finish(),
            lines,
            both_roles,
        })
    }
}

/// Write out `repeat N` … `end`.
fn repeat(lines: &[Raw]) -> std::result::Result<Vec<Raw>, (usize, String)> {
    let mut out: Vec<Raw> = Vec::new();
    let mut open: Vec<(usize, usize, usize)> = Vec::new();
    for line in lines {
        let here = |message: &str| (line.number, message.to_owned());
        match line.text.split_whitespace().collect::<Vec<_>>()[..] {
            ["repeat", count] => {
                let count = integer(count).map_err(|message| (line.number, message))?;
                let count = usize::try_from(count).map_err(|_| here("a negative count"))?;
                open.push((line.number, count, out.len()));
            }
            ["repeat", ..] => return Err(here("`repeat` takes a count")),
            ["end"] => {
                let (_, count, start) = open.pop().ok_or(here("`end` without `repeat`"))?;
                let block = out.split_off(start.min(out.len()));
                if block.len().saturating_mul(count) + out.len() > MAX_LINES {
                    return Err(here("more lines than a script may have"));
                }
                for _ in 0..count {
                    out.extend(block.iter().cloned());
                }
            }
            _ => out.push(line.clone()),
        }
    }
    match open.pop() {
        Some((number, ..)) => Err((number, "`repeat` without `end`".into())),
        None => Ok(out),
    }
}

fn parse_line(raw: &Raw, both_roles: &mut bool) -> Result<Vec<Line>> {
    let (time, rest) = match raw.text.split_once(char::is_whitespace) {
        Some((first, rest)) if is_time(first) => (Some(first), rest.trim()),
        None if is_time(&raw.text) => {
            return Err("a time alone says nothing: `quiet` or `ignore` belongs after it".into());
        }
        _ => (None, raw.text.as_str()),
    };
    let when = match time {
        None => When::Together,
        Some(time) => parse_when(time)?,
    };
    let (verb, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim();
    let (verb, flow) = match verb.split_once('@') {
        None => (verb, 1),
        Some((verb, flow)) => {
            let flow = flow.parse().ok().filter(|flow| (1..=9_000).contains(flow));
            (verb, flow.ok_or("a flow is a number from 1 to 9000")?)
        }
    };
    if verb == "open" {
        let spec = open::parse(rest)?;
        *both_roles |= spec.role.is_none();
        return open::expand(raw, &spec, when, flow);
    }
    let action = parse_action(verb, rest)?;
    Ok(vec![Line {
        number: raw.number,
        text: raw.text.clone(),
        when,
        flow,
        action,
    }])
}

fn is_time(word: &str) -> bool {
    word.starts_with(|first: char| first == '+' || first.is_ascii_digit())
}

/// `1.5s`, `+40ms`, `+300ms~5ms`, `+1s..2s`.
fn parse_when(text: &str) -> Result<When> {
    let (relative, text) = match text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (low, high) = span(text, Duration::ZERO)?;
    Ok(match relative {
        true => When::After(low..=high),
        false => When::At(low..=high),
    })
}

fn parse_action(verb: &str, rest: &str) -> Result<Action> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let count = |text: &str| -> Result<usize> {
        usize::try_from(integer(text)?).map_err(|_| format!("`{text}` is not a count"))
    };
    Ok(match (verb, &words[..]) {
        ("in", ["icmp", rest @ ..]) => parse_icmp(rest)?,
        ("in", _) => Action::In(segment::parse(rest)?),
        ("out", _) => Action::Out(segment::parse(rest)?),
        ("flood", [n]) => Action::Flood(count(n)? as u32),
        ("quiet", []) => Action::Quiet,
        ("ignore", []) => Action::Ignore,
        ("drain", [length, rest @ ..]) => parse_drain(length, rest)?,
        ("listen", []) => Action::Listen,
        ("accept", []) => Action::Accept,
        ("accept", ["none"]) => Action::AcceptNone,
        ("connect", []) => Action::Connect,
        ("send", [n]) => Action::Send(count(n)?),
        ("receive", ["end"]) => Action::ReceiveEnd,
        ("receive", [n]) => Action::Receive(count(n)?),
        ("shutdown", []) => Action::Shutdown,
        ("close", []) => Action::Close,
        ("abort", []) => Action::Abort,
        ("move", []) => Action::Move,
        ("set", [what, rest @ ..]) => Action::Set(parse_setting(what, rest)?),
        ("check", [_, ..]) => Action::Check(assert::parse(rest)?),
        ("counter", [name, rest @ ..]) => {
            let (test, number) = assert::counter(rest)?;
            Action::Counter((*name).to_owned(), test, number)
        }
        _ => {
            let line = format!("{verb} {rest}");
            return Err(format!("`{}` is not a line of this language", line.trim()));
        }
    })
}

fn parse_icmp(words: &[&str]) -> Result<Action> {
    let (error, quote) = match words {
        ["too-big", mtu, "quote", seq] => {
            let mtu = integer(mtu)?;
            let mtu = u16::try_from(mtu).map_err(|_| "an MTU has 16 bits".to_owned())?;
            (Icmp::TooBig(mtu), seq)
        }
        ["unreachable", code, "quote", seq] => {
            let code = match *code {
                "net" => 0,
                "host" => 1,
                "protocol" => 2,
                "port" => 3,
                "prohibited" => 13,
                other => return Err(format!("`{other}` is not a reason for being unreachable")),
            };
            (Icmp::Unreachable(code), seq)
        }
        ["time-exceeded", "quote", seq] => (Icmp::TimeExceeded, seq),
        ["source-quench", "quote", seq] => (Icmp::SourceQuench, seq),
        _ => {
            return Err(
                "in icmp too-big MTU | unreachable WHAT | time-exceeded | source-quench, then `quote SEQ`"
                    .into(),
            );
        }
    };
    Ok(Action::Icmp {
        error,
        quote: sequence(quote)?,
    })
}

/// `drain 2s delay 50ms [every 2] [ce]`.
fn parse_drain(length: &str, words: &[&str]) -> Result<Action> {
    let (mut delay, mut every, mut congestion) = (Duration::ZERO, 1, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .copied()
                .ok_or(format!("`{word}` wants a value"))
        };
        match *word {
            "delay" => delay = duration(value()?)?,
            "every" => every = u32::try_from(integer(value()?)?.max(1)).unwrap_or(1),
            "ece" => congestion = true,
            other => return Err(format!("`{other}` is not an option of `drain`")),
        }
    }
    Ok(Action::Drain(Drain {
        duration: duration(length)?,
        delay,
        every,
        congestion,
    }))
}

fn parse_setting(what: &str, words: &[&str]) -> Result<Setting> {
    Ok(match (what, words) {
        ("nagle", [word]) => Setting::Nagle(on_off(word)?),
        ("ack-delay", [time]) => Setting::AckDelay(duration(time)?),
        ("peer-ack-delay", [time]) => Setting::PeerAckDelay(duration(time)?),
        ("min-rto", [time]) => Setting::MinRto(duration(time)?),
        ("keepalive", ["off"]) => Setting::Keepalive(None),
        ("keepalive", [idle, interval, probes]) => {
            let probes =
                u8::try_from(integer(probes)?).map_err(|_| "too many probes".to_owned())?;
            Setting::Keepalive(Some((duration(idle)?, duration(interval)?, probes)))
        }
        ("user-timeout", ["off"]) => Setting::UserTimeout(None),
        ("user-timeout", [time]) => Setting::UserTimeout(Some(duration(time)?)),
        _ => return Err(format!("`set {what} {}` sets nothing", words.join(" "))),
    })
}
