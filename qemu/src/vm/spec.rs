//! The typed description of a VM, and its translation to QEMU's words.

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::Accelerator;
use crate::net::Namespace;

/// QEMU machine types images run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// Minimal machine, virtio-mmio.
    Microvm,
    /// The minimal machine without ACPI, PIT, PIC and RTC: what Firecracker has.
    MicrovmBare,
    /// The minimal machine whose devices have the interface of before virtio 1.0.
    MicrovmLegacy,
    /// The minimal machine with PCI Express, without PIT, PIC and RTC: what comes nearest to Cloud Hypervisor's.
    MicrovmPci,
    /// PC with PCI Express and a firmware that does nothing but load the kernel.
    Q35Qboot,
    /// PC with PCI Express.
    Q35,
    /// PC with PCI, as of 1996.
    Pc,
}

impl Machine {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            // QEMU then names the devices on the command line.
            Self::MicrovmBare => "microvm,acpi=off,pit=off,pic=off,rtc=off,auto-kernel-cmdline=on",
            Self::Microvm | Self::MicrovmLegacy => "microvm",
            Self::MicrovmPci => "microvm,pcie=on,pit=off,pic=off,rtc=off",
            Self::Q35 | Self::Q35Qboot => "q35",
            Self::Pc => "pc",
        }
    }

    fn has_pci(self) -> bool {
        matches!(
            self,
            Self::MicrovmPci | Self::Q35 | Self::Q35Qboot | Self::Pc
        )
    }
}

/// What the processor starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, QEMU's own.
    Bios,
    /// OVMF.
    Uefi,
}

/// What firmware boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A CD.
    Cd(PathBuf),
    /// A virtio disk; raw, or of another format that QEMU knows.
    Disk(PathBuf, &'static str),
    /// A USB stick.
    Usb(PathBuf),
    /// A folder that QEMU's own network serves by TFTP, and the file in it to begin with.
    Network(PathBuf, &'static str),
}

/// Network devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NicModel {
    /// virtio-net as the machine prefers it: MMIO on microvm, PCI (transitional) on q35.
    Virtio,
    /// virtio-net-pci without the legacy interface.
    VirtioModern,
    /// virtio-net-pci with nothing but the legacy interface.
    VirtioLegacy,
    /// Intel 82540EM.
    E1000,
    /// Intel 82545EM.
    #[value(name = "82545em")]
    I82545em,
    /// Intel 82574L.
    E1000e,
    /// Realtek 8139.
    Rtl8139,
    /// VMware's paravirtual device.
    Vmxnet3,
}

impl NicModel {
    /// QEMU's device string, or why this machine cannot have it.
    pub fn device(self, machine: Machine) -> Result<&'static str, String> {
        Ok(match self {
            Self::Virtio if !machine.has_pci() => "virtio-net-device",
            model if !machine.has_pci() => {
                let name = model.to_possible_value().map(|v| v.get_name().to_owned());
                return Err(format!(
                    "the NIC {} needs PCI, which this machine does not have: use --machine q35, pc or microvm-pci",
                    name.unwrap_or_default()
                ));
            }
            Self::Virtio => "virtio-net-pci",
            Self::VirtioModern => "virtio-net-pci,disable-legacy=on",
            Self::VirtioLegacy => "virtio-net-pci,disable-legacy=off,disable-modern=on",
            Self::E1000 => "e1000",
            Self::I82545em => "e1000-82545em",
            Self::E1000e => "e1000e",
            Self::Rtl8139 => "rtl8139",
            Self::Vmxnet3 => "vmxnet3",
        })
    }
}

/// Memory of a VM unless somebody says otherwise, in MiB.
pub const DEFAULT_MEMORY: u32 = 64;
/// No machine is asked to do with less, in MiB.
pub const LEAST_MEMORY: u32 = 6;

/// The value of `--memory`.
pub fn parse_memory(text: &str) -> Result<u32, String> {
    let memory = text.parse().ok().filter(|mib| *mib >= LEAST_MEMORY);
    memory.ok_or_else(|| format!("must be a number of MiB, {LEAST_MEMORY} at least"))
}

