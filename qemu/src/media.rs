//! Bootable media: an image, GRUB and a configuration, as a hybrid ISO (CD, disk and USB stick; BIOS
//! and UEFI), as a disk image, or as a folder for a TFTP server.
//!
//! GRUB loads the image by Multiboot2. The configuration is on the line that loads it (seen, and to
//! be edited for once, by whoever stops GRUB's menu), in a boot module of its own, or both.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::build::{self, Service};
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::setup;
use crate::words;

/// What GRUB needs to find, load and start an image, and to be talked to. It looks for partitions of
/// every kind it knows of, and complains about each that it cannot look for.
const MODULES: &str = "normal configfile test echo serial terminal all_video multiboot2 tftp reboot \
    halt part_acorn part_amiga part_bsd part_dfly part_dvh part_plan part_sun part_sunpc";
/// What of GRUB is not needed.
const WITHOUT: [&str; 4] = ["--compress=xz", "--fonts=", "--locales=", "--themes="];
/// A boot module that is larger is refused by the image.
const MAX_CONFIG: usize = 64 << 10;
/// Disks are a whole number of these long, as clouds want them.
const DISK_UNIT: u64 = 1 << 20;

/// Where a BIOS finds GRUB in a folder for netboot.
pub const NETBOOT_BIOS: &str = "boot/grub/i386-pc/core.0";
/// Where UEFI finds it.
pub const NETBOOT_UEFI: &str = "boot/grub/x86_64-efi/core.efi";

/// Formats of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Disk {
    /// The disk's octets.
    Raw,
    /// QEMU's own format.
    Qcow2,
}

/// Options of `godwit build`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The service in it.
    pub service: Service,
    /// Make an ISO that boots under BIOS and UEFI from CD, disk and USB stick.
    #[arg(long)]
    pub iso: bool,
    /// Make a disk image that boots under BIOS and UEFI.
    #[arg(long, value_name = "FORMAT")]
    pub disk: Option<Disk>,
    /// Make a folder for a TFTP server, from which BIOS (PXE) and UEFI boot.
    #[arg(long)]
    pub netboot: bool,
    /// A file of configuration to go along as a boot module; whoever has the medium can read it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Seconds during which a key brings up GRUB's menu.
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    pub menu: u16,
    /// Configuration for GRUB's command line, as key=value; by default ip=dhcp.
    #[arg(value_name = "KEY=VALUE", last = true)]
    pub words: Vec<String>,
}

/// What a medium says to the image on it.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// On GRUB's command line.
    pub words: Vec<String>,
    /// In a boot module.
    pub module: Option<String>,
    /// Seconds during which a key brings up GRUB's menu.
    pub menu: u16,
}

/// Builds what the options ask for; the paths of what has been made.
pub fn build(options: &Options) -> Result<Vec<PathBuf>> {
    let service = options.service;
    let bootable = options.iso || options.disk.is_some() || options.netboot;
    if !bootable && (options.config.is_some() || !options.words.is_empty()) {
        bail!("a configuration is for --iso, --disk or --netboot: the image alone has none in it");
    }
    let configuration = options.configuration()?;
    if bootable {
        for remark in configuration.remarks()? {
            eprintln!("  {remark}");
        }
        setup::ensure_media()?;
    }
    if options.disk == Some(Disk::Qcow2) {
        setup::ensure_disks()?;
    }
    let progress = Progress::start(&format!("building the image of {}", service.name()));
    let image = build::image(service)?;
    progress.finish();
    if bootable && options.words.is_empty() && options.config.is_none() {
        eprintln!("  no configuration given: the instance will ask DHCP for its address (ip=dhcp)");
    }
    let mut made = Vec::new();
    let out = |extension: &str| image.with_extension(extension);
    if options.iso {
        made.push(out("iso"));
        iso(&image, &configuration, &out("iso"))?;
    }
    if let Some(format) = options.disk {
        let path = match format {
            Disk::Raw => out("img"),
            Disk::Qcow2 => out("qcow2"),
        };
        disk(&image, &configuration, format, &path)?;
        made.push(path);
    }
    if options.netboot {
        made.push(out("netboot"));
        netboot(&image, &configuration, &out("netboot"))?;
    }
    if made.is_empty() {
        made.push(image);
    }
    Ok(made)
}

