//! Two networks: what comes in at one NIC, and what goes out at the other.

use super::*;
use crate::stack::Interface::{Instance, Service};

const CLIENT: MacAddr = [0x02, 0, 0, 0, 0, 0x99];

/// Host `n`'s NIC in the instance network.
fn inner_mac(n: u8) -> MacAddr {
    [0x02, 0, 0, 0, 1, n]
}

/// A member as [`super::member`], with 10.88.0.n and fd88::n in an instance network.
fn member(n: u8) -> Stack {
    let mut config = config(n);
    config.vips = vec![ip("10.77.0.10"), ip("fd77::10")];
    config.instance = Some(InstanceNetwork {
        mac: inner_mac(n),
        mtu: 1400,
        capabilities: DeviceCapabilities::default(),
        addresses: vec![
            Cidr {
                address: IpAddr::from([10, 88, 0, n]),
                prefix: 24,
            },
            Cidr {
                address: ip(&format!("fd88::{n}")),
                prefix: 64,
            },
        ],
        gateways: Vec::new(),
    });
    let mut stack = Stack::new(config, [n; 32], Instant::ZERO);
    while stack.poll_transmit(Instant::ZERO).is_some() {}
    stack
}

/// The ingress, with a service at 80 and one of its own at 9100.
fn ingress() -> Stack {
    let mut stack = member(11);
    stack.set_ingress(Instant::ZERO, true);
    stack.listen(80, Scope::Service);
    stack.listen(9100, Scope::Own);
    for (address, at, interface) in [
        ("10.77.0.99", CLIENT, Service),
        ("fd77::99", CLIENT, Service),
        ("10.88.0.12", inner_mac(12), Instance),
        ("fd88::12", inner_mac(12), Instance),
    ] {
        let address = ip(address);
        let hop = Hop { address, interface };
        stack.neighbours.learn(Instant::ZERO, hop, at, true);
    }
    while stack.poll_transmit(Instant::ZERO).is_some() {}
    stack
}

fn sent(stack: &mut Stack) -> Vec<TxFrame> {
    core::iter::from_fn(|| stack.poll_transmit(Instant::ZERO)).collect()
}

fn receive(stack: &mut Stack, interface: Interface, bytes: Vec<u8>) {
    let mut frame = RxFrame::new(bytes);
    frame.interface = interface;
    stack.handle_frame(Instant::ZERO, frame);
}

/// A SYN from a client's address to one of ours.
fn syn(to: MacAddr, from: &str, local: &str) -> Vec<u8> {
    tcp((CLIENT, to), at(from), at(local), SYN, 7, b"")
}

fn macs(frame: &TxFrame) -> (MacAddr, MacAddr) {
    let ethernet = Ethernet::parse(&frame.head).unwrap();
    (ethernet.src, ethernet.dst)
}

#[test]
fn what_is_passed_on_goes_the_inner_way_and_the_answer_does_not() {
    for (client, local, to) in [
        ("10.77.0.99:40000", "10.77.0.10:80", "10.88.0.12"),
        ("[fd77::99]:40000", "[fd77::10]:80", "fd88::12"),
    ] {
        let mut stack = ingress();
        let key = FlowKey {
            local: at(local),
            remote: at(client),
        };
        stack.set_route(Instant::ZERO, key, Route::Forward(ip(to)));
        receive(&mut stack, Service, syn(mac(11), client, local));
        let out = sent(&mut stack);
        assert_eq!(out.len(), 1, "{out:?}");
        assert_eq!(out[0].interface, Instance);
        assert_eq!(macs(&out[0]), (inner_mac(11), inner_mac(12)));

        // The owner takes it where it comes in, and answers the client where that is.
        let mut owner = member(12);
        owner.listen(80, Scope::Service);
        let hop = hop(key.remote.ip());
        owner.neighbours.learn(Instant::ZERO, hop, CLIENT, true);
        receive(&mut owner, Instance, out[0].to_vec());
        let answer = sent(&mut owner);
        assert_eq!(answer.len(), 1, "{answer:?}");
        assert_eq!(answer[0].interface, Service);
        assert_eq!(macs(&answer[0]), (mac(12), CLIENT));
        assert_eq!(tcp_flags(&answer[0].to_vec()), SYN | ACK);
    }
}

