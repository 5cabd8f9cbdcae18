//! `godwit run`: one VM on QEMU's own network, for a first look.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::build::{self, Service};
use crate::demo::lab::random_hex;
use crate::image::symbols::WITH_LINES;
use crate::progress::Progress;
use crate::vm::{
    Accelerator, DEFAULT_MEMORY, Forward, Machine, Netdev, Nic, NicModel, Outcome, Vm, VmSpec,
    parse_memory,
};
use crate::words;

/// The guest's address on QEMU's user-mode network.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The same on another one.
const GUEST_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 15);
/// The host as the guest sees it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// How long to wait for the readiness line before saying so.
const BOOT: Duration = Duration::from_secs(30);

/// The exit status without a verdict.
const NO_VERDICT: u8 = 125;

/// Options of `godwit run`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What to run.
    pub service: Service,
    /// Machine type.
    #[arg(long, value_enum, default_value = "microvm")]
    pub machine: Machine,
    /// NIC.
    #[arg(long, value_enum, default_value = "virtio")]
    pub nic: NicModel,
    /// A second NIC, for a network of the instances' own (10.0.3.0/24): the admin port is there.
    #[arg(long, value_enum, value_name = "NIC")]
    pub instance_nic: Option<NicModel>,
    /// Memory in MiB, at least 6.
    #[arg(long, default_value_t = DEFAULT_MEMORY, value_parser = parse_memory, allow_hyphen_values = true)]
    pub memory: u32,
    /// The guest's address: `dhcp`, or one of QEMU's network, 10.0.2.4/24 to 10.0.2.254/24.
    #[arg(long, default_value = "10.0.2.15/24", value_parser = parse_ip, allow_hyphen_values = true)]
    pub ip: String,
    /// The port of localhost that leads to the service; by default 8080 for http, 7007 for echo.
    #[arg(long, value_parser = parse_port, allow_hyphen_values = true)]
    pub port: Option<u16>,
    /// The port of localhost that leads to the admin port.
    #[arg(long, default_value_t = 9100, value_parser = parse_port, allow_hyphen_values = true)]
    pub admin_port: u16,
    /// Let a debugger in at this port of localhost.
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true,
        default_missing_value = "1234", value_parser = parse_port)]
    pub gdb: Option<u16>,
    /// Wait for the debugger before the first instruction.
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// Further configuration, as key=value.
    #[arg(value_name = "KEY=VALUE", last = true)]
    pub config: Vec<String>,
}

/// Runs the VM until it ends and returns the exit status: the verdict's code, or 125 when there is
/// no verdict.
pub fn run(options: &Options) -> Result<u8> {
    for nic in core::iter::once(options.nic).chain(options.instance_nic) {
        let device = nic.device(options.machine);
        device.map_err(|what| anyhow!(what))?;
    }
    let token = random_hex()?;
    let (own, given) = (configuration(options, &token), options.config.join("\n"));
    words::check(&[&own, &given])?;
    let local = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let port = options.port.unwrap_or(options.service.local_port());
    let debugger = options.gdb.map(|port| (port, "--gdb"));
    let ports = [(port, "--port"), (options.admin_port, "--admin-port")];
    for (port, option) in ports.into_iter().chain(debugger) {
        // QEMU would say so too, but without the way out.
        TcpListener::bind(local(port))
            .with_context(|| format!("port {port} is taken: choose another with {option}"))?;
    }
    if port == options.admin_port {
        bail!("--port and --admin-port are both {port}");
    }
    let progress = Progress::start("building the image");
    let image = build::image(options.service)?;
    progress.finish();
    let guest = guest_address(&options.ip).unwrap_or(GUEST);
    let forward = |host, to| Forward {
        host: local(host),
        guest: SocketAddrV4::new(guest, to),
    };
    let served = forward(port, options.service.port());
    let mut nics = vec![Nic {
        model: options.nic,
        mac: [0x02, 0x67, 0x77, 0, 0, 1],
        netdev: Netdev::User(match options.instance_nic {
            Some(_) => vec![served],
            None => vec![served, forward(options.admin_port, 9100)],
        }),
    }];
    nics.extend(options.instance_nic.map(|model| Nic {
        model,
        mac: [0x02, 0x67, 0x77, 0, 1, 1],
        netdev: Netdev::OtherUser(vec![Forward {
            host: local(options.admin_port),
            guest: SocketAddrV4::new(GUEST_INSIDE, 9100),
        }]),
    }));
    let spec = VmSpec {
        machine: options.machine,
        memory: options.memory,
        config: format!("{own}{given}\n"),
        nics,
        more: debugger_words(options),
        ..VmSpec::new(options.service.name(), &image)
    };
    let mut vm = Vm::start(&spec, Accelerator::best(), |line| println!("{line}"))?;
    pass_input_on(&mut vm);
    if let Some(port) = options.gdb {
        let symbols = image.with_extension(WITH_LINES);
        eprintln!("  a debugger attaches by:");
        eprintln!("    {}", attach(&symbols, port));
    }
    let started = Instant::now();
    // With a debugger it takes as long as it takes.
    let patience = options.gdb.map_or(BOOT, |_| Duration::from_secs(86_400));
    if vm.console().wait_ready(patience).is_none() {
        // The console has been on the screen.
        return Ok(end(vm.wait_exit(Duration::from_secs(1))));
    }
    eprintln!(
        "\n  ready {:.0} ms after QEMU's start; now try:",
        started.elapsed().as_secs_f64() * 1e3
    );
    eprintln!("    {}", options.service.try_it(port));
    eprintln!(
        "    cargo godwit ctl status --address localhost:{} --token {token}",
        options.admin_port
    );
    eprintln!("  Ctrl-C ends it.\n");
    Ok(end(vm.wait_exit(Duration::MAX)))
}

