//! Time on real machines: with each timer and yardstick, over a pause, and from a snapshot.

mod guest;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use godwit_qemu::image::build_image;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Machine, Outcome, Vm, VmSpec};
use guest::alone;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "id=1\nip=10.0.2.15/24\ngw=10.0.2.2\nadmin_token=open-sesame\n";

/// Looks at all of these, some at the same time: most of it is waiting.
fn each<T: Sync>(all: &[T], look: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    look(one);
                }
            });
        }
    });
}

/// What the host calls a machine, and what it calls copies of it.
const GENERATIONS: [&str; 3] = [
    "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
    "5f8b2ad5-7b0c-4d5e-9c3c-1d1d8a5f2b11",
    "a3c01f6e-24bb-4c0e-8f0b-5a1b7c9d2e33",
];
/// Octets that a machine serves before it is saved, and afterwards.
const RESTORED: u64 = 2 << 20;
/// How long it stands still: the date steps.
const STEP: Duration = Duration::from_secs(4);

/// An HTTP image behind QEMU's own network: its service and its admin port, seen from here.
struct Guest {
    spec: VmSpec,
    service: SocketAddrV4,
    admin: SocketAddrV4,
}

impl Guest {
    fn new(machine: Machine) -> Self {
        setup::ensure().unwrap_or_else(|error| panic!("{error:#}"));
        let image = build_image("http").expect("the image builds");
        let (nic, [service, admin]) = guest::nic([80, 9100]);
        let mut spec = VmSpec::new("clocks", &image);
        spec.machine = machine;
        spec.config = CONFIG.into();
        spec.nics.push(nic);
        Self {
            spec,
            service,
            admin,
        }
    }

    fn start(&self) -> Vm {
        let mut vm = Vm::start(&self.spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
        if let Err(error) = vm.wait_ready(PATIENCE) {
            panic!("{error:#}");
        }
        vm
    }

    fn set_generation(&mut self, id: &str) {
        let device = format!("vmgenid,id=generation,guid={id}");
        self.spec.more = vec!["-device".into(), device];
    }

    fn get(&self, from: SocketAddrV4, path: &str) -> Download {
        let client = TcpStream::connect(from).expect("the image listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut client = BufReader::new(client);
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer open-sesame\r\n\r\n");
        client
            .get_mut()
            .write_all(request.as_bytes())
            .expect("sent");
        let (mut line, mut length) = (String::new(), 0);
        client.read_line(&mut line).expect("a status line");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            client.read_line(&mut line).expect("a header");
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        Download { client, length }
    }

    fn download(&self, size: u64) -> Download {
        self.get(self.service, &format!("/gen/{size}"))
    }

    fn text(&self, path: &str) -> String {
        let mut text = String::new();
        let answer = self.get(self.admin, path);
        let mut body = answer.client.take(answer.length);
        body.read_to_string(&mut text).expect("an answer");
        text
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.text("/status")).expect("JSON")
    }

    fn boot(&self) -> String {
        self.status()["boot_id"].as_str().expect("a boot id").into()
    }

    /// The guest's own idea of how long it has been up.
    fn uptime(&self) -> Duration {
        let ms = self.status()["uptime_ms"].as_u64();
        Duration::from_millis(ms.expect("an uptime"))
    }

    /// By how many seconds the guest's date is off: many if it shows none yet, as after a new boot id.
    fn date_error(&self) -> u64 {
        let metrics = self.text("/metrics");
        let line = metrics.lines().find_map(|line| {
            let value = line.strip_prefix("godwit_date_unix_seconds ")?;
            value.parse::<u64>().ok()
        });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.expect("after 1970")
            .as_secs()
            .abs_diff(line.unwrap_or(0))
    }

    /// The date is right in the end, as it is looked at every few seconds.
    fn date_comes_right(&self) {
        let begun = Instant::now();
        while self.date_error() > 2 {
            let waited = begun.elapsed();
            assert!(
                waited < Duration::from_secs(15),
                "{} s off",
                self.date_error()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
}

struct Download {
    client: BufReader<TcpStream>,
    length: u64,
}

impl Download {
    fn read(&mut self, octets: u64) -> u64 {
        let mut part = vec![0; 1 << 16];
        let mut got = 0;
        while got < octets {
            let most = part.len().min((octets - got) as usize);
            match self.client.read(&mut part[..most]).expect("octets") {
                0 => break,
                n => got += n as u64,
            }
        }
        self.length -= got;
        got
    }
}

/// The log follows the readiness line when there is time.
fn says(vm: &Vm, what: &str) {
    let begun = Instant::now();
    loop {
        let lines = vm.console().tail(usize::MAX);
        if lines.iter().any(|line| line.contains(what)) {
            return;
        }
        let waited = begun.elapsed() < Duration::from_secs(10);
        assert!(waited, "not `{what}` in\n{}", lines.join("\n"));
        thread::sleep(Duration::from_millis(20));
    }
}

fn power_off(mut vm: Vm) {
    vm.press_power_button().expect("the monitor answers");
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) if verdict.code == 0 => {}
        other => panic!("{other}\n{}", vm.console().tail(40).join("\n")),
    }
}

/// Answers questions for the date as a time server an hour ahead of ours, each after two that a
/// liar would give. `None`: the port is not to be had.
fn time_server() -> Option<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 123)).ok()?;
    let server = socket.try_clone().ok()?;
    thread::spawn(move || {
        let mut question = [0; 48];
        while let Ok((48, from)) = server.recv_from(&mut question) {
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = unix.expect("after 1970").as_secs() + 2_208_988_800 + 3600;
            let mut answer = [0; 48];
            answer[..2].copy_from_slice(&[0x24, 3]);
            answer[24..32].copy_from_slice(&question[40..]);
            for at in [32, 40] {
                answer[at..at + 4].copy_from_slice(&(seconds as u32).to_be_bytes());
            }
            let mut lie = answer;
            lie[31] ^= 1;
            let _ = server.send_to(&lie, from);
            let _ = server.send_to(&[], from);
            let _ = server.send_to(&answer, from);
        }
    });
    Some(socket)
}