#[test]
fn an_own_address_is_reached_through_its_network_only() {
    let mut stack = ingress();
    let answers = |stack: &mut Stack, interface, to, local| {
        receive(stack, interface, syn(to, "192.0.2.7:40000", local));
        sent(stack).len() + usize::from(counter(stack, "rx_other_network") > 0)
    };
    let strays = [
        (Service, mac(11), "10.88.0.11:9100"),
        (Service, mac(11), "[fd88::11]:9100"),
        (Instance, inner_mac(11), "10.77.0.11:80"),
    ];
    for (n, (interface, to, local)) in strays.into_iter().enumerate() {
        let from = if local.starts_with('[') {
            "[2001:db8::7]:40000"
        } else {
            "192.0.2.7:40000"
        };
        receive(&mut stack, interface, syn(to, from, local));
        assert_eq!(sent(&mut stack).len(), 0, "{local}");
        assert_eq!(counter(&stack, "rx_other_network"), n as u64 + 1, "{local}");
    }
    // Nor does a frame that is for the other NIC count.
    assert_eq!(answers(&mut stack, Instance, mac(11), "10.77.0.10:80"), 1);
    assert_eq!(counter(&stack, "rx_other_station"), 1);
}

#[test]
fn the_admin_port_is_where_the_instances_are() {
    let mut stack = ingress();
    let inner = syn(inner_mac(11), "10.88.0.12:40000", "10.88.0.11:9100");
    receive(&mut stack, Instance, inner);
    let out = sent(&mut stack);
    assert_eq!(out.len(), 1);
    assert_eq!(tcp_flags(&out[0].to_vec()), SYN | ACK);
    assert_eq!(out[0].interface, Instance);
    // At the service network's own address there is no such port.
    receive(
        &mut stack,
        Service,
        syn(mac(11), "10.77.0.99:40000", "10.77.0.11:9100"),
    );
    let out = sent(&mut stack);
    assert_eq!(out.len(), 1);
    assert_eq!(tcp_flags(&out[0].to_vec()) & (SYN | RST), RST);
    assert_eq!(out[0].interface, Service);
}

#[test]
fn a_client_with_an_address_of_the_other_network_is_not_answered_there() {
    let mut stack = ingress();
    receive(
        &mut stack,
        Service,
        syn(mac(11), "10.88.0.12:40000", "10.77.0.10:80"),
    );
    // To the gateway, whose MAC address has to be asked for first.
    let out = sent(&mut stack);
    assert!(
        out.iter().all(|frame| frame.interface == Service),
        "{out:?}"
    );
    assert!(
        out.iter()
            .any(|frame| ethertype(&frame.head) == ETHERTYPE_ARP)
    );
}

#[test]
fn the_virtual_address_is_answered_for_and_disputed_in_the_service_network_only() {
    let question = |source: &str, target: &str, at| {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (ip(source), ip(target)) else {
            unreachable!()
        };
        arp::request(at, source, target, None).to_vec()
    };
    let mut stack = ingress();
    for (interface, target, answers) in [
        (Service, "10.77.0.10", 1),
        (Service, "10.77.0.11", 1),
        (Service, "10.88.0.11", 0),
        (Instance, "10.88.0.11", 1),
        (Instance, "10.77.0.10", 0),
        (Instance, "10.77.0.11", 0),
    ] {
        let source = match interface {
            Service => "10.77.0.99",
            Instance => "10.88.0.99",
        };
        receive(&mut stack, interface, question(source, target, CLIENT));
        let out = sent(&mut stack);
        assert_eq!(out.len(), answers, "{interface:?} {target}");
        assert!(out.iter().all(|frame| frame.interface == interface));
    }
    receive(
        &mut stack,
        Instance,
        question("10.77.0.10", "10.77.0.10", inner_mac(66)),
    );
    assert_eq!(counter(&stack, "vip_conflict"), 0);
    assert_eq!(stack.vip_speaker(), None);
}

