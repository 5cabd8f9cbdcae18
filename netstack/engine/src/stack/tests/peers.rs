//! Peers that share no code with the stack under test: smoltcp's TCP as a client, and a DHCP
//! server made of octets.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Medium};
use smoltcp::socket::tcp as smoltcp_tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use super::hostile::Dice;
use super::*;

/// smoltcp's NIC.
#[derive(Default)]
struct Nic {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl phy::Device for Nic {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((RxToken(frame), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }

    fn capabilities(&self) -> phy::DeviceCapabilities {
        let mut capabilities = phy::DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

fn pattern(offset: usize) -> u8 {
    (offset as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]
}

/// Echo `total` octets through our stack with smoltcp as the client.
fn echo_for_smoltcp(to: SocketAddr, total: usize, one_in: Option<usize>, seed: u64) {
    let mut nic = Nic::default();
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac(99))));
    config.random_seed = seed;
    let epoch = smoltcp::time::Instant::from_micros(0);
    let mut interface = Interface::new(config, &mut nic, epoch);
    interface.update_ip_addrs(|list| {
        list.push(IpCidr::new(ip("10.77.0.99").into(), 24)).unwrap();
        list.push(IpCidr::new(ip("fd77::99").into(), 64)).unwrap();
    });
    let buffer = || smoltcp_tcp::SocketBuffer::new(vec![0; 32_768]);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(smoltcp_tcp::Socket::new(buffer(), buffer()));
    let socket = sockets.get_mut::<smoltcp_tcp::Socket<'_>>(handle);
    socket.connect(interface.context(), to, 40_000).unwrap();

