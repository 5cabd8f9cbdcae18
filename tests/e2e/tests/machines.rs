//! The demo in small, and images that must give up: in QEMU, with real clients.
//!
//! `cargo test -p godwit-e2e --test machines [FILTER]`

#[path = "machines/apart.rs"]
mod apart;
#[path = "machines/boots.rs"]
mod boots;
#[path = "machines/cable.rs"]
mod cable;
#[path = "machines/crowd.rs"]
mod crowd;
#[path = "machines/drain.rs"]
mod drain;
#[path = "machines/found.rs"]
mod found;
#[path = "machines/mtu.rs"]
mod mtu;
#[path = "machines/networks.rs"]
mod networks;
#[path = "machines/nics.rs"]
mod nics;
#[path = "machines/offload.rs"]
mod offload;
#[path = "machines/panic.rs"]
mod panic;
#[path = "machines/takeover.rs"]
mod takeover;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_qemu::build::{self, Service};
use godwit_qemu::demo::{self, Options};
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};
use godwit_qemu::{net, setup};

type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("a_download_moves_on_microvm", || {
        demo(&["--only", "download", "--size", "96M", "--moves", "6"])
    }),
    ("an_echo_moves_on_microvm", || {
        demo(&["--only", "echo", "--size", "192M", "--moves", "6"])
    }),
    ("a_power_button_drains_on_microvm", || {
        demo(&["--only", "drain", "--size", "128M"])
    }),
    ("a_download_moves_on_q35_over_ipv6", || {
        demo(&[
            "--only",
            "download",
            "--size",
            "96M",
            "--moves",
            "6",
            "--machine",
            "q35",
            "--ip",
            "6",
        ])
    }),
    ("an_echo_moves_on_microvm_over_ipv6", || {
        demo(&[
            "--only", "echo", "--size", "192M", "--moves", "6", "--ip", "6",
        ])
    }),
    ("a_power_button_drains_on_q35", || {
        demo(&["--only", "drain", "--size", "128M", "--machine", "q35"])
    }),
    ("a_download_moves_over_lossy_links", || {
        let links = ["--loss", "1%", "--delay", "2ms"];
        demo(
            &[
                &["--only", "download", "--size", "16M", "--moves", "4"][..],
                &links,
            ]
            .concat(),
        )
    }),
    ("the_client_in_the_harness_is_served_too", || {
        demo(&[
            "--only",
            "download,echo",
            "--size",
            "48M",
            "--moves",
            "2",
            "--client",
            "harness",
        ])
    }),
    ("three_machines_are_replaced_under_load", || {
        upgrade(&["--connections", "60", "--downloads", "8"])
    }),
    ("a_drain_of_thousands_resets_nobody", drain::of_thousands),
    ("an_ingress_without_power_is_replaced", takeover::survives),
    (
        "a_machine_that_nobody_configured_is_found_serves_and_leaves",
        found::serves_and_leaves,
    ),
    ("a_panic_in_one_session_ends_no_other", panic::hands_over),
    ("a_client_hardly_waits_at_a_move", short_silence),
    ("a_machine_without_a_nic_says_so", no_nic),
    ("a_card_that_nobody_drives_is_named", undriven),
    ("a_machine_without_entropy_serves_nobody", no_entropy),
    (
        "a_wrong_configuration_is_refused_by_name",
        bad_configuration,
    ),
    ("sixteen_mib_are_enough", small_memory),
    ("large_frames_both_ways_on_microvm", || {
        offload::streams(Machine::Microvm)
    }),
    ("large_frames_both_ways_on_q35", || {
        offload::streams(Machine::Q35)
    }),
    ("a_device_as_firecracker_has_it", || {
        offload::features(Machine::MicrovmBare, offload::FIRECRACKER)
    }),
    ("a_device_as_older_firecracker_has_it", || {
        offload::features(Machine::MicrovmBare, offload::OLDER_FIRECRACKER)
    }),
    ("a_device_as_cloud_hypervisor_has_it", || {
        offload::features(Machine::MicrovmPci, offload::CLOUD_HYPERVISOR)
    }),
    ("a_device_without_offloads_serves_too", offload::none),
    ("an_mtu_that_the_device_says_is_kept_to", mtu::is_kept_to),
    ("a_large_mtu_goes_with_offloads", mtu::goes_with_offloads),
    ("a_connection_moves_among_large_frames", offload::moves),
    ("a_download_moves_on_pc_with_virtio", || {
        nics::demo("pc", "virtio", &[])
    }),
    ("a_download_moves_on_pc_with_e1000", || {
        nics::demo("pc", "e1000", &[])
    }),
    ("a_download_moves_on_q35_with_e1000", || {
        nics::demo("q35", "e1000", &[])
    }),
    ("a_download_moves_on_q35_with_e1000e", || {
        nics::demo("q35", "e1000e", &[])
    }),
    ("a_download_moves_on_q35_with_e1000e_over_ipv6", || {
        nics::demo("q35", "e1000e", &["--ip", "6"])
    }),
    (
        "a_download_moves_on_q35_with_e1000e_over_lossy_links",
        || nics::demo("q35", "e1000e", &["--loss", "1%"]),
    ),
    ("a_download_moves_on_pc_with_rtl8139", || {
        nics::demo("pc", "rtl8139", &[])
    }),
    ("a_download_moves_on_q35_with_rtl8139", || {
        nics::demo("q35", "rtl8139", &[])
    }),
    ("a_download_moves_on_pc_with_vmxnet3", || {
        nics::demo("pc", "vmxnet3", &[])
    }),
    ("a_download_moves_on_q35_with_vmxnet3", || {
        nics::demo("q35", "vmxnet3", &[])
    }),
    ("a_download_moves_on_q35_with_vmxnet3_over_ipv6", || {
        nics::demo("q35", "vmxnet3", &["--ip", "6"])
    }),
    (
        "a_download_moves_on_q35_with_vmxnet3_over_lossy_links",
        || nics::demo("q35", "vmxnet3", &["--loss", "1%"]),
    ),
    ("a_download_moves_between_rows_of_the_table", nics::rows),
    (
        "a_download_moves_between_ways_to_boot_with_grub_and_without",
        boots::loaded_or_not,
    ),
    (
        "a_download_moves_between_ways_to_boot_from_all_media",
        boots::media,
    ),
    (
        "a_download_moves_between_ways_to_boot_from_the_network",
        boots::network,
    ),
    (
        "a_download_moves_between_ways_to_boot_without_acpi",
        boots::bare,
    ),
    ("a_legacy_transport_takes_large_frames", nics::legacy),
    (
        "a_legacy_device_may_want_its_header_apart",
        nics::header_apart,
    ),
    (
        "large_frames_reach_other_cards_through_virtio",
        nics::offloads,
    ),
    (
        "a_bad_cable_and_small_rings_cost_time_only",
        cable::some_of_it,
    ),
    ("cards_may_share_an_interrupt_line", nics::shared_line),
    ("clients_and_instances_have_a_network_each", networks::two),
    (
        "networks_that_cannot_be_are_refused_by_name",
        networks::refused,
    ),
    ("a_crowd_cannot_end_an_image_of_eight_mib", || {
        crowd::cannot_end_an_image(Machine::Microvm)
    }),
];

