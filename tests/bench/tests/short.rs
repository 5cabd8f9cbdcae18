//! The bench itself does not rot: everything is run through, briefly, and speed is not judged.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_godwit-bench");

/// The rows over TAP need rights and programs that not everybody has, and the hosted services,
/// which a test of the whole workspace has built.
fn over_tap(command: &mut Command) -> bool {
    let hosted = Path::new(BENCH).with_file_name("godwit-hosted");
    let have = |program: &str| Command::new(program).arg("--help").output().is_ok();
    let ready = hosted.exists()
        && ["wrk", "nginx", "ethtool", "iperf3"].into_iter().all(have)
        && Command::new("unshare")
            .args(["--net", "ip", "tuntap", "add", "dev", "t", "mode", "tap"])
            .status()
            .is_ok_and(|status| status.success());
    if ready {
        command
            .args(["tcp/tap", "tcp/lossy"])
            .env("GODWIT_HOSTED", hosted);
    } else {
        eprintln!("SKIPPED tcp/tap, tcp/lossy: rights, programs or godwit-hosted are missing");
    }
    ready
}

#[test]
fn every_row_is_measured_and_written_as_json() {
    let file = std::env::temp_dir().join(format!("godwit-bench-{}.json", std::process::id()));
    let mut command = Command::new(BENCH);
    command.args([
        "--short",
        "tcp/bulk",
        "tcp/idle",
        "tcp/demux",
        "tcp/accept",
        "tcp/path",
    ]);
    let least = if over_tap(&mut command) { 17 } else { 11 };
    let output = command.arg("--json").arg(&file).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert!(rows.len() >= least, "{text}");
    for row in rows {
        let name = row["name"].as_str().unwrap();
        assert!(row["ours"].as_f64().is_some(), "{name}");
        assert_eq!(row["theirs"].is_null(), row["peer"].is_null(), "{name}");
    }
}

#[test]
fn whole_machines_are_measured_with_the_peer_where_it_can_be_had() {
    let have = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let ready = ["qemu-system-x86_64", "wrk", "curl", "taskset"]
        .into_iter()
        .all(have)
        && Command::new("unshare")
            .args(["--net", "ip", "tuntap", "add", "dev", "t", "mode", "tap"])
            .status()
            .is_ok_and(|status| status.success());
    if !ready {
        eprintln!("SKIPPED vm: rights or programs are missing");
        return;
    }
    let file = std::env::temp_dir().join(format!("godwit-bench-vm-{}.json", std::process::id()));
    let measure = |more: &[&str]| {
        let mut command = Command::new(BENCH);
        command.args(["--short", "vm"]).args(more);
        command.arg("--json").arg(&file).output().unwrap()
    };
    let mut output = measure(&[]);
    let errors = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let no_peer = ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .any(|program| errors(&output).contains(&format!("{program} is missing")))
        || errors(&output).contains("cannot fetch")
        || errors(&output).contains("is not known here");
    if no_peer {
        eprintln!("SKIPPED the peer of vm: {}", errors(&output));
        output = measure(&["--alone"]);
    }
    assert!(output.status.success(), "{}", errors(&output));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let rows = json["rows"].as_array().unwrap();
    for name in [
        "vm/boot/http/microvm",
        "vm/boot/http/q35-qboot",
        "vm/boot/http/q35",
        "vm/boot/guest/microvm",
        "vm/boot/guest/q35",
        "vm/http/keepalive64",
        "vm/http/latency1",
        "vm/http/close16",
        "vm/bulk",
        "vm/image/bytes",
        "vm/ram/least/microvm",
    ] {
        let row = rows.iter().find(|row| row["name"] == name);
        let row = row.unwrap_or_else(|| panic!("no {name}: {text}"));
        assert!(
            row["ours"].as_f64().is_some_and(|figure| figure > 0.0),
            "{row}"
        );
    }
}