/// What fits an instance to QEMU's network, and to this command.
fn configuration(options: &Options, token: &str) -> String {
    let inside = match options.instance_nic {
        // Which card a machine finds first is its own affair.
        Some(_) => format!("instance_ip={GUEST_INSIDE}/24\nservice_nic=02:67:77:00:00:01\n"),
        None => String::new(),
    };
    let ip = &options.ip;
    format!("id=1\nip={ip}\ngw={GATEWAY}\nadmin_port=9100\nadmin_token={token}\n{inside}")
}

/// What QEMU is told about a debugger.
fn debugger_words(options: &Options) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(port) = options.gdb {
        words.extend(["-gdb".into(), format!("tcp:127.0.0.1:{port}")]);
    }
    if options.gdb_wait {
        words.push("-S".into());
    }
    words
}

/// The line that attaches gdb to an image whose symbols are in a file. In the workspace it finds the
/// source, too.
fn attach(symbols: &Path, port: u16) -> String {
    format!(
        "gdb {} -ex 'target remote localhost:{port}'",
        symbols.display()
    )
}

/// The address of `10.0.2.15/24`, if QEMU's network has room for it: the first ones are the host,
/// a name server and the like.
fn guest_address(text: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = text.strip_suffix("/24")?.parse().ok()?;
    matches!(address.octets(), [10, 0, 2, 4..=254]).then_some(address)
}

fn parse_ip(text: &str) -> Result<String, String> {
    if text == "dhcp" || guest_address(text).is_some() {
        return Ok(text.into());
    }
    Err("must be 10.0.2.4/24 to 10.0.2.254/24 (QEMU's own network), or dhcp".into())
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "must be a port from 1 to 65535".into())
}

/// Shows how it ended, and turns that into an exit status.
fn end(outcome: Outcome) -> u8 {
    eprintln!("\n  {outcome}");
    match outcome {
        Outcome::Verdict(verdict) => verdict.code,
        Outcome::Infrastructure(_) => NO_VERDICT,
    }
}

/// What is typed goes to the guest's serial port.
fn pass_input_on(vm: &mut Vm) {
    let Some(mut guest) = vm.take_stdin() else {
        return;
    };
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if guest
                .write_all(&buffer[..n])
                .and_then(|()| guest.flush())
                .is_err()
            {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn refusal(words: &[&str]) -> String {
        match Line::try_parse_from(words) {
            Err(error) => error.to_string(),
            Ok(line) => format!("{:#}", run(&line.options).unwrap_err()),
        }
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_built() {
        for (words, said) in [
            (&["http", "--ip", "192.168.1.5/24"][..], "10.0.2."),
            (&["http", "--ip", "10.0.2.2/24"], "10.0.2.4/24"),
            (&["http", "--ip", "10.0.2.15"], "/24"),
            (&["http", "--memory", "1"], ", 6 at least"),
            (&["http", "--port", "-1"], "1 to 65535"),
            (&["http", "--nic", "e1000"], "--machine q35"),
            (&["http", "--instance-nic", "e1000"], "--machine q35"),
            (&["http", "--", "quiet"], "`quiet` is not key=value"),
            (&["http", "--", "foo=1"], "unknown key `foo`"),
            (&["http", "--", "port=9100"], "also the admin port"),
            (
                &["http", "--port", "47011", "--admin-port", "47011"],
                "both 47011",
            ),
        ] {
            let error = refusal(words);
            assert!(error.contains(said), "{words:?}: {error}");
        }
        for good in ["dhcp", "10.0.2.15/24", "10.0.2.200/24"] {
            assert!(parse_ip(good).is_ok(), "{good}");
        }
    }
}
