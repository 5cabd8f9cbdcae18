//! The peer: Debian's cloud kernel with nginx on an initial RAM file system, made of the
//! distribution's packages. They are fetched once, with the distribution's own tools, and kept below
//! `target/`; nothing of them is installed. nginx is configured as the distribution does it, or tuned.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use godwit_qemu::build;
use godwit_qemu::progress::Progress;

use super::cpio::Archive;
use crate::Effort;

/// Depends on the newest cloud kernel.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The server with its configuration, and what its init runs on.
const PROGRAMS: [&str; 3] = ["nginx", "nginx-common", "busybox-static"];
/// What a virtual network card needs, in the order in which it is loaded; on PCI and without.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mmio",
    "failover",
    "net_failover",
    "virtio_net",
];
/// Where packages put libraries, and the one that loads programs.
const PLACES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER: &str = "ld-linux-x86-64.so.2";
/// What it serves besides the page: so many MiB, when it is told to.
pub const LARGE_MIB: u32 = 256;

/// The first process. Words of the kernel's command line that the kernel does not know are its
/// environment: `address`, `without` (modules of buses that the machine does not have), `large` (MiB),
/// `config` (a file).
const INIT: &str = "\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for m in MODULES; do
    case \" $without \" in *\",$m,\"*) ;; *) $b insmod /modules/$m.ko;; esac
done
$b ip link set lo up
$b ip addr add $address dev eth0
$b ip link set eth0 up
if [ -n \"$large\" ]; then
    $b dd if=/dev/zero of=/var/www/html/large bs=1M count=$large
fi
exec /usr/sbin/nginx -c $config -g 'daemon off;'
";

/// A configuration for speed: one process, no log, open files remembered, no connection ever closed.
const TUNED: &str = "\
master_process off; worker_processes 1; pid /run/nginx.pid;
error_log /dev/null crit;
events { worker_connections 4096; }
http {
    access_log off; sendfile on; tcp_nopush on; open_file_cache max=16;
    keepalive_requests 1000000000; keepalive_timeout 3600;
    client_body_temp_path /run/a; proxy_temp_path /run/b;
    fastcgi_temp_path /run/c; uwsgi_temp_path /run/d; scgi_temp_path /run/e;
    types { }
    default_type application/octet-stream;
    server { listen 80; root /var/www/html; }
}
";

/// How the peer's nginx is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Config {
    /// As the distribution ships it: what whoever installs it gets.
    Distribution,
    /// For speed.
    Tuned,
}

impl Config {
    /// That of a run, unless it leaves the peer out.
    pub fn of(effort: &Effort) -> Option<Config> {
        let config = if effort.tuned {
            Config::Tuned
        } else {
            Config::Distribution
        };
        (!effort.alone).then_some(config)
    }

    /// Where its file is.
    pub fn path(self) -> &'static str {
        match self {
            Config::Distribution => "/etc/nginx/nginx.conf",
            Config::Tuned => "/tuned.conf",
        }
    }
}

/// The peer's files.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The kernel, as the distribution has it.
    pub kernel: PathBuf,
    /// What it starts from.
    pub initrd: PathBuf,
    /// What its nginx goes by.
    pub config: Config,
}

impl Peer {
    /// Fetch what is not here yet and build it.
    pub fn make(config: Config) -> Result<Peer> {
        let folder = build::workspace()?.join("target").join("peers");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            let here = Command::new(program).arg("--version").output().is_ok();
            ensure!(
                here,
                "{program} is missing: the peer is made of Debian's packages, and fetched and \
                 unpacked with Debian's tools (--alone measures ours only)"
            );
        }
        let kernel = depends(KERNEL)?
            .into_iter()
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{KERNEL} depends on no kernel"))?;
        let mut names = BTreeSet::from([kernel.clone()]);
        names.extend(PROGRAMS.map(String::from));
        names.extend(libraries("nginx")?);

        let progress = Progress::start("fetching the peer's packages");
        let root = folder.join(&kernel);
        for name in names {
            progress.detail(&name);
            unpack(&name, &folder, &root)?;
        }
        progress.finish();
        let boot = root.join("boot");
        let peer = Peer {
            kernel: boot.join(kernel.replacen("linux-image-", "vmlinuz-", 1)),
            initrd: folder.join(format!("initrd.{}", std::process::id())),
            config,
        };
        let modules = root
            .join("lib/modules")
            .join(kernel.replacen("linux-image-", "", 1));
        let initrd = initial_files(&root, &modules)?;
        // Somebody else may be using the one there is at this moment.
        let path = folder.join("initrd");
        fs::write(&peer.initrd, initrd)
            .and_then(|()| fs::rename(&peer.initrd, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Peer {
            initrd: path,
            ..peer
        })
    }

    /// What it is.
    pub fn name(&self) -> &'static str {
        match self.config {
            Config::Distribution => "Debian cloud kernel + nginx",
            Config::Tuned => "Debian cloud kernel + tuned nginx",
        }
    }

    /// Octets of both.
    pub fn size(&self) -> Result<u64> {
        Ok(fs::metadata(&self.kernel)?.len() + fs::metadata(&self.initrd)?.len())
    }
}

