//! Ours as the client, and stock servers on the Linux kernel's TCP.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use godwit_interop::client::{Client, Plan, Talk};
use godwit_interop::yard::{LINUX, Process, Yard, finish, impaired, listening};
use godwit_qemu::content::{Check, digest, fill};
use godwit_qemu::scratch::Scratch;
use godwit_qemu::switch::Impairment;

/// A link that does nothing, and one that does everything.
fn links() -> [Impairment; 2] {
    [Impairment::default(), impaired()]
}

fn linux(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

fn known(size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    fill(0, &mut content);
    content
}

/// nc sends a file and closes its direction at once (`-N`), while we still send; each gets the other's
/// whole. (nc that listens ends when its client closes, so it has to be done first.)
#[test]
fn nc_half_closes_and_gets_the_rest_from_us() {
    for link in links() {
        for offload in [true, false] {
            let name = "nc_half_closes_and_gets_the_rest_from_us";
            let Some(yard) = Yard::new(name, link.clone(), &["nc"]) else {
                return;
            };
            let mut client = Client::new(&yard, offload).unwrap();
            let scratch = Scratch::new("interop").unwrap();
            let size = if link.is_none() { 8 << 20 } else { 1 << 20 };
            fs::write(scratch.path("content"), known(size / 4)).unwrap();
            for host in LINUX {
                let mut nc = yard.command("nc");
                nc.args(["-N", "-l", host, "9"]);
                nc.stdin(File::open(scratch.path("content")).unwrap());
                let nc = nc.spawn().unwrap();
                listening(&nc, 9);
                let reader = thread::spawn(move || finish(nc));
                let plan = Plan {
                    content: size as u64,
                    ..Plan::default()
                };
                let talks = client.talk(linux(host, 9), vec![plan], 1).unwrap();
                let quarter = digest(size as u64 / 4);
                assert_eq!(talks[0].digest(), quarter, "{host} over {link:?}");
                let mut check = Check::default();
                check.add(&reader.join().unwrap().unwrap().stdout);
                assert_eq!(check.bytes(), size as u64);
                assert_eq!(check.finish(), digest(size as u64), "{host} over {link:?}");
            }
        }
    }
}

/// We close our direction as soon as everything is sent, and a server on the Linux kernel's TCP returns
/// it all.
#[test]
fn we_half_close_and_get_everything_back() {
    for link in links() {
        let name = "we_half_close_and_get_everything_back";
        let Some(yard) = Yard::new(name, link.clone(), &[]) else {
            return;
        };
        let mut client = Client::new(&yard, true).unwrap();
        let size = if link.is_none() { 8 << 20 } else { 1 << 20 };
        for host in LINUX {
            let server = linux(host, 7);
            let listener = yard.linux.run(|| Ok(TcpListener::bind(server)?)).unwrap();
            let echo = thread::spawn(move || {
                let (mut stream, _) = listener.accept()?;
                std::io::copy(&mut stream.try_clone()?, &mut stream)
            });
            let plan = Plan {
                content: size,
                half_close: true,
                ..Plan::default()
            };
            let talks = client.talk(server, vec![plan], 1).unwrap();
            assert_eq!(talks[0].digest(), digest(size), "{host} over {link:?}");
            assert_eq!(echo.join().unwrap().unwrap(), size);
        }
    }
}

/// nginx that serves `large` and `small`.
fn nginx(yard: &Yard, scratch: &Scratch) -> Process {
    let folder = scratch.path("").display().to_string();
    fs::write(scratch.path("large"), known(4 << 20)).unwrap();
    fs::write(scratch.path("small"), known(100)).unwrap();
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors crit;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
           access_log off; keepalive_requests 100000;\n\
           client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;\n\
           fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
           server {{ listen 80; listen [::]:80; root {folder}; }}\n\
         }}\n"
    );
    let file = scratch.path("nginx.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = yard.command("nginx");
    command
        .arg("-c")
        .arg(file)
        .arg("-e")
        .arg(scratch.path("errors"));
    let process = Process(command.spawn().unwrap());
    listening(&process.0, 80);
    process
}

fn get(file: &str, close: bool) -> String {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET /{file} HTTP/1.1\r\nHost: x\r\n{close}\r\n")
}

/// The bodies of answers that came one after the other, each so long.
fn bodies(talk: &Talk, length: usize) -> Vec<&[u8]> {
    assert_eq!((talk.complete, talk.error), (true, None), "{:?}", talk.info);
    let mut rest = &talk.received[..];
    let mut bodies = Vec::new();
    while !rest.is_empty() {
        assert!(rest.starts_with(b"HTTP/1.1 200"));
        let head = rest
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head");
        bodies.push(&rest[head + 4..][..length]);
        rest = &rest[head + 4 + length..];
    }
    bodies
}

#[test]
fn nginx_is_asked_for_a_large_file_in_a_pipeline_and_by_many_short_connections() {
    for link in links() {
        let name = "nginx_is_asked_for_a_large_file_in_a_pipeline_and_by_many_short_connections";
        let Some(yard) = Yard::new(name, link.clone(), &["nginx"]) else {
            return;
        };
        let scratch = Scratch::new("interop").unwrap();
        let _server = nginx(&yard, &scratch);
        let mut client = Client::new(&yard, true).unwrap();
        let many = if link.is_none() { 500 } else { 100 };
        for host in LINUX {
            let server = linux(host, 80);
            let plan = |opening: String| Plan {
                opening: opening.into(),
                ..Plan::default()
            };
            if link.is_none() {
                let talks = client
                    .talk(server, vec![plan(get("large", true))], 1)
                    .unwrap();
                assert!(bodies(&talks[0], 4 << 20) == [known(4 << 20)], "{host}");
            }
            let pipeline = get("small", false).repeat(99) + &get("small", true);
            let talks = client.talk(server, vec![plan(pipeline)], 1).unwrap();
            assert_eq!(bodies(&talks[0], 100), vec![&known(100)[..]; 100], "{host}");
            let plans = vec![plan(get("small", true)); many];
            let talks = client.talk(server, plans, 32).unwrap();
            assert_eq!(talks.len(), many);
            for talk in &talks {
                assert_eq!(bodies(talk, 100), [&known(100)[..]], "{host}");
            }
        }
    }
}

/// Nobody listens: the kernel's RST ends the attempt at once.
#[test]
fn a_port_where_nobody_listens_refuses() {
    let name = "a_port_where_nobody_listens_refuses";
    let Some(yard) = Yard::new(name, Impairment::default(), &[]) else {
        return;
    };
    let mut client = Client::new(&yard, true).unwrap();
    for host in LINUX {
        let talks = client
            .talk(linux(host, 9), vec![Plan::default()], 1)
            .unwrap();
        assert!(talks[0].error.is_some(), "{talks:?}");
    }
}
