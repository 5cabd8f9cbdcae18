//! A running VM: a QEMU process that ends with its handle.

use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::console::{Console, Ready, Verdict};
use super::picture::Picture;
use super::qmp::Monitor;
use super::{Accelerator, QEMU, VmSpec};
use crate::image::symbols::Annotator;
use crate::net::Namespace;
use crate::scratch::Scratch;

/// QEMU's exit status is looked at this often.
const POLL: Duration = Duration::from_millis(5);

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The image said why, and QEMU's exit status agrees.
    Verdict(Verdict),
    /// Anything else: never to be taken for a result of the image.
    Infrastructure(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(v) => write!(f, "{} (code {}): {}", v.name, v.code, v.reason),
            Self::Infrastructure(what) => write!(f, "infrastructure failure: {what}"),
        }
    }
}

/// How the power button is pressed, and what an exit status means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Button {
    /// QEMU's monitor.
    Qmp,
    /// SIGTERM.
    Signal,
}

/// A running VM, or a Linux process that plays one. Dropping it kills it.
pub struct Vm {
    name: String,
    child: Child,
    button: Button,
    console: Console,
    errors: Console,
    readers: Vec<JoinHandle<()>>,
    started: Instant,
    scratch: Scratch,
}

impl Vm {
    /// Starts a VM; `echo` gets each line of its console, and files and lines below the entries of a
    /// backtrace, where the image's symbols are at hand.
    ///
    /// The VM also dies with the thread that starts it, so that none is left behind when the
    /// process is killed.
    pub fn start(
        spec: &VmSpec,
        accelerator: Accelerator,
        echo: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        let scratch = Scratch::new(&spec.name)?;
        let config = scratch.write_secret("config", &spec.config)?;
        let arguments = spec
            .arguments(accelerator, &config, &scratch.path("qmp"))
            .map_err(|what| anyhow!(what))?;
        let mut command = Command::new(QEMU);
        command.args(arguments);
        if let Some(namespace) = &spec.namespace {
            namespace.place(&mut command);
        }
        let image = Some(&*spec.kernel);
        Self::spawn(&spec.name, command, Button::Qmp, scratch, image, echo)
    }

    /// Starts a hosted instance: a Linux process that serves like an image and says the same on
    /// its standard output. `arguments` follow the program; the configuration is handed over in a
    /// file, as to a VM.
    pub fn start_hosted(
        name: &str,
        program: &Path,
        arguments: &[&str],
        configuration: &str,
        namespace: &Namespace,
        echo: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let config = scratch.write_secret("config", configuration)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(format!("config={}", config.display()));
        namespace.place(&mut command);
        Self::spawn(name, command, Button::Signal, scratch, None, echo)
    }

    fn spawn(
        name: &str,
        mut command: Command,
        button: Button,
        scratch: Scratch,
        image: Option<&Path>,
        echo: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us: we end it.
            .process_group(0);
        // SAFETY: between fork and exec only async-signal-safe functions may run; the closure
        // makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let started = Instant::now();
        let program = command.get_program().to_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (console, errors, echo) = (Console::default(), Console::default(), Arc::new(echo));
        let mut readers = Vec::new();
        readers.extend(stdout.map(|pipe| read_lines("console", pipe, &console, image, &echo)));
        readers.extend(stderr.map(|pipe| read_lines("stderr", pipe, &errors, None, &echo)));
        let readers = readers.into_iter().collect::<std::io::Result<Vec<_>>>()?;
        let name = name.to_owned();
        Ok(Self {
            name,
            child,
            button,
            console,
            readers,
            errors,
            started,
            scratch,
        })
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The guest's serial input, once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for the readiness line; an image that does not come up is explained.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(Ready, Duration)> {
        if let Some(ready) = self.console.wait_ready(timeout) {
            return Ok((ready, self.started.elapsed()));
        }
        let outcome = self.wait_exit(Duration::from_millis(500));
        let tail = self.console.tail(20).join("\n    ");
        bail!(
            "{} is not ready: {outcome}\n  its console:\n    {tail}",
            self.name
        )
    }

    /// Presses the power button.
    pub fn press_power_button(&self) -> Result<()> {
        match self.button {
            Button::Qmp => {
                Monitor::connect(&self.scratch.path("qmp"))?.execute("system_powerdown")?;
            }
            Button::Signal => kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?,
        }
        Ok(())
    }

    /// Executes a command of QEMU's monitor.
    pub fn monitor(&self, command: &str, arguments: Value) -> Result<Value> {
        Monitor::connect(&self.scratch.path("qmp"))?.execute_with(command, arguments)
    }

