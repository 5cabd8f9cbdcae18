//! Every way to boot: firmware x machine x medium, each with a client that downloads, the power button
//! at the end, and a look at the screen. And what the page tables allow after each.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use godwit_qemu::build::{self, Service};
use godwit_qemu::image::build_image;
use godwit_qemu::media::{self, Configuration, Disk, NETBOOT_BIOS, NETBOOT_UEFI};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::setup;
use godwit_qemu::vm::{
    Accelerator, Firmware, Forward, LEAST_MEMORY, Machine, Medium, Netdev, Nic, NicModel, Outcome,
    Vm, VmSpec,
};

const PATIENCE: Duration = Duration::from_secs(180);
const LOOKING: Duration = Duration::from_secs(20);
/// What UEFI needs, a BIOS less.
const MEMORY_MIB: u32 = 64;
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const SIZE: usize = 2 << 20;
/// Where the configuration is divided between GRUB's command line and a boot module.
const WORDS: [&str; 2] = ["id=1", "ip=10.0.2.15/24"];
const MODULE: &str = "id=7\ngw=10.0.2.2\n";
const ID: u32 = 7;

/// The media, made once.
struct Media {
    iso: PathBuf,
    raw: PathBuf,
    qcow2: PathBuf,
    netboot: PathBuf,
    image: PathBuf,
    _scratch: Scratch,
}

fn media() -> &'static Media {
    static MEDIA: OnceLock<Media> = OnceLock::new();
    MEDIA.get_or_init(|| make().unwrap_or_else(|error| panic!("{error:#}")))
}

fn make() -> Result<Media> {
    setup::ensure()?;
    setup::ensure_media()?;
    setup::ensure_disks()?;
    setup::ensure_uefi()?;
    let image = build::image(Service::Http)?;
    let scratch = Scratch::new("media")?;
    let configuration = Configuration {
        words: WORDS.map(String::from).into(),
        module: Some(MODULE.into()),
        menu: 0,
    };
    let made = Media {
        iso: scratch.path("http.iso"),
        raw: scratch.path("http.img"),
        qcow2: scratch.path("http.qcow2"),
        netboot: scratch.path("http.netboot"),
        image,
        _scratch: scratch,
    };
    media::iso(&made.image, &configuration, &made.iso)?;
    media::disk(&made.image, &configuration, Disk::Raw, &made.raw)?;
    media::disk(&made.image, &configuration, Disk::Qcow2, &made.qcow2)?;
    media::netboot(&made.image, &configuration, &made.netboot)?;
    Ok(made)
}

fn spec(machine: Machine, boot: Option<(Firmware, Medium)>) -> Result<(VmSpec, SocketAddrV4)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.port());
    let guest = SocketAddrV4::new(OWN, 80);
    let mut spec = VmSpec::new("boot", &media().image);
    spec.machine = machine;
    spec.memory = MEMORY_MIB;
    spec.screen = boot.is_some();
    spec.boot = boot;
    spec.nics.push(Nic {
        model: NicModel::Virtio,
        mac: [2, 0, 0, 0, 0, 1],
        netdev: Netdev::User(vec![Forward { host, guest }]),
    });
    Ok((spec, host))
}

/// Runs `row` for each of the rows, two at a time, of one test at a time.
fn for_each_row<T: std::fmt::Debug + Send>(rows: Vec<T>, row: impl Fn(&T) -> Result<()> + Sync) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = media();
    let rows = Mutex::new(VecDeque::from(rows));
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = rows
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(next) = next else { break };
            let begun = Instant::now();
            let result = row(&next);
            println!("{next:?}: {:.1} s", begun.elapsed().as_secs_f32());
            if let Err(error) = result {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(format!("{next:?}: {error:#}"));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Boots, downloads with curl, looks at the screen and switches off.
fn serve(machine: Machine, firmware: Firmware, medium: Medium) -> Result<()> {
    let (spec, host) = spec(machine, Some((firmware, medium)))?;
    let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {})?;
    let (ready, _) = vm.wait_ready(PATIENCE)?;
    ensure!(ready.id == ID, "the module comes last: {}", ready.id);
    curl(host)?;
    // What is on the serial line may take a moment to be on the screen.
    let begun = Instant::now();
    while let Err(error) = look(&vm, firmware) {
        ensure!(begun.elapsed() < LOOKING, error);
        std::thread::sleep(Duration::from_millis(50));
    }
    power_off(vm)
}