/// A port of the host that leads to one of the guest (user-mode network).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// The guest's address and port.
    pub guest: SocketAddrV4,
}

/// What is at the other end of a NIC's cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netdev {
    /// A [listening](crate::switch::Attachment::Listen) port of a switch.
    Switch(PathBuf),
    /// QEMU's own NAT network, 10.0.2.0/24.
    User(Vec<Forward>),
    /// Another one of that kind, 10.0.3.0/24.
    OtherUser(Vec<Forward>),
    /// A persistent TAP device in the namespace that QEMU runs in, see [`VmSpec::namespace`].
    Tap {
        /// Its name.
        name: String,
        /// It was made with `vnet_hdr`, and does checksums and segmentation for the guest.
        offload: bool,
    },
}

/// A network device and its cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The device.
    pub model: NicModel,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// What it is plugged into.
    pub netdev: Netdev,
}

/// A virtual machine to be started.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// Shown in messages.
    pub name: String,
    /// The machine type.
    pub machine: Machine,
    /// RAM in MiB.
    pub memory: u32,
    /// The image.
    pub kernel: PathBuf,
    /// The kernel command line: part of the configuration, visible to all users of the host.
    pub append: String,
    /// More configuration, handed over through fw_cfg: the place for secrets.
    pub config: String,
    /// Network devices.
    pub nics: Vec<Nic>,
    /// Whether there is a source of entropy besides the CPU.
    pub rng: bool,
    /// Whether the CPU has RDRAND and RDSEED.
    pub rdrand: bool,
    /// Firmware that boots from a medium, instead of the image being loaded by QEMU.
    pub boot: Option<(Firmware, Medium)>,
    /// Whether the machine has a way to end with a code, as only QEMU's machines do.
    pub exit_code: bool,
    /// Whether there is a screen, which [`super::Vm::screen`] looks at.
    pub screen: bool,
    /// More words for QEMU.
    pub more: Vec<String>,
    /// The network namespace in which QEMU itself runs, if not that of this process.
    pub namespace: Option<Namespace>,
}

impl VmSpec {
    /// A VM without NICs that runs `kernel` with QEMU's minimal machine.
    pub fn new(name: &str, kernel: &Path) -> Self {
        Self {
            name: name.into(),
            machine: Machine::Microvm,
            memory: DEFAULT_MEMORY,
            kernel: kernel.into(),
            append: String::new(),
            config: String::new(),
            nics: Vec::new(),
            rng: true,
            rdrand: true,
            boot: None,
            exit_code: true,
            screen: false,
            more: Vec::new(),
            namespace: None,
        }
    }

    /// Goes on from what [`super::Vm::save`] wrote, instead of booting; everything else has to be the
    /// same as it was.
    pub fn restore(&mut self, file: &Path) {
        let from = format!("exec:cat '{}'", file.display());
        self.more.extend(["-incoming".into(), from]);
    }

