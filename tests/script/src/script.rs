//! What a script says, parsed.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use godwit_netstack::tcp::TcpConfig;

use crate::wire::Icmp;

/// A parsed script.
#[derive(Clone, Debug)]
pub struct Script {
    /// How it is reported: the path of its file.
    pub name: String,
    /// The lines before the first event.
    pub(crate) header: Header,
    /// Events and assertions, in order; blocks repeated, handshakes written out.
    pub(crate) lines: Vec<Line>,
    /// Whether the handshake is written out by `open` without a role, so that both are run.
    pub(crate) both_roles: bool,
}

/// What is said once for the whole script.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub ipv4: bool,
    pub ipv6: bool,
    pub moves: Moves,
    pub known_failure: Option<String>,
    pub known_failure_moved: Option<String>,
    /// The peer's initial sequence number.
    pub isn: u32,
    pub mtu: u16,
    pub tcp: TcpConfig,
}

/// What must be the same when the connection moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Moves {
    /// Every segment and its time.
    Exact,
    /// Every segment, but not its time nor TSval: the script is about the round-trip estimator,
    /// which must not learn from segments another owner sent.
    Sequence(String),
    /// The script is not run with moves.
    Skip(String),
}

/// A line of a script.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// The line as written, without its comment.
    pub text: String,
    pub when: When,
    /// Which flow it is about.
    pub flow: u16,
    pub action: Action,
}

/// When something happens or must happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// Not said: together with the line before.
    Together,
    /// Since the start of the script.
    At(RangeInclusive<Duration>),
    /// Since the line before.
    After(RangeInclusive<Duration>),
}

/// What a line does or demands.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    In(SegmentSpec),
    Out(SegmentSpec),
    Icmp {
        error: Icmp,
        quote: i64,
    },
    /// SYNs from this many strangers.
    Flood(u32),
    /// Nothing is sent until the line's time.
    Quiet,
    /// What is sent until the line's time is nobody's business.
    Ignore,
    /// Until `duration` is over the peer acknowledges what it gets, `delay` later, every `every`th segment.
    Drain(Drain),
    Listen,
    Accept,
    AcceptNone,
    Connect,
    Send(usize),
    Receive(usize),
    /// The peer's end of stream has been reached.
    ReceiveEnd,
    /// Close our direction.
    Shutdown,
    /// Close our direction and read no more.
    Close,
    Abort,
    Set(Setting),
    Move,
    /// Done only where the run opens passively (`true`) or actively.
    InRole(bool, Box<Action>),
    Check(Vec<Check>),
    Counter(String, Test, u64),
}

/// A while in which the peer gets everything and acknowledges every `every`th segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Drain {
    pub duration: Duration,
    /// From a segment's departure to the arrival of its acknowledgement.
    pub delay: Duration,
    pub every: u32,
    /// Acknowledgements carry ECE.
    pub congestion: bool,
}

/// A socket option set on a live connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Setting {
    Nagle(bool),
    AckDelay(Duration),
    PeerAckDelay(Duration),
    MinRto(Duration),
    Keepalive(Option<(Duration, Duration, u8)>),
    UserTimeout(Option<Duration>),
}

/// A segment as written.
#[derive(Clone, Debug)]
pub(crate) struct SegmentSpec {
    pub flags: u8,
    /// First sequence number and the one after the last octet, relative to the initial one.
    pub seq: i64,
    pub end: i64,
    /// Acknowledgement numbers: more than one make a train.
    pub ack: Option<(i64, i64)>,
    pub window: Option<RangeInclusive<u32>>,
    pub urgent: Option<u16>,
    pub ecn: Option<u8>,
    /// IPv4 without Don't Fragment.
    pub may_fragment: bool,
    pub options: Option<Vec<OptionSpec>>,
    /// Octets per segment of a train.
    pub by: Option<u32>,
    /// A SYN that begins a new connection between the same ends.
    pub new: bool,
    /// What is wrong with the packet, of what arrives.
    pub flaw: Option<Flaw>,
    /// The payload is not what the peer's stream holds at this place.
    pub forged: bool,
    /// The network loses it: the peer does not echo its timestamp.
    pub lost: bool,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    /// The TCP checksum.
    Checksum,
    /// The checksum of the IPv4 header.
    HeaderChecksum,
    /// So many octets at the end of the frame are missing.
    Cut(usize),
    /// The data offset of the TCP header; the checksum is right.
    Offset(u8),
    /// Nothing, but a Fragment header that says it is the whole packet (IPv6).
    Atomic,
    /// Nothing, but options and a route with so many places left lie before the TCP header (IPv6).
    Routed(u8),
    /// The source address.
    From(Martian),
    /// The destination address.
    To(Martian),
}

/// An address that a packet for us has not from where it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Martian {
    Loopback,
    Multicast,
    /// To everybody on the link.
    Broadcast,
    Unspecified,
    /// The address we serve at.
    Us,
    /// Somebody else's.
    Stranger,
}

/// An option as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum OptionSpec {
    /// Whatever options there are.
    Anything,
    Mss(Value),
    WindowScale(Value),
    SackPermitted,
    /// TSval and TSecr; automatic or unchecked where not said.
    Timestamps(Value, Value),
    NoTimestamps,
    Sack(Vec<(i64, i64)>),
    SackAny,
    Raw(Vec<u8>),
}

/// A number that may be left open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Any,
    Is(u32),
    /// What the link gives: the MTU without IP and TCP headers.
    Link,
}

/// `key test wanted`.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub key: String,
    pub test: Test,
    pub wanted: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Test {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// What an assertion compares with.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Wanted {
    Word(String),
    /// Inclusive.
    Number(i64, i64),
    /// In multiples of the connection's segment size.
    Segments(f64),
    /// Inclusive.
    Time(Duration, Duration),
}

/// Why a file is no script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The file.
    pub name: String,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.name, self.line, self.message)
    }
}

impl std::error::Error for ParseError {}
