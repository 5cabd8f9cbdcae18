//! SYN cookies: a full table of half-open connections costs newcomers nothing but the memory of
//! their SYN.

use super::link::*;
use super::*;
use crate::tcp::{EcnMode, SocketOptions};

/// A server whose table of half-open connections is full of somebody silent.
fn full(mut server: Stack) -> Stack {
    flood(&mut server, Instant::ZERO);
    server
}

fn flood(server: &mut Stack, now: Instant) {
    let flood = tcp(
        (mac(98), mac(11)),
        at("10.77.0.98:7"),
        at("10.77.0.11:80"),
        SYN,
        1,
        b"",
    );
    server.handle_frame(now, RxFrame::new(flood));
}

fn server() -> Stack {
    let mut config = config(11);
    config.tcp.max_half_open = 1;
    let mut stack = Stack::new(config, [1; 32], Instant::ZERO);
    stack.listen(80, Scope::Service);
    stack
}

fn client(timestamps: bool, sack: bool, ecn: EcnMode) -> Stack {
    let mut config = config(99);
    config.tcp.timestamps = timestamps;
    config.tcp.sack = sack;
    config.tcp.socket = SocketOptions {
        ecn,
        ..SocketOptions::default()
    };
    Stack::new(config, [99; 32], Instant::ZERO)
}

#[test]
fn what_the_syn_said_comes_back_with_the_ack() {
    for (timestamps, sack, ecn, to) in [
        (true, true, EcnMode::Request, "10.77.0.11:80"),
        (false, true, EcnMode::Off, "10.77.0.11:80"),
        (true, false, EcnMode::Off, "[fd77::11]:80"),
        (false, false, EcnMode::Request, "[fd77::11]:80"),
    ] {
        let mut net = Net::new(vec![client(timestamps, sack, ecn), full(server())]);
        let there = at(to);
        converse(&mut net, (0, 1), there, 100_000, |_, _| {});
        assert_eq!(counter(&net.hosts[1], "syn_cookies_sent"), 1);
        assert_eq!(counter(&net.hosts[1], "syn_cookies_taken"), 1);
        let mut net = Net::new(vec![client(timestamps, sack, ecn), full(server())]);
        net.hosts[0].connect(Instant::ZERO, None, there).unwrap();
        net.run_for(Duration::from_millis(10));
        let conn = net.accepted(1).expect("accepted");
        let info = net.hosts[1].connection(conn).unwrap().info();
        assert_eq!((info.timestamps, info.sack), (timestamps, sack));
        assert_eq!(info.ecn, ecn == EcnMode::Request);
        let expected = if there.is_ipv4() { 1460 } else { 1440 };
        assert_eq!(info.mss, expected - if timestamps { 12 } else { 0 });
        let net_scale = net.hosts[1].connection(conn).unwrap().info().snd_scale;
        assert!(net_scale > 0, "window scale");
    }
}

#[test]
fn a_flood_allocates_nothing_beyond_the_table() {
    let mut stack = full(server());
    for port in 1..=1000 {
        let remote = SocketAddr::new(ip("10.77.0.99"), port);
        let syn = tcp((mac(99), mac(11)), remote, at("10.77.0.11:80"), SYN, 1, b"");
        stack.handle_frame(Instant::ZERO, RxFrame::new(syn));
        drain(&mut stack, Instant::ZERO);
    }
    assert_eq!(stack.half_open_count(), 1);
    assert_eq!(stack.connection_count(), 0);
    assert_eq!(counter(&stack, "syn_cookies_sent"), 1000);
}

/// The SYN-ACK of `stack` and the ACK that would complete its handshake.
fn handshake(stack: &mut Stack, now: Instant, seq: u32) -> (Vec<u8>, Vec<u8>) {
    let ends = ((mac(99), mac(11)), at("10.77.0.99:5"), at("10.77.0.11:80"));
    let syn = tcp(ends.0, ends.1, ends.2, SYN, seq, b"");
    // So that the answer need not be asked for where to go.
    let arp = arp::request(
        mac(99),
        [10, 77, 0, 99].into(),
        [10, 77, 0, 11].into(),
        None,
    );
    stack.handle_frame(now, RxFrame::new(arp.to_vec()));
    drain(stack, now);
    stack.handle_frame(now, RxFrame::new(syn));
    let answer = drain(stack, now).pop().expect("a SYN-ACK");
    let header = &answer[parse(&answer).payload];
    let iss = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let ack = acknowledging(seq.wrapping_add(1), iss.wrapping_add(1));
    (answer, ack)
}

