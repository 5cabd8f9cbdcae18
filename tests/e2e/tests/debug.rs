//! Looking at a running image: a profile, its frames, its log and its boot over the admin port, gdb
//! through QEMU, and what a report's addresses mean.

mod guest;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use godwit_qemu::admin::Admin;
use godwit_qemu::ctl::{capture, chart, flame::Samples};
use godwit_qemu::image::build_image;
use godwit_qemu::image::symbols::{Annotator, Symbols, WITH_LINES, build_of};
use godwit_qemu::net::Network;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Outcome, Vm, VmSpec};
use guest::{alone, free_port};

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef";

fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let ready = setup::ensure().and_then(|()| setup::ensure_debuggers());
        ready.unwrap_or_else(|error| panic!("{error:#}"));
        build_image("http").expect("the http image builds")
    })
}

/// An HTTP image with little memory behind QEMU's own network.
struct Host {
    vm: Vm,
    service: SocketAddrV4,
    admin: Admin,
}

impl Host {
    fn start(more: &[String]) -> Self {
        let (nic, [service, admin]) = guest::nic([80, 9100]);
        let mut spec = VmSpec::new("http", image());
        spec.memory = 16;
        spec.config = format!("id=1\nip=10.0.2.15/24\ngw=10.0.2.2\nadmin_token={TOKEN}\n");
        spec.more = more.to_vec();
        spec.nics.push(nic);
        let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
        vm.wait_ready(PATIENCE).expect("the image is ready");
        let admin = Admin::new(Network::Host, SocketAddr::V4(admin), TOKEN);
        Self { vm, service, admin }
    }

    /// What an admin path answers in its own time.
    fn get(&self, path: &str) -> Vec<u8> {
        let mut answer = Vec::new();
        let mut from = self.admin.stream(path, PATIENCE).expect(path);
        from.read_to_end(&mut answer).expect(path);
        answer
    }

    /// Downloads as long as `work` goes on.
    fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut stream = TcpStream::connect(self.service).expect("it listens");
                    stream
                        .write_all(b"GET /gen/1G HTTP/1.1\r\nHost: x\r\n\r\n")
                        .expect("sent");
                    let mut chunk = vec![0; 64 << 10];
                    loop {
                        let read = stream.read(&mut chunk);
                        if over.load(Ordering::Relaxed) || !read.is_ok_and(|n| n > 0) {
                            break;
                        }
                    }
                }
            });
            let result = work();
            over.store(true, Ordering::Relaxed);
            result
        })
    }

    fn end(mut self) {
        self.vm.press_power_button().expect("the monitor answers");
        match self.vm.wait_exit(PATIENCE) {
            Outcome::Verdict(verdict) if verdict.code == 0 => {}
            other => panic!("{other}\n{}", self.vm.console().tail(40).join("\n")),
        }
    }
}

#[test]
fn a_busy_image_is_profiled_and_its_functions_have_names() {
    let _alone = alone();
    let host = Host::start(&[]);
    let answer = host.busy(|| host.get("/profile?hz=499&seconds=2"));
    let samples = Samples::parse(&answer).expect("a profile");
    let symbols = Symbols::of(image()).expect("the image's symbols");
    assert_eq!(samples.build, symbols.build());
    assert_eq!(samples.build, build_of(image()).expect("an image"));
    // Of a thousand that were due: on a busy host many come late.
    assert!(samples.count() > 100, "{} samples", samples.count());
    assert!(samples.count() < 1_100, "{} samples", samples.count());
    // One that interrupts the taking of the others finds no room, and is counted.
    let lost = samples.lost.expect("how many were lost");
    assert!(u64::from(lost) * 50 <= samples.count(), "{lost} lost");
    let folded = samples.fold(&symbols);
    let within = |part: &str| {
        let of = folded.0.iter().filter(|(names, _)| {
            let mut names = names.iter();
            names.any(|name| name.contains(part))
        });
        of.map(|(_, count)| count).sum::<u64>()
    };
    assert!(within("godwit_engine::") > 0, "{}", folded.lines());
    // Whatever runs, the image's loop called it.
    let all = samples.count();
    assert!(within("http") > all * 8 / 10, "{}", folded.lines());
    let svg = folded.svg("test");
    assert!(svg.contains("<title>") && svg.ends_with("</svg>\n"));
    // The watchdog, which counts interrupts, has not taken them for its own, and nothing goes on.
    let counters = host.admin.status().expect("it serves").counters;
    assert!(!counters.is_empty());
    host.end();
}