    /// QEMU's arguments. `config` is the file that holds [`Self::config`], `qmp` the socket of
    /// the machine's monitor.
    pub fn arguments(
        &self,
        accelerator: Accelerator,
        config: &Path,
        qmp: &Path,
    ) -> Result<Vec<OsString>, String> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        add(&["-name", &self.name, "-machine", self.machine.name()]);
        add(&accelerator.arguments());
        let without = match self.rdrand {
            true => "",
            false => ",-rdrand,-rdseed",
        };
        add(&["-cpu", &format!("{}{without}", accelerator.cpu())]);
        add(&["-m", &format!("{}M", self.memory), "-smp", "1"]);
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        add(&["-serial", "stdio"]);
        if self.exit_code {
            // It comes out of here: status = code * 2 + 1.
            add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        }
        if self.machine == Machine::Q35Qboot {
            add(&["-bios", "qboot.rom"]); // QEMU brings it along
        }
        if !self.machine.has_pci() {
            let legacy = self.machine == Machine::MicrovmLegacy;
            add(&["-global", &format!("virtio-mmio.force-legacy={legacy}")]);
        }
        if self.rng {
            let device = match self.machine.has_pci() {
                false => "virtio-rng-device",
                true => "virtio-rng-pci",
            };
            add(&["-device", device]);
        }
        for (n, nic) in self.nics.iter().enumerate() {
            let id = format!("net{n}");
            let mut netdev = nic.netdev.argument(&id)?;
            let served = match &self.boot {
                Some((_, Medium::Network(folder, file))) if n == 0 => Some((folder, file)),
                _ => None,
            };
            if let Some((folder, file)) = served {
                netdev += &format!(",tftp={},bootfile={file}", comma_safe(folder)?);
            }
            add(&["-netdev", &netdev]);
            let [a, b, c, d, e, f] = nic.mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            let mut device = nic.model.device(self.machine)?.to_owned();
            device += &format!(",netdev={id},mac={mac}");
            if served.is_some() {
                device += ",bootindex=0";
            } else if self.machine.has_pci() {
                // No boot ROM: the image does not come over the network.
                device += ",romfile=";
            }
            add(&["-device", &device]);
        }
        add(&[
            "-qmp",
            &format!("unix:{},server=on,wait=off", comma_safe(qmp)?),
        ]);
        add(&[
            "-fw_cfg",
            &format!("name=opt/godwit/config,file={}", comma_safe(config)?),
        ]);
        if self.screen {
            add(&["-vga", "std"]);
        }
        if let Some((firmware, medium)) = &self.boot {
            firmware.arguments(&mut add)?;
            medium.arguments(&mut add)?;
        }
        arguments.extend(self.more.iter().map(OsString::from));
        if self.boot.is_some() {
            return Ok(arguments);
        }
        arguments.push("-kernel".into());
        arguments.push(self.kernel.clone().into());
        if !self.append.is_empty() {
            arguments.push("-append".into());
            arguments.push(self.append.clone().into());
        }
        Ok(arguments)
    }
}

impl Firmware {
    fn arguments(self, add: &mut impl FnMut(&[&str])) -> Result<(), String> {
        if self == Self::Uefi {
            let code = crate::setup::uefi().ok_or("UEFI firmware (OVMF) is not installed")?;
            // Without flash for its variables: it forgets them, as a machine should that boots once.
            let drive = format!(
                "if=pflash,unit=0,format=raw,readonly=on,file={}",
                comma_safe(&code)?
            );
            add(&["-drive", &drive]);
        }
        Ok(())
    }
}

impl Medium {
    fn arguments(&self, add: &mut impl FnMut(&[&str])) -> Result<(), String> {
        let mut drive = |path: &Path, format: &str| -> Result<(), String> {
            let file = comma_safe(path)?;
            let drive = format!("if=none,id=medium,readonly=on,format={format},file={file}");
            add(&["-drive", &drive]);
            Ok(())
        };
        match self {
            Self::Cd(path) => {
                drive(path, "raw")?;
                add(&["-device", "ide-cd,drive=medium,bootindex=0"]);
            }
            Self::Disk(path, format) => {
                drive(path, format)?;
                add(&["-device", "virtio-blk-pci,drive=medium,bootindex=0"]);
            }
            Self::Usb(path) => {
                drive(path, "raw")?;
                add(&["-device", "qemu-xhci"]);
                add(&["-device", "usb-storage,drive=medium,bootindex=0"]);
            }
            Self::Network(..) => {} // see the network device
        }
        Ok(())
    }
}

