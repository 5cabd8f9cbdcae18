//! Which accelerator runs guests here.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::QEMU;
use crate::scratch::Scratch;

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The CPU itself, through /dev/kvm.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// How long the probe may take: it is over in well under a second where it works.
const PATIENCE: Duration = Duration::from_secs(3);

impl Accelerator {
    /// The best accelerator that runs a guest here. Tried once per process.
    ///
    /// That /dev/kvm can be opened says little (nested or crippled KVM), so a guest of a few
    /// instructions is run with the CPU model images get.
    pub fn best() -> Self {
        static BEST: OnceLock<Accelerator> = OnceLock::new();
        *BEST.get_or_init(|| {
            let openable = fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok();
            if openable && Self::Kvm.runs_a_guest() {
                Self::Kvm
            } else {
                Self::Tcg
            }
        })
    }

    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    pub(super) fn arguments(self) -> [&'static str; 2] {
        match self {
            Self::Kvm => ["-accel", "kvm"],
            Self::Tcg => ["-accel", "tcg"],
        }
    }

    /// The CPU with everything the accelerator offers.
    pub(super) fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }

    /// Runs [`PROBE`] as a machine's firmware.
    fn runs_a_guest(self) -> bool {
        let Ok(scratch) = Scratch::new("probe") else {
            return false;
        };
        let rom = scratch.path("rom");
        if fs::write(&rom, probe_rom()).is_err() {
            return false;
        }
        let child = Command::new(QEMU)
            .args(self.arguments())
            .args(["-cpu", self.cpu()])
            .args([
                "-machine",
                "q35",
                "-m",
                "16M",
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-bios"])
            .arg(&rom)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else { return false };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return status.code() == Some(PROBE_STATUS),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return false;
                }
            }
        }
    }
}

/// 0x2a written to the exit device.
const PROBE_STATUS: i32 = (0x2a << 1) | 1;

/// Position-dependent code at 0xf0000: from real mode straight to 64-bit mode with paging (one
/// 2 MiB page), an SSE2 addition, and the result to port 0xf4.
#[rustfmt::skip]
const PROBE: &[u8] = &[
    0xfa,                                           // cli
    0x66, 0x31, 0xc0,                               // xor eax, eax
    0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,             // mov ds/es/ss, ax
    0x66, 0xbf, 0x00, 0x10, 0x00, 0x00,             // mov edi, 0x1000: page tables
    0x66, 0xb9, 0x00, 0x0c, 0x00, 0x00,             // mov ecx, 3 * 1024
    0xfc, 0x67, 0x66, 0xf3, 0xab,                   // cld; rep stosd
    0x66, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0, 0, // PML4[0] = 0x2003
    0x66, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0, 0, // PDPT[0] = 0x3003
    0x66, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0, 0, // PD[0] = 2 MiB page at 0
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00,             // mov eax, 0x1000
    0x0f, 0x22, 0xd8,                               // mov cr3, eax
    0x0f, 0x20, 0xe0,                               // mov eax, cr4
    0x66, 0x0d, 0x20, 0x06, 0x00, 0x00,             // or eax, PAE | OSFXSR | OSXMMEXCPT
    0x0f, 0x22, 0xe0,                               // mov cr4, eax
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,             // mov ecx, EFER
    0x0f, 0x32,                                     // rdmsr
    0x66, 0x0d, 0x00, 0x01, 0x00, 0x00,             // or eax, LME
    0x0f, 0x30,                                     // wrmsr
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0xb0, 0x00,       // lgdt cs:[0xb0]
    0x0f, 0x20, 0xc0,                               // mov eax, cr0
    0x66, 0x83, 0xe0, 0xfb,                         // and eax, ~EM
    0x66, 0x0d, 0x03, 0x00, 0x00, 0x80,             // or eax, PG | MP | PE
    0x0f, 0x22, 0xc0,                               // mov cr0, eax
    0x66, 0xea, 0x7a, 0x00, 0x0f, 0x00, 0x08, 0x00, // jmp 8:0xf007a
    0xb9, 0x2a, 0x00, 0x00, 0x00,                   // mov ecx, 0x2a
    0x66, 0x48, 0x0f, 0x6e, 0xc1,                   // movq xmm0, rcx
    0x66, 0x0f, 0xd4, 0xc0,                         // paddq xmm0, xmm0
    0x66, 0x48, 0x0f, 0x7e, 0xc0,                   // movq rax, xmm0
    0xd1, 0xe8,                                     // shr eax, 1
    0xe6, 0xf4,                                     // out 0xf4, al
    0xf4, 0xeb, 0xfd,                               // hlt; jmp to it
    0x0f, 0x1f, 0x40, 0x00,                         // (to 0x98)
    0, 0, 0, 0, 0, 0, 0, 0,                         // GDT: null,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xaf, 0x00, // 64-bit code,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00, // data
    0x17, 0x00, 0x98, 0x00, 0x0f, 0x00,             // 0xb0: GDT limit and address
];

/// The probe as a 64 KiB firmware: code at 0xf0000, the reset vector jumps to it.
fn probe_rom() -> Vec<u8> {
    let mut rom = vec![0; 0x1_0000];
    rom[..PROBE.len()].copy_from_slice(PROBE);
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If the probe's code were wrong, KVM would never be used and nobody would notice.
    #[test]
    fn the_probe_ends_with_its_status_under_tcg() {
        if Command::new(QEMU)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            eprintln!("skipped: no {QEMU}");
            return;
        }
        assert!(Accelerator::Tcg.runs_a_guest());
    }
}
