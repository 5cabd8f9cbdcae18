//! What goes over the control connection: a cookie that names the test, messages of one octet, and
//! JSON texts with a 32-bit big-endian length before them.

use alloc::vec::Vec;

use godwit::{Bytes, Duration};
use serde::{Deserialize, Serialize};

/// Octets of a cookie: text and its final zero.
pub const COOKIE: usize = 37;
/// What each connection of a test begins with.
pub type Cookie = [u8; COOKIE];
/// Octets of a JSON text at most.
pub const MAX_JSON: usize = 64 * 1024;
/// Streams of a test at most, as with iperf3.
const MAX_STREAMS: usize = 128;

/// The messages, as far as they are used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Message {
    /// The test begins.
    TestStart = 1,
    /// Data may flow.
    TestRunning = 2,
    /// The client has what it wanted.
    TestEnd = 4,
    /// Say what is to be measured.
    ParamExchange = 9,
    /// Open the streams.
    CreateStreams = 10,
    /// Say what you have measured.
    ExchangeResults = 13,
    /// That was it.
    DisplayResults = 14,
    /// Another test is under way.
    AccessDenied = 0xff,
}

/// What is to be measured, as far as it matters to the server.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(default)]
pub struct Params {
    udp: bool,
    sctp: bool,
    bidirectional: bool,
    /// The server sends.
    pub reverse: bool,
    parallel: usize,
    time: u64,
    omit: u64,
}

impl Params {
    /// Read them; `None` if they are no such thing, or ask for what is not served.
    pub fn read(json: &[u8]) -> Option<Params> {
        let params: Params = serde_json::from_slice(json).ok()?;
        let served = !params.udp && !params.sctp && !params.bidirectional;
        (served && params.parallel <= MAX_STREAMS).then_some(params)
    }

    /// Streams the client will open.
    pub fn streams(&self) -> usize {
        self.parallel.max(1)
    }

    /// How long the test will take; 0 if that is not known.
    pub fn seconds(&self) -> u64 {
        match self.time {
            0 => 0,
            time => time.saturating_add(self.omit).min(86_400),
        }
    }
}

/// A server's results. What is not measured here is zero; -1: there is no such figure.
#[derive(Serialize)]
struct Results {
    cpu_util_total: f64,
    cpu_util_user: f64,
    cpu_util_system: f64,
    sender_has_retransmits: i32,
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    id: usize,
    bytes: u64,
    retransmits: i32,
    jitter: f64,
    errors: u32,
    packets: u32,
    start_time: f64,
    end_time: f64,
}

/// The results of streams that carried so many octets in `elapsed`.
pub fn results(octets: &[u64], elapsed: Duration) -> Bytes {
    let stream = |(index, bytes): (usize, &u64)| Stream {
        // The first is 1, the second 3, and so on by one: iperf3 knows its streams by that.
        id: if index == 0 { 1 } else { index + 2 },
        bytes: *bytes,
        retransmits: -1,
        jitter: 0.0,
        errors: 0,
        packets: 0,
        start_time: 0.0,
        end_time: elapsed.as_secs_f64(),
    };
    let results = Results {
        cpu_util_total: 0.0,
        cpu_util_user: 0.0,
        cpu_util_system: 0.0,
        sender_has_retransmits: -1,
        streams: octets.iter().enumerate().map(stream).collect(),
    };
    // Numbers and fixed names: there is nothing that could not be written.
    serde_json::to_vec(&results).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_others_skipped() {
        let json = br#"{"tcp":true,"omit":1,"time":10,"parallel":4,"reverse":true,"len":131072,
            "client_version":"3.12"}"#;
        let params = Params::read(json).unwrap();
        assert_eq!((params.streams(), params.seconds()), (4, 11));
        assert!(params.reverse);
        assert!(Params::read(br#"{"tcp":true,"parallel":129}"#).is_none());
        assert!(Params::read(br#"{"parallel":-1}"#).is_none());
    }

    #[test]
    fn streams_are_numbered_as_the_client_numbers_them() {
        let json: serde_json::Value =
            serde_json::from_slice(&results(&[5, 6, 7], Duration::from_secs(2))).unwrap();
        let streams = json["streams"].as_array().unwrap();
        let ids: Vec<_> = streams.iter().map(|s| s["id"].as_u64().unwrap()).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert_eq!(streams[2]["bytes"], 7);
        assert_eq!(streams[0]["end_time"], 2.0);
    }
}
