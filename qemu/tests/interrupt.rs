//! What a signal leaves behind: nothing.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use godwit_qemu::interrupt;
use godwit_qemu::scratch::Scratch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set for the process that is ended.
const ROLE: &str = "GODWIT_TEST_INTERRUPTED";

#[test]
fn a_signal_ends_the_process_but_leaves_no_secret_behind() {
    if std::env::var_os(ROLE).is_some() {
        interrupt::clean_up().unwrap();
        let scratch = Scratch::new("interrupted").unwrap();
        let path = scratch
            .write_secret("config", "admin_token=secret")
            .unwrap();
        println!("\n{}", path.display());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--exact"])
            .arg("a_signal_ends_the_process_but_leaves_no_secret_behind")
            .env(ROLE, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let path = PathBuf::from(lines.find(|line| line.starts_with('/')).unwrap());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may read the secret");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        assert!(!path.parent().unwrap().exists(), "{} stays", path.display());
    }
}