#[test]
fn neighbours_of_one_name_in_two_networks_are_two() {
    let mut stack = ingress();
    let address = ip("fe80::77");
    let [outer, inner] = [Service, Instance].map(|interface| Hop { address, interface });
    stack.neighbours.learn(Instant::ZERO, outer, mac(77), true);
    assert_eq!(stack.neighbours.peek(inner), None);
    stack
        .neighbours
        .learn(Instant::ZERO, inner, inner_mac(78), true);
    assert_eq!(stack.neighbours.peek(outer), Some(mac(77)));
    assert_eq!(stack.neighbours.peek(inner), Some(inner_mac(78)));
    // A question from there is answered there.
    let IpAddr::V6(source) = address else {
        unreachable!()
    };
    for (interface, target, at, ours) in [
        (Service, "fd77::11", mac(77), mac(11)),
        (Instance, "fd88::11", inner_mac(78), inner_mac(11)),
    ] {
        let IpAddr::V6(target) = ip(target) else {
            unreachable!()
        };
        let question = ndp::solicitation(at, source, target, None).to_vec();
        receive(&mut stack, interface, question);
        let out = sent(&mut stack);
        assert_eq!(out.len(), 1, "{interface:?}");
        assert_eq!(out[0].interface, interface);
        assert_eq!(macs(&out[0]), (ours, at));
    }
}

#[test]
fn segments_fit_the_smaller_of_the_two_networks() {
    let mut stack = ingress();
    assert_eq!(stack.mtu(), 1400);
    // One that does not is not passed on, whatever came in.
    let client = at("10.77.0.99:40000");
    let key = FlowKey {
        local: at("10.77.0.10:80"),
        remote: client,
    };
    stack.set_route(Instant::ZERO, key, Route::Forward(ip("10.88.0.12")));
    let macs = (CLIENT, mac(11));
    let large = tcp(macs, client, key.local, ACK, 7, &[0; 1401]);
    receive(&mut stack, Service, large);
    assert!(sent(&mut stack).is_empty());
    assert_eq!(counter(&stack, "forward_too_big"), 1);
}

#[test]
fn each_nic_gets_the_work_it_does() {
    let mut stack = ingress();
    stack.service.capabilities.tx_checksum = true;
    for (interface, to, from, local) in [
        (Service, mac(11), "10.77.0.99:40000", "10.77.0.10:80"),
        (
            Instance,
            inner_mac(11),
            "10.88.0.12:40000",
            "10.88.0.11:9100",
        ),
    ] {
        receive(&mut stack, interface, syn(to, from, local));
        let out = sent(&mut stack);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].checksum.is_some(), interface == Service);
    }
}

#[test]
fn a_beacon_counts_only_where_the_instances_are() {
    let mut stack = ingress();
    stack.group_listen(9102);
    let mut other = member(12);
    other.group_send(ip("10.88.0.12"), 9102, b"here");
    other.group_send(ip("fd88::12"), 9102, b"here");
    let beacons = sent(&mut other);
    assert!(beacons.iter().all(|beacon| beacon.interface == Instance));
    for (interface, heard) in [(Service, 0), (Instance, 2)] {
        for beacon in &beacons {
            receive(&mut stack, interface, beacon.to_vec());
        }
        let count = core::iter::from_fn(|| stack.group_receive()).count();
        assert_eq!(count, heard, "{interface:?}");
    }
}

#[test]
fn a_peer_is_never_reached_for_through_the_service_network() {
    let mut stack = ingress();
    for stray in ["10.77.0.12:9101", "192.0.2.9:9101", "[2001:db8::9]:9101"] {
        let refused = stack.connect_peer(Instant::ZERO, at(stray));
        assert_eq!(refused, Err(ConnectError::NoRoute), "{stray}");
    }
    stack
        .connect_peer(Instant::ZERO, at("10.88.0.12:9101"))
        .unwrap();
    let out = sent(&mut stack);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].interface, Instance);
    assert_eq!(parse(&out[0].to_vec()).src, ip("10.88.0.11"));
}

#[test]
fn a_frame_is_no_larger_for_knowing_its_interface() {
    use crate::stack::frame::{Head, Payload, Segmentation, TxChecksum};
    #[expect(dead_code, reason = "only its size counts")]
    struct Rx(
        bytes::Bytes,
        Vec<bytes::Bytes>,
        RxChecksum,
        Option<Segmentation>,
    );
    #[expect(dead_code, reason = "only its size counts")]
    struct Tx(Head, Payload, Option<TxChecksum>, Option<Segmentation>);
    assert_eq!(size_of::<RxFrame>(), size_of::<Rx>());
    assert_eq!(size_of::<TxFrame>(), size_of::<Tx>());
}
