//! Where images come from.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// The services there are images of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Files over HTTP.
    Http,
    /// Echo.
    Echo,
}

impl Service {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Echo => "echo",
        }
    }

    /// The TCP port it listens on.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Echo => 7,
        }
    }

    /// The port of localhost that leads to it in `godwit run`: one that needs no privilege.
    pub fn local_port(self) -> u16 {
        match self {
            Self::Http => 8080,
            Self::Echo => 7007,
        }
    }

    /// A command that talks to it through `port` of localhost, with a client that
    /// [`crate::setup`] has installed.
    pub fn try_it(self, port: u16) -> String {
        match self {
            Self::Http => format!("curl http://localhost:{port}/"),
            Self::Echo => format!("curl telnet://localhost:{port}    (type a line)"),
        }
    }
}

/// Builds the bootable image of a service and returns its path.
pub fn image(service: Service) -> Result<PathBuf> {
    crate::image::build_image(service.name())
}

/// Bytes of the large file in each release.
const RELEASE_FILES: usize = 192 << 10;

/// Builds the image of a release, the first or the second, of the service that a rolling upgrade is
/// shown with, and returns its path.
pub fn release(number: u32) -> Result<PathBuf> {
    crate::image::build_image_with(&format!("release{number}"), RELEASE_FILES)
}

/// Builds the Linux process that serves any service on a TAP device and returns its path.
pub fn hosted() -> Result<PathBuf> {
    program("godwit-hosted", "release")
}

/// Builds the simulator and returns its path.
pub fn simulator() -> Result<PathBuf> {
    program("godwit-sim", "release")
}

/// Builds the program that measures, peers and all for speed, and returns its path.
pub fn bench() -> Result<PathBuf> {
    program("godwit-bench", "measure")
}

/// Builds a program of the workspace, in a package of the same name, and returns its path.
fn program(package: &str, profile: &str) -> Result<PathBuf> {
    let root = workspace()?;
    let target = root.join("target");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        .args(["build", "--package", package, "--profile", profile])
        .arg("--target-dir")
        .arg(&target)
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "building failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(target.join(profile).join(package))
}

/// The root of the workspace this command was built from.
pub fn workspace() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .filter(|root| root.join("Cargo.toml").is_file())
        .map(Path::to_path_buf)
        .with_context(|| format!("no workspace around {}", manifest.display()))
}