fn power_off(mut vm: Vm) -> Result<()> {
    vm.press_power_button()?;
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) if verdict.code == 0 => Ok(()),
        other => bail!("ended with {other}\n{}", vm.console().tail(40).join("\n")),
    }
}

fn curl(host: SocketAddrV4) -> Result<()> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "60"])
        .arg(format!("http://{host}/gen/{SIZE}"))
        .output()
        .context("cannot run curl")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let received = output.stdout.len();
    ensure!(received == SIZE, "{received} octets");
    Ok(())
}

/// The screen shows the lines that went out on the serial interface since ours came up: as many rows
/// with something lit in them, longer lines with more.
fn look(vm: &Vm, firmware: Firmware) -> Result<()> {
    let picture = vm.screen()?;
    let text = picture.rows(16);
    let expected = match firmware {
        Firmware::Bios => (720, 400), // VGA text, 80 x 25 of 9 x 16
        Firmware::Uefi => (picture.width, picture.height),
    };
    ensure!(
        (picture.width, picture.height) == expected,
        "a screen of {} x {}",
        picture.width,
        picture.height
    );
    let lines = vm.console().tail(usize::MAX);
    let first = lines.iter().position(|line| line.contains("GODWIT READY"));
    let lines = &lines[first.context("no readiness line")?..];
    let columns = match firmware {
        Firmware::Bios => 80,
        Firmware::Uefi => picture.width / 8,
    };
    let rows: usize = lines.iter().map(|line| line.len().div_ceil(columns)).sum();
    let lit = text.iter().filter(|&&pixels| pixels > 0).count();
    let shown = rows.min(text.len() - 1);
    ensure!(
        lit == shown && picture.count() > 40 * shown,
        "{lit} rows of {} are lit, {shown} expected: {text:?}",
        text.len()
    );
    Ok(())
}

fn rows(firmware: Firmware) -> Vec<(Machine, Firmware, Medium)> {
    let media = media();
    let mut rows = Vec::new();
    for machine in [Machine::Q35, Machine::Pc] {
        rows.push((machine, firmware, Medium::Cd(media.iso.clone())));
        rows.push((machine, firmware, Medium::Disk(media.iso.clone(), "raw")));
        rows.push((machine, firmware, Medium::Usb(media.iso.clone())));
    }
    if firmware == Firmware::Bios {
        // Other wrappings of the same octets: firmware makes no difference.
        let (qcow2, raw) = (media.qcow2.clone(), media.raw.clone());
        rows.push((Machine::Q35, firmware, Medium::Disk(qcow2, "qcow2")));
        rows.push((Machine::Pc, firmware, Medium::Disk(raw, "raw")));
    }
    rows
}

#[test]
fn one_iso_boots_with_every_firmware_on_every_machine_from_every_medium() {
    let all = [rows(Firmware::Uefi), rows(Firmware::Bios)].concat();
    for_each_row(all, |(machine, firmware, medium)| {
        serve(*machine, *firmware, medium.clone())
    });
}

/// The same walk of the page tables in use as after PVH (`tests/kernel.rs`): memory is laid out otherwise here,
/// and there are a screen and ACPI tables elsewhere to be mapped.
#[test]
fn no_page_is_writable_and_executable_after_grub() {
    let scratch = Scratch::new("audit").unwrap();
    let iso = scratch.path("probe.iso");
    let _ = media(); // which looks for the programs
    let configuration = Configuration {
        words: vec!["probe=audit".into()],
        ..Configuration::default()
    };
    let image = build_image("probe").expect("the probe image builds");
    media::iso(&image, &configuration, &iso).expect("an ISO is made");
    let machines = [Machine::Q35, Machine::Pc];
    let rows = machines.map(|machine| [(machine, Firmware::Bios), (machine, Firmware::Uefi)]);
    for_each_row(rows.concat(), |&(machine, firmware)| {
        let (spec, _) = spec(machine, Some((firmware, Medium::Cd(iso.clone()))))?;
        let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {})?;
        let outcome = vm.wait_exit(PATIENCE);
        let Outcome::Verdict(verdict) = outcome else {
            bail!("{outcome}\n{}", vm.console().tail(40).join("\n"));
        };
        let reason = verdict.reason;
        ensure!(verdict.code == 0, "code {}: {reason}", verdict.code);
        for says in ["violations: 0", "guards: 6", "wrong: None"] {
            ensure!(reason.contains(says), "{reason}");
        }
        println!("{machine:?}, {firmware:?}: {reason}");
        Ok(())
    });
}

