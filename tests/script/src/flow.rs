//! One flow between the stack under test and the peer that a script plays: how relative numbers
//! become real ones and back.

use std::net::SocketAddr;

use godwit_netstack::stack::ConnId;
use godwit_netstack::tcp::{Connection, ConnectionError, Info};

use crate::wire::{ACK, Segment, TcpOption};

/// A connection as last seen.
#[derive(Clone, Debug)]
pub struct View {
    pub info: Info,
    pub error: Option<ConnectionError>,
    pub readable: usize,
    pub queued: usize,
    pub send_room: usize,
    pub finished: bool,
}

impl View {
    pub fn of(connection: &Connection, send_room: usize) -> View {
        View {
            info: connection.info(),
            error: connection.error(),
            readable: connection.receive_available(),
            queued: connection.send_queued(),
            send_room,
            finished: connection.receive_at_end(),
        }
    }
}

/// The peer's half of the bookkeeping.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its initial sequence number.
    pub isn: u32,
    /// The window field it last said.
    pub window: u16,
    /// Whether its SYN carried timestamps.
    pub timestamps: bool,
    /// TS.Recent (RFC 7323 section 4.3).
    pub recent: u32,
    /// Last.ACK.sent, relative to our ISN.
    pub acked: i64,
    /// RCV.NXT, relative to our ISN, and what arrived beyond it.
    pub next: i64,
    pub beyond: Vec<(i64, i64)>,
}

/// A flow.
#[derive(Debug)]
pub struct Flow {
    /// The server's end; known from the start for passive opens.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Index of the stack that has it.
    pub owner: usize,
    pub conn: Option<ConnId>,
    /// The stack said that a handshake completed, and the script accepted.
    pub reported: bool,
    pub accepted: bool,
    pub gone: bool,
    pub view: Option<View>,
    /// Our initial sequence number, once seen.
    pub isn: Option<u32>,
    /// Whether it lies beyond every number of the connection before between the same ends.
    pub isn_ahead: Option<bool>,
    /// SND.NXT of the connection before, where we open another one.
    pub nxt_before: Option<u32>,
    /// How far our initial number is from that of flow 1.
    pub isn_apart: Option<u32>,
    /// Our TSval at the start of the script, as far as milliseconds go.
    pub stamp_base: Option<u32>,
    /// Whether our SYN carried timestamps.
    pub timestamps: bool,
    pub peer: Peer,
    /// The MSS the link gives: its MTU without IP and TCP headers.
    pub link_mss: u16,
    /// Octets the application sent and read so far.
    pub sent: u64,
    pub read: u64,
}

