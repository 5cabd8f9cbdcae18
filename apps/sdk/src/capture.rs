//! Frames as they pass the card, for who asks at the admin port (`agent/watch.rs`).
//!
//! One capture at a time. Records wait in a buffer of fixed size, which its reader empties; what finds
//! no room is dropped and counted, so a slow reader costs frames and no memory. Frames of the
//! connection that the capture goes out through are left out: each would cause the next.
//!
//! A record is, in little-endian: `time: u64` in nanoseconds of the instance's clock, `captured: u32` octets
//! that follow, [`SENT`] added to it if the instance sent the frame, `length: u32` of the whole frame, then its
//! first octets. The last record is of length 0, and has frames dropped in place of the time.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use godwit_netstack::Instant;
use godwit_netstack::stack::{Interface, RxFrame, TxFrame};

/// Octets of records that wait, at most.
const ROOM: usize = 128 << 10;
/// Octets of a record without those of its frame.
const HEADER: usize = 16;
/// Added to `captured` of a frame that the instance sent.
const SENT: u32 = 1 << 31;

/// What is wanted of the frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Of which network.
    pub(crate) interface: Interface,
    /// Octets of each at most.
    pub(crate) snap: usize,
    /// So many of them.
    pub(crate) frames: u32,
    /// The client whose connection to our port is left out.
    pub(crate) without: (SocketAddr, u16),
}

/// Where frames go.
#[derive(Default)]
pub(crate) struct Capture {
    on: Cell<bool>,
    state: RefCell<Option<State>>,
}

struct State {
    wanted: Wanted,
    records: Vec<u8>,
    dropped: u64,
}

impl Capture {
    /// Whether frames are wanted.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Capture from now on; `false`: somebody else does.
    pub(crate) fn start(&self, wanted: Wanted) -> bool {
        let mut state = self.state.borrow_mut();
        let free = state.is_none();
        if free {
            self.on.set(true);
            *state = Some(State {
                wanted,
                records: Vec::new(),
                dropped: 0,
            });
        }
        free
    }

    /// Capture no more, and forget what was.
    pub(crate) fn stop(&self) {
        self.on.set(false);
        *self.state.borrow_mut() = None;
    }

    /// The records since the last call, and whether all frames that were wanted are there.
    pub(crate) fn take(&self) -> (Vec<u8>, bool) {
        let mut state = self.state.borrow_mut();
        let records = state
            .as_mut()
            .map(|state| core::mem::take(&mut state.records));
        (records.unwrap_or_default(), !self.on.get())
    }

    /// The last record.
    pub(crate) fn end(&self) -> [u8; HEADER] {
        let dropped = self.state.borrow().as_ref().map_or(0, |s| s.dropped);
        let mut record = [0; HEADER];
        let (first, _) = record.split_at_mut(8);
        first.copy_from_slice(&dropped.to_le_bytes());
        record
    }

    /// The card has received a frame.
    #[cold]
    pub(crate) fn received(&self, now: Instant, frame: &RxFrame) {
        let rest = &mut frame.more.iter();
        self.put(now, frame.interface, 0, (&frame.bytes, rest));
    }

    /// A frame goes to the card.
    #[cold]
    pub(crate) fn sent(&self, now: Instant, frame: &TxFrame) {
        let rest = &mut frame.payload.iter();
        self.put(now, frame.interface, SENT, (&frame.head, rest));
    }