#[test]
fn a_machine_without_a_clock_asks_for_the_date_and_believes_no_stranger() {
    let _turn = alone();
    let Some(_server) = time_server() else {
        eprintln!("skipped: port 123 is not to be had");
        return;
    };
    let mut guest = Guest::new(Machine::MicrovmBare);
    guest.spec.config += "ntp=10.0.2.2\n";
    let _vm = guest.start();
    let begun = Instant::now();
    while !guest.text("/metrics").contains("date_unix_seconds") {
        assert!(begun.elapsed() < PATIENCE, "no date");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(
        guest.date_error().abs_diff(3600) <= 2,
        "not the server's date"
    );
    let status = guest.status();
    for counter in ["ntp.unasked", "ntp.refused"] {
        assert_eq!(status["counters"][counter].as_u64(), Some(1), "{counter}");
    }
}

/// The guest is asked for its time twice; how many of its seconds one of ours has.
fn pace(guest: &Guest) -> f64 {
    let look = || {
        let before = Instant::now();
        let uptime = guest.uptime();
        // It was asked at some time between.
        (before + before.elapsed() / 2, uptime)
    };
    let (begun, first) = look();
    thread::sleep(Duration::from_secs(3));
    let (ended, second) = look();
    (second - first).as_secs_f64() / (ended - begun).as_secs_f64()
}

#[test]
fn a_second_is_a_second_by_every_timer_and_yardstick() {
    let _turn = alone();
    const SIZE: u64 = 2 << 20;
    let bare: &[&str] = &[];
    let no_hpet: &[&str] = &["-machine", "hpet=off"];
    let old_processor: &[&str] = &["-cpu", "qemu64,+rdrand"];
    let ways = [
        (Machine::Microvm, bare, "", "clock by apic, alarm by apic"),
        (
            Machine::MicrovmBare,
            bare,
            "",
            "clock by apic, alarm by apic",
        ),
        (
            Machine::Microvm,
            bare,
            "timer=pit",
            "clock by 8254, alarm by 8254",
        ),
        (
            Machine::Q35,
            bare,
            "timer=acpi",
            "clock by acpi timer, alarm by apic",
        ),
        (
            Machine::Q35,
            bare,
            "timer=hpet",
            "clock by hpet, alarm by hpet",
        ),
        (
            Machine::Q35,
            bare,
            "timer=pit",
            "clock by 8254, alarm by 8254",
        ),
        // What is asked for and not there: the next best.
        (
            Machine::Q35,
            no_hpet,
            "timer=hpet",
            "clock by 8254, alarm by apic",
        ),
        (
            Machine::Q35,
            old_processor,
            "timer=tsc",
            "clock by apic, alarm by apic",
        ),
    ];
    each(&ways, |&(machine, more, words, by)| {
        let mut guest = Guest::new(machine);
        guest.spec.more.extend(more.iter().map(|&word| word.into()));
        guest.spec.append = words.into();
        let vm = guest.start();
        let what = format!("{machine:?} {words} {more:?}");
        says(&vm, by);
        assert_eq!(guest.download(SIZE).read(SIZE), SIZE, "{what}");
        let pace = pace(&guest);
        println!("{what}: {pace:.4} s in a second");
        assert!((pace - 1.0).abs() < 0.03, "{what}: {pace} s in a second");
        // The bare machine has neither a clock with a battery nor a button.
        if machine != Machine::MicrovmBare {
            assert!(guest.date_error() <= 2, "{what}");
            power_off(vm);
        }
    });
}

#[test]
fn a_pause_costs_no_connection_and_the_date_is_put_right() {
    let _turn = alone();
    const SIZE: u64 = 64 << 20;
    each(&[Machine::Microvm, Machine::Q35], |&machine| {
        let guest = Guest::new(machine);
        let vm = guest.start();
        let boot = guest.boot();
        let mut download = guest.download(SIZE);
        assert_eq!(download.read(SIZE / 4), SIZE / 4);
        let before = guest.uptime();
        vm.monitor("stop", json!({})).expect("it stops");
        thread::sleep(Duration::from_secs(6));
        vm.monitor("cont", json!({})).expect("it goes on");
        let rest = SIZE - SIZE / 4;
        assert_eq!(download.read(rest), rest, "{machine:?}");
        drop(download); // or the drain waits for it
        assert!(guest.uptime() >= before, "{machine:?}: time went back");
        guest.date_comes_right();
        assert_eq!(guest.boot(), boot, "a pause is no boot");
        let pace = pace(&guest);
        assert!(
            (pace - 1.0).abs() < 0.03,
            "{machine:?}: {pace} s in a second"
        );
        power_off(vm);
    });
}

/// A machine with this generation id, saved to `file`; its boot id, and how long it was up.
fn saved(guest: &mut Guest, generation: &str, file: &Path) -> (String, Duration) {
    guest.set_generation(generation);
    let mut vm = guest.start();
    says(&vm, "generation id: true");
    let boot = guest.boot();
    assert_eq!(guest.download(RESTORED).read(RESTORED), RESTORED);
    let uptime = guest.uptime();
    save(&vm, file);
    assert!(
        vm.try_exit().expect("a process").is_none(),
        "it has not ended"
    );
    (boot, uptime)
}

/// Goes on from `file` with this generation id; the boot id and how long it is up. It serves, and its clock and date are right.
fn restored(guest: &mut Guest, generation: &str, file: &Path) -> (String, Duration) {
    guest.set_generation(generation);
    guest.spec.restore(file);
    let vm = Vm::start(&guest.spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
    let begun = Instant::now();
    loop {
        // Its monitor is not there at once.
        let answer = vm.monitor("query-status", json!({})).unwrap_or_default();
        if answer["running"] == true {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer} {}", vm.errors());
        if answer["status"] == "paused" {
            vm.monitor("cont", json!({})).expect("it goes on");
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        guest.download(RESTORED).read(RESTORED),
        RESTORED,
        "it serves"
    );
    guest.date_comes_right();
    let pace = pace(guest);
    assert!((pace - 1.0).abs() < 0.03, "{pace} s in a second");
    let (boot, uptime) = (guest.boot(), guest.uptime());
    power_off(vm);
    (boot, uptime)
}

fn snapshot_file() -> PathBuf {
    std::env::temp_dir().join(format!("godwit-snapshot-{}", std::process::id()))
}

fn save(vm: &Vm, file: &Path) {
    vm.save(file).expect("QEMU writes the machine to a file");
}

/// Two copies of one machine share its memory, so what makes them differ has to come from outside: here
/// from virtio-rng, as the processor has neither RDRAND nor RDSEED.
#[test]
fn copies_of_a_machine_are_boots_of_their_own_by_what_virtio_rng_gives() {
    let _turn = alone();
    let file = snapshot_file();
    let mut guest = Guest::new(Machine::Q35);
    guest.spec.rdrand = false;
    let mut boots = vec![saved(&mut guest, GENERATIONS[0], &file).0];
    thread::sleep(STEP);
    for generation in &GENERATIONS[1..] {
        boots.push(restored(&mut guest, generation, &file).0);
    }
    let _ = std::fs::remove_file(&file);
    boots.sort();
    boots.dedup();
    assert_eq!(boots.len(), GENERATIONS.len(), "{boots:?}");
}

/// As a migration does it: the machine is the same, and its generation id says so.
#[test]
fn a_machine_that_migrates_is_the_same_boot() {
    let _turn = alone();
    let file = snapshot_file();
    let mut guest = Guest::new(Machine::Q35);
    let (before, uptime) = saved(&mut guest, GENERATIONS[0], &file);
    thread::sleep(STEP);
    let (after, later) = restored(&mut guest, GENERATIONS[0], &file);
    let _ = std::fs::remove_file(&file);
    assert_eq!(before, after);
    assert!(
        later >= uptime,
        "time went back, to {later:?} from {uptime:?}"
    );
}