/// What takes minutes and runs only with `--ignored`.
const LONG: &[Test] = &[
    ("a_gibibyte_over_a_bad_cable_with_virtio_on_microvm", || {
        cable::gibibyte(Machine::Microvm, NicModel::Virtio)
    }),
    (
        "a_gibibyte_over_a_bad_cable_with_virtio_on_microvm_legacy",
        || cable::gibibyte(Machine::MicrovmLegacy, NicModel::Virtio),
    ),
    ("a_gibibyte_over_a_bad_cable_with_virtio_on_q35", || {
        cable::gibibyte(Machine::Q35, NicModel::Virtio)
    }),
    (
        "a_gibibyte_over_a_bad_cable_with_virtio_modern_on_pc",
        || cable::gibibyte(Machine::Pc, NicModel::VirtioModern),
    ),
    (
        "a_gibibyte_over_a_bad_cable_with_virtio_legacy_on_q35",
        || cable::gibibyte(Machine::Q35, NicModel::VirtioLegacy),
    ),
    ("a_gibibyte_over_a_bad_cable_with_e1000_on_pc", || {
        cable::gibibyte(Machine::Pc, NicModel::E1000)
    }),
    ("a_gibibyte_over_a_bad_cable_with_e1000_on_q35", || {
        cable::gibibyte(Machine::Q35, NicModel::E1000)
    }),
    ("a_gibibyte_over_a_bad_cable_with_82545em_on_q35", || {
        cable::gibibyte(Machine::Q35, NicModel::I82545em)
    }),
    ("a_gibibyte_over_a_bad_cable_with_e1000e_on_q35", || {
        cable::gibibyte(Machine::Q35, NicModel::E1000e)
    }),
    ("a_gibibyte_over_a_bad_cable_with_rtl8139_on_pc", || {
        cable::gibibyte(Machine::Pc, NicModel::Rtl8139)
    }),
    ("a_gibibyte_over_a_bad_cable_with_rtl8139_on_q35", || {
        cable::gibibyte(Machine::Q35, NicModel::Rtl8139)
    }),
    ("a_gibibyte_over_a_bad_cable_with_vmxnet3_on_pc", || {
        cable::gibibyte(Machine::Pc, NicModel::Vmxnet3)
    }),
    ("a_gibibyte_over_a_bad_cable_with_vmxnet3_on_q35", || {
        cable::gibibyte(Machine::Q35, NicModel::Vmxnet3)
    }),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let exact = words.iter().any(|word| word == "--exact");
    let named = |name: &str, filter: &str| name == filter || !exact && name.contains(filter);
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| named(name, f));
    let ignored = words.iter().any(|word| word == "--ignored");
    let all = if ignored { LONG } else { TESTS };
    let tests: Vec<&Test> = all.iter().filter(|(name, _)| wanted(name)).collect();
    if words.iter().any(|word| word == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if tests.is_empty() {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = setup::ensure() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    println!("\nrunning {} tests", tests.len());
    let failed = match tests[..] {
        [(name, test)] => usize::from(!run(name, *test)),
        _ if exact => {
            eprintln!("several tests have this name");
            return ExitCode::FAILURE;
        }
        _ => {
            let names: Vec<&str> = tests.iter().map(|(name, _)| *name).collect();
            apart::run(&names, if ignored { &["--ignored"] } else { &[] })
        }
    };
    println!("\ntest result: {failed} failed\n");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether a test passes, in this process.
fn run(name: &str, test: fn() -> Result<()>) -> bool {
    // Without it the clients are played by the harness, which the output says.
    let _ = net::become_root_of_own();
    let begun = Instant::now();
    let result = test();
    let seconds = begun.elapsed().as_secs_f32();
    match &result {
        Ok(()) => println!("test {name} ... ok ({seconds:.1} s)"),
        Err(error) => println!("test {name} ... FAILED\n{error:#}"),
    }
    result.is_ok()
}

fn demo(words: &[&str]) -> Result<()> {
    let report = demo::run(&Options::from_words(words)?)?;
    let failures = report.failures();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn upgrade(words: &[&str]) -> Result<()> {
    setup::ensure_load()?;
    let report = demo::upgrade::run(&demo::upgrade::Options::from_words(words)?)?;
    ensure!(report.broken.is_empty(), "{}", report.broken.join("\n"));
    Ok(())
}

/// The figures of the demo. What keeps the host busy disturbs them, so the best of some runs counts.
fn short_silence() -> Result<()> {
    let words = [
        "--strict",
        "--only",
        "download,echo",
        "--size",
        "192M",
        "--moves",
        "12",
    ];
    let mut last = Ok(());
    for _ in 0..4 {
        last = demo(&words);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn http(config: &str) -> Result<VmSpec> {
    let image = build::image(Service::Http)?;
    Ok(VmSpec {
        config: config.into(),
        ..VmSpec::new("http", &image)
    })
}

fn nic() -> Nic {
    let (model, netdev) = (NicModel::Virtio, Netdev::User(Vec::new()));
    Nic {
        model,
        mac: [2, 0, 0, 0, 0, 1],
        netdev,
    }
}

/// Runs a VM that must end by itself with this exit code.
fn ends_with(spec: &VmSpec, code: u8) -> Result<String> {
    let mut vm = Vm::start(spec, Accelerator::best(), |_| ())?;
    match vm.wait_exit(Duration::from_secs(30)) {
        Outcome::Verdict(verdict) if verdict.code == code => Ok(verdict.reason),
        other => bail!("ended with {other}\n{}", vm.console().tail(20).join("\n")),
    }
}

fn no_nic() -> Result<()> {
    for machine in [Machine::Microvm, Machine::Q35] {
        let spec = VmSpec {
            machine,
            ..http("id=1\nip=10.0.2.15/24\n")?
        };
        let reason = ends_with(&spec, 11)?;
        ensure!(reason == "no network card", "{machine:?}: {reason}");
    }
    Ok(())
}

/// Cards that nobody drives. The verdict says which they are, and what is the matter.
fn undriven() -> Result<()> {
    let refused = |machine, device: &str, says: &[&str]| -> Result<()> {
        let mut spec = VmSpec {
            machine,
            ..http("id=1\nip=10.0.2.15/24\n")?
        };
        spec.more = vec!["-device".into(), device.into()];
        let reason = ends_with(&spec, 11)?;
        for word in says {
            ensure!(reason.contains(word), "{machine:?} {device}: {reason}");
        }
        Ok(())
    };
    // AMD's PCnet, and a virtio-net that wants each buffer in two pieces.
    for machine in [Machine::Pc, Machine::Q35] {
        refused(machine, "pcnet", &["00:0", "no driver for 1022:2000"])?;
    }
    let old = "virtio-net-pci,disable-legacy=off,disable-modern=on,any_layout=off,mrg_rxbuf=off";
    refused(Machine::Q35, old, &["00:0", "VIRTIO_F_ANY_LAYOUT"])
}

fn no_entropy() -> Result<()> {
    for machine in [Machine::Microvm, Machine::Q35] {
        let spec = VmSpec {
            machine,
            nics: vec![nic()],
            rng: false,
            rdrand: false,
            ..http("id=1\nip=10.0.2.15/24\n")?
        };
        ends_with(&spec, 12)?;
    }
    Ok(())
}

fn bad_configuration() -> Result<()> {
    let spec = VmSpec {
        nics: vec![nic()],
        ..http("id=1\nip=10.0.2.15/24\nport=many\n")?
    };
    let reason = ends_with(&spec, 13)?;
    ensure!(reason.contains("port"), "the key must be named: {reason}");
    Ok(())
}

fn small_memory() -> Result<()> {
    let spec = VmSpec {
        memory: 16,
        nics: vec![nic()],
        ..http("id=1\nip=10.0.2.15/24\ngw=10.0.2.2\nadmin_token=0123456789abcdef\n")?
    };
    let mut vm = Vm::start(&spec, Accelerator::best(), |_| ())?;
    let (ready, _) = vm.wait_ready(Duration::from_secs(30))?;
    vm.press_power_button().context("power button")?;
    let outcome = vm.wait_exit(Duration::from_secs(10));
    // Its lines come after the readiness line.
    for stage in vm.console().boot_chart() {
        println!("    {:>8} us  {}", stage.us, stage.stage);
    }
    println!("    {:>8} us  ready", ready.ready_us);
    match outcome {
        Outcome::Verdict(verdict) if verdict.code == 0 => Ok(()),
        other => bail!("ended with {other}"),
    }
}