/// What a package depends on directly.
fn depends(package: &str) -> Result<Vec<String>> {
    let text = run(Command::new("apt-cache").args(["depends", package])).with_context(|| {
        format!("{package} is not known here: a Debian with package lists (`apt-get update`)?")
    })?;
    let names = text.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        Some(name.split(':').next().unwrap_or(name).to_owned())
    });
    Ok(names.collect())
}

/// The libraries among what a package depends on, and among what those do.
fn libraries(package: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![package.to_owned()];
    while let Some(next) = open.pop() {
        for name in depends(&next)? {
            let library = name.starts_with("lib") || name.starts_with("zlib");
            if library && found.insert(name.clone()) {
                open.push(name);
            }
        }
    }
    Ok(found)
}

/// Fetch a package, unless it is here already, and unpack it.
fn unpack(name: &str, folder: &Path, root: &Path) -> Result<()> {
    let done = root.join(format!("{name}.unpacked"));
    if done.exists() {
        return Ok(());
    }
    let place = folder.join(format!("fetched-{name}"));
    fs::create_dir_all(&place)?;
    run(Command::new("apt-get")
        .current_dir(&place)
        .args(["download", "-q", name]))
    .with_context(|| format!("cannot fetch {name}; `sudo apt-get update` renews the lists"))?;
    let package = fs::read_dir(&place)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.as_os_str().as_bytes().ends_with(b".deb"))
        .with_context(|| format!("apt-get fetched nothing for {name}"))?;
    fs::create_dir_all(root)?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
    fs::write(&done, "")?;
    fs::remove_dir_all(&place)?;
    Ok(())
}

/// The files that the peer starts from.
fn initial_files(root: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let read = |path: &Path| fs::read(path).with_context(|| format!("no {}", path.display()));
    archive.device("dev/console", 5, 1);
    for folder in ["run", "var/log/nginx", "var/lib/nginx"] {
        archive.folder(folder);
    }
    archive.file(
        "init",
        INIT.replace("MODULES", &MODULES.join(" ")).as_bytes(),
    );
    archive.file("bin/busybox", &read(&root.join("bin/busybox"))?);
    archive.file("tuned.conf", TUNED.as_bytes());
    configuration(&mut archive, &root.join("etc/nginx"), "etc/nginx")?;
    let site = root.join("etc/nginx/sites-available/default");
    archive.file("etc/nginx/sites-enabled/default", &read(&site)?);
    // Whom nginx would run its workers as.
    archive.file(
        "etc/passwd",
        b"root:x:0:0::/:/\nwww-data:x:33:33::/:/\nnobody:x:65534:65534::/:/\n",
    );
    archive.file(
        "etc/group",
        b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
    );
    archive.file("var/www/html/page", &vec![b'x'; 1024]);
    let nginx = root.join("usr/sbin/nginx");
    archive.file("usr/sbin/nginx", &read(&nginx)?);
    let places = PLACES.map(|place| root.join(place));
    let loader = places.iter().map(|place| place.join(LOADER));
    let loader = loader.into_iter().find(|path| path.exists());
    let loader = loader.with_context(|| format!("no package brought {LOADER}"))?;
    archive.file(&format!("lib64/{LOADER}"), &read(&loader)?);
    for (name, path) in needed(&places, &loader, &nginx)? {
        archive.file(&format!("lib/{name}"), &read(&path)?);
    }
    for name in MODULES {
        let path = find(modules, name)?.with_context(|| format!("the kernel has no {name}.ko"))?;
        archive.file(&format!("modules/{name}.ko"), &read(&path)?);
    }
    Ok(archive.finish())
}

/// What a folder of configuration has in it.
fn configuration(archive: &mut Archive, folder: &Path, name: &str) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => configuration(archive, &entry.path(), &name)?,
            false => archive.file(&name, &fs::read(entry.path())?),
        }
    }
    Ok(())
}

/// The libraries that a program needs, among the unpacked packages: as their own loader finds them.
fn needed(places: &[PathBuf], loader: &Path, program: &Path) -> Result<Vec<(String, PathBuf)>> {
    let places: Vec<String> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    let text = run(Command::new(loader)
        .args([
            "--inhibit-cache",
            "--library-path",
            &places.join(":"),
            "--list",
        ])
        .arg(program))?;
    let mut all = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else {
            continue; // the loader itself, and what the kernel provides
        };
        let path = rest.split(" (").next().unwrap_or(rest);
        ensure!(
            path.starts_with('/'),
            "nginx needs {name}, which no package brought"
        );
        all.push((name.to_owned(), PathBuf::from(path)));
    }
    ensure!(!all.is_empty(), "the loader lists no libraries: {text}");
    Ok(all)
}

/// A kernel module by name, somewhere below a folder.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let file = format!("{name}.ko");
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("no {}", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.file_name() == *file {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

/// What a command prints.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}", errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
