//! `tests/scripts/FEATURES.md` says which scripts and tests show each feature: that these exist, and
//! are run as it says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A row: feature, how connections are opened, scripts, tests.
type Row = [String; 4];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("tests/scripts/FEATURES.md")).unwrap();
    let cells = |line: &str| -> Option<Row> {
        let cells: Vec<String> = line
            .strip_prefix('|')?
            .strip_suffix('|')?
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect();
        Some(cells.try_into().expect("four columns"))
    };
    let table: Vec<Row> = text.lines().filter_map(cells).collect();
    // Less the head and the line below it.
    table[2..].to_vec()
}

/// Names of the functions that are tests below `directory`.
fn tests(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("#[test]").skip(1) {
                let name = part
                    .split("fn ")
                    .nth(1)
                    .and_then(|rest| rest.split('(').next());
                found.extend(name.map(str::to_owned));
            }
        }
    }
}

/// What a script is run over, and how its connections are opened.
#[derive(Default)]
struct Shown {
    ipv4: bool,
    ipv6: bool,
    active: bool,
    passive: bool,
}

impl Shown {
    fn add(&mut self, script: &str) {
        let path = root().join("tests/scripts").join(format!("{script}.txt"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{script}: {error}"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let says = |line: &str| lines.contains(&line);
        assert!(!text.contains("known-failure:"), "{script} shows nothing");
        self.ipv4 |= !says("only ipv6");
        self.ipv6 |= !says("only ipv4");
        let opens = lines
            .iter()
            .filter(|line| line.split_whitespace().next() == Some("open"));
        for line in opens {
            self.active |= !line.contains("passive");
            self.passive |= !line.contains("active");
        }
        self.active |= lines.iter().any(|line| line.ends_with("connect"));
        self.passive |= !lines
            .iter()
            .any(|line| line.ends_with("connect") || line.starts_with("open"));
    }
}

#[test]
fn what_shows_a_feature_exists_and_is_run_as_the_table_says() {
    let rows = rows();
    assert!(rows.len() > 40, "{} features", rows.len());
    let mut known = BTreeSet::new();
    for sources in ["netstack/src", "netstack/engine/src"] {
        tests(&root().join(sources), &mut known);
    }
    for [feature, opened, scripts, tests] in &rows {
        assert!(!scripts.is_empty() && !tests.is_empty(), "{feature}");
        for test in tests.split_whitespace() {
            assert!(known.contains(test), "{feature}: there is no test {test}");
        }
        let mut shown = Shown::default();
        scripts
            .split_whitespace()
            .for_each(|script| shown.add(script));
        assert!(shown.ipv4 && shown.ipv6, "{feature}: over IPv4 and IPv6");
        let (active, passive) = match opened.as_str() {
            "both" => (true, true),
            "active" => (true, false),
            "passive" => (false, true),
            other => panic!("{feature}: opened `{other}`"),
        };
        assert!(shown.active || !active, "{feature}: never opened actively");
        assert!(
            shown.passive || !passive,
            "{feature}: never opened passively"
        );
    }
}
