//! A server's stack, a client's, and the wire between them: what targets and seeds are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::stack::{
    Cidr, ConnId, DeviceCapabilities, RxFrame, Scope, Stack, StackConfig, StackEvent,
};
use godwit_netstack::tcp::TcpConfig;
use godwit_netstack::{Duration, Instant};

/// Port of the service.
pub(crate) const PORT: u16 = 80;
pub(crate) const SERVER: u8 = 1;
pub(crate) const CLIENT: u8 = 2;
/// Frames one event may lead to: more would be a storm.
const STORM: usize = 20_000;

/// The address of the service, or of the client.
pub(crate) fn address(of: u8, ipv6: bool) -> IpAddr {
    match ipv6 {
        false => Ipv4Addr::new(10, 77, 0, of).into(),
        true => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, of.into()).into(),
    }
}

pub(crate) fn mac(of: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, of]
}

/// A stack whose every random number is known.
pub(crate) fn stack(of: u8, now: Instant) -> Stack {
    stack_with(of, now, TcpConfig::default())
}

/// The same with other limits and defaults of TCP.
pub(crate) fn stack_with(of: u8, now: Instant, tcp: TcpConfig) -> Stack {
    let mut stack = Stack::new(config(of, tcp), [of; 32], now);
    stack.set_ingress(now, true);
    if of == SERVER {
        stack.listen(PORT, Scope::Service);
    }
    stack
}

/// What such a stack is built from.
pub(crate) fn config(of: u8, tcp: TcpConfig) -> StackConfig {
    let own = |ipv6, prefix| Cidr {
        address: address(of + 10, ipv6),
        prefix,
    };
    let vips = match of {
        SERVER => vec![address(of, false), address(of, true)],
        _ => Vec::new(),
    };
    StackConfig {
        mac: mac(of),
        mtu: 1500,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![own(false, 24), own(true, 64)],
        gateways: Vec::new(),
        dhcp: false,
        vips,
        instance: None,
        secret: [of; 32],
        tcp,
    }
}

/// Everything the stack has to send now.
///
/// # Panics
/// If that never ends.
pub(crate) fn transmit(stack: &mut Stack, now: Instant) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while let Some(frame) = stack.poll_transmit(now) {
        frames.push(Bytes::from(frame.to_vec()));
        assert!(frames.len() < STORM, "a storm of frames");
    }
    frames
}

/// A server and a client who talk, the frames to the server kept.
pub(crate) struct Pair {
    pub now: Instant,
    pub server: Stack,
    pub client: Stack,
    /// Frames that went to the server: milliseconds since the one before, and octets.
    pub log: Vec<(u8, Bytes)>,
    last: Instant,
}

impl Pair {
    pub(crate) fn new() -> Pair {
        Pair::with(&TcpConfig::default())
    }

    /// Both ends with these limits and defaults.
    pub(crate) fn with(tcp: &TcpConfig) -> Pair {
        let now = Instant::from_millis(1_000);
        Pair {
            now,
            server: stack_with(SERVER, now, tcp.clone()),
            client: stack_with(CLIENT, now, tcp.clone()),
            log: Vec::new(),
            last: now,
        }
    }

    /// Let frames and timers go to and fro for a while.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let out = transmit(&mut self.client, self.now);
            let quiet = out.is_empty();
            for frame in out {
                let since = self.now.since(self.last).as_millis().min(255) as u8;
                self.last = self.now;
                self.log.push((since, frame.clone()));
                self.server.handle_frame(self.now, RxFrame::new(frame));
            }
            let back = transmit(&mut self.server, self.now);
            let quiet = quiet && back.is_empty();
            for frame in back {
                self.client.handle_frame(self.now, RxFrame::new(frame));
            }
            if !quiet {
                self.now += Duration::from_micros(100);
                continue;
            }
            let timers = [self.server.poll_timeout(), self.client.poll_timeout()];
            let next = timers.into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.server.handle_timeout(self.now);
            self.client.handle_timeout(self.now);
        }
    }

    /// Open a connection: the client's and the server's end.
    pub(crate) fn connect(&mut self, ipv6: bool) -> (ConnId, ConnId) {
        let remote = SocketAddr::new(address(SERVER, ipv6), PORT);
        let client = self
            .client
            .connect(self.now, None, remote)
            .expect("a connection");
        self.run(Duration::from_millis(2_000));
        let mut accepted = None;
        while let Some(event) = self.server.poll_event() {
            if let StackEvent::Accepted { conn, .. } = event {
                accepted = Some(conn);
            }
        }
        (client, accepted.expect("accepted"))
    }

    /// Let one end send octets.
    pub(crate) fn send(stack: &mut Stack, now: Instant, conn: ConnId, octets: usize) {
        let data: Bytes = (0..octets).map(|n| (n % 251) as u8).collect();
        stack.update(now, conn, |tcp| tcp.send(now, data).is_ok());
    }
}
