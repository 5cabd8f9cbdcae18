//! smoltcp's side of the bulk rows.

use std::collections::VecDeque;
use std::time;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::{BUFFER, PIECE, Wire};

/// One end of the link: frames that arrived, and the memory of frames that are done with.
struct End {
    wire: Wire,
    arrived: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

struct Received<'a>(Vec<u8>, &'a mut Vec<Vec<u8>>);
struct Place<'a>(&'a mut VecDeque<Vec<u8>>, Option<Vec<u8>>);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.0);
        self.1.push(self.0);
        result
    }
}

impl phy::TxToken for Place<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.1.unwrap_or_default();
        frame.resize(len, 0);
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for End {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Place<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Place<'_>)> {
        if self.sent.len() >= self.wire.ring {
            return None;
        }
        let frame = self.arrived.pop_front()?;
        let place = self.spare.pop();
        Some((
            Received(frame, &mut self.spare),
            Place(&mut self.sent, place),
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Place<'_>> {
        (self.sent.len() < self.wire.ring).then(|| Place(&mut self.sent, self.spare.pop()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.wire.mtu) + 14;
        if self.wire.offload {
            capabilities.checksum = ChecksumCapabilities::ignored();
        }
        capabilities
    }
}

struct Host {
    end: End,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Host {
    fn new(number: u8, wire: Wire) -> Host {
        let mut end = End {
            wire,
            arrived: VecDeque::new(),
            sent: VecDeque::new(),
            spare: Vec::new(),
        };
        let address = EthernetAddress([2, 0, 0, 0, 0, number]);
        let mut interface = Interface::new(
            Config::new(address.into()),
            &mut end,
            Instant::from_micros(0),
        );
        interface.update_ip_addrs(|addresses| {
            // There is room for one.
            let _ = addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, number), 24));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Host {
            end,
            interface,
            sockets,
            socket,
        }
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.end, &mut self.sockets);
    }
}

/// Two stacks with one connection: the first sends, the second receives.
pub struct Pair {
    started: time::Instant,
    hosts: [Host; 2],
    data: Vec<u8>,
}

impl Pair {
    /// Connected and ready to stream.
    pub fn new(wire: Wire) -> Pair {
        let mut hosts = [Host::new(1, wire), Host::new(2, wire)];
        hosts[1].socket().listen(9).expect("a listener");
        let Host {
            interface,
            sockets,
            socket,
            ..
        } = &mut hosts[0];
        sockets
            .get_mut::<tcp::Socket<'_>>(*socket)
            .connect(interface.context(), (IpAddress::v4(10, 0, 0, 2), 9), 40_000)
            .expect("a connection");
        let mut pair = Pair {
            started: time::Instant::now(),
            hosts,
            data: vec![0x5a; PIECE],
        };
        while !(pair.hosts[0].socket().may_send() && pair.hosts[1].socket().may_recv()) {
            pair.carry();
        }
        pair
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.started.elapsed().as_micros() as i64)
    }

    /// Let both sides work, and swap what they sent.
    fn carry(&mut self) {
        let now = self.now();
        let [first, second] = &mut self.hosts;
        first.poll(now);
        swap(first, second);
        second.poll(now);
        swap(second, first);
    }

    /// Fill the send queue, carry, consume; the octets that arrived.
    pub fn turn(&mut self) -> usize {
        let socket = self.hosts[0]
            .sockets
            .get_mut::<tcp::Socket<'_>>(self.hosts[0].socket);
        while socket.send_queue() < socket.send_capacity()
            && socket.send_slice(&self.data).is_ok_and(|sent| sent > 0)
        {}
        self.carry();
        let mut octets = 0;
        let socket = self.hosts[1].socket();
        while socket.can_recv() {
            let taken = socket.recv(|data| (data.len(), data.len()));
            octets += taken.unwrap_or_default();
        }
        octets
    }
}

fn swap(from: &mut Host, to: &mut Host) {
    // Memory follows the frames, and comes back as it is used up.
    to.end.arrived.append(&mut from.end.sent);
    from.end.spare.append(&mut to.end.spare);
}
