//! The arrows between the rooms (ARCHITECTURE.md), asserted on cargo's own data.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const KERNEL: &str = "godwit-kernel";
const NETSTACK: &str = "godwit-netstack";
const IMAGE: &str = "godwit-image";
const BENCH: &str = "godwit-bench";
const OURS: &str = "godwit";
const CONFIG: &str = "godwit-config";

fn cargo(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The packages of this workspace that a package names, tests and build scripts included.
fn names(package: &str) -> BTreeSet<String> {
    let text = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let metadata: Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|p| p["name"] == package);
    let found = found.unwrap_or_else(|| panic!("no package {package}"));
    let dependencies = found["dependencies"].as_array().unwrap().iter();
    let named = dependencies.map(|d| d["name"].as_str().unwrap().to_owned());
    named
        .filter(|name| name == OURS || name.starts_with("godwit-"))
        .collect()
}

/// All packages that end up in what a package builds, without tests.
fn tree(package: &str) -> BTreeSet<String> {
    let text = cargo(&[
        "tree",
        "--offline",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--target",
        "x86_64-unknown-linux-gnu",
        "--format",
        "{p}",
    ]);
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn assert_never(from: &str, to: &[&str]) {
    let named = names(from);
    for name in to {
        assert!(!named.contains(*name), "{from} must not name {name}");
    }
}

#[test]
fn kernel_and_netstack_never_name_each_other_nor_those_above() {
    let above = [
        OURS,
        CONFIG,
        "godwit-http",
        "godwit-echo",
        "godwit-iperf3",
        "godwit-releases",
        IMAGE,
        "godwit-hosted",
        "godwit-qemu",
        BENCH,
    ];
    assert_never(KERNEL, &[&above[..], &[NETSTACK]].concat());
    assert_never(NETSTACK, &[&above[..], &[KERNEL]].concat());
}

#[test]
fn apps_know_nothing_of_hardware() {
    for app in [
        OURS,
        CONFIG,
        "godwit-http",
        "godwit-echo",
        "godwit-iperf3",
        "godwit-releases",
    ] {
        assert_never(app, &[KERNEL, IMAGE, "godwit-qemu", BENCH]);
    }
}

#[test]
fn the_host_sees_images_as_files_only() {
    for host in ["godwit-qemu", "godwit-e2e"] {
        assert_never(
            host,
            &[
                KERNEL,
                NETSTACK,
                OURS,
                "godwit-http",
                "godwit-echo",
                "godwit-iperf3",
                "godwit-releases",
                IMAGE,
            ],
        );
    }
}

/// So the host may name it: to check words is to read them as the image does, and nothing else of an
/// image comes along.
#[test]
fn the_schema_of_the_configuration_names_the_netstack_alone() {
    assert_eq!(names(CONFIG), BTreeSet::from([NETSTACK.to_owned()]));
}

/// What measures sees the engine from inside and everything else from outside, and nothing is built
/// on it.
#[test]
fn the_bench_names_the_netstack_and_nothing_that_is_an_image() {
    assert_never(BENCH, &[KERNEL, IMAGE, "godwit-hosted"]);
    for room in ["godwit-qemu", "godwit-e2e", "godwit-sim", "godwit-hosted"] {
        assert_never(room, &[BENCH]);
    }
}

#[test]
fn libc_does_not_get_into_an_image() {
    let tree = tree(IMAGE);
    assert!(
        tree.contains(KERNEL),
        "the image's tree must be the right one: {tree:?}"
    );
    for name in ["libc", "getrandom", "nix"] {
        assert!(
            !tree.contains(name),
            "{name} is in the image's dependency tree"
        );
    }
}
