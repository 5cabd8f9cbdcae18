//! The services as ordinary Linux processes on a TAP device, for developing and debugging them.
//!
//! `godwit-hosted http|echo|iperf3 tap=NAME [key=value ...]`
//!
//! Besides the keys of [`godwit::config`]: `tap` (a TAP device, made by `ip tuntap add` or, by a
//! process that may, on the spot), `mac` (of the instance, not of the device; default from `id`),
//! `instance_tap` and `instance_mac` (the same for the instance network), `mtu` (1500), `offload`
//! (`on` or `off`: leave checksums and segmentation to the host kernel) and
//! `config` (a file with more words, for secrets). SIGTERM is the power button.
//!
//! Standard output carries the READY and VERDICT lines, standard error the log; the exit status
//! is the verdict's code.

mod arguments;
pub mod clock;
pub mod host;
mod logger;
pub mod tap;

use std::process::ExitCode;

use godwit::{Code, Verdict};

use arguments::{Arguments, Which};
use host::Host;
use tap::Tap;

/// Run what the command line says; the exit status is the verdict's code.
pub fn main() -> ExitCode {
    if std::env::args()
        .skip(1)
        .any(|word| matches!(&*word, "--help" | "-h" | "help"))
    {
        host::print_line(format_args!("{}", arguments::HELP));
        return ExitCode::SUCCESS;
    }
    // The first reading is where the clock starts.
    let _ = clock::now();
    logger::install();
    let verdict = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => serve(&arguments),
        Err(reason) => Verdict::new(Code::BadConfig, reason),
    };
    host::print_line(format_args!("{}", verdict.line()));
    ExitCode::from(verdict.code.number())
}

fn serve(arguments: &Arguments) -> Verdict {
    let open = |name: &str| {
        let tap = Tap::open(name, arguments.mtu, arguments.offload);
        tap.map_err(|error| format!("TAP device {name}: {error}"))
    };
    let host = || -> Result<Host, String> {
        let host = Host::new(open(&arguments.tap)?, arguments.mac).map_err(|e| e.to_string())?;
        Ok(match &arguments.instance_tap {
            Some(name) => host.with_instance_tap(open(name)?, arguments.instance_mac),
            None => host,
        })
    };
    let mut host = match host() {
        Ok(host) => host,
        Err(reason) => return Verdict::new(Code::BadConfig, reason),
    };
    let sources: Vec<&str> = arguments.sources.iter().map(String::as_str).collect();
    match arguments.service {
        Which::Http => godwit::run(&mut host, &sources, godwit_http::Files::default()),
        Which::Echo => godwit::run(&mut host, &sources, godwit_echo::Echo),
        Which::Iperf3 => godwit::run(&mut host, &sources, godwit_iperf3::Iperf3::default()),
    }
}
