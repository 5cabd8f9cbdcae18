//! The kernel on its machines: every way to end has its code, and protection holds. The probe image
//! commits the offences.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use godwit_qemu::image::build_image;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};

const PATIENCE: Duration = Duration::from_secs(60);
const MACHINES: [Machine; 4] = [
    Machine::Microvm,
    Machine::MicrovmBare,
    Machine::Q35,
    Machine::Pc,
];

fn probe() -> &'static Path {
    static IMAGE: OnceLock<std::path::PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        setup::ensure().unwrap_or_else(|error| panic!("{error:#}"));
        build_image("probe").expect("the probe image builds")
    })
}

fn spec(machine: Machine, order: &str) -> VmSpec {
    let mut spec = VmSpec::new("probe", probe());
    spec.machine = machine;
    spec.memory = 16;
    spec.append = format!("probe={order}");
    spec.nics.push(Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 0, 1],
        netdev: Netdev::User(Vec::new()),
    });
    spec
}

fn start(spec: &VmSpec) -> Vm {
    Vm::start(spec, Accelerator::Tcg, |_| {}).expect("QEMU starts")
}

/// Runs the probe to its end; the code, the reason and the last lines of the console.
fn run(machine: Machine, order: &str) -> (u8, String, String) {
    let mut vm = start(&spec(machine, order));
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => {
            let tail = vm.console().tail(60).join("\n");
            (verdict.code, verdict.reason, tail)
        }
        Outcome::Infrastructure(what) => panic!("{machine:?} probe={order}: {what}"),
    }
}

#[test]
fn each_end_has_its_code_on_each_machine() {
    for machine in MACHINES {
        for (order, code) in [
            ("exit:0", 0),
            ("exit:11", 11),
            ("panic", 10),
            ("memory", 14),
        ] {
            assert_eq!(run(machine, order).0, code, "{machine:?} {order}");
        }
    }
}

#[test]
fn memory_protection_catches_each_offence() {
    for machine in MACHINES {
        for (order, code, says) in [
            ("overflow", 18, "stack overflow (main stack)"),
            ("fault", 15, "page fault"),
            ("write-text", 15, "page fault"),
            ("write-rodata", 15, "page fault"),
            ("execute-stack", 15, "page fault"),
            ("execute-heap", 15, "page fault"),
        ] {
            let (got, reason, _) = run(machine, order);
            assert_eq!(got, code, "{machine:?} {order}: {reason}");
            assert!(reason.contains(says), "{machine:?} {order}: {reason}");
        }
    }
}

/// The page-fault stack too: its overflow is a page fault, which begins at the top of it again.
#[test]
fn the_overflow_of_an_interrupt_stack_is_told_as_such() {
    for stack in [
        "interrupt",
        "exception",
        "page-fault",
        "double-fault",
        "urgent",
    ] {
        let (code, reason, console) = run(Machine::Microvm, &format!("overflow:{stack}"));
        assert_eq!(code, 18, "{stack}: {reason}");
        let says = format!("stack overflow ({stack} stack): page fault at ");
        assert!(reason.contains(&says), "{stack}: {reason}");
        assert!(console.contains("offence::dig+"), "{stack}: {console}");
    }
}

#[test]
fn a_loop_that_does_not_come_back_ends_with_the_place_where_it_is() {
    for machine in MACHINES {
        let (code, reason, console) = run(machine, "spin watchdog=1000");
        assert_eq!(code, 20, "{machine:?}: {reason}");
        assert!(reason.contains("for 1000 ms, at 0x"), "{reason}");
        assert!(reason.contains("offence::commit+"), "{reason}");
        assert!(console.contains("probe::run+"), "{console}");
    }
}

#[test]
fn a_loop_that_turns_or_sleeps_is_not_taken_for_hung() {
    let mut vm = start(&spec(Machine::Microvm, "idle watchdog=500"));
    vm.wait_ready(PATIENCE).expect("the probe is ready");
    std::thread::sleep(Duration::from_secs(2));
    vm.press_power_button().expect("the monitor answers");
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => assert_eq!(verdict.code, 0, "{verdict:?}"),
        Outcome::Infrastructure(what) => panic!("{what}"),
    }
}

#[test]
fn no_page_is_writable_and_executable() {
    for machine in MACHINES {
        let (code, reason, _) = run(machine, "audit");
        assert_eq!(code, 0, "{machine:?}: {reason}");
        for says in ["violations: 0", "guards: 6", "wrong: None"] {
            assert!(reason.contains(says), "{machine:?}: {reason}");
        }
        println!("{machine:?}: {reason}");
    }
}

#[test]
fn a_panic_names_the_functions_that_led_to_it() {
    let (_, reason, console) = run(Machine::Microvm, "panic");
    assert!(reason.contains("as told"), "{reason}");
    assert!(console.contains("probe::run+"), "{console}");
}

#[test]
fn a_machine_that_cannot_be_switched_off_resets_instead() {
    let mut spec = spec(Machine::MicrovmBare, "exit:0");
    spec.exit_code = false;
    match start(&spec).wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => assert_eq!(verdict.code, 0),
        Outcome::Infrastructure(what) => panic!("{what}"),
    }
}

#[test]
fn the_power_button_ends_an_idle_image() {
    for machine in [Machine::Microvm, Machine::Q35] {
        let mut vm = start(&spec(machine, "idle"));
        vm.wait_ready(PATIENCE).expect("the probe is ready");
        vm.press_power_button().expect("the monitor answers");
        match vm.wait_exit(PATIENCE) {
            Outcome::Verdict(verdict) => {
                assert_eq!(verdict.code, 0);
                assert!(verdict.reason.contains("power button"), "{verdict:?}");
            }
            Outcome::Infrastructure(what) => panic!("{machine:?}: {what}"),
        }
    }
}

#[test]
fn the_boot_chart_has_a_line_for_every_stage() {
    for machine in MACHINES {
        let mut vm = start(&spec(machine, "exit:0"));
        assert!(matches!(vm.wait_exit(PATIENCE), Outcome::Verdict(_)));
        let chart = vm.console().boot_chart();
        let names: Vec<_> = chart.iter().map(|stage| stage.stage.as_str()).collect();
        for stage in ["entry", "memory", "acpi", "heap", "apic", "clock"] {
            assert!(names.contains(&stage), "{machine:?}: {names:?}");
        }
        assert!(chart.is_sorted_by_key(|stage| stage.us), "{machine:?}");
    }
}
