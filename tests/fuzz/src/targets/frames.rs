//! Frames from the wire, good and bad, at a stack with a service.
//!
//! Input: frames, each preceded by the milliseconds before it (one octet), flags (one octet: bit 0
//! addresses it to us, bit 1 has the device vouch for its checksum, bit 2 injects it as captured by
//! another instance, bit 3 closes a connection) and its length (two octets, little endian).

use godwit_netstack::stack::{ConnId, RxChecksum, RxFrame, StackEvent};
use godwit_netstack::{Duration, Instant};

use super::Reader;
use crate::Target;
use crate::link::{Pair, SERVER, mac, stack, transmit};

pub(crate) const TARGET: Target = Target {
    name: "frames",
    run,
    seeds,
};

const MAX_FRAMES: usize = 200;

fn run(input: &[u8]) {
    let mut reader = Reader(input);
    let mut now = Instant::from_millis(1_000);
    let mut stack = stack(SERVER, now);
    let mut accepted: Vec<ConnId> = Vec::new();
    for _ in 0..MAX_FRAMES {
        if reader.is_empty() {
            break;
        }
        let until = now + Duration::from_millis(reader.octet().into());
        while let Some(due) = stack.poll_timeout().filter(|due| *due <= until) {
            now = now.max(due) + Duration::from_micros(1);
            stack.handle_timeout(now);
            transmit(&mut stack, now);
        }
        now = now.max(until);
        let flags = reader.octet();
        let length = usize::from(reader.word());
        let mut octets = reader.slice(length).to_vec();
        if flags & 1 != 0 && octets.len() >= 6 {
            octets[..6].copy_from_slice(&mac(SERVER));
        }
        let mut frame = RxFrame::new(octets);
        if flags & 2 != 0 {
            frame.checksum = RxChecksum::Verified;
        }
        if flags & 4 != 0 {
            stack.inject(now, frame);
        } else {
            stack.handle_frame(now, frame);
        }
        while let Some(event) = stack.poll_event() {
            if let StackEvent::Accepted { conn, .. } = event {
                Pair::send(&mut stack, now, conn, 5_000);
                accepted.push(conn);
            }
        }
        for conn in &accepted {
            stack.update(now, *conn, |tcp| {
                let available = tcp.receive_available();
                tcp.receive_consume(now, available);
                if flags & 8 != 0 {
                    tcp.close(now);
                }
            });
        }
        transmit(&mut stack, now);
    }
    // Whatever came, it all ends.
    for _ in 0..1_000 {
        let Some(due) = stack.poll_timeout() else {
            break;
        };
        now = now.max(due) + Duration::from_micros(1);
        stack.handle_timeout(now);
        transmit(&mut stack, now);
        while stack.poll_event().is_some() {}
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for ipv6 in [false, true] {
        let mut pair = Pair::new();
        let (client, _) = pair.connect(ipv6);
        Pair::send(&mut pair.client, pair.now, client, 4_000);
        pair.run(Duration::from_millis(100));
        let now = pair.now;
        pair.client.update(now, client, |tcp| tcp.close(now));
        pair.run(Duration::from_millis(100));
        for flags in [1, 3, 9] {
            let mut seed = Vec::new();
            for (since, frame) in &pair.log {
                seed.extend([*since, flags]);
                seed.extend((frame.len() as u16).to_le_bytes());
                seed.extend_from_slice(frame);
            }
            seeds.push(seed);
        }
    }
    seeds
}
