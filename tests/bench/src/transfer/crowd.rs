//! Clients on the host kernel's TCP, in processes of their own: one process may hold so many
//! connections only.
//!
//! [`serve`] is what such a process does: it takes commands from its standard input, a line each, and
//! answers each with a line. [`Worker`] is the other side.

use std::io::{BufRead, BufReader, Lines, Write, stdin, stdout};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use godwit_qemu::crowd::{Answers, Busy, Crowd, kernel_counter, raise_limit};
use godwit_qemu::net::Namespace;

use crate::tap::yard::{CLIENT_CORE, pinned};

/// Carry out commands until the input ends.
pub fn serve() -> Result<()> {
    raise_limit()?;
    let (mut crowd, mut busy) = (Crowd::default(), None);
    for line in stdin().lines() {
        let answer = match obey(&line?, &mut crowd, &mut busy) {
            Ok(answer) => format!("ok {answer}"),
            Err(error) => format!("error {error:#}"),
        };
        writeln!(stdout(), "{answer}")?;
    }
    Ok(())
}

fn obey(line: &str, crowd: &mut Crowd, busy: &mut Option<Busy>) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["open", count, ref servers @ ..] => {
            let servers: Result<Vec<SocketAddr>, _> = servers.iter().map(|s| s.parse()).collect();
            *crowd = Crowd::open(&servers?, count.parse()?)?;
        }
        ["busy", count, millis] => {
            let pace = Duration::from_millis(millis.parse()?);
            *busy = Some(crowd.keep_busy(count.parse()?, pace)?);
        }
        ["rest"] => {
            let Answers { count, longest } = crowd.rest(busy.take().context("nobody is busy")?)?;
            return Ok(format!("{count} {}", longest.as_micros()));
        }
        ["check"] => crowd.check()?,
        ["resets"] => return Ok(kernel_counter("Tcp", "EstabResets")?.to_string()),
        _ => bail!("no such command"),
    }
    Ok(String::new())
}

/// A process with some of the clients, ended when dropped.
pub struct Worker {
    process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Start it in the clients' namespace, on their core.
    pub fn start(namespace: &Namespace) -> Result<Worker> {
        let mut command = pinned(CLIENT_CORE);
        command
            .arg(std::env::current_exe()?)
            .arg("--crowd")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        namespace.place(&mut command);
        let mut process = command.spawn().context("cannot start clients")?;
        let commands = process.stdin.take().context("no input")?;
        let answers = BufReader::new(process.stdout.take().context("no output")?).lines();
        Ok(Worker {
            process,
            commands,
            answers,
        })
    }

    /// Give it a command, and do not wait.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        Ok(writeln!(self.commands, "{command}")?)
    }

    /// Wait for the answer to a command.
    pub fn hear(&mut self) -> Result<String> {
        let line = self.answers.next().context("the clients are gone")??;
        match line.split_once(' ') {
            Some(("ok", answer)) => Ok(answer.to_owned()),
            Some((_, error)) => bail!("a client: {error}"),
            None => bail!("the clients say {line}"),
        }
    }

    /// Both.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.hear()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The same command to all, at the same time.
pub fn ask_all(workers: &mut [Worker], command: impl Fn(usize) -> String) -> Result<()> {
    for (number, worker) in workers.iter_mut().enumerate() {
        worker.tell(&command(number))?;
    }
    for worker in workers {
        worker.hear()?;
    }
    Ok(())
}
