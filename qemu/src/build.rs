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
}

/// Builds the bootable image of a service and returns its path.
pub fn image(service: Service) -> Result<PathBuf> {
    crate::image::build_image(service.name())
}

/// Builds the Linux process that serves any service on a TAP device and returns its path.
pub fn hosted() -> Result<PathBuf> {
    program("godwit-hosted", "release")
}

/// Builds the program that measures, optimised as an image is, and returns its path.
pub fn bench() -> Result<PathBuf> {
    program("godwit-bench", "image")
}

/// Builds a program of this workspace that is a Linux process, and returns its path.
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

/// The root of the workspace this program was built in.
fn workspace() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().context("the package has no workspace")?;
    if !root.join("Cargo.toml").exists() {
        bail!("the sources are gone from {}", root.display());
    }
    Ok(root.into())
}