/// What the same client says from `seq` on, without octets, with this acknowledgement.
fn acknowledging(seq: u32, number: u32) -> Vec<u8> {
    let (from, to) = (at("10.77.0.99:5"), at("10.77.0.11:80"));
    let mut ack = tcp((mac(99), mac(11)), from, to, ACK, seq, b"");
    let at = parse(&ack).payload.start;
    ack[at + 8..at + 12].copy_from_slice(&number.to_be_bytes());
    let mut sum = Sum::new();
    ack[at + 16..at + 18].fill(0);
    sum.add_pseudo_header(from.ip(), to.ip(), wire::TCP, ack.len() - at);
    sum.add(&ack[at..]);
    let sum = sum.finish().to_be_bytes();
    ack[at + 16..at + 18].copy_from_slice(&sum);
    ack
}

#[test]
fn a_handshake_is_outgrown_by_what_its_client_has_heard_since_and_by_no_other_connection() {
    const SEQ: u32 = 1_000;
    let now = Instant::from_millis(5);
    let (_, ack) = handshake(&mut full(server()), now, SEQ);
    let number = u32::from_be_bytes(ack[parse(&ack).payload][8..12].try_into().unwrap());
    let flow = FlowKey {
        local: at("10.77.0.11:80"),
        remote: at("10.77.0.99:5"),
    };
    for (sent, heard, outgrown) in [
        (1, 0, false),
        (500, 0, false),
        (1, 1_000, true),
        (500, 1_000_000, true),
        (500, 3 << 29, false),
        (3 << 29, 500, false),
        (u32::MAX / 4 * 3, 500, false),
        (500, u32::MAX / 4 * 3, false),
    ] {
        let mut stack = server();
        stack.trust_cookies(now);
        stack.set_route(now, flow, Route::Hold);
        let other = acknowledging(SEQ.wrapping_add(sent), number.wrapping_add(heard));
        for frame in [other, ack.clone()] {
            stack.handle_frame(now, RxFrame::new(frame));
        }
        let cookie = stack.held_cookie(now, &flow).expect("it is good");
        let is_outgrown = stack.is_outgrown(&flow, cookie);
        assert_eq!(is_outgrown, outgrown, "{sent} {heard}");
    }
}

#[test]
fn two_instances_give_the_same_answer_and_either_completes_it() {
    let now = Instant::from_millis(5);
    let (mut one, mut other) = (full(server()), server());
    let (first, ack) = handshake(&mut one, now, 1_000);
    let (second, _) = handshake(&mut other, now, 1_000);
    assert_eq!(first, second);
    // An instance that never saw the SYN, after a change of ingress.
    let mut third = server();
    third.handle_frame(now, RxFrame::new(ack.clone()));
    assert_eq!(third.connection_count(), 0, "an old duplicate, perhaps");
    third.trust_cookies(now);
    third.handle_frame(now, RxFrame::new(ack));
    assert_eq!(third.connection_count(), 1);
}

#[test]
fn cookies_that_are_forged_or_old_open_nothing() {
    let now = Instant::from_millis(5);
    let mut stack = full(server());
    let (_, ack) = handshake(&mut stack, now, 1_000);
    let later = now + Duration::from_secs(140);
    stack.trust_cookies(later);
    stack.handle_frame(later, RxFrame::new(ack));
    assert_eq!(stack.connection_count(), 0);
    let guess = tcp(
        (mac(99), mac(11)),
        at("10.77.0.99:9"),
        at("10.77.0.11:80"),
        ACK,
        1,
        b"",
    );
    stack.handle_frame(later, RxFrame::new(guess));
    assert_eq!(stack.connection_count(), 0);
    assert_eq!(counter(&stack, "syn_cookies_bad"), 2);
}