    fn put(
        &self,
        now: Instant,
        interface: Interface,
        sent: u32,
        (head, rest): (&[u8], &mut dyn Iterator<Item = &Bytes>),
    ) {
        let mut state = self.state.borrow_mut();
        let Some(state) = state.as_mut().filter(|_| self.is_on()) else {
            return;
        };
        let wanted = &mut state.wanted;
        if interface != wanted.interface || is_of(head, wanted.without) {
            return;
        }
        let records = &mut state.records;
        let room = HEADER + wanted.snap;
        if records.len() + room > ROOM || records.try_reserve(room).is_err() {
            state.dropped += 1;
            return;
        }
        let start = records.len();
        records.extend_from_slice(&(now.as_nanos()).to_le_bytes());
        records.extend_from_slice(&[0; 8]);
        let mut length = 0;
        for part in core::iter::once(head).chain(rest.map(|part| &**part)) {
            let left = wanted.snap.saturating_sub(length);
            length += part.len();
            records.extend_from_slice(part.get(..left).unwrap_or(part));
        }
        let captured = length.min(wanted.snap) as u32 | sent;
        let sizes = [captured, length as u32].map(u32::to_le_bytes);
        if let Some(place) = records.get_mut(start + 8..start + HEADER) {
            place.copy_from_slice(sizes.as_flattened());
        }
        wanted.frames -= 1;
        self.on.set(wanted.frames > 0);
    }
}

