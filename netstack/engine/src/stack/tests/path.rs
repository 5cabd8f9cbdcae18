//! What the IP header and ICMP say of the path, for connections of both families.

use super::link::*;
use super::steering::too_big_about;
use super::*;
use crate::tcp::{EcnMode, IcmpError, SocketOptions};

fn asking(n: u8) -> Stack {
    let mut config = config(n);
    config.tcp.socket = SocketOptions {
        ecn: EcnMode::Request,
        ..SocketOptions::default()
    };
    Stack::new(config, [n; 32], Instant::ZERO)
}

fn open(to: &str) -> (Net, ConnId, ConnId) {
    let mut server = host(11);
    server.listen(80, Scope::Service);
    let mut net = Net::new(vec![asking(99), server]);
    let conn = net.hosts[0].connect(Instant::ZERO, None, at(to)).unwrap();
    net.run_for(Duration::from_millis(10));
    let accepted = net.accepted(1).unwrap();
    (net, conn, accepted)
}

const BOTH: [&str; 2] = ["10.77.0.11:80", "[fd77::11]:80"];

#[test]
fn segments_with_text_say_in_the_ip_header_that_they_are_capable_and_a_mark_comes_back() {
    for to in BOTH {
        let (mut net, conn, accepted) = open(to);
        let before = net.log.len();
        let now = net.now;
        net.hosts[0].update(now, conn, |c| c.send(now, vec![1; 3000].into()).unwrap());
        net.run_for(Duration::from_millis(60));
        let mut texts = 0;
        for sent in &net.log[before..] {
            if ethertype(&sent.frame.bytes) == ETHERTYPE_ARP {
                continue;
            }
            let ip = parse(&sent.frame.bytes);
            if ip.protocol != wire::TCP {
                continue;
            }
            let text = ip.payload.len() > 60;
            assert_eq!(ip.ecn, if text { wire::ECT_0 } else { 0 }, "{to}");
            texts += usize::from(text);
        }
        assert!(texts >= 3);
        // One that gets lost arrives after all, marked on the way.
        let now = net.now;
        net.hosts[0].update(now, conn, |c| c.send(now, vec![1; 500].into()).unwrap());
        let mut marked = drain(&mut net.hosts[0], now).remove(0);
        match ethertype(&marked) {
            wire::ETHERTYPE_IPV4 => {
                marked[ETHERNET + 1] |= 3;
                marked[ETHERNET + 10..ETHERNET + 12].fill(0);
                let mut sum = Sum::new();
                sum.add(&marked[ETHERNET..ETHERNET + 20]);
                let sum = sum.finish().to_be_bytes();
                marked[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
            }
            _ => marked[ETHERNET + 1] |= 3 << 4,
        }
        net.hosts[1].handle_frame(now, RxFrame::new(marked));
        let answer = drain(&mut net.hosts[1], now).pop().expect("an ACK at once");
        assert_eq!(tcp_flags(&answer), ACK | 0x40, "ECE");
        let info = net.hosts[1].connection(accepted).unwrap().info();
        assert_eq!(info.counters.congestion_marks, 1);
    }
}

#[test]
fn a_router_that_takes_less_is_heard_by_the_connection() {
    for (to, mtu) in [(BOTH[0], 1400), (BOTH[1], 1400), (BOTH[1], 1279)] {
        let (mut net, conn, _) = open(to);
        net.loss = Box::new(|sent| sent.frame.bytes.len() > 1414);
        let now = net.now;
        net.hosts[0].update(now, conn, |c| c.send(now, vec![1; 9000].into()).unwrap());
        let sent = drain(&mut net.hosts[0], now);
        let sent = sent.iter().find(|sent| sent.len() > 1414).expect("full");
        net.hosts[0].handle_frame(now, too_big_about(sent, mtu));
        let info = net.hosts[0].connection(conn).unwrap().info();
        match mtu {
            1400 => assert_eq!(info.pmtu, 1400, "{to}"),
            _ => assert_eq!(info.pmtu, 1500, "no IPv6 link carries less than 1280"),
        }
        if mtu == 1400 {
            net.run_for(Duration::from_millis(200));
            let info = net.hosts[0].connection(conn).unwrap().info();
            assert_eq!(info.tx_bytes, 9000);
            assert_eq!(info.counters.timeouts, 0);
        }
    }
}

/// RFC 1191 section 3. Nobody counts identifications on where a device cuts.
#[test]
fn what_is_small_enough_may_be_fragmented_and_goes_packet_by_packet() {
    let mut config = config(99);
    config.capabilities.tx_checksum = true;
    config.capabilities.tso4 = true;
    let mut server = host(11);
    server.listen(80, Scope::Service);
    let client = Stack::new(config, [9; 32], Instant::ZERO);
    let mut net = Net::new(vec![client, server]);
    let conn = net.hosts[0]
        .connect(Instant::ZERO, None, at(BOTH[0]))
        .unwrap();
    net.run_for(Duration::from_millis(10));
    let now = net.now;
    net.hosts[0].update(now, conn, |c| c.send(now, vec![1; 9000].into()).unwrap());
    let sent = drain(&mut net.hosts[0], now);
    assert!(sent[0].len() > 1514, "cut by the device");
    assert_eq!(sent[0][ETHERNET + 6], 0x40, "DF");
    net.hosts[0].update(now, conn, |c| {
        let error = IcmpError::PacketTooBig { mtu: 296 };
        c.handle_icmp_error(now, error, c.snd.una);
    });
    let sent = drain(&mut net.hosts[0], now);
    assert!(sent.len() >= 9);
    let mut identifications = std::collections::BTreeSet::new();
    for frame in &sent {
        assert!(frame.len() <= ETHERNET + 576);
        assert_eq!(frame[ETHERNET + 6], 0, "no DF");
        let of = [frame[ETHERNET + 4], frame[ETHERNET + 5]];
        assert!(identifications.insert(of), "two packets alike");
    }
}