#[test]
fn a_port_used_again_out_of_time_wait_is_served_though_the_table_is_full() {
    // Without timestamps its number has to be beyond that of the old connection, and then it is no cookie.
    let mut net = Net::new(vec![client(false, true, EcnMode::Off), server()]);
    let open = |net: &mut Net, port: u16| {
        let from = SocketAddr::new(ip("10.77.0.99"), port);
        let now = net.now;
        let conn = net.hosts[0].connect_from(now, from, at("10.77.0.11:80"));
        net.run_for(Duration::from_millis(10));
        (conn.unwrap(), net.accepted(1))
    };
    for port in 1..=12 {
        let (there, here) = open(&mut net, port);
        let now = net.now;
        net.hosts[1].update(now, here.unwrap(), |tcp| tcp.close(now));
        net.run_for(Duration::from_millis(10));
        let now = net.now;
        net.hosts[0].update(now, there, |tcp| tcp.close(now));
        net.run_for(Duration::from_millis(10));
        assert_eq!(net.hosts[1].connection_count(), usize::from(port));
    }
    for port in 1..=12 {
        let now = net.now;
        flood(&mut net.hosts[1], now);
        let (_, here) = open(&mut net, port);
        assert!(here.is_some(), "port {port}");
    }
    assert_eq!(net.flags().filter(|flags| flags & RST != 0).count(), 0);
}

/// `ack` with another number at this place of its header.
fn with(ack: &[u8], at: usize, change: impl Fn(u32) -> u32) -> RxFrame {
    let mut frame = ack.to_vec();
    let at = parse(&frame).payload.start + at;
    let number = change(u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()));
    frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
    let mut frame = RxFrame::new(frame);
    frame.checksum = RxChecksum::Verified;
    frame
}

/// The segment behind the one that follows `ack`.
fn behind(ack: &[u8]) -> RxFrame {
    with(ack, 4, |seq| seq.wrapping_add(1_460))
}

/// How often that is answered with an RST.
fn resets(stack: &mut Stack, now: Instant, frame: &RxFrame) -> usize {
    stack.handle_frame(now, frame.clone());
    let out = drain(stack, now);
    let answers = out.iter().filter(|frame| ethertype(frame) != ETHERTYPE_ARP);
    answers.filter(|frame| tcp_flags(frame) & RST != 0).count()
}

#[test]
fn what_overtakes_the_ack_with_the_cookie_does_not_end_the_connection() {
    let now = Instant::from_millis(5);
    // The octets before may be lost for as long as they would open the connection.
    for after in [0, 1, 60, 65] {
        let mut stack = full(server());
        let (_, ack) = handshake(&mut stack, now, 1_000);
        let later = now + Duration::from_secs(after);
        stack.handle_frame(later, behind(&ack));
        assert!(drain(&mut stack, later).is_empty(), "in doubt it is silent");
        stack.handle_frame(later, RxFrame::new(ack));
        assert_eq!(stack.connection_count(), 1, "after {after} s");
    }
}

#[test]
fn what_a_cookie_that_is_out_does_not_explain_is_reset() {
    let now = Instant::from_millis(5);
    let mut stack = full(server());
    let (_, ack) = handshake(&mut stack, now, 1_000);
    let other_flow = with(&ack, 0, |ports| ports ^ 1 << 16);
    let other_number = with(&ack, 8, |number| number.wrapping_add(1 << 20));
    for frame in [other_flow, other_number] {
        assert_eq!(
            resets(&mut stack, now, &frame),
            0,
            "a cookie was just given"
        );
        let later = now + Duration::from_secs(10);
        assert_eq!(resets(&mut stack, later, &frame), 1);
    }
    // Nor does one that is out of date.
    let later = now + Duration::from_secs(140);
    assert_eq!(resets(&mut stack, later, &behind(&ack)), 1);
}