    /// Stops the machine and writes all that it is to a file, from which [`VmSpec::restore`] goes on.
    pub fn save(&self, file: &Path) -> Result<()> {
        self.monitor("stop", json!({}))?;
        let to = format!("exec:cat > '{}'", file.display());
        self.monitor("migrate", json!({ "uri": to }))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.monitor("query-migrate", json!({}))?;
            match answer["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("QEMU cannot write the machine: {answer}"),
                _ if Instant::now() > deadline => bail!("QEMU does not end writing: {answer}"),
                _ => thread::sleep(POLL),
            }
        }
    }

    /// Takes a picture of its screen, which [`VmSpec::screen`] gave it.
    pub fn screen(&self) -> Result<Picture> {
        let path = self.scratch.path("screen");
        let arguments = serde_json::json!({ "filename": path });
        Monitor::connect(&self.scratch.path("qmp"))?.execute_with("screendump", arguments)?;
        let bytes = std::fs::read(&path).context("QEMU has written no picture")?;
        Picture::parse(&bytes).context("QEMU's picture is not understood")
    }

    /// Plugs the cable of a NIC in, or pulls it out.
    pub fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        let arguments = serde_json::json!({ "name": format!("net{nic}"), "up": up });
        Monitor::connect(&self.scratch.path("qmp"))?.execute_with("set_link", arguments)?;
        Ok(())
    }

    /// The exit status if the VM has ended.
    pub fn try_exit(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end; a VM that outlives the timeout is killed.
    pub fn wait_exit(&mut self, timeout: Duration) -> Outcome {
        // None: as long as it takes.
        let deadline = Instant::now().checked_add(timeout);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if deadline.is_none_or(|at| Instant::now() < at) => thread::sleep(POLL),
                Ok(None) => {
                    self.kill();
                    return Outcome::Infrastructure(format!(
                        "{} still ran after {} ms and was killed",
                        self.name,
                        timeout.as_millis()
                    ));
                }
                Err(error) => return Outcome::Infrastructure(error.to_string()),
            }
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        judge(self.button, status, self.console.verdict(), &self.errors())
    }

    /// The end of what was written to the standard error: QEMU's complaints, or a hosted
    /// instance's log.
    pub fn errors(&self) -> String {
        self.errors.tail(30).join("\n")
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A thread that keeps what is written to a pipe.
fn read_lines(
    name: &str,
    pipe: impl Read + Send + 'static,
    to: &Console,
    image: Option<&Path>,
    echo: &Arc<impl Fn(&str) + Send + Sync + 'static>,
) -> std::io::Result<JoinHandle<()>> {
    let (to, echo) = (to.clone(), Arc::clone(echo));
    let mut annotator = image.map(Annotator::new);
    let below = move |line: &str| {
        let annotator = annotator.as_mut();
        annotator.map_or_else(Vec::new, |annotator| annotator.below(line))
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(move || to.read_annotated(pipe, |line| echo(line), below))
}

/// The verdict counts only if QEMU's exit status says the same.
fn judge(button: Button, status: ExitStatus, verdict: Option<Verdict>, errors: &str) -> Outcome {
    let infrastructure = |what: String| {
        let errors = if errors.is_empty() {
            String::new()
        } else {
            format!(": {errors}")
        };
        Outcome::Infrastructure(what + &errors)
    };
    if let Some(signal) = status.signal() {
        return infrastructure(format!("it was ended by signal {signal}"));
    }
    let status = status.code().unwrap_or(-1);
    let Some(verdict) = verdict else {
        return infrastructure(format!(
            "it ended with status {status} but without a verdict"
        ));
    };
    // Through ACPI power-off, or through isa-debug-exit.
    let agrees = if button == Button::Signal {
        status == i32::from(verdict.code)
    } else if status == 0 {
        verdict.code == 0
    } else {
        status == (i32::from(verdict.code) << 1) | 1
    };
    if agrees {
        Outcome::Verdict(verdict)
    } else {
        infrastructure(format!(
            "the verdict says {}, the exit status {status}",
            verdict.code
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(code: u8) -> Option<Verdict> {
        Some(Verdict {
            code,
            name: "test".into(),
            reason: String::new(),
        })
    }

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn a_verdict_counts_only_with_its_exit_status() {
        assert_eq!(
            judge(Button::Qmp, exited(0), verdict(0), ""),
            Outcome::Verdict(verdict(0).unwrap())
        );
        assert_eq!(
            judge(Button::Qmp, exited(23), verdict(11), ""),
            Outcome::Verdict(verdict(11).unwrap())
        );
        for (status, verdict) in [
            (exited(0), verdict(11)),
            (exited(1), verdict(11)),
            (exited(0), None),
            (ExitStatus::from_raw(9), verdict(0)),
        ] {
            let outcome = judge(Button::Qmp, status, verdict.clone(), "");
            assert!(
                matches!(outcome, Outcome::Infrastructure(_)),
                "{status:?} {verdict:?}"
            );
        }
    }

    #[test]
    fn qemus_own_words_are_shown() {
        let outcome = judge(Button::Qmp, exited(1), None, "no such device");
        assert!(outcome.to_string().contains("no such device"));
    }
}
