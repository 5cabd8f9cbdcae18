//! Installs what the host needs from its distribution: QEMU, curl, iproute2; what the bench
//! and the interop tests talk to: nginx, wrk, ethtool, iperf3, nc; what bootable media are made with
//! (GRUB, xorriso, mtools) and started by (OVMF); what looks at them (gdb, tcpdump).

use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::vm::QEMU;

/// A distribution's package manager.
struct Manager {
    program: &'static str,
    /// Refreshes the lists of packages, where installing does not.
    refresh: Option<&'static [&'static str]>,
    install: &'static [&'static str],
    /// The packages of [`PROGRAMS`], in their order.
    packages: [&'static str; 17],
}

/// Everything that can be installed: programs, and files that go by a name of [`ELSEWHERE`].
const PROGRAMS: [&str; 17] = [
    QEMU, "curl", "ip", "nginx", "wrk", "ethtool", "iperf3", "nc", RESCUE, GRUB_BIOS, GRUB_UEFI,
    "xorriso", "mformat", "qemu-img", OVMF, "gdb", "tcpdump",
];
const RESCUE: &str = "grub-mkrescue";
const GRUB_BIOS: &str = "GRUB for BIOS";
const GRUB_UEFI: &str = "GRUB for UEFI";
const OVMF: &str = "OVMF";
/// What bootable media are made with.
const MEDIA: [&str; 5] = [RESCUE, GRUB_BIOS, GRUB_UEFI, "xorriso", "mformat"];

/// What is not a program of its own name: any of these will do.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (RESCUE, &[RESCUE, "grub2-mkrescue"]),
    (GRUB_BIOS, &["/usr/lib/grub/i386-pc/multiboot2.mod"]),
    (GRUB_UEFI, &["/usr/lib/grub/x86_64-efi/multiboot2.mod"]),
    (
        OVMF,
        &[
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_CODE.fd",
            "/usr/share/edk2/ovmf/OVMF_CODE.fd",
            "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
            "/usr/share/qemu/ovmf-x86_64-code.bin",
        ],
    ),
];
/// The programs the host needs.
const TOOLS: [&str; 3] = [QEMU, "curl", "ip"];
/// The programs the bench needs.
const PEERS: [&str; 5] = ["ip", "nginx", "wrk", "ethtool", "iperf3"];

const MANAGERS: &[Manager] = &[
    Manager {
        program: "apt-get",
        refresh: Some(&["update"]),
        install: &["install", "-y", "--no-install-recommends"],
        packages: [
            "qemu-system-x86",
            "curl",
            "iproute2",
            "nginx-light",
            "wrk",
            "ethtool",
            "iperf3",
            "netcat-openbsd",
            "grub-common",
            "grub-pc-bin",
            "grub-efi-amd64-bin",
            "xorriso",
            "mtools",
            "qemu-utils",
            "ovmf",
            "gdb",
            "tcpdump",
        ],
    },
    Manager {
        program: "dnf",
        refresh: None,
        install: &["install", "-y"],
        packages: [
            "qemu-system-x86-core",
            "curl",
            "iproute",
            "nginx",
            "wrk",
            "ethtool",
            "iperf3",
            "netcat",
            "grub2-tools-extra",
            "grub2-pc-modules",
            "grub2-efi-x64-modules",
            "xorriso",
            "mtools",
            "qemu-img",
            "edk2-ovmf",
            "gdb",
            "tcpdump",
        ],
    },
    Manager {
        program: "zypper",
        refresh: None,
        install: &["--non-interactive", "install"],
        packages: [
            "qemu-x86",
            "curl",
            "iproute2",
            "nginx",
            "wrk",
            "ethtool",
            "iperf",
            "netcat-openbsd",
            "grub2",
            "grub2-i386-pc",
            "grub2-x86_64-efi",
            "xorriso",
            "mtools",
            "qemu-tools",
            "qemu-ovmf-x86_64",
            "gdb",
            "tcpdump",
        ],
    },
    Manager {
        program: "pacman",
        refresh: None,
        install: &["-Sy", "--noconfirm", "--needed"],
        packages: [
            "qemu-system-x86",
            "curl",
            "iproute2",
            "nginx-light",
            "wrk",
            "ethtool",
            "iperf3",
            "openbsd-netcat",
            "grub",
            "grub",
            "grub",
            "libisoburn",
            "mtools",
            "qemu-img",
            "edk2-ovmf",
            "gdb",
            "tcpdump",
        ],
    },
    Manager {
        program: "apk",
        refresh: None,
        install: &["add"],
        packages: [
            "qemu-system-x86_64",
            "curl",
            "iproute2",
            "nginx",
            "wrk",
            "ethtool",
            "iperf3",
            "netcat-openbsd",
            "grub",
            "grub-bios",
            "grub-efi",
            "xorriso",
            "mtools",
            "qemu-img",
            "ovmf",
            "gdb",
            "tcpdump",
        ],
    },
];

/// Makes sure that all programs are there; installs what is missing if that is permitted, and
/// otherwise fails with the one line to run. Takes no time when nothing is missing.
pub fn ensure() -> Result<()> {
    ensure_all(&TOOLS)
}

/// The same for the programs the bench compares with.
pub fn ensure_peers() -> Result<()> {
    ensure_all(&PEERS)
}

