//! `godwit ctl status`, for people: what is looked for first, and no counters of what never happened.

use std::fmt::Write;

use crate::admin::{Role, Session, Status, Voter};

/// Sessions and moves listed at most, unless all are asked for.
const LISTED: usize = 10;

/// The status in words; with `all`, every session, every move and every counter.
pub(super) fn text(status: &Status, all: bool) -> String {
    let mut text = format!(
        "instance {} ({}) is {}, {} after its start (boot {})\n",
        status.id,
        status.service,
        status.state,
        time(status.uptime_ms),
        status.boot_id
    );
    let mut line = |name: &str, what: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {name:<10}{what}");
    };
    line("ingress", ingress(status));
    let mut name = "voters";
    for voter in &status.role.voters {
        line(std::mem::take(&mut name), vote(voter, &status.role));
    }
    let mut name = "members";
    for member in &status.members {
        let up = if member.up { "up" } else { "DOWN" };
        let what = format!("{} at {}: {up}", member.id, member.ip);
        line(std::mem::take(&mut name), what);
    }
    let mut name = "cards";
    for nic in &status.nics {
        let fault = nic.fault.as_deref().map(|fault| format!(": {fault}"));
        let fault = fault.unwrap_or_default();
        let what = format!(
            "{} network, {}, link {}{fault}",
            nic.network, nic.mac, nic.link
        );
        line(std::mem::take(&mut name), what);
    }
    let listed = if all { usize::MAX } else { LISTED };
    // An older release does not count them.
    let sessions = status.session_count.max(status.sessions.len() as u64);
    line("sessions", sessions.to_string());
    for session in status.sessions.iter().take(listed) {
        line("", one_session(session));
    }
    more(&mut line, sessions, status.sessions.len(), listed);
    if !status.moves.is_empty() {
        line("moves", "the last ones away from here, latest first".into());
    }
    for a_move in status.moves.iter().rev().take(listed) {
        let (session, to, result) = (&a_move.session, a_move.to, &a_move.result);
        let millis = a_move.total_us / 1e3;
        line("", format!("{session} to {to}: {result}, {millis:.1} ms"));
    }
    let moves = status.moves.len();
    more(&mut line, moves as u64, moves, listed);
    let shown = |count: u64| all || count > 0;
    let counters = status.counters.iter().filter(|(_, count)| shown(**count));
    let counters: Vec<_> = counters.collect();
    let silent = status.counters.len() - counters.len();
    let note = match silent {
        0 => String::new(),
        1 => " (1 more is 0: --all shows it)".into(),
        n => format!(" ({n} more are 0: --all shows them)"),
    };
    line("counters", format!("{}{note}", counters.len()));
    let widest = counters.iter().map(|(name, _)| name.len()).max();
    let widest = widest.unwrap_or(0);
    for (name, count) in counters {
        line("", format!("{name:<widest$}  {count}"));
    }
    text
}

/// What is not listed of `count`, of which the instance has told `told`: how many of those `--all` would list, and
/// how many nothing would.
fn more(line: &mut impl FnMut(&str, String), count: u64, told: usize, listed: usize) {
    let hidden = told.saturating_sub(listed);
    if hidden > 0 {
        line("", format!("and {hidden} more (--all)"));
    }
    let untold = count.saturating_sub(told as u64);
    if untold > 0 {
        line(
            "",
            format!("and {untold} more that the instance does not list"),
        );
    }
}

fn ingress(status: &Status) -> String {
    let role = &status.role;
    let who = match role.ingress {
        Some(id) if id == status.id => "this instance".into(),
        Some(id) => format!("instance {id}"),
        None => "not known".into(),
    };
    let lease = role
        .lease_ms
        .map(|left| format!(", lease for {left} ms yet"));
    let term = match role.term {
        0 => String::new(),
        term => format!(", term {term}"),
    };
    who + &term + &lease.unwrap_or_default()
}

fn vote(voter: &Voter, role: &Role) -> String {
    let witness = if voter.witness { ", a witness" } else { "" };
    let vote = match (voter.granted_ms, role.lease_ms) {
        (Some(left), _) => format!(": its vote counts for {left} ms yet"),
        // Who is not the ingress is voted for by nobody.
        (None, None) => String::new(),
        (None, Some(_)) => ": NO vote that counts".into(),
    };
    format!("{}{witness}{vote}", voter.id)
}