/// The octet at `offset` of a stream: what both sides send is known from its place.
pub fn octet(stream: u8, offset: i64) -> u8 {
    ((offset as u64 ^ u64::from(stream) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The stream the stack under test sends, the peer's, and one that is neither.
pub const OURS: u8 = 1;
pub const THEIRS: u8 = 2;
pub const FORGED: u8 = 3;

/// Octets of a stream from `from` on.
pub fn octets(stream: u8, from: i64, len: usize) -> Vec<u8> {
    (from..from + len as i64)
        .map(|at| octet(stream, at))
        .collect()
}

impl Flow {
    pub fn new(local: SocketAddr, remote: SocketAddr, isn: u32, link_mss: u16) -> Flow {
        Flow {
            local,
            remote,
            owner: 0,
            conn: None,
            reported: false,
            accepted: false,
            gone: false,
            view: None,
            isn: None,
            isn_ahead: None,
            isn_apart: None,
            nxt_before: None,
            stamp_base: None,
            timestamps: false,
            peer: Peer {
                isn,
                window: 65_535,
                ..Peer::default()
            },
            link_mss,
            sent: 0,
            read: 0,
        }
    }

    /// One of our sequence numbers on the wire.
    pub fn ours_raw(&self, relative: i64) -> u32 {
        self.isn.unwrap_or(0).wrapping_add(relative as u32)
    }

    /// One of the peer's.
    pub fn theirs_raw(&self, relative: i64) -> u32 {
        self.peer.isn.wrapping_add(relative as u32)
    }

    /// The other way round, to the nearest relative number.
    pub fn ours_relative(&self, raw: u32) -> i64 {
        i64::from(raw.wrapping_sub(self.isn.unwrap_or(0)) as i32)
    }

    pub fn theirs_relative(&self, raw: u32) -> i64 {
        i64::from(raw.wrapping_sub(self.peer.isn) as i32)
    }

    /// Our TSval, in milliseconds of the script.
    pub fn stamp_relative(&self, value: u32) -> u32 {
        value.wrapping_sub(self.stamp_base.unwrap_or(0))
    }

    pub fn stamp_raw(&self, relative: u32) -> u32 {
        relative.wrapping_add(self.stamp_base.unwrap_or(0))
    }

    /// The peer got a segment of ours: what it will echo.
    pub fn deliver(&mut self, segment: &Segment) {
        let start = self.ours_relative(segment.seq);
        let end = start + i64::from(segment.len());
        if end > start {
            self.peer.beyond.push((start, end));
            self.peer.beyond.sort_unstable();
            for (start, end) in self.peer.beyond.iter().copied() {
                if start <= self.peer.next {
                    self.peer.next = self.peer.next.max(end);
                }
            }
            let next = self.peer.next;
            self.peer.beyond.retain(|(_, end)| *end > next);
        }
        if let Some((value, _)) = segment.timestamps() {
            let seq = self.ours_relative(segment.seq);
            let newer = value.wrapping_sub(self.peer.recent) as i32 >= 0;
            if seq <= self.peer.acked && newer || self.peer.recent == 0 {
                self.peer.recent = value;
            }
        }
    }

    /// Whether timestamps are in use.
    pub fn uses_timestamps(&self) -> bool {
        self.timestamps && self.peer.timestamps
    }

    /// A segment in the words of a script. `incoming`: from the peer. Without `stamps` our TSval and its echo are left out.
    pub fn describe(&self, segment: &Segment, incoming: bool, stamps: bool) -> String {
        let (seq, ack) = match incoming {
            true => (
                self.theirs_relative(segment.seq),
                self.ours_relative(segment.ack),
            ),
            false => (
                self.ours_relative(segment.seq),
                self.theirs_relative(segment.ack),
            ),
        };
        let mut text = format!("{} {seq}", crate::wire::flags_text(segment.flags));
        if !segment.payload.is_empty() {
            text += &format!(":{}", seq + segment.payload.len() as i64);
        }
        if segment.flags & ACK != 0 {
            text += &format!(" ack {ack}");
        }
        text += &format!(" win {}", segment.window);
        if segment.urgent != 0 {
            text += &format!(" urg {}", segment.urgent);
        }
        text += ["", " ect1", " ect0", " ce"][usize::from(segment.ecn & 3)];
        if segment.may_fragment {
            text += " may-fragment";
        }
        let acknowledges = segment.flags & ACK != 0;
        let options: Vec<String> = segment
            .options
            .iter()
            .filter_map(|option| self.describe_option(option, incoming, stamps, acknowledges))
            .collect();
        if !options.is_empty() {
            text += &format!(" <{}>", options.join(", "));
        }
        text
    }

    fn describe_option(
        &self,
        option: &TcpOption,
        incoming: bool,
        stamps: bool,
        acknowledges: bool,
    ) -> Option<String> {
        Some(match option {
            TcpOption::Mss(mss) => format!("mss {mss}"),
            TcpOption::WindowScale(shift) => format!("wscale {shift}"),
            TcpOption::SackPermitted => "sack-ok".to_owned(),
            TcpOption::Timestamps(..) if !stamps => "ts".to_owned(),
            TcpOption::Timestamps(value, echo) if incoming && acknowledges => {
                format!("ts {value} {}", self.stamp_relative(*echo))
            }
            TcpOption::Timestamps(value, echo) if incoming => format!("ts {value} {echo}"),
            TcpOption::Timestamps(value, echo) => {
                format!("ts {} {echo}", self.stamp_relative(*value))
            }
            TcpOption::Sack(ranges) => {
                let ranges: Vec<String> = ranges
                    .iter()
                    .map(|(start, end)| match incoming {
                        true => (self.ours_relative(*start), self.ours_relative(*end)),
                        false => (self.theirs_relative(*start), self.theirs_relative(*end)),
                    })
                    .map(|(start, end)| format!("{start}:{end}"))
                    .collect();
                format!("sack {}", ranges.join(" "))
            }
            TcpOption::Raw(octets) => format!("hex {}", crate::wire::hex(octets)),
        })
    }
}