impl Options {
    fn configuration(&self) -> Result<Configuration> {
        let module = self.config.as_ref().map(|path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        });
        let configuration = Configuration {
            words: match (&self.words[..], &self.config) {
                ([], None) => vec!["ip=dhcp".into()],
                (words, _) => words.to_vec(),
            },
            module: module.transpose()?,
            menu: self.menu,
        };
        configuration.check()?;
        Ok(configuration)
    }
}

impl Configuration {
    /// Refuses what would reach the image otherwise than it was written, or not at all.
    fn check(&self) -> Result<()> {
        for word in &self.words {
            ensure!(
                word.contains('='),
                "{word} is no configuration: expected KEY=VALUE"
            );
            let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '\'' | '"' | '\\');
            ensure!(
                word.chars().all(plain),
                "{word} has characters that GRUB's command line would change: put it into a file \
                 and name that with --config"
            );
        }
        let len = self.module.as_ref().map_or(0, String::len);
        ensure!(
            len <= MAX_CONFIG,
            "the configuration is {len} bytes long, {MAX_CONFIG} at most are read"
        );
        Ok(())
    }

    /// Refuses what the image would refuse at its boot whatever else it reads; returns what is worth a word of the
    /// rest.
    fn remarks(&self) -> Result<Vec<String>> {
        let line = self.words.join(" ");
        let module = self.module.as_deref().unwrap_or_default();
        let open = words::check_part(&[&line, module])?.map(|what| {
            format!("warning: {what}. It will not boot unless QEMU's fw_cfg or a line edited in GRUB changes that")
        });
        let secrets = words::secrets(&self.words).into_iter().map(|key| {
            format!(
                "warning: {key} can be read by whoever has the medium or stops GRUB's menu; in a file named \
                 with --config, only by whoever has the medium"
            )
        });
        Ok(open.into_iter().chain(secrets).collect())
    }

    /// GRUB's configuration.
    fn menu(&self, image: &str) -> String {
        let words: String = self.words.iter().map(|word| format!(" '{word}'")).collect();
        let module = match self.module {
            Some(_) => "\n    module2 /boot/godwit.conf",
            None => "",
        };
        let (timeout, style) = (
            self.menu,
            if self.menu == 0 {
                "hidden"
            } else {
                "countdown"
            },
        );
        format!(
            "\
# Written by `cargo godwit build`. The words behind the image's name configure the instance.
if serial --unit=0 --speed=115200; then
    terminal_input --append serial
    terminal_output --append serial
fi
if [ \"$grub_platform\" = efi ]; then insmod efi_gop; fi
set timeout_style={style}
set timeout={timeout}
menuentry 'Godwit {image}' {{
    multiboot2 /boot/{image}{words}{module}
    # The image writes to VGA text as well as to a framebuffer; a BIOS switches faster to text.
    if [ \"$grub_platform\" = pc ]; then set gfxpayload=text; fi
}}
"
        )
    }

    /// Puts the image and what GRUB reads into a folder, as they lie on a medium.
    fn lay_out(&self, image: &Path, folder: &Path) -> Result<()> {
        self.check()?;
        let name = image.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no name", image.display()))?;
        let grub = folder.join("boot").join("grub");
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(&grub).with_context(|| format!("cannot make {}", grub.display()))?;
        fs::copy(image, folder.join("boot").join(name))
            .with_context(|| format!("cannot copy {}", image.display()))?;
        write(grub.join("grub.cfg"), &self.menu(name))?;
        if let Some(module) = &self.module {
            write(folder.join("boot").join("godwit.conf"), module)?;
        }
        Ok(())
    }
}

/// Makes a hybrid ISO at `path`.
pub fn iso(image: &Path, configuration: &Configuration, path: &Path) -> Result<()> {
    let progress = Progress::start("making the ISO");
    let scratch = Scratch::new("iso")?;
    let folder = scratch.path("files");
    configuration.lay_out(image, &folder)?;
    // Somebody may be using the one there is at this moment.
    let temporary = path.with_extension(format!("iso.{}", std::process::id()));
    let mut command = Command::new(setup::program("grub-mkrescue")?);
    command
        .arg("-o")
        .arg(&temporary)
        .args(WITHOUT)
        .arg(format!("--install-modules={MODULES}"))
        .arg(&folder);
    let result = run(command, &progress).and_then(|()| finish(&temporary, configuration, path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result?;
    progress.finish();
    Ok(())
}

/// Makes a disk image at `path`: the hybrid ISO is one but for its length.
pub fn disk(image: &Path, configuration: &Configuration, format: Disk, path: &Path) -> Result<()> {
    let scratch = Scratch::new("disk")?;
    let raw = scratch.path("raw");
    iso(image, configuration, &raw)?;
    let file = File::options().write(true).open(&raw)?;
    file.set_len(file.metadata()?.len().next_multiple_of(DISK_UNIT))?;
    let progress = Progress::start("making the disk image");
    let temporary = path.with_extension(format!("disk.{}", std::process::id()));
    let result = match format {
        Disk::Raw => fs::copy(&raw, &temporary).map(drop).context("cannot copy"),
        Disk::Qcow2 => {
            let mut command = Command::new(setup::program("qemu-img")?);
            command
                .args(["convert", "-f", "raw", "-O", "qcow2"])
                .args([&raw, &temporary]);
            run(command, &progress)
        }
    };
    let result = result.and_then(|()| finish(&temporary, configuration, path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result?;
    progress.finish();
    Ok(())
}

/// Makes a folder for a TFTP server at `path`, instead of what is there.
pub fn netboot(image: &Path, configuration: &Configuration, path: &Path) -> Result<()> {
    let progress = Progress::start("making the folder for netboot");
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    configuration.lay_out(image, path)?;
    let program = setup::program("grub-mkrescue")?;
    // Of the same package, and of the same kind of name.
    let name = program.to_string_lossy().replace("mkrescue", "mknetdir");
    let mut command = Command::new(name);
    command
        .arg(format!("--net-directory={}", path.display()))
        .arg("--subdir=boot/grub")
        .args(WITHOUT)
        .arg(format!("--install-modules={MODULES}"));
    run(command, &progress)?;
    progress.finish();
    Ok(())
}

/// Puts a finished file into its place. One with secrets, or with a configuration file that may hold some, is
/// for its owner alone.
fn finish(temporary: &Path, configuration: &Configuration, path: &Path) -> Result<()> {
    if configuration.module.is_some() || !words::secrets(&configuration.words).is_empty() {
        fs::set_permissions(temporary, fs::Permissions::from_mode(0o600))?;
    }
    fs::rename(temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Runs a command; what it says is shown as progress, and if it fails.
fn run(mut command: Command, progress: &Progress) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut last = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            progress.detail(&line);
            last.push(line);
        }
    }
    if child.wait()?.success() {
        return Ok(());
    }
    let from = last.len().saturating_sub(10);
    bail!(
        "{program} failed; is there room on the disk, and is it as new as its distribution? It said:\n  {}",
        last[from..].join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(words: &[&str]) -> Configuration {
        Configuration {
            words: words.iter().map(|&word| word.into()).collect(),
            ..Configuration::default()
        }
    }

    #[test]
    fn the_menu_loads_the_image_with_its_words_and_module() {
        let mut with = configuration(&["id=1", "peer=2@[fd77::2];x"]);
        with.module = Some("cluster_key=sesame".into());
        let menu = with.menu("http.elf");
        assert!(menu.contains("multiboot2 /boot/http.elf 'id=1' 'peer=2@[fd77::2];x'\n"));
        assert!(menu.contains("module2 /boot/godwit.conf\n"));
        assert!(!menu.contains("sesame"), "secrets are not in the menu");
        assert!(!configuration(&[]).menu("http.elf").contains("module2"));
    }

    #[test]
    fn what_grub_would_change_is_refused_with_a_way_out() {
        for word in ["a='b'", "a=b c", "a=\"b\"", "a=b\\c", "a=b\n}", "a=\u{e4}"] {
            let error = configuration(&[word]).check().unwrap_err().to_string();
            assert!(error.contains("--config"), "{error}");
        }
        assert!(configuration(&["quiet"]).check().is_err());
        assert!(configuration(&["a=$b;{c}|&<d>"]).check().is_ok());
    }

    #[test]
    fn a_configuration_the_image_would_not_read_is_refused() {
        let mut large = configuration(&[]);
        large.module = Some("#".repeat(MAX_CONFIG + 1));
        assert!(large.check().unwrap_err().to_string().contains("65536"));
    }

    #[test]
    fn secrets_in_words_are_remarked_and_kept_from_others() {
        let with = configuration(&["ip=dhcp", "admin_token=open-sesame"]);
        let remarks = with.remarks().unwrap();
        assert!(remarks.len() == 1, "{remarks:?}");
        assert!(
            remarks[0].contains("admin_token can be read"),
            "{remarks:?}"
        );
        assert!(!remarks[0].contains("sesame"), "{remarks:?}");
        let mut filed = configuration(&["ip=dhcp"]);
        assert_eq!(filed.remarks().unwrap(), [""; 0]);
        let mode = |configuration: &Configuration| {
            let scratch = Scratch::new("finish").unwrap();
            let (from, to) = (scratch.path("from"), scratch.path("to"));
            fs::write(&from, "").unwrap();
            finish(&from, configuration, &to).unwrap();
            fs::metadata(&to).unwrap().permissions().mode() & 0o077
        };
        assert_eq!(mode(&with), 0);
        filed.module = Some("admin_token=open-sesame".into());
        assert_eq!(
            filed.remarks().unwrap(),
            [""; 0],
            "it was put there for that"
        );
        assert_eq!(mode(&filed), 0);
    }

    #[test]
    fn what_the_image_would_refuse_is_refused_before_it_is_built() {
        let refused = |words: &[&str], module: Option<&str>| {
            let mut configuration = configuration(words);
            configuration.module = module.map(String::from);
            configuration.remarks().unwrap_err().to_string()
        };
        let error = refused(&["ip=dhcp", "foo=1"], None);
        assert!(error.contains("unknown key `foo`"), "{error}");
        let error = refused(&[], Some("ip=dhcp\nlog=loud"));
        assert!(error.contains("`log`: expected"), "{error}");
        // Other sources may yet name an address.
        let remarks = configuration(&["id=2"]).remarks().unwrap();
        assert!(remarks[0].contains("`ip` is missing"), "{remarks:?}");
    }

    #[test]
    fn the_layout_has_everything_that_is_named_in_the_menu() {
        let scratch = Scratch::new("layout").unwrap();
        let image = scratch.path("http.elf");
        fs::write(&image, "elf").unwrap();
        let mut with = configuration(&["id=1"]);
        with.module = Some("id=2".into());
        let folder = scratch.path("out");
        with.lay_out(&image, &folder).unwrap();
        for (file, text) in [("boot/http.elf", "elf"), ("boot/godwit.conf", "id=2")] {
            assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), text);
        }
        assert!(folder.join("boot/grub/grub.cfg").is_file());
    }
}
