//! The stack on a simulated wire: a hub in virtual time, every frame on it in a log.

mod bursts;
mod cookies;
mod hostile;
mod link;
mod memory;
mod merged;
mod neighbours;
mod networks;
mod opening;
mod path;
mod peers;
mod pieces;
mod steering;
mod transfer;

use core::net::{IpAddr, SocketAddr};

use super::addresses::Hop;
use super::checksum::Sum;
use super::frame::Head;
use super::wire::{self, ETHERNET, ETHERTYPE_ARP, Ethernet, IpHeader};
use super::*;

/// One-way delay of the wire.
const DELAY: Duration = Duration::from_micros(50);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A neighbour in the service network.
fn hop(address: IpAddr) -> Hop {
    Hop {
        address,
        interface: Interface::Service,
    }
}

fn mac(n: u8) -> MacAddr {
    [0x02, 0, 0, 0, 0, n]
}

/// The configuration of host `n`: 10.77.0.n and fd77::n, gateway 10.77.0.1.
fn config(n: u8) -> StackConfig {
    StackConfig {
        mac: mac(n),
        mtu: 1500,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![
            Cidr {
                address: IpAddr::from([10, 77, 0, n]),
                prefix: 24,
            },
            Cidr {
                address: ip(&format!("fd77::{n}")),
                prefix: 64,
            },
        ],
        gateways: vec![ip("10.77.0.1")],
        dhcp: false,
        vips: Vec::new(),
        instance: None,
        secret: [7; 32],
        tcp: TcpConfig::default(),
    }
}

/// A member of a cluster with the virtual addresses 10.77.0.10 and fd77::10.
fn member(n: u8) -> Stack {
    let mut config = config(n);
    config.vips = vec![ip("10.77.0.10"), ip("fd77::10")];
    let mut stack = Stack::new(config, [n; 32], Instant::ZERO);
    // The questions whether our own addresses are free are not what these tests are about.
    while stack.poll_transmit(Instant::ZERO).is_some() {}
    stack
}

fn host(n: u8) -> Stack {
    let mut stack = Stack::new(config(n), [n; 32], Instant::ZERO);
    while stack.poll_transmit(Instant::ZERO).is_some() {}
    stack
}

fn counter(stack: &Stack, name: &str) -> u64 {
    let list = stack.counters();
    list.iter().find(|(n, _)| *n == name).expect("a counter").1
}

/// All frames a stack wants to send now.
fn drain(stack: &mut Stack, now: Instant) -> Vec<Vec<u8>> {
    core::iter::from_fn(|| stack.poll_transmit(now))
        .map(|frame| frame.to_vec())
        .collect()
}

fn events(stack: &mut Stack) -> Vec<StackEvent> {
    core::iter::from_fn(|| stack.poll_event()).collect()
}

/// What a packet builder needs to know.
struct Packet<'a> {
    from: (MacAddr, IpAddr),
    to: (MacAddr, IpAddr),
    protocol: u8,
    hop_limit: u8,
    body: &'a [u8],
}

impl Packet<'_> {
    fn build(&self) -> Vec<u8> {
        let mut head = Head::new();
        IpHeader {
            src: self.from.1,
            dst: self.to.1,
            protocol: self.protocol,
            hop_limit: self.hop_limit,
            ecn: 0,
            length: self.body.len(),
            fragments: None,
        }
        .emit(self.from.0, &mut head);
        head[..6].copy_from_slice(&self.to.0);
        head.extend_from_slice(self.body);
        head.to_vec()
    }
}

/// A TCP segment without options from `remote` to `local`.
fn tcp(
    macs: (MacAddr, MacAddr),
    remote: SocketAddr,
    local: SocketAddr,
    flags: u8,
    seq: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&remote.port().to_be_bytes());
    body.extend_from_slice(&local.port().to_be_bytes());
    body.extend_from_slice(&seq.to_be_bytes());
    body.extend_from_slice(&0x1234_5678u32.to_be_bytes());
    body.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    body.extend_from_slice(payload);
    let mut sum = Sum::new();
    sum.add_pseudo_header(remote.ip(), local.ip(), wire::TCP, body.len());
    sum.add(&body);
    body[16..18].copy_from_slice(&sum.finish().to_be_bytes());
    Packet {
        from: (macs.0, remote.ip()),
        to: (macs.1, local.ip()),
        protocol: wire::TCP,
        hop_limit: 64,
        body: &body,
    }
    .build()
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The IP header of a frame, which must be whole and have right checksums.
fn parse(frame: &[u8]) -> wire::Ip {
    let parsed = wire::parse_ip(frame, ETHERNET, true).expect("an IP packet");
    if parsed.protocol != wire::ICMP {
        let transport = &frame[parsed.payload.clone()];
        assert!(wire::transport_checksum_ok(&parsed, transport), "checksum");
    }
    parsed
}

fn tcp_flags(frame: &[u8]) -> u8 {
    frame[parse(frame).payload][13]
}

fn ethertype(frame: &[u8]) -> u16 {
    Ethernet::parse(frame).unwrap().ethertype
}
