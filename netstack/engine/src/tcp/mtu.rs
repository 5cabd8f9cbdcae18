//! What the path carries: told by ICMP (RFC 1191, RFC 8201, with the checks of RFC 5927), or found
//! out by probes where ICMP does not get through (RFC 4821).

use alloc::boxed::Box;

use super::connection::{Connection, ConnectionError, IcmpError, headers};
use super::options::TIMESTAMPS_LEN;
use super::recovery::Phase;
use super::segment::Outgoing;
use super::snd::Marks;
use super::state::State;
use crate::seq::SeqNumber;
use crate::time::{Duration, Instant};

/// Packet sizes worth trying where a router does not say which fits (RFC 1191 section 7).
const PLATEAUS: [u16; 9] = [
    32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_280, 1_006, 576,
];
/// What IPv4 hosts must take (RFC 1122 section 3.3.2). Where a router says less, packets of this size may be
/// fragmented: a path that carries no more works, and nobody makes us send crumbs.
const LEAST_V4: u16 = 576;
/// What IPv6 links must carry (RFC 8200 section 5).
const LEAST_V6: u16 = 1_280;
/// Where a search begins that found a black hole (RFC 4821 section 7.2: at least 1024).
const BASE: u16 = 1_280;
/// How long a size that was found too big stays so (RFC 1191 section 6.3).
const RAISE: Duration = Duration::from_secs(600);
/// How soon a search goes on after a black hole, or a probe without a clear answer.
const AGAIN: Duration = Duration::from_secs(1);
/// A search ends when less than this could be gained.
const WORTH: u16 = 24;

/// A search for the largest packet the path carries: more than [`Connection::path_mtu`], which works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Search {
    /// Octets of an IP packet at most, as far as is known.
    pub high: u16,
    /// When the next probe may leave.
    pub next: Instant,
    /// The probe in flight: its first octet and its packet's size.
    pub probe: Option<(SeqNumber, u16)>,
    /// A size ICMP claims though larger packets came through, and the segment it quotes: believed
    /// once that times out (RFC 5927 section 7.2).
    pub claim: Option<(SeqNumber, u16)>,
}

impl Connection {
    /// Octets of headers and options every packet has.
    fn overhead(&self) -> u16 {
        let options = match self.timestamps {
            Some(_) => TIMESTAMPS_LEN as u16,
            None => 0,
        };
        headers(&self.flow()) + options
    }

    /// Whether packets are so small that routers may fragment them: there is nothing left to find out by Don't
    /// Fragment. IPv6 knows no such thing: its routers fragment nothing, and no packet of ours has a Fragment
    /// header, not even an atomic one (RFC 8021).
    pub(crate) fn may_fragment(&self) -> bool {
        self.path_mtu <= LEAST_V4 && self.ends.is_ipv4()
    }

    /// Octets of an IP packet that our link, and the peer's by its MSS, carry.
    fn highest_mtu(&self) -> u16 {
        let theirs = self.snd.peer_mss.saturating_add(headers(&self.flow()));
        self.link_mtu.min(theirs)
    }

    fn search(&mut self, now: Instant, after: Duration) -> &mut Search {
        let high = self.highest_mtu();
        self.search.get_or_insert_with(|| {
            Box::new(Search {
                high,
                next: now + after,
                probe: None,
                claim: None,
            })
        })
    }

    /// The path now takes IP packets of `mtu` octets. What is in flight and larger counts as lost,
    /// not as congestion.
    pub fn set_path_mtu(&mut self, now: Instant, mtu: u16) {
        let before = self.mss();
        self.path_mtu = mtu;
        let mss = self.mss();
        if mss < before {
            let search = self.search(now, RAISE);
            search.probe = None;
            search.next = search.next.max(now + RAISE);
        }
        if mss >= before || !self.state.is_synchronized() {
            return;
        }
        for index in 0..self.snd.sent.len() {
            let fits = self
                .snd
                .sent
                .get(index)
                .is_none_or(|segment| segment.len <= u32::from(mss));
            if !fits {
                self.snd.mark_lost(index);
            }
        }
        self.congestion.cwnd = self.congestion.cwnd.max(u32::from(mss));
    }

    /// An ICMP error quoted a segment of ours with sequence number `quoted` (RFC 5927 section 4.1:
    /// believed only if that is outstanding).
    pub fn handle_icmp_error(&mut self, now: Instant, error: IcmpError, quoted: SeqNumber) {
        let outstanding = self.snd.outstanding();
        if !quoted.in_window(self.snd.una, outstanding) {
            return;
        }
        match error {
            IcmpError::PacketTooBig { mtu } => self.packet_too_big(now, mtu, quoted),
            IcmpError::Unreachable { hard: true } if self.state == State::SynSent => {
                self.die(Some(ConnectionError::Unreachable));
            }
            // Whatever it is: there was a connection, so it may pass (RFC 5927 section 5.2).
            IcmpError::Unreachable { .. } => self.soft_error = true,
        }
    }

