//! A private directory for sockets and small files that goes when it is dropped, or when a signal
//! ends the process ([`crate::interrupt`]).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// The directories that exist.
static ALL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn all() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory below the system's temporary one that only this user can read.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// Makes the directory; `name` is a part of its name. Paths in it must stay short, because the
    /// system limits those of sockets to 107 bytes.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut directory = std::env::temp_dir();
        directory.push(format!("godwit-{name}-{}-{unique}", std::process::id()));
        let mut all = all();
        // A left-over of an earlier process with the same id.
        let _ = fs::remove_dir_all(&directory);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        all.insert(directory.clone());
        Ok(Self { directory })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a new file that only this user can read, and returns its path.
    pub fn write_secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut all = all();
        let _ = fs::remove_dir_all(&self.directory);
        all.remove(&self.directory);
    }
}

/// Removes all directories of this process, which is about to end: no new one can be made while
/// what comes back is held.
pub(crate) fn remove_all() -> impl Drop {
    let all = all();
    for directory in all.iter() {
        // A VM may put its socket there while we are at it.
        for _ in 0..3 {
            let _ = fs::remove_dir_all(directory);
        }
    }
    all
}