/// The same for the programs the interop tests talk to.
pub fn ensure_interop() -> Result<()> {
    ensure_all(&["ip", "curl", "nc", "nginx", "wrk", "iperf3"])
}

/// The same for what `godwit demo upgrade` needs besides.
pub fn ensure_load() -> Result<()> {
    ensure_all(&["wrk"])
}

/// The same for what bootable media are made with.
pub fn ensure_media() -> Result<()> {
    ensure_all(&MEDIA)
}

/// The same for what makes disk images of other formats.
pub fn ensure_disks() -> Result<()> {
    ensure_all(&["qemu-img"])
}

/// The same for UEFI firmware of virtual machines.
pub fn ensure_uefi() -> Result<()> {
    ensure_all(&[OVMF])
}

/// The same for what looks at running images: gdb and tcpdump.
pub fn ensure_debuggers() -> Result<()> {
    ensure_all(&["gdb", "tcpdump"])
}

/// UEFI firmware of virtual machines, if it is installed.
pub(crate) fn uefi() -> Option<PathBuf> {
    find(OVMF)
}

/// The path of a program.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is not installed"))
}

fn ensure_all(tools: &[&'static str]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .copied()
        .filter(|tool| find(tool).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(manager) = MANAGERS
        .iter()
        .find(|manager| find(manager.program).is_some())
    else {
        bail!(
            "please install {}: this system's package manager is not known",
            missing.join(", ")
        );
    };
    let mut packages: Vec<_> = manager
        .packages
        .iter()
        .zip(PROGRAMS)
        .filter(|(_, program)| missing.contains(program))
        .map(|(package, _)| *package)
        .collect();
    packages.dedup();
    let Some(prefix) = privilege() else {
        bail!("please run: {}", manager.command_line(&packages));
    };
    install(manager, prefix, &packages)
        .with_context(|| format!("please run: {}", manager.command_line(&packages)))?;
    match missing.iter().find(|tool| find(tool).is_none()) {
        Some(tool) => bail!(
            "{tool} is still missing after installing {}",
            packages.join(" ")
        ),
        None => Ok(()),
    }
}

impl Manager {
    fn command_line(&self, packages: &[&str]) -> String {
        let refresh = self.refresh.map_or(String::new(), |words| {
            format!("sudo {} {} && ", self.program, words.join(" "))
        });
        let install = self.install.join(" ");
        format!(
            "{refresh}sudo {} {install} {}",
            self.program,
            packages.join(" ")
        )
    }
}

/// The words before a command that make it run as root; `None`: there is no way.
fn privilege() -> Option<&'static [&'static str]> {
    if nix::unistd::geteuid().is_root() {
        return Some(&[]);
    }
    find("sudo")?;
    let quiet = Command::new("sudo")
        .args(["-n", "true"])
        .stderr(Stdio::null())
        .status();
    if quiet.is_ok_and(|status| status.success()) {
        return Some(&["sudo", "-n"]);
    }
    // Somebody is there who can type a password.
    (std::io::stdin().is_terminal() && std::io::stderr().is_terminal())
        .then_some(["sudo"].as_slice())
}

fn install(manager: &Manager, prefix: &[&str], packages: &[&str]) -> Result<()> {
    let progress = Progress::start(&format!("installing {}", packages.join(", ")));
    let words = |rest: &[&'static str]| [&[manager.program], rest].concat();
    // The lists may be fresh enough; if not, installing fails and is tried again after a refresh.
    let install = [&words(manager.install)[..], packages].concat();
    if run(prefix, &install, &progress).is_ok() {
        progress.finish();
        return Ok(());
    }
    if let Some(refresh) = manager.refresh {
        run(prefix, &words(refresh), &progress)?;
        run(prefix, &install, &progress)?;
        progress.finish();
        return Ok(());
    }
    bail!("{} failed", install.join(" "))
}

/// Runs a command; its output is only shown as progress, or if it fails.
fn run(prefix: &[&str], words: &[&str], progress: &Progress) -> Result<()> {
    let all = [prefix, words].concat();
    let (program, arguments) = all.split_first().context("nothing to run")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let errors = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default())
    });
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            progress.detail(&line);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let errors = errors
            .and_then(|errors| errors.join().ok())
            .unwrap_or_default();
        bail!("{} failed: {}", all.join(" "), errors.trim());
    }
    Ok(())
}

/// Looks for something that can be installed.
fn find(name: &str) -> Option<PathBuf> {
    match ELSEWHERE.iter().find(|(other, _)| *other == name) {
        Some((_, places)) => places.iter().find_map(|place| find_at(place)),
        None => find_at(name),
    }
}

/// A file by its path, or a program by its name; administrators' directories are often not in a user's
/// `PATH`.
fn find_at(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories
        .iter()
        .map(|directory| directory.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_run_is_one_line_that_can_be_pasted() {
        let line = MANAGERS[0].command_line(&["qemu-system-x86"]);
        assert_eq!(
            line,
            "sudo apt-get update && \
             sudo apt-get install -y --no-install-recommends qemu-system-x86"
        );
    }

    #[test]
    fn programs_are_found_by_name_and_directories_are_no_programs() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
        assert!(!is_program(Path::new("/")));
    }
}