impl Netdev {
    fn argument(&self, id: &str) -> Result<String, String> {
        match self {
            Self::Switch(path) => Ok(format!(
                "stream,id={id},server=off,addr.type=unix,addr.path={}",
                comma_safe(path)?
            )),
            Self::Tap { name, offload } => Ok(format!(
                "tap,id={id},ifname={name},script=no,downscript=no,vnet_hdr={}",
                if *offload { "on" } else { "off" }
            )),
            Self::User(forwards) | Self::OtherUser(forwards) => {
                let mut argument = format!("user,id={id}");
                if matches!(self, Self::OtherUser(_)) {
                    argument += ",net=10.0.3.0/24";
                }
                for Forward { host, guest } in forwards {
                    argument += &format!(
                        ",hostfwd=tcp:{}:{}-{}:{}",
                        host.ip(),
                        host.port(),
                        guest.ip(),
                        guest.port()
                    );
                }
                Ok(argument)
            }
        }
    }
}

/// QEMU splits option strings at commas; two of them stand for one.
fn comma_safe(path: &Path) -> Result<String, String> {
    let path = path
        .to_str()
        .ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
    Ok(path.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(machine: Machine, model: NicModel) -> Result<String, String> {
        let mut spec = VmSpec::new("a", Path::new("/images/http"));
        spec.machine = machine;
        spec.nics.push(Nic {
            model,
            mac: [2, 0, 0, 0, 0, 1],
            netdev: Netdev::Switch("/run/a,b".into()),
        });
        let words = spec.arguments(Accelerator::Tcg, Path::new("/c"), Path::new("/q"))?;
        Ok(words
            .iter()
            .map(|w| w.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn each_machine_gets_its_own_devices() {
        let microvm = arguments(Machine::Microvm, NicModel::Virtio).unwrap();
        assert!(microvm.contains("virtio-net-device,netdev=net0,mac=02:00:00:00:00:01"));
        assert!(microvm.contains("force-legacy=false"));
        let legacy = arguments(Machine::MicrovmLegacy, NicModel::Virtio).unwrap();
        assert!(legacy.contains("-machine microvm ") && legacy.contains("force-legacy=true"));
        let pci = arguments(Machine::MicrovmPci, NicModel::VirtioModern).unwrap();
        assert!(pci.contains("-machine microvm,pcie=on,") && !pci.contains("virtio-mmio"));
        assert!(pci.contains("virtio-net-pci,disable-legacy=on,netdev=net0"));
        let qboot = arguments(Machine::Q35Qboot, NicModel::Virtio).unwrap();
        assert!(qboot.contains("-machine q35 ") && qboot.contains("-bios qboot.rom"));
        let q35 = arguments(Machine::Q35, NicModel::Virtio).unwrap();
        assert!(!q35.contains("-bios"));
        assert!(q35.contains("virtio-net-pci,netdev=net0"));
        assert!(q35.contains("virtio-rng-pci"));
        assert!(!q35.contains("virtio-mmio"));
    }

    #[test]
    fn a_tap_does_for_the_guest_what_it_was_made_for() {
        for (offload, word) in [(true, "vnet_hdr=on"), (false, "vnet_hdr=off")] {
            let name = "guest1".into();
            let argument = Netdev::Tap { name, offload }.argument("net0").unwrap();
            assert!(argument.starts_with("tap,id=net0,ifname=guest1,"));
            assert!(argument.ends_with(word), "{argument}");
        }
    }

    #[test]
    fn pci_devices_on_microvm_are_refused_with_advice() {
        let error = arguments(Machine::Microvm, NicModel::E1000).unwrap_err();
        assert!(
            error.contains("e1000") && error.contains("--machine q35"),
            "{error}"
        );
    }

    #[test]
    fn a_comma_in_a_path_does_not_start_another_option() {
        let words = arguments(Machine::Microvm, NicModel::Virtio).unwrap();
        assert!(words.contains("addr.path=/run/a,,b"));
    }

    #[test]
    fn the_configuration_is_not_on_the_command_line() {
        let mut spec = VmSpec::new("a", Path::new("/images/http"));
        spec.config = "cluster_key=sesame".into();
        let words = spec
            .arguments(Accelerator::Tcg, Path::new("/c"), Path::new("/q"))
            .unwrap();
        assert!(!words.iter().any(|w| w.to_string_lossy().contains("sesame")));
    }
}