#[test]
fn a_folder_on_a_tftp_server_boots_with_every_firmware() {
    let folder = media().netboot.clone();
    let uefi = Medium::Network(folder.clone(), NETBOOT_UEFI);
    let bios = Medium::Network(folder, NETBOOT_BIOS);
    let rows = vec![
        (Machine::Q35, Firmware::Uefi, uefi.clone()),
        (Machine::Pc, Firmware::Uefi, uefi),
        (Machine::Q35, Firmware::Bios, bios.clone()),
        (Machine::Pc, Firmware::Bios, bios),
    ];
    for_each_row(rows, |(machine, firmware, medium)| {
        serve(*machine, *firmware, medium.clone())
    });
}

#[test]
fn qemu_loads_the_same_file_by_itself_with_its_configuration_in_a_module() {
    let scratch = Scratch::new("module").unwrap();
    let module = scratch.write_secret("config", MODULE).unwrap();
    let machines = vec![
        Machine::Microvm,
        Machine::MicrovmBare,
        Machine::MicrovmPci,
        Machine::Q35,
        Machine::Pc,
    ];
    for_each_row(machines, |machine| {
        let (mut spec, host) = spec(*machine, None)?;
        spec.memory = LEAST_MEMORY;
        spec.append = WORDS.join(" ");
        spec.more = vec!["-initrd".into(), path(&module)];
        let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {})?;
        let (ready, _) = vm.wait_ready(PATIENCE)?;
        ensure!(ready.id == ID, "the module comes last: {}", ready.id);
        curl(host)?;
        match machine {
            Machine::MicrovmBare => Ok(()), // no ACPI, no button
            _ => power_off(vm),
        }
    });
}

#[test]
fn a_key_is_in_memory_nowhere_as_it_was_written() {
    const KEY: &str = "c0ffee11c0ffee22c0ffee33c0ffee44c0ffee55c0ffee66c0ffee77c0ffee88";
    let scratch = Scratch::new("key").unwrap();
    let text = format!("{MODULE}peer=8@10.0.2.8\ncluster_key={KEY}\n");
    let module = scratch.write_secret("config", &text).unwrap();
    for_each_row(vec![Machine::Microvm, Machine::Q35], |machine| {
        let (mut spec, _) = spec(*machine, None)?;
        spec.append = WORDS.join(" ");
        spec.more = vec!["-initrd".into(), path(&module)];
        let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {})?;
        let (ready, _) = vm.wait_ready(PATIENCE)?;
        ensure!(ready.id == ID, "the module was read: {}", ready.id);
        let dump = scratch.path(&format!("{machine:?}"));
        let size = u64::from(spec.memory) << 20;
        let arguments = serde_json::json!({ "val": 0, "size": size, "filename": path(&dump) });
        vm.monitor("pmemsave", arguments)?;
        let memory = std::fs::read(&dump)?;
        ensure!(memory.len() as u64 == size);
        let copies = |text: &[u8]| memory.windows(text.len()).filter(|at| *at == text).count();
        ensure!(copies(b"cluster_key") > 0, "the image names the word");
        let found = copies(KEY.as_bytes());
        ensure!(found == 0, "the key, as it was written, {found} times");
        let parts = copies(&KEY.as_bytes()[16..48]);
        ensure!(parts == 0, "the middle of it {parts} times");
        Ok(())
    });
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
