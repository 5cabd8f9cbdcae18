//! The bench itself does not rot: everything is run through, briefly, and speed is not judged.

use std::process::Command;

use serde_json::Value;

#[test]
fn every_row_is_measured_and_written_as_json() {
    let file = std::env::temp_dir().join(format!("godwit-bench-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_godwit-bench"))
        .args(["--short", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    for row in json["rows"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        assert!(
            row["ours"].as_f64().is_some_and(|ours| ours > 0.0),
            "{name}"
        );
        assert_eq!(row["theirs"].is_null(), row["peer"].is_null(), "{name}");
    }
}