    let mut stack = host(11);
    stack.listen(80, Scope::Service);
    let mut dice = Dice(seed);
    let mut lost = move || one_in.is_some_and(|one_in| dice.below(one_in) == 0);
    let mut conn = None;
    let (mut sent, mut received) = (0, 0);
    let mut now = Instant::ZERO;
    let mut wire: VecDeque<(Instant, bool, Vec<u8>)> = VecDeque::new();
    while received < total {
        assert!(
            now < Instant::from_millis(600_000),
            "stuck at {received} of {total}"
        );
        let time = smoltcp::time::Instant::from_micros(now.as_micros() as i64);
        while let Some((due, _, _)) = wire.front()
            && *due <= now
        {
            let (_, to_stack, frame) = wire.pop_front().unwrap();
            if lost() {
                continue;
            }
            if to_stack {
                stack.handle_frame(now, RxFrame::new(frame));
            } else {
                nic.rx.push_back(frame);
            }
        }
        if stack.poll_timeout().is_some_and(|due| due <= now) {
            stack.handle_timeout(now);
        }
        while let Some(event) = stack.poll_event() {
            if let StackEvent::Accepted { conn: accepted, .. } = event {
                conn = Some(accepted);
            }
        }
        // Our side: send back what comes.
        if let Some(conn) = conn
            && let Some(connection) = stack.connection(conn)
            && connection.send_queued() < 32_768
            && let Some(chunk) = connection.receive_peek(0)
        {
            stack.update(now, conn, |connection| {
                connection.receive_consume(now, chunk.len());
                connection.send(now, chunk).unwrap();
            });
        }
        let _ = interface.poll(time, &mut nic, &mut sockets);
        let socket = sockets.get_mut::<smoltcp_tcp::Socket<'_>>(handle);
        while socket.can_send() && sent < total {
            let data: Vec<u8> = (sent..total.min(sent + 8_192)).map(pattern).collect();
            sent += socket.send_slice(&data).unwrap();
        }
        while socket.can_recv() {
            let mut data = [0; 4096];
            let length = socket.recv_slice(&mut data).unwrap();
            for octet in &data[..length] {
                assert_eq!(*octet, pattern(received), "octet {received}");
                received += 1;
            }
        }
        let _ = interface.poll(time, &mut nic, &mut sockets);
        wire.extend(nic.tx.drain(..).map(|frame| (now + DELAY, true, frame)));
        wire.extend(
            drain(&mut stack, now)
                .into_iter()
                .map(|frame| (now + DELAY, false, frame)),
        );
        now += Duration::from_micros(10);
        if wire.is_empty() {
            now += Duration::from_millis(1);
        }
    }
}

#[test]
fn smoltcp_as_client_gets_its_octets_back() {
    echo_for_smoltcp(at("10.77.0.11:80"), 300_000, None, 1);
    echo_for_smoltcp(at("[fd77::11]:80"), 300_000, None, 2);
}

#[test]
fn smoltcp_as_client_over_loss_gets_its_octets_back() {
    for seed in 0..3 {
        echo_for_smoltcp(at("10.77.0.11:80"), 100_000, Some(30), seed);
        echo_for_smoltcp(at("[fd77::11]:80"), 100_000, Some(30), seed);
    }
}

/// The answer of a DHCP server at 10.77.0.1 that leases 10.77.0.50/24 for a minute.
fn dhcp_reply(request: &[u8], kind: u8) -> Vec<u8> {
    dhcp_reply_with(request, kind, [10, 77, 0, 1])
}

/// The same, with another router.
fn dhcp_reply_with(request: &[u8], kind: u8, router: [u8; 4]) -> Vec<u8> {
    let ip_header = parse(request);
    let message = &request[ip_header.payload.start + 8..ip_header.payload.end];
    let mut reply = vec![2, 1, 6, 0];
    reply.extend_from_slice(&message[4..8]);
    reply.extend_from_slice(&[0; 8]);
    reply.extend_from_slice(&[10, 77, 0, 50]);
    reply.extend_from_slice(&[10, 77, 0, 1]);
    reply.extend_from_slice(&[0; 4]);
    reply.extend_from_slice(&message[28..44]);
    reply.resize(236, 0);
    reply.extend_from_slice(&[99, 130, 83, 99]);
    reply.extend_from_slice(&[53, 1, kind]);
    reply.extend_from_slice(&[54, 4, 10, 77, 0, 1]);
    reply.extend_from_slice(&[51, 4, 0, 0, 0, 60]);
    reply.extend_from_slice(&[1, 4, 255, 255, 255, 0]);
    reply.extend_from_slice(&[3, 4]);
    reply.extend_from_slice(&router);
    reply.push(255);
    let (server, client) = (ip("10.77.0.1"), ip("10.77.0.50"));
    let mut datagram = vec![0, 67, 0, 68];
    datagram.extend_from_slice(&((reply.len() + 8) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(&reply);
    let mut sum = Sum::new();
    sum.add_pseudo_header(server, client, wire::UDP, datagram.len());
    sum.add(&datagram);
    datagram[6..8].copy_from_slice(&sum.finish().to_be_bytes());
    let packet = Packet {
        from: (mac(1), server),
        to: (mac(11), client),
        protocol: wire::UDP,
        hop_limit: 64,
        body: &datagram,
    };
    packet.build()
}

/// The DHCP message type of a frame, if it is one from a client.
fn dhcp_kind(frame: &[u8]) -> Option<u8> {
    if ethertype(frame) != wire::ETHERTYPE_IPV4 {
        return None;
    }
    let ip_header = parse(frame);
    let datagram = &frame[ip_header.payload];
    if ip_header.protocol != wire::UDP || datagram[..4] != [0, 68, 0, 67] {
        return None;
    }
    let options = &datagram[8 + 240..];
    options
        .windows(3)
        .find(|option| option[..2] == [53, 1])
        .map(|option| option[2])
}

#[test]
fn an_address_is_leased_renewed_and_given_up_when_the_server_is_gone() {
    let mut config = config(11);
    config.addresses.clear();
    config.gateways.clear();
    config.dhcp = true;
    let mut stack = Stack::new(config, [5; 32], Instant::ZERO);
    stack.listen(80, Scope::Service);
    let mut now = Instant::ZERO;
    let mut requests = 0;
    let mut changes = Vec::new();
    let server_until = Instant::from_millis(100_000);
    while let Some(due) = stack
        .poll_timeout()
        .filter(|due| *due < Instant::from_millis(300_000))
    {
        now = now.max(due);
        stack.handle_timeout(now);
        loop {
            let out = drain(&mut stack, now);
            if out.is_empty() {
                break;
            }
            for frame in out {
                let kind = dhcp_kind(&frame);
                if ethertype(&frame) == ETHERTYPE_ARP && frame[..6] != mac(1) && now < server_until
                {
                    // The server is asked for by the stack's own neighbour table.
                    let (IpAddr::V4(server), IpAddr::V4(client)) =
                        (ip("10.77.0.1"), ip("10.77.0.50"))
                    else {
                        unreachable!()
                    };
                    let mut answer = arp::request(mac(1), server, client, Some(mac(11))).to_vec();
                    answer[ETHERNET + 7] = 2;
                    stack.handle_frame(now, RxFrame::new(answer));
                }
                if now < server_until {
                    match kind {
                        Some(1) => stack.handle_frame(now, RxFrame::new(dhcp_reply(&frame, 2))),
                        Some(3) => {
                            requests += 1;
                            stack.handle_frame(now, RxFrame::new(dhcp_reply(&frame, 5)));
                        }
                        _ => {}
                    }
                }
            }
        }
        for event in events(&mut stack) {
            assert!(matches!(event, StackEvent::AddressesChanged));
            changes.push((now, stack.addresses()));
        }
    }
    assert!(
        requests >= 3,
        "{requests} requests: the lease was renewed in time"
    );
    assert_eq!(
        changes.first().map(|(_, list)| &list[..]),
        Some(&[ip("10.77.0.50")][..])
    );
    let (lost_at, list) = changes.last().unwrap();
    assert!(list.is_empty(), "the lease ran out");
    assert!(*lost_at > server_until);
    assert!(counter(&stack, "dhcp_lost") > 0);
}

/// Some servers tell of a router 0.0.0.0 where there is none; smoltcp took it for a neighbour to ask
/// for, and panicked when the lease was to be renewed.
#[test]
fn a_lease_with_a_router_that_is_no_host_is_a_lease_without_router() {
    for router in [[0, 0, 0, 0], [255, 255, 255, 255], [224, 0, 0, 1]] {
        let mut config = config(11);
        config.addresses.clear();
        config.gateways.clear();
        config.dhcp = true;
        let mut stack = Stack::new(config, [5; 32], Instant::ZERO);
        let mut now = Instant::ZERO;
        let mut leased = 0;
        while let Some(due) = stack
            .poll_timeout()
            .filter(|due| *due < Instant::from_millis(300_000))
        {
            now = now.max(due);
            stack.handle_timeout(now);
            for frame in drain(&mut stack, now) {
                match dhcp_kind(&frame) {
                    Some(1) => {
                        let offer = dhcp_reply_with(&frame, 2, router);
                        stack.handle_frame(now, RxFrame::new(offer));
                    }
                    Some(3) => {
                        leased += 1;
                        let reply = dhcp_reply_with(&frame, 5, router);
                        stack.handle_frame(now, RxFrame::new(reply));
                        assert_eq!(stack.addresses(), [ip("10.77.0.50")]);
                    }
                    _ => {}
                }
            }
            events(&mut stack);
        }
        assert!(leased >= 2, "{leased} leases by router {router:?}");
        let remote = at("192.0.2.9:80");
        let _ = stack.connect(now, None, remote);
        let out = drain(&mut stack, now);
        assert!(out.is_empty(), "nobody is asked for the way by {router:?}");
    }
}

#[test]
fn a_leased_address_serves_and_knows_its_gateway() {
    let mut config = config(11);
    config.addresses.clear();
    config.gateways.clear();
    config.dhcp = true;
    let mut stack = Stack::new(config, [5; 32], Instant::ZERO);
    stack.listen(80, Scope::Service);
    let now = Instant::ZERO;
    stack.handle_timeout(now);
    for _ in 0..2 {
        for frame in drain(&mut stack, now) {
            match dhcp_kind(&frame) {
                Some(1) => stack.handle_frame(now, RxFrame::new(dhcp_reply(&frame, 2))),
                Some(3) => stack.handle_frame(now, RxFrame::new(dhcp_reply(&frame, 5))),
                _ => {}
            }
        }
        stack.handle_timeout(now);
    }
    assert_eq!(stack.addresses(), [ip("10.77.0.50")]);
    drain(&mut stack, now);
    let far = at("192.0.2.1:999");
    let syn = tcp((mac(1), mac(11)), far, at("10.77.0.50:80"), SYN, 1, b"");
    stack.handle_frame(now, RxFrame::new(syn));
    assert_eq!(stack.half_open_count(), 1);
    let out = drain(&mut stack, now);
    assert_eq!(ethertype(&out[0]), ETHERTYPE_ARP);
    assert_eq!(out[0][38..42], [10, 77, 0, 1], "the gateway is asked for");
}

#[test]
fn datagrams_reach_their_socket_and_others_are_told_so_within_limits() {
    let mut net = link::Net::new(vec![host(99), host(11)]);
    let client = net.hosts[0].udp_bind(5000).unwrap();
    let server = net.hosts[1].udp_bind(53).unwrap();
    assert!(net.hosts[1].udp_bind(53).is_none(), "the port is taken");
    for to in ["10.77.0.11:53", "[fd77::11]:53"] {
        let now = net.now;
        assert!(net.hosts[0].udp_send(now, client, at(to), b"question"));
        net.run_for(Duration::from_millis(5));
        let (from, data) = net.hosts[1].udp_receive(server).expect("a datagram");
        assert_eq!((from.port(), &data[..]), (5000, &b"question"[..]));
        let now = net.now;
        assert!(net.hosts[1].udp_send(now, server, from, b"answer"));
        net.run_for(Duration::from_millis(5));
        let (from, data) = net.hosts[0].udp_receive(client).expect("a datagram");
        assert_eq!((from, &data[..]), (at(to), &b"answer"[..]));
    }
    let mut unreachable = 0;
    for _ in 0..3 * MAX_UNREACHABLE {
        let now = net.now;
        net.hosts[0].udp_send(now, client, at("10.77.0.11:54"), b"?");
        for frame in drain(&mut net.hosts[0], now) {
            net.hosts[1].handle_frame(now, RxFrame::new(frame));
        }
        unreachable += drain(&mut net.hosts[1], now).len();
    }
    assert!((75..125).contains(&unreachable), "{unreachable}");
}
