//! The switch under the Linux kernel's TCP: two namespaces, a TAP device in each.
//!
//! Where namespaces or TAP devices are not permitted these tests say so and pass: what they
//! prove about the switch is proved in part by its unit tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use godwit_qemu::content::{Check, digest, fill};
use godwit_qemu::net::{Namespace, Network, UserStack, open_tap};
use godwit_qemu::switch::{
    Attachment, Impairment, PortConfig, PortStats, SwitchBuilder, pcap::Capture,
};
use godwit_qemu::wire::SharedTrace;

const SERVER: &str = "10.77.0.2:80";

fn side(addresses: &[&str]) -> Option<(Namespace, OwnedFd)> {
    let made = Namespace::create().and_then(|ns| Ok((open_tap(&ns, "t", addresses)?, ns)));
    match made {
        Ok((tap, namespace)) => Some((namespace, tap)),
        Err(error) => {
            eprintln!("skipped: {error:#}");
            None
        }
    }
}

struct Run {
    digest: String,
    took: Duration,
    trace: SharedTrace,
    stats: Vec<PortStats>,
}

/// Downloads `size` bytes of generated content through the switch.
fn download(size: u64, impairment: Impairment, address: &str) -> Option<Run> {
    let (client, client_tap) = side(&["10.77.0.1/24", "fd77::1/64"])?;
    let (server, server_tap) = side(&["10.77.0.2/24", "fd77::2/64"])?;
    let trace = SharedTrace::default();
    let mut builder = SwitchBuilder::new(1);
    builder.port(PortConfig {
        name: "client".into(),
        attachment: Attachment::Packet(client_tap),
        impairment: impairment.clone(),
        observers: vec![Box::new(trace.clone())],
    });
    builder.port(PortConfig {
        name: "server".into(),
        attachment: Attachment::Packet(server_tap),
        impairment,
        observers: Vec::new(),
    });
    let switch = builder.start().unwrap();

    let address: SocketAddr = address.parse().unwrap();
    let (listening, wait) = channel();
    let serving = server.spawn("server", move || {
        let listener = TcpListener::bind(address)?;
        listening.send(())?;
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 64 << 10];
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(buffer.len() as u64) as usize;
            fill(offset, &mut buffer[..len]);
            stream.write_all(&buffer[..len])?;
            offset += len as u64;
        }
        Ok(())
    });
    wait.recv().unwrap();
    let begun = Instant::now();
    let digest = client
        .run(|| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut check = Check::default();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(check.finish()),
                    n => check.add(&buffer[..n]),
                }
            }
        })
        .unwrap();
    let took = begun.elapsed();
    serving.unwrap().join().unwrap().unwrap();
    Some(Run {
        digest,
        took,
        trace,
        stats: switch.stats(),
    })
}

#[test]
fn a_clean_switch_loses_nothing_of_a_fast_stream() {
    let size = 64 << 20;
    let Some(run) = download(size, Impairment::default(), SERVER) else {
        return;
    };
    assert_eq!(run.digest, digest(size));
    let rate = size as f64 * 8.0 / run.took.as_secs_f64() / 1e9;
    println!("{rate:.2} Gbit/s between two TAP devices");
    for port in &run.stats {
        assert_eq!((port.dropped, port.lost), (0, 0), "{port:?}");
    }
    run.trace.with(|trace| {
        let flow = trace.flows_to(SERVER.parse().unwrap()).next().unwrap();
        assert!(flow.is_one_connection());
        assert_eq!((flow.rsts(), flow.from_server.tsval_backwards), (0, 0));
        assert_eq!(
            (flow.client_retransmits(), flow.from_server.repeated),
            (0, 0)
        );
        assert_eq!(flow.from_server.payload_bytes, size);
    });
}

