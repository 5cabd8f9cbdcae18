//! ICMP for IPv4 and IPv6: echo replies, and errors taken to the connection they are about.

use super::checksum::{self, Sum};
use super::flows::{self, Entry, Packed};
use super::frame::{RxFrame, TxFrame};
use super::input::Origin;
use super::wire::{self, ETHERNET, HOP_LIMIT, ICMP, ICMPV6, Ip, IpHeader};
use super::{FlowKey, Stack};
use crate::seq::SeqNumber;
use crate::tcp::IcmpError;
use crate::time::Instant;

/// Octets of an echo or error message's header.
const HEADER: usize = 8;

/// What an ICMP error says; `None` if it is none that matters to TCP.
fn parse_error(protocol: u8, header: &[u8; HEADER]) -> Option<IcmpError> {
    let [kind, code, _, _, m0, m1, m2, m3] = *header;
    match (protocol, kind, code) {
        (ICMP, 3, 4) => Some(IcmpError::PacketTooBig {
            mtu: u16::from_be_bytes([m2, m3]),
        }),
        (ICMPV6, 2, _) => {
            let mtu = u32::from_be_bytes([m0, m1, m2, m3]);
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            Some(IcmpError::PacketTooBig { mtu })
        }
        // Protocol or port unreachable, next header unrecognised; the rest may pass.
        (ICMP, 3, 2 | 3) | (ICMPV6, 1, 4) | (ICMPV6, 4, 1) => {
            Some(IcmpError::Unreachable { hard: true })
        }
        // Networks, hosts, prohibitions; time exceeded; parameter problems.
        (ICMP, 3 | 11 | 12, _) | (ICMPV6, 1 | 3 | 4, _) => {
            Some(IcmpError::Unreachable { hard: false })
        }
        _ => None,
    }
}

impl Stack {
    #[cold]
    #[inline(never)]
    pub(super) fn handle_icmp(&mut self, now: Instant, frame: RxFrame, ip: &Ip, origin: Origin) {
        self.counters.icmp_received += 1;
        let message = frame.bytes.get(ip.payload.clone()).unwrap_or_default();
        let right = if ip.protocol == ICMPV6 {
            wire::transport_checksum_ok(ip, message)
        } else {
            let mut sum = Sum::new();
            sum.add(message);
            sum.finish() == 0
        };
        if !right {
            self.counters.rx_bad_checksum += 1;
            return;
        }
        if ip.protocol == ICMPV6 && matches!(message.first(), Some(133..=137)) {
            if ip.atomic {
                // Neighbour discovery in fragments gets past those who watch over it (RFC 6980 section 5).
                self.counters.rx_fragment += 1;
                return;
            }
            self.handle_ndp(now, frame.interface, ip, message);
            return;
        }
        let Some(header) = message.first_chunk::<HEADER>() else {
            self.counters.rx_malformed += 1;
            return;
        };
        let echo = if ip.protocol == ICMP { 8 } else { 128 };
        if header[0] == echo && header[1] == 0 {
            self.answer_echo(now, &frame, ip, *header);
        } else if let Some(problem) = parse_error(ip.protocol, header) {
            self.handle_icmp_error(now, frame, ip, problem, origin);
        } else {
            self.counters.icmp_ignored += 1;
        }
    }

    fn answer_echo(&mut self, now: Instant, frame: &RxFrame, ip: &Ip, mut header: [u8; HEADER]) {
        let interface = self.addresses.interface_of(ip.dst);
        if !self.answers_for(interface, ip.dst) {
            // A multicast or broadcast ping, or one for a virtual address that is not answered here.
            self.counters.icmp_ignored += 1;
            return;
        }
        if !self.echo_limit.allow(now) {
            self.counters.icmp_echo_limited += 1;
            return;
        }
        let old = u16::from_be_bytes([header[0], header[1]]);
        header[0] = if ip.protocol == ICMP { 0 } else { 129 };
        let new = u16::from_be_bytes([header[0], header[1]]);
        // The pseudo-header's sum does not change when its addresses change places.
        let sum = checksum::update(u16::from_be_bytes([header[2], header[3]]), old, new);
        header[2..4].copy_from_slice(&sum.to_be_bytes());

        let mut reply = TxFrame::default();
        IpHeader {
            src: ip.dst,
            dst: ip.src,
            protocol: ip.protocol,
            hop_limit: HOP_LIMIT,
            ecn: 0,
            length: ip.payload.len(),
            fragments: None,
        }
        .emit(self.port(interface).mac, &mut reply.head);
        reply.head.extend_from_slice(&header);
        let data = ip.payload.start + HEADER..ip.payload.end;
        if !data.is_empty() {
            reply.payload.push(frame.bytes.slice(data));
        }
        self.counters.icmp_echo_answered += 1;
        self.send_ip(now, interface, ip.src, reply);
    }

    /// Steer an error by the packet it quotes.
    fn handle_icmp_error(
        &mut self,
        now: Instant,
        frame: RxFrame,
        ip: &Ip,
        problem: IcmpError,
        origin: Origin,
    ) {
        let Some((flow, seq)) = quoted(&frame, ip.payload.start + HEADER) else {
            self.counters.icmp_ignored += 1;
            return;
        };
        // The error goes to whoever sent the packet it quotes.
        if flow.local.ip() != ip.dst {
            self.counters.icmp_error_stray += 1;
            return;
        }
        let packed = Packed::new(&flow);
        match self.flows.get(&packed) {
            Some(Entry::Connection(id) | Entry::Fenced(id)) => {
                // The connection itself looks whether the quoted segment is in flight.
                self.counters.icmp_error_accepted += 1;
                self.with_connection(now, id, |connection| {
                    connection.handle_icmp_error(now, problem, seq);
                });
            }
            Some(entry @ (Entry::Capture | Entry::Hold { .. } | Entry::Forward { .. })) => {
                self.steer(now, flow, packed, entry, frame, ip, origin);
            }
            Some(Entry::HalfOpen(_)) | None => self.counters.icmp_error_stray += 1,
        }
    }
}

/// The flow and the first sequence number of the TCP segment quoted at `start`.
fn quoted(frame: &RxFrame, start: usize) -> Option<(FlowKey, SeqNumber)> {
    let ip = wire::parse_ip(&frame.bytes, start.max(ETHERNET), false).ok()?;
    if ip.protocol != wire::TCP {
        return None;
    }
    let header = frame.bytes.get(ip.payload)?.first_chunk::<HEADER>()?;
    let [l0, l1, r0, r1, seq @ ..] = *header;
    let local = (ip.src, u16::from_be_bytes([l0, l1]));
    let remote = (ip.dst, u16::from_be_bytes([r0, r1]));
    let seq = SeqNumber::new(u32::from_be_bytes(seq));
    Some((flows::flow(local, remote), seq))
}