#[test]
fn frames_are_captured_for_tcpdump_and_what_is_dropped_is_told() {
    let _alone = alone();
    let host = Host::start(&[]);
    let file = std::env::temp_dir().join(format!("godwit-debug-{}.pcapng", std::process::id()));
    let captured = host.busy(|| {
        let from = host.admin.stream("/pcap?seconds=1&snap=100", PATIENCE);
        let to = fs::File::create(&file).expect("a file");
        capture::write(from.expect("a capture"), to).expect("frames")
    });
    assert!(captured.frames > 100 && captured.dropped.is_some());
    let tcpdump = |filter: &[&str]| {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-nn", "-tt", "-r"]).arg(&file).args(filter);
        let output = tcpdump.output().expect("tcpdump runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let lines = |filter: &[&str]| tcpdump(filter).lines().count() as u64;
    assert_eq!(lines(&[]), captured.frames);
    assert_eq!(
        lines(&["port", "9100"]),
        0,
        "its own connection is left out"
    );
    assert!(lines(&["src port 80"]) > 0 && lines(&["dst port 80"]) > 0);
    let first = tcpdump(&["-c", "1"]);
    let time: f64 = first.split(' ').next().unwrap_or("").parse().expect(&first);
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock");
    assert!((now.as_secs_f64() - time).abs() < 30.0, "{first}");
    let _ = fs::remove_file(&file);

    // So many and no more, and nobody else meanwhile.
    let few = host.busy(|| host.get("/pcap?frames=7&snap=64"));
    let few = capture::write(&few[..], Vec::new()).expect("frames");
    assert_eq!((few.frames, few.dropped), (7, Some(0)));

    // A reader that does not read for a while costs frames; the instance serves on.
    host.busy(|| {
        let mut slow = host
            .admin
            .stream("/pcap?seconds=60&snap=1500", PATIENCE)
            .expect("it");
        thread::sleep(Duration::from_secs(2));
        let second = host.admin.stream("/pcap", PATIENCE);
        let error = second.map(|_| ()).expect_err("one at a time").to_string();
        assert!(error.contains("409"), "{error}");
        let mut chunk = [0; 4096];
        slow.read_exact(&mut chunk).expect("it was told something");
        drop(slow);
    });
    // Who went away has left no capture behind.
    let again = (0..50).any(|_| {
        thread::sleep(Duration::from_millis(100));
        host.admin
            .stream("/pcap?frames=1&seconds=1", PATIENCE)
            .is_ok()
    });
    assert!(again, "the place is taken still");
    for (path, says) in [
        ("/pcap?interface=1", "interface must be"),
        ("/profile?hz=1000000", "hz must be a number from 1 to 10000"),
        ("/log?colour=red", "a word that is not known"),
    ] {
        let error = host
            .admin
            .stream(path, PATIENCE)
            .map(|_| ())
            .expect_err(path);
        assert!(error.to_string().contains(says), "{error}");
    }
    host.end();
}

#[test]
fn the_log_and_the_boot_are_told_long_afterwards() {
    let _alone = alone();
    let host = Host::start(&[]);
    let log = String::from_utf8(host.get("/log")).expect("text");
    let console = host.vm.console().tail(usize::MAX);
    assert!(log.contains("network card 02:00:00:00:00:01"), "{log}");
    let ready = log.lines().find(|line| line.contains("GODWIT READY"));
    assert!(console.iter().any(|line| Some(&**line) == ready), "{log}");
    let stages = chart::parse(&String::from_utf8(host.get("/boot")).expect("text"));
    let stages = stages.expect("a chart");
    assert_eq!(stages.last().map(|stage| &*stage.stage), Some("ready"));
    assert_eq!(stages, host.vm.console().boot_chart());
    print!("{}", chart::text(&stages));
    host.end();
}

#[test]
fn gdb_attaches_stops_at_a_function_and_lets_the_image_go_on() {
    let _alone = alone();
    let port = free_port();
    let host = Host::start(&["-gdb".into(), format!("tcp:127.0.0.1:{port}")]);
    let symbols = image().with_extension(WITH_LINES);
    let output = host.busy(|| {
        let mut gdb = Command::new("timeout");
        gdb.args(["60", "gdb", "-batch", "-nx"]).arg(&symbols);
        for order in [
            &*format!("target remote localhost:{port}"),
            "break godwit_engine::tcp::connection::Connection::handle_segment",
            "continue",
            "backtrace",
            "delete",
            "detach",
        ] {
            gdb.args(["-ex", order]);
        }
        gdb.output().expect("gdb runs")
    });
    let said = String::from_utf8_lossy(&output.stdout);
    for part in [
        "Breakpoint 1, ",
        "Connection::handle_segment () at netstack/engine/src/tcp/input.rs:",
        "godwit::node::Node::step",
        "detached",
    ] {
        assert!(said.contains(part), "{part}: {said}{output:?}");
    }
    let counters = host.admin.status().expect("it serves on").counters;
    assert!(!counters.is_empty());
    host.end();
}

/// An image whose service has the bugs that its client asks for, where it listens, and its admin port.
fn faulty() -> (Vm, SocketAddrV4, Admin) {
    let image = build_image("faulty").expect("the faulty image builds");
    let (nic, [service, admin]) = guest::nic([7, 9100]);
    let mut spec = VmSpec::new("faulty", &image);
    spec.config = format!("id=1\nip=10.0.2.15/24\ngw=10.0.2.2\nwatchdog=1s\nadmin_token={TOKEN}\n");
    spec.nics.push(nic);
    let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {}).expect("QEMU starts");
    vm.wait_ready(PATIENCE).expect("the image is ready");
    let admin = Admin::new(Network::Host, SocketAddr::V4(admin), TOKEN);
    (vm, service, admin)
}

#[test]
fn the_watchdog_has_its_patience_while_a_profile_is_made() {
    let _alone = alone();
    image();
    let (mut vm, service, admin) = faulty();
    let mut profile = admin
        .stream("/profile?hz=1000&seconds=60", PATIENCE)
        .expect("a profile");
    profile.read_exact(&mut [0; 64]).expect("samples");
    let mut client = TcpStream::connect(service).expect("the image listens");
    client.write_all(b"s").expect("sent");
    let begun = std::time::Instant::now();
    match vm.wait_exit(PATIENCE) {
        Outcome::Verdict(verdict) => {
            assert_eq!(verdict.code, 20, "{verdict:?}");
            assert!(verdict.reason.contains("for 1000 ms"), "{verdict:?}");
        }
        other => panic!("{other}"),
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(700), "only {took:?}");
}

#[test]
fn a_report_is_given_its_lines_and_only_by_the_image_it_is_of() {
    let _alone = alone();
    let (mut vm, service, _) = faulty();
    let mut client = TcpStream::connect(service).expect("the image listens");
    client.write_all(b"p").expect("sent");
    let outcome = vm.wait_exit(PATIENCE);
    assert!(matches!(outcome, Outcome::Verdict(_)), "{outcome}");
    let console = vm.console().tail(200);
    // The harness does it unasked, and `cargo godwit run` with it.
    let lines = console.join("\n");
    assert!(lines.contains("at images/vm/src/bin/faulty.rs:"), "{lines}");
    assert!(lines.contains("at apps/sdk/src/node.rs:"), "{lines}");
    let mut annotator = Annotator::new(image());
    let below = console.iter().flat_map(|line| annotator.below(line));
    let other: Vec<String> = below.collect();
    assert_eq!(other.len(), 1, "{other:?}");
    assert!(
        other[0].contains("no lines: the report is of build"),
        "{other:?}"
    );
}
