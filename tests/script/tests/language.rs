//! The language itself: what is wrong is said, with its line, and nothing brings the runner down.

use godwit_script::{Script, Verdict, judge};

fn error(text: &str) -> String {
    match Script::parse("x.txt", text) {
        Ok(_) => panic!("taken for a script: {text}"),
        Err(error) => error.to_string(),
    }
}

fn report(text: &str) -> String {
    let script = Script::parse("x.txt", text).unwrap_or_else(|error| panic!("{error}"));
    match judge(&script) {
        Verdict::Fails(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_script_is_refused_with_its_line() {
    for (text, wanted) in [
        ("listen", "x.txt:1: a script opens with a comment"),
        ("# x", "nothing happens"),
        ("# x\nlisten\nlissten", "x.txt:3: `lissten` is not a line"),
        ("# x\nin", "x.txt:2: a segment begins with its flags"),
        ("# x\nin S", "x.txt:2: the sequence number is missing"),
        ("# x\nin SQ 0", "`SQ`: flags are letters"),
        ("# x\nin S 5:1", "no range of octets"),
        ("# x\nin S 99999999999", "not a relative sequence number"),
        ("# x\nin . 1 ack 1..5", "wants `by N`"),
        ("# x\nin . 1 <mss", "`<` without `>`"),
        ("# x\nin . 1 <mss x>", "`x` is not a whole number"),
        ("# x\nin . 1 <sack 1>", "`1` is no range"),
        ("# x\nin . 1 <hex 123>", "hexadecimal"),
        ("# x\nin . 1 offset 16", "an offset has 4 bits"),
        ("# x\nin . 1 from mars", "`mars` is no address"),
        ("# x\nin . 1 cut", "`cut` wants a value"),
        ("# x\n+1x listen", "`1x` is not a time"),
        ("# x\n+5s", "a time alone says nothing"),
        (
            "# x\ncheck colour red",
            "`colour` is nothing that can be checked",
        ),
        ("# x\ncheck cwnd ~ 5", "`~` is no comparison"),
        ("# x\nrepeat 3\nlisten", "x.txt:2: `repeat` without `end`"),
        ("# x\nend", "`end` without `repeat`"),
        (
            "# x\nrepeat 100000\nrepeat 100000\nlisten\nend\nend",
            "more lines",
        ),
        ("# x\nconfig colour red", "there is no `config colour`"),
        ("# x\nknown-failure:", "wants a reason"),
        ("# x\nlisten@0", "a flow is a number"),
    ] {
        let said = error(text);
        assert!(
            said.contains(wanted),
            "{text:?} gave {said:?}, not {wanted:?}"
        );
    }
}

#[test]
fn a_failure_says_where_what_was_expected_and_what_came() {
    let said = report("# x\nlisten\nin S 0 win 5 <mss 1000>\nout S. 0 ack 2\n");
    for wanted in [
        "x.txt:4:",
        "out S. 0 ack 2",
        "ack 1, not 2",
        "so far:",
        "in  S 0 win 5",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    let said = report("# x\nin S 0\n+1s quiet\n");
    assert!(said.contains("nothing was to be sent"), "{said}");
    let said = report("# x\nlisten\nin S 0\nout S. 0\n+1ms out . 1 ack 1\n");
    assert!(said.contains("nothing was sent until"), "{said}");
    let said = report("# x\nopen\ncheck cwnd 1mss\n");
    assert!(said.contains("`cwnd` is 10000 (10.00mss)"), "{said}");
    let said = report("# x\naccept\n");
    assert!(said.contains("there is no connection to accept"), "{said}");
    let said = report("# x\nmove\n");
    assert!(said.contains("there is no connection to move"), "{said}");
    let said = report("# x\nconnect\nout S 0\nmove\n");
    assert!(said.contains("does not move before it is open"), "{said}");
}

#[test]
fn a_known_failure_that_holds_is_a_failure() {
    let said = report("# x\nknown-failure: it was broken\nopen\ncheck state ESTABLISHED\n");
    assert!(said.contains("take the line out"), "{said}");
    let script = "# x\nknown-failure: it is broken\nopen\ncheck state CLOSED\n";
    let script = Script::parse("x.txt", script).unwrap();
    assert!(matches!(judge(&script), Verdict::KnownFailure(_)));
}

/// Lines of real words in no sense must not bring the parser or the runner down.
#[test]
fn nonsense_is_survived() {
    const WORDS: &[&str] = &[
        "in",
        "out",
        "cut",
        "offset",
        "from",
        "loopback",
        "listen",
        "connect",
        "accept",
        "send",
        "receive",
        "shutdown",
        "close",
        "abort",
        "move",
        "S",
        "S.",
        ".",
        "FPU.",
        "R",
        "-",
        "0",
        "1",
        "-5",
        "1:1001",
        "0:5",
        "ack",
        "win",
        "urg",
        "by",
        "<ts>",
        "<sack 1:5>",
        "<*>",
        "new",
        "1000",
        "+1s",
        "+40ms",
        "5s",
        "quiet",
        "ignore",
        "drain",
        "delay",
        "open",
        "icmp",
        "too-big",
        "quote",
        "check",
        "cwnd",
        "state",
        "set",
        "nagle",
        "on",
        "keepalive",
        "flood",
        "@2",
        "in@2",
        "repeat",
        "end",
        "ece",
        "1..5",
        "~",
        "\u{e9}",
        "counter",
        "rst_sent",
        "forged",
        "lost",
    ];
    let mut seed = 7u64;
    let mut below = |bound: usize| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize % bound
    };
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut text = String::from("# nonsense\n");
        if below(2) == 0 {
            text += "open\n";
        }
        for _ in 0..1 + below(4) {
            for _ in 0..1 + below(6) {
                text += WORDS[below(WORDS.len())];
                text.push(' ');
            }
            text.push('\n');
        }
        if let Ok(script) = Script::parse("nonsense", &text) {
            taken += 1;
            if let Verdict::Fails(report) = judge(&script) {
                assert!(!report.contains("panicked"), "{text}\n{report}");
            }
        }
    }
    assert!(taken > 20, "only {taken} were scripts at all");
}