#[test]
fn what_is_left_of_a_connection_that_a_cookie_opened_is_reset() {
    let now = Instant::from_millis(5);
    let mut stack = full(server());
    let (_, ack) = handshake(&mut stack, now, 1_000);
    stack.handle_frame(now, RxFrame::new(ack.clone()));
    let accepted = |event| match event {
        StackEvent::Accepted { conn, .. } => Some(conn),
        _ => None,
    };
    let conn = events(&mut stack).into_iter().find_map(accepted).unwrap();
    stack.update(now, conn, |tcp| tcp.abort(now));
    drain(&mut stack, now);
    let later = now + Duration::from_secs(10);
    assert_eq!(resets(&mut stack, later, &behind(&ack)), 1);
}

/// A server whose only half-open connection, which it remembered, has just made way for one from a port used
/// before; and the answer to its SYN-ACK.
fn evicted() -> (Stack, Instant, Vec<u8>) {
    let mut net = Net::new(vec![client(false, true, EcnMode::Off), server()]);
    let open = |net: &mut Net, port: u16| {
        let from = SocketAddr::new(ip("10.77.0.99"), 1_000 + port);
        let now = net.now;
        let conn = net.hosts[0].connect_from(now, from, at("10.77.0.11:80"));
        net.run_for(Duration::from_millis(10));
        (conn.unwrap(), net.accepted(1).expect("accepted"))
    };
    for port in 1..=12 {
        let (there, here) = open(&mut net, port);
        for (host, conn) in [(1, here), (0, there)] {
            let now = net.now;
            net.hosts[host].update(now, conn, |tcp| tcp.close(now));
            net.run_for(Duration::from_millis(10));
        }
    }
    for port in 1..=12 {
        let now = net.now;
        let (_, ack) = handshake(&mut net.hosts[1], now, 1_000 * u32::from(port));
        assert_eq!(net.hosts[1].half_open_count(), 1, "remembered");
        let cookies = counter(&net.hosts[1], "syn_cookies_sent");
        open(&mut net, port);
        if counter(&net.hosts[1], "syn_cookies_sent") == cookies {
            // The number of this one had to be beyond that of the connection before.
            let now = net.now;
            return (net.hosts.remove(1), now, ack);
        }
        // For the cookie to be long ago.
        net.run_for(Duration::from_secs(5));
    }
    panic!("each number was beyond the one before by chance");
}

#[test]
fn what_overtakes_an_answer_that_was_evicted_does_not_end_the_connection() {
    let (mut stack, now, ack) = evicted();
    assert_eq!(stack.half_open_count(), 0);
    let now = now + Duration::from_secs(30);
    stack.handle_frame(now, behind(&ack));
    assert!(drain(&mut stack, now).is_empty(), "in doubt it is silent");
    let before = stack.connection_count();
    stack.handle_frame(now, RxFrame::new(ack));
    assert_eq!(stack.connection_count(), before + 1);
}

#[test]
fn a_syn_that_comes_again_just_before_the_handshake_is_given_up_is_not_answered_in_vain() {
    let begun = Instant::from_millis(5);
    let last = begun + Duration::from_millis(62_990);
    let over = begun + Duration::from_millis(63_010);
    // One whose handshake is about to be given up.
    let waiting = || {
        let mut stack = server();
        handshake(&mut stack, begun, 1_000);
        while let Some(due) = stack.poll_timeout().filter(|due| *due <= last) {
            stack.handle_timeout(due);
            drain(&mut stack, due);
        }
        assert_eq!(stack.half_open_count(), 1);
        stack
    };
    let mut stack = waiting();
    stack.handle_timeout(over);
    assert_eq!(stack.half_open_count(), 0, "given up");
    let mut stack = waiting();
    let (_, ack) = handshake(&mut stack, last, 1_000);
    stack.handle_timeout(over);
    stack.handle_frame(over, RxFrame::new(ack));
    assert_eq!((stack.connection_count(), stack.half_open_count()), (1, 0));
    // Without that ACK it is not kept for ever.
    let mut stack = waiting();
    handshake(&mut stack, last, 1_000);
    stack.handle_timeout(over);
    assert_eq!(stack.half_open_count(), 1);
    let due = stack.poll_timeout().expect("its end");
    assert!(due <= last + Duration::from_secs(33), "{due:?}");
    stack.handle_timeout(last + Duration::from_secs(33));
    assert_eq!(stack.half_open_count(), 0);
}