#[test]
fn linux_tcp_survives_what_the_links_do_and_the_trace_tells() {
    let size = 4 << 20;
    let impairment = Impairment {
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.01,
        reorder_by: Duration::from_millis(1),
        delay: Duration::from_millis(2),
        ..Impairment::default()
    };
    let Some(run) = download(size, impairment, "[fd77::2]:80") else {
        return;
    };
    assert_eq!(run.digest, digest(size));
    assert!(
        run.stats
            .iter()
            .all(|port| port.lost > 0 && port.duplicated > 0)
    );
    run.trace.with(|trace| {
        let flow = trace
            .flows_to("[fd77::2]:80".parse().unwrap())
            .next()
            .unwrap();
        assert!(flow.is_one_connection());
        assert!(flow.from_server.repeated > 0, "duplicates must be seen");
        assert!(
            flow.from_server.late > 0,
            "holes that are filled must be seen"
        );
        assert_eq!(
            flow.from_server.tsval_backwards, 0,
            "Linux's clock does not run backwards"
        );
    });
}

#[test]
fn a_capture_holds_every_frame_of_the_port() {
    let Some((client, tap)) = side(&["10.77.0.1/24"]) else {
        return;
    };
    let path = std::env::temp_dir().join(format!("godwit-capture-{}.pcap", std::process::id()));
    let capture = Capture::create(&path).unwrap();
    let mut builder = SwitchBuilder::new(1);
    builder.port(PortConfig {
        name: "client".into(),
        attachment: Attachment::Packet(tap),
        impairment: Impairment::default(),
        observers: vec![capture.observer()],
    });
    let switch = builder.start().unwrap();
    client
        .run(|| {
            // Nobody answers: ARP requests are all there is.
            let address = SERVER.parse()?;
            assert!(TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err());
            Ok(())
        })
        .unwrap();
    let frames = switch.stats()[0].received;
    let bytes = switch.stats()[0].received_bytes;
    switch.stop().unwrap();
    capture.finish().unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::remove_file(&path).unwrap();
    assert!(frames > 0);
    assert!(length >= 24 + frames * 16 + bytes);
}

/// Where there is no Linux client, the stack that plays it must be one that can be relied on.
#[test]
fn the_stack_that_plays_the_client_echoes_through_a_lossy_link() {
    const SIZE: u64 = 1 << 20;
    let Some((server, tap)) = side(&["10.77.0.2/24"]) else {
        return;
    };
    let (cable, end) = Attachment::in_process().unwrap();
    let mut builder = SwitchBuilder::new(1);
    for (name, attachment) in [("client", cable), ("server", Attachment::Packet(tap))] {
        let impairment = Impairment {
            loss: 0.005,
            ..Impairment::default()
        };
        builder.port(PortConfig {
            name: name.into(),
            attachment,
            impairment,
            observers: vec![],
        });
    }
    let _switch = builder.start().unwrap();
    let stack = UserStack::start(end, "10.77.0.1".parse().unwrap(), 24, 7).unwrap();
    let address: SocketAddr = "10.77.0.2:7".parse().unwrap();
    let (listening, wait) = channel();
    let serving = server.spawn("echo", move || {
        let listener = TcpListener::bind(address)?;
        listening.send(())?;
        let (mut stream, _) = listener.accept()?;
        let mut sink = stream.try_clone()?;
        Ok(std::io::copy(&mut stream, &mut sink)?)
    });
    wait.recv().unwrap();
    let patience = Duration::from_secs(20);
    let mut sending = Network::User(stack.clone())
        .connect(address, patience)
        .unwrap();
    let mut receiving = sending.another().unwrap();
    let sender = std::thread::spawn(move || {
        let mut content = vec![0; SIZE as usize];
        fill(0, &mut content);
        sending.write_all(&content).unwrap();
        sending.close_sending().unwrap();
    });
    let mut echoed = Vec::new();
    receiving.read_to_end(&mut echoed).unwrap();
    sender.join().unwrap();
    assert_eq!(serving.unwrap().join().unwrap().unwrap(), SIZE);
    let mut check = Check::default();
    check.add(&echoed);
    assert_eq!(check.finish(), digest(SIZE));
    let refused = stack.connect("10.77.0.2:8".parse().unwrap(), patience);
    assert!(refused.is_err(), "nobody listens there");
}
