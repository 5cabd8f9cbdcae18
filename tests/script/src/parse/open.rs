//! `open`: a handshake in one line, written out for either role.

use super::values::{duration, word};
use super::{Raw, Result, parse_action};
use crate::script::{Action, Line, When};
use std::time::Duration;

/// The options of the peer's SYN unless said otherwise: with timestamps a segment then holds
/// 1000 octets, and windows are in octets.
const OPTIONS: &str = "mss 1012, sack-ok, ts, wscale 0";

pub(super) struct Open {
    /// `true` for passive. `None`: both are run.
    pub role: Option<bool>,
    rtt: Duration,
    window: u32,
    options: String,
}

/// `[passive|active] [rtt TIME] [win N] [<options>]`.
pub(super) fn parse(text: &str) -> Result<Open> {
    let mut open = Open {
        role: None,
        rtt: Duration::from_millis(100),
        window: 65_535,
        options: OPTIONS.to_owned(),
    };
    let text = match text.split_once('<') {
        None => text,
        Some((before, rest)) => {
            let options = rest.strip_suffix('>').ok_or("`<` without `>` at the end")?;
            open.options = options.to_owned();
            before
        }
    };
    let mut words = text.split_whitespace();
    while let Some(word_) = words.next() {
        let mut value = || words.next().ok_or(format!("`{word_}` wants a value"));
        match word_ {
            "passive" => open.role = Some(true),
            "active" => open.role = Some(false),
            "rtt" => open.rtt = duration(value()?)?,
            "win" => open.window = word(value()?)?,
            other => return Err(format!("`{other}` is not an option of `open`")),
        }
    }
    Ok(open)
}

/// The lines `open` stands for. Where both roles are run the passive lines come first, each
/// marked by its role, and the run picks.
pub(super) fn expand(raw: &Raw, open: &Open, when: When, flow: u16) -> Result<Vec<Line>> {
    let (options, window) = (&open.options, open.window);
    let later = When::After(open.rtt..=open.rtt);
    let passive = [
        (when.clone(), "listen".to_owned()),
        (When::Together, format!("in S 0 win {window} <{options}>")),
        (When::Together, "out S. 0 ack 1".to_owned()),
        (later.clone(), format!("in . 1 ack 1 win {window}")),
        (When::Together, "accept".to_owned()),
    ];
    let active = [
        (when, "connect".to_owned()),
        (When::Together, "out S 0".to_owned()),
        (later, format!("in S. 0 ack 1 win {window} <{options}>")),
        (When::Together, "out . 1 ack 1".to_owned()),
    ];
    let mut lines = Vec::new();
    let chosen: [(&[_], bool); 2] = [(&passive, true), (&active, false)];
    for (list, is_passive) in chosen {
        if open.role.is_some_and(|role| role != is_passive) {
            continue;
        }
        for (when, text) in list {
            let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
            let action = parse_action(verb, rest)?;
            lines.push(Line {
                number: raw.number,
                text: format!("{}  ({text})", raw.text),
                when: when.clone(),
                flow,
                action: match open.role {
                    Some(_) => action,
                    None => Action::InRole(is_passive, Box::new(action)),
                },
            });
        }
    }
    Ok(lines)
}