#[test]
fn the_cookie_of_a_connection_that_is_over_opens_no_other() {
    let now = Instant::from_millis(5);
    let mut stack = full(server());
    let (_, ack) = handshake(&mut stack, now, 1_000);
    stack.handle_frame(now, RxFrame::new(ack.clone()));
    let accepted = |event| match event {
        StackEvent::Accepted { conn, .. } => Some(conn),
        _ => None,
    };
    let conn = events(&mut stack).into_iter().find_map(accepted).unwrap();
    stack.update(now, conn, |tcp| tcp.abort(now));
    // It is lost.
    drain(&mut stack, now);
    assert_eq!(stack.connection_count(), 0);
    let later = now + Duration::from_secs(30);
    stack.handle_frame(later, RxFrame::new(ack));
    assert_eq!(stack.connection_count(), 0);
    let out = drain(&mut stack, later);
    let answers = out.iter().filter(|frame| ethertype(frame) != ETHERTYPE_ARP);
    let flags: Vec<u8> = answers.map(|frame| tcp_flags(frame)).collect();
    assert_eq!(flags, [RST]);
    assert_eq!(counter(&stack, "syn_cookies_spent"), 1);
    // From the same port, the next connection is as good as any.
    let (_, ack) = handshake(&mut stack, later, 5_000);
    stack.handle_frame(later, RxFrame::new(ack));
    assert_eq!(stack.connection_count(), 1);
}

#[test]
fn a_late_duplicate_of_a_whole_handshake_opens_nothing_that_is_over() {
    let now = Instant::from_millis(5);
    let mut stack = server();
    let (_, ack) = handshake(&mut stack, now, 1_000);
    stack.handle_frame(now, RxFrame::new(ack.clone()));
    let accepted = |event| match event {
        StackEvent::Accepted { conn, .. } => Some(conn),
        _ => None,
    };
    let conn = events(&mut stack).into_iter().find_map(accepted).unwrap();
    stack.update(now, conn, |tcp| tcp.abort(now));
    drain(&mut stack, now);
    // The SYN comes once more, is half open, and what completes it comes as well.
    let later = now + Duration::from_secs(10);
    handshake(&mut stack, later, 1_000);
    assert_eq!(stack.half_open_count(), 1);
    stack.handle_frame(later, RxFrame::new(ack));
    assert_eq!((stack.connection_count(), stack.half_open_count()), (0, 0));
    let out = drain(&mut stack, later);
    let answers = out.iter().filter(|frame| ethertype(frame) != ETHERTYPE_ARP);
    let flags: Vec<u8> = answers.map(|frame| tcp_flags(frame)).collect();
    assert_eq!(flags, [RST]);
    assert_eq!(counter(&stack, "syn_cookies_spent"), 1);
}

/// One of a cluster with an old SYN half open, that gets the ACK of another SYN-ACK, which nobody remembers.
fn half_open_behind_a_cookie(now: Instant) -> Stack {
    let (_, ack) = handshake(&mut full(server()), now, 1_000);
    let mut stack = server();
    stack.set_ask_unknown(true);
    handshake(&mut stack, now, 500);
    stack.handle_frame(now, RxFrame::new(ack));
    let doubtful = |event: &StackEvent| matches!(event, StackEvent::DoubtfulHandshake { .. });
    assert_eq!(events(&mut stack).iter().filter(|e| doubtful(e)).count(), 1);
    assert!(drain(&mut stack, now).is_empty(), "in doubt it is silent");
    stack
}