/// Whether a frame belongs to the TCP connection between a client and our port (RFC 791, RFC 8200; without
/// extension headers).
fn is_of(frame: &[u8], (client, port): (SocketAddr, u16)) -> bool {
    const TCP: u8 = 6;
    let at = |from: usize, len: usize| frame.get(from..from + len).unwrap_or_default();
    // Where the addresses are, how long they are, and where the segment begins.
    let (addresses, segment) = match (at(12, 2), at(14, 10)) {
        ([0x08, 0x00], &[words, .., protocol]) if protocol == TCP => {
            (26, 14 + usize::from(words & 0xf) * 4)
        }
        ([0x86, 0xdd], &[_, _, _, _, _, _, TCP, ..]) => (22, 54),
        _ => return false,
    };
    let (v4, v6);
    let address: &[u8] = match client.ip() {
        IpAddr::V4(ip) if addresses == 26 => {
            v4 = ip.octets();
            &v4
        }
        IpAddr::V6(ip) if addresses == 22 => {
            v6 = ip.octets();
            &v6
        }
        _ => return false,
    };
    let ports = [client.port(), port].map(u16::to_be_bytes);
    let between = |mine: usize| {
        let there = at(addresses + mine * address.len(), address.len());
        there == address
            && at(segment + 2 * mine, 2) == ports[0]
            && at(segment + 2 - 2 * mine, 2) == ports[1]
    };
    between(0) || between(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 4] = [10, 77, 0, 1];
    const OWN: [u8; 4] = [10, 77, 0, 11];

    fn segment(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let mut frame = std::vec![0; 12];
        frame.extend([0x08, 0x00, 0x46, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(from.0);
        frame.extend(to.0);
        frame.extend([0; 4]); // an option
        frame.extend(from.1.to_be_bytes());
        frame.extend(to.1.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    fn wanted(snap: usize, frames: u32) -> Wanted {
        let client = SocketAddr::new(CLIENT.into(), 40_000);
        Wanted {
            interface: Interface::Service,
            snap,
            frames,
            without: (client, 9100),
        }
    }

    fn receive(capture: &Capture, bytes: Vec<u8>) {
        capture.received(Instant::from_nanos(7), &RxFrame::new(bytes));
    }

    #[test]
    fn a_record_has_the_first_octets_and_the_length_of_a_frame_in_parts() {
        let capture = Capture::default();
        assert!(capture.start(wanted(60, 10)));
        let mut frame = RxFrame::new(segment((CLIENT, 1), (OWN, 2)));
        frame.more = Vec::from([Bytes::from_static(b"abc"), Bytes::from_static(b"defghi")]);
        capture.received(Instant::from_nanos(0x0102), &frame);
        let (records, over) = capture.take();
        assert!(!over);
        assert_eq!(records[..8], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(records[8..16], [60, 0, 0, 0, 67, 0, 0, 0]);
        assert_eq!(records.len(), HEADER + 60);
        assert!(records.ends_with(b"ab"));
        assert!(capture.take().0.is_empty());
    }

    #[test]
    fn only_its_own_connection_is_left_out() {
        let capture = Capture::default();
        capture.start(wanted(10, 10));
        let count = |frame| {
            receive(&capture, frame);
            capture.take().0.len() / (HEADER + 10)
        };
        assert_eq!(count(segment((CLIENT, 40_000), (OWN, 9100))), 0);
        assert_eq!(count(segment((OWN, 9100), (CLIENT, 40_000))), 0);
        assert_eq!(count(segment((CLIENT, 40_001), (OWN, 9100))), 1);
        assert_eq!(count(segment((CLIENT, 40_000), (OWN, 80))), 1);
        assert_eq!(count(segment((OWN, 40_000), (CLIENT, 9100))), 1);
        for length in 10..60 {
            let mut cut = segment((CLIENT, 40_000), (OWN, 9100));
            cut.truncate(length);
            count(cut);
        }
    }

    #[test]
    fn its_own_connection_is_left_out_over_ipv6_too() {
        let address = |last: u8| {
            core::net::Ipv6Addr::from([9, 9, 9, 9, 8, 8, 8, 8, 7, 7, 7, 7, 6, 6, 6, last])
        };
        let frame = |from: (u8, u16), to: (u8, u16)| {
            let mut frame = std::vec![0; 12];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(address(from.0).octets());
            frame.extend(address(to.0).octets());
            frame.extend(from.1.to_be_bytes());
            frame.extend(to.1.to_be_bytes());
            frame.extend([0; 16]);
            frame
        };
        let own = (SocketAddr::new(address(1).into(), 40_000), 9100);
        assert!(is_of(&frame((1, 40_000), (2, 9100)), own));
        assert!(is_of(&frame((2, 9100), (1, 40_000)), own));
        assert!(!is_of(&frame((3, 40_000), (2, 9100)), own));
        assert!(!is_of(&frame((2, 40_000), (1, 9100)), own));
        assert!(!is_of(&frame((1, 9100), (2, 40_000)), own));
    }

    #[test]
    fn a_reader_that_does_not_read_costs_frames_and_no_memory() {
        let capture = Capture::default();
        capture.start(wanted(1500, u32::MAX));
        for _ in 0..1000 {
            receive(&capture, std::vec![1; 1500]);
        }
        let kept = ROOM / (HEADER + 1500);
        let (records, _) = capture.take();
        assert_eq!(records.len(), kept * (HEADER + 1500));
        assert!(records.capacity() <= 2 * ROOM);
        assert_eq!(capture.end()[..8], (1000 - kept as u64).to_le_bytes());
        receive(&capture, std::vec![1; 1500]);
        assert!(!capture.take().0.is_empty(), "there is room again");
    }

    #[test]
    fn it_is_over_with_the_last_frame_wanted_and_then_somebody_else_may() {
        let capture = Capture::default();
        assert!(capture.start(wanted(100, 2)));
        assert!(!capture.start(wanted(100, 2)));
        for _ in 0..3 {
            receive(&capture, std::vec![1; 20]);
        }
        let (records, over) = capture.take();
        assert_eq!((records.len(), over), (2 * (HEADER + 20), true));
        assert!(!capture.is_on());
        capture.stop();
        assert!(capture.start(wanted(100, 1)));
    }

    #[test]
    fn the_frames_of_one_network_are_not_those_of_the_other() {
        let capture = Capture::default();
        let inside = Wanted {
            interface: Interface::Instance,
            ..wanted(10, 10)
        };
        capture.start(inside);
        let mut sent = TxFrame::default();
        sent.head.extend_from_slice(&[1; 20]);
        for interface in [Interface::Service, Interface::Instance] {
            sent.interface = interface;
            capture.sent(Instant::ZERO, &sent);
            let mut frame = RxFrame::new(std::vec![2; 20]);
            frame.interface = interface;
            capture.received(Instant::ZERO, &frame);
        }
        let (records, _) = capture.take();
        assert_eq!(records.len(), 2 * (HEADER + 10));
    }
}
