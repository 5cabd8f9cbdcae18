//! Requests over kept connections, against nginx.

use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use godwit_qemu::scratch::Scratch;

use super::load::{Cores, process_seconds};
use super::yard::{OURS, Server, THEIRS, Yard, address, client_command, server_command};
use crate::Effort;
use crate::row::{Better, Row, Turns};

/// Connections of the client.
const CONNECTIONS: &str = "64";

/// What one run said.
struct Run {
    rate: f64,
    microseconds: f64,
    cores: String,
}

/// CPU per request, and requests per second.
pub fn measure(effort: &Effort) -> Result<Vec<Row>> {
    let yard = Yard::new(true)?;
    let ours = yard.hosted(true)?;
    let scratch = Scratch::new("bench")?;
    let theirs = nginx(&yard, &scratch)?;
    let seconds = if effort.short { 1 } else { 3 };
    let (mut cpu, mut rate) = (Turns::default(), Turns::default());
    let mut cores = Vec::new();
    for _ in 0..effort.runs {
        let run = request(&yard, THEIRS, theirs.id(), seconds)?;
        cpu.theirs.push(run.microseconds);
        rate.theirs.push(run.rate);
        cores.push(format!("theirs {}", run.cores));
        let run = request(&yard, OURS, ours.id(), seconds)?;
        cpu.ours.push(run.microseconds);
        rate.ours.push(run.rate);
        cores.push(format!("ours {}", run.cores));
    }
    let peer = "nginx, 1 worker";
    let mut rows = vec![
        Row::compared("tcp/tap/http-cpu", peer, "us/req", Better::Lower, &cpu, 1.5),
        Row::compared(
            "tcp/tap/http-rate",
            peer,
            "req/s",
            Better::Higher,
            &rate,
            1.0,
        ),
    ];
    for row in &mut rows {
        let last = cores.len().saturating_sub(2);
        let cores = cores.get(last..).unwrap_or_default().join(", ");
        row.note += &format!("; cores busy (client, server): {cores}");
    }
    Ok(rows)
}

/// nginx with one worker that serves our content, ready to be asked.
fn nginx(yard: &Yard, scratch: &Scratch) -> Result<Server> {
    let folder = scratch.path("").display().to_string();
    fs::write(format!("{folder}/index.html"), godwit_page())?;
    fs::write(
        format!("{folder}/nginx.conf"),
        format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/pid;\n\
             error_log {folder}/errors crit;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n\
               access_log off; sendfile on; open_file_cache max=16; keepalive_requests 1000000000;\n\
               client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;\n\
               fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
               types {{ text/html html; }}\n\
               server {{ listen 10.78.0.2:80; root {folder}; }}\n\
             }}\n"
        ),
    )?;
    let mut command = server_command(yard);
    command
        .args(["nginx", "-c"])
        .arg(format!("{folder}/nginx.conf"))
        .args(["-e", &format!("{folder}/errors")])
        .stdin(Stdio::null());
    let server = Server(command.spawn().context("cannot start nginx")?);
    let patience = Instant::now() + Duration::from_secs(10);
    while yard
        .client
        .run(|| Ok(TcpStream::connect(address(THEIRS, 80))?))
        .is_err()
    {
        if Instant::now() > patience {
            bail!("nginx does not answer");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}

/// The page both serve.
fn godwit_page() -> &'static str {
    include_str!("../../../../apps/http/content/index.html")
}

/// Let wrk ask for a while.
fn request(yard: &Yard, server: [u8; 4], id: u32, seconds: u32) -> Result<Run> {
    let (cpu, cores) = (process_seconds(id)?, Cores::now()?);
    let mut command = client_command(yard);
    command
        .args(["wrk", "-t1", "-c", CONNECTIONS, "-d"])
        .arg(format!("{seconds}s"))
        .arg(format!("http://{}/", address(server, 80)));
    let output = command.output().context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let cpu = process_seconds(id)? - cpu;
    let cores = Cores::now()?.since(&cores);
    let before = |word: &str| -> Option<f64> {
        let (head, _) = text.split_once(word)?;
        head.split_whitespace().last()?.parse().ok()
    };
    let requests = before(" requests in").with_context(|| format!("wrk said: {text}"))?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("wrk saw errors: {text}");
    }
    let rate = text
        .split_once("Requests/sec:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .context("no rate")?;
    Ok(Run {
        rate,
        microseconds: cpu * 1e6 / requests,
        cores,
    })
}