#[test]
fn a_cookie_is_believed_before_the_syn_of_an_earlier_attempt() {
    let now = Instant::from_millis(5);
    let flow = flows::flow((ip("10.77.0.11"), 80), (ip("10.77.0.99"), 5));
    let mut stack = half_open_behind_a_cookie(now);
    let cookie = stack.doubtful_cookie(&flow).unwrap();
    assert_eq!(cookie.irs.raw(), 1_000);
    stack.complete_handshake(now, &flow);
    assert_eq!((stack.connection_count(), stack.half_open_count()), (1, 0));
    // But not if that connection has come and gone: then the SYN may be the client's last word.
    let mut stack = half_open_behind_a_cookie(now);
    stack.spend(now, &flow, cookie);
    stack.complete_handshake(now, &flow);
    assert_eq!((stack.connection_count(), stack.half_open_count()), (0, 1));
    assert!(drain(&mut stack, now).is_empty());
}

/// One that has the connection of a client's first SYN and gets the ACK of its second, neither remembered;
/// and both ACKs.
///
/// The client's second number lies within the window of its first connection, or beyond.
fn opened_behind_a_later_syn(now: Instant, number: u32) -> (Stack, Vec<u8>, Vec<u8>) {
    let mut stack = full(server());
    let (_, first) = handshake(&mut stack, now, 1_000);
    let (_, second) = handshake(&mut stack, now, number);
    stack.handle_frame(now, RxFrame::new(first.clone()));
    stack.handle_frame(now, RxFrame::new(second.clone()));
    assert_eq!(stack.connection_count(), 1);
    let answers = drain(&mut stack, now);
    let answers = answers.iter().filter(|frame| tcp_flags(frame) == ACK);
    assert_eq!(answers.count(), 2, "where it is, and a probe");
    (stack, first, second)
}

#[test]
fn a_connection_opened_behind_a_later_syn_gives_way_to_that() {
    for number in [2_000, 500_000] {
        let now = Instant::from_millis(5);
        let (mut stack, first, second) = opened_behind_a_later_syn(now, number);
        let mut gets = |at, frame: &Vec<u8>| {
            let now = now + Duration::from_millis(at);
            stack.handle_frame(now, RxFrame::new(frame.clone()));
            let out = drain(&mut stack, now);
            let reset = out.iter().any(|frame| tcp_flags(frame) & RST != 0);
            (stack.connection_count(), reset)
        };
        assert_eq!(gets(400, &second), (1, false), "it may be a duplicate");
        assert_eq!(gets(1_400, &second), (0, false));
        assert_eq!(gets(3_400, &second), (1, false));
        // That is the later one, which takes nothing from what is left of the former.
        assert_eq!(gets(3_500, &first), (1, false));
        assert_eq!(gets(5_500, &first), (1, false));
        assert_eq!(counter(&stack, "abandoned"), 1);
        assert_eq!(counter(&stack, "syn_cookies_taken"), 2);
    }
}

#[test]
fn a_straggler_with_a_cookie_does_not_end_a_connection_whose_client_is_there() {
    for number in [2_000, 500_000] {
        let now = Instant::from_millis(5);
        let (mut stack, first, second) = opened_behind_a_later_syn(now, number);
        // It answers the probe, and says the same as it did first.
        for at in [10, 2_000, 2_010, 4_000, 4_010] {
            let now = now + Duration::from_millis(at);
            let frame = if at % 1_000 == 10 { &first } else { &second };
            stack.handle_frame(now, RxFrame::new(frame.clone()));
            drain(&mut stack, now);
        }
        assert_eq!(stack.connection_count(), 1);
        assert_eq!(counter(&stack, "abandoned"), 0);
    }
}

#[test]
fn handshakes_that_come_to_nothing_take_no_memory_of_what_is_over() {
    let mut stack = full(server());
    for port in 1..=1000 {
        let remote = SocketAddr::new(ip("10.77.0.99"), port);
        for flags in [SYN, ACK, RST] {
            let frame = tcp(
                (mac(99), mac(11)),
                remote,
                at("10.77.0.11:80"),
                flags,
                1,
                b"",
            );
            stack.handle_frame(Instant::ZERO, RxFrame::new(frame));
        }
        drain(&mut stack, Instant::ZERO);
    }
    assert_eq!(stack.spent.places(), 0);
}