fn one_session(session: &Session) -> String {
    let mut text = format!("{} {}", session.id, session.phase);
    for connection in &session.connections {
        let (local, remote) = (connection.local, connection.remote);
        let _ = write!(text, ", {remote} to {local} {}", connection.state);
    }
    if session.epoch > 1 {
        let _ = write!(text, ", epoch {}", session.epoch);
    }
    text
}

/// A time since a start, as exact as somebody wants it.
fn time(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..120 => format!("{:.1} s", millis as f64 / 1e3),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_str(
            r#"{"id":1,"boot_id":"00ab","state":"serving","ingress":true,"service":"http",
                "role":{"ingress":1,"term":3,"lease_ms":1800,"voters":[{"id":2,"granted_ms":1900},
                    {"id":3,"witness":true}]},
                "uptime_ms":12300,
                "nics":[{"network":"service","mac":"02:67:77:00:00:01","mtu":1500,"link":"up"}],
                "members":[{"id":2,"ip":"10.77.0.12","up":true},{"id":3,"ip":"10.77.0.13"}],
                "session_count":1,
                "sessions":[{"id":"1-7","epoch":3,"phase":"live","connections":[
                    {"local":"10.77.0.10:80","remote":"10.77.0.1:4000","state":"established"}]}],
                "counters":{"accepted":2,"nic_resets":0,"tcp.retransmits":0},
                "moves":[{"session":"1-5","to":2,"epoch":4,"result":"accepted","total_us":2300.0}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn what_is_looked_for_comes_first_and_zeros_are_left_out() {
        let text = text(&status(), false);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        let order = [
            "instance 1 (http) is serving, 12.3 s",
            "this instance, term 3",
            "2: its vote counts",
            "3, a witness: NO vote",
            "2 at 10.77.0.12: up",
            "3 at 10.77.0.13: DOWN",
            "link up",
            "sessions  1\n",
            "1-7 live, 10.77.0.1:4000 to 10.77.0.10:80 established, epoch 3",
            "1-5 to 2: accepted, 2.3 ms",
            "counters  1 (2 more are 0: --all shows them)",
            "accepted  2",
        ];
        assert!(order.map(at).is_sorted(), "{text}");
        assert!(!text.contains("nic_resets"), "{text}");
    }

    #[test]
    fn all_means_all() {
        let mut status = status();
        let session = status.sessions[0].clone();
        status.sessions = vec![session; LISTED + 2];
        status.session_count = 2000;
        status.moves = vec![status.moves[0].clone(); LISTED + 3];
        let more = |text: &str| -> Vec<String> {
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| line.starts_with("and "));
            lines.map(String::from).collect()
        };
        let untold = format!(
            "and {} more that the instance does not list",
            2000 - LISTED - 2
        );
        let some = text(&status, false);
        assert_eq!(some.matches("1-7 live").count(), LISTED);
        assert_eq!(
            more(&some),
            ["and 2 more (--all)", &untold, "and 3 more (--all)"]
        );
        let all = text(&status, true);
        assert_eq!(more(&all), [untold]);
        assert_eq!(all.matches("1-7 live").count(), LISTED + 2);
        assert!(all.contains("nic_resets"), "{all}");
        assert!(all.contains("counters  3\n"), "{all}");
    }

    #[test]
    fn one_counter_is_one() {
        let mut status = status();
        status.counters.remove("nic_resets");
        let text = text(&status, false);
        assert!(
            text.contains("counters  1 (1 more is 0: --all shows it)\n"),
            "{text}"
        );
    }

    #[test]
    fn an_instance_without_cluster_is_told_in_few_lines() {
        let alone = Status {
            id: 1,
            ..Status::default()
        };
        let text = text(&alone, false);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("ingress   not known"), "{text}");
    }

    #[test]
    fn times_are_short() {
        for (millis, said) in [
            (0, "0.0 s"),
            (119_900, "119.9 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (864_000_000, "10 days"),
        ] {
            assert_eq!(time(millis), said);
        }
    }
}