    fn packet_too_big(&mut self, now: Instant, mtu: u16, quoted: SeqNumber) {
        let least = match self.ends.is_ipv4() {
            true => LEAST_V4,
            false => LEAST_V6,
        };
        let mtu = match mtu {
            0 => PLATEAUS
                .into_iter()
                .find(|size| *size < self.path_mtu)
                .unwrap_or(least),
            // RFC 8201 section 4: no IPv6 link carries less.
            _ if mtu < LEAST_V6 && !self.ends.is_ipv4() => return,
            _ => mtu,
        };
        let mtu = mtu.max(least);
        if let Some(search) = &mut self.search
            && let Some((start, size)) = search.probe
            && quoted == start
        {
            // About the probe: only the search learns from it.
            search.high = search.high.min(mtu.max(self.path_mtu)).min(size - 1);
            search.probe = None;
            let index = self.snd.index_of(start);
            self.snd.mark_lost(index);
            return;
        }
        if mtu >= self.path_mtu {
            return;
        }
        let proven = self.snd.largest_acked.saturating_add(self.overhead());
        if proven > mtu && self.attempts == 0 {
            self.search(now, RAISE).claim = Some((quoted, mtu));
        } else {
            self.set_path_mtu(now, mtu);
        }
    }

    /// SND.UNA is `una` now.
    pub(crate) fn search_acknowledged(&mut self, now: Instant, una: SeqNumber) {
        let Some(search) = &mut self.search else {
            return;
        };
        if search.claim.is_some_and(|(seq, _)| una.after(seq)) {
            search.claim = None;
        }
        if let Some((start, size)) = search.probe
            && una.after(start)
        {
            search.probe = None;
            search.next = now;
            self.path_mtu = self.path_mtu.max(size);
            // What was found out meanwhile may have left less than a segment of now, and nothing in flight
            // that would bring more.
            self.congestion.cwnd = self.congestion.cwnd.max(u32::from(self.mss()));
        }
        let highest = self.highest_mtu();
        let Some(search) = &mut self.search else {
            return;
        };
        if self.path_mtu >= highest && search.claim.is_none() {
            self.search = None;
        } else if search.high < self.path_mtu.saturating_add(WORTH) && search.probe.is_none() {
            // Found. The path may change: look again later.
            search.high = highest;
            search.next = now + RAISE;
        }
    }

    /// A retransmission time-out: what ICMP claims is now believed, a probe was too large, and
    /// where large segments vanish there may be a black hole.
    pub(crate) fn search_timed_out(&mut self, now: Instant) {
        if let Some(search) = &mut self.search {
            if let Some((_, size)) = search.probe.take() {
                search.high = size - 1;
                search.next = now + AGAIN;
            }
            if let Some((_, mtu)) = search.claim.take() {
                return self.set_path_mtu(now, mtu);
            }
        }
        let first = self.snd.sent.front().map_or(0, |first| first.len);
        let size = first.min(self.mss().into()) + u32::from(self.overhead());
        let smaller = match self.attempts {
            0..=2 => return,
            3 => BASE,
            _ if self.ends.is_ipv4() => LEAST_V4,
            _ => return,
        };
        // It need not be a full segment, but one that would become smaller.
        if self.options.mtu_probing && size > u32::from(smaller) && smaller < self.path_mtu {
            let high = self.path_mtu;
            self.set_path_mtu(now, smaller);
            let search = self.search(now, AGAIN);
            search.high = search.high.min(high);
            search.next = now + AGAIN;
        }
    }

    /// The payload of the probe that is to leave next, if one is. The congestion window may have to
    /// be waited for.
    pub(crate) fn probe_size(&self, now: Instant, unsent: u64, room: u32) -> Option<u16> {
        let search = self.search.as_ref()?;
        let due = self.options.mtu_probing
            && self.sack
            && search.probe.is_none()
            && search.next <= now
            && self.attempts == 0
            && self.recovery.phase == Phase::Open;
        let high = search.high.min(self.highest_mtu());
        if !due || high < self.path_mtu.saturating_add(WORTH) {
            return None;
        }
        // The upper end first: most often the path carries what the link does. Then by halves.
        let size = match search.high == self.highest_mtu() {
            true => high,
            false => self.path_mtu + (high - self.path_mtu).div_ceil(2),
        };
        let payload = size.checked_sub(self.overhead())?;
        // Enough after it that its loss is noticed by what the peer reports of the rest.
        let needed = u32::from(payload) + 3 * u32::from(self.mss());
        let cwnd = self.congestion.cwnd;
        let enough = unsent >= u64::from(needed) && room >= needed && cwnd >= needed;
        enough.then_some(payload)
    }

    /// Send new octets as a probe with `payload` octets.
    pub(crate) fn send_mtu_probe(&mut self, now: Instant, payload: u16, out: &mut Outgoing) {
        let start = self.snd.nxt;
        let size = payload + self.overhead();
        self.send_new(now, u32::from(payload), false, out);
        out.segment_size = payload;
        out.may_fragment = false;
        self.counters.mtu_probes += 1;
        if let Some(search) = &mut self.search {
            search.probe = Some((start, size));
        }
    }

    /// Whether of `lost` octets newly found lost all were the probe's: that says something of its
    /// size, not of congestion (RFC 4821 section 7.6.2).
    pub(crate) fn is_only_the_probe_lost(&mut self, now: Instant, lost: u32) -> bool {
        let overhead = self.overhead();
        let Some(search) = &mut self.search else {
            return false;
        };
        let Some((start, size)) = search.probe else {
            return false;
        };
        let index = self.snd.index_of(start);
        let gone = self
            .snd
            .sent
            .get(index)
            .is_some_and(|sent| sent.seq == start && sent.marks.has(Marks::LOST));
        if !gone {
            return false;
        }
        search.probe = None;
        if lost == u32::from(size - overhead) && self.recovery.phase == Phase::Open {
            search.high = size - 1;
            search.next = now;
            return true;
        }
        search.next = now + AGAIN;
        false
    }
}
