//! The part of HTTP/1 (RFC 9112) that the node agent and the file service share: reading a
//! request's head from a session's connection, and writing heads of responses.

use alloc::vec::Vec;
use core::fmt;
use core::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use httparse::Status;
use serde::Serialize;

use crate::connection::Connection;
use crate::{Error, Result, Session};

/// Octets of a request line at most (RFC 9112 section 3 recommends 8000).
pub const MAX_REQUEST_LINE: usize = 8 * 1024;
/// Octets of a head at most.
pub const MAX_HEAD: usize = 16 * 1024;
/// Header fields at most.
pub const MAX_FIELDS: usize = 64;

/// How a request's body is delimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// No body.
    None,
    /// So many octets.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// A request's head, checked.
#[derive(Clone, Debug)]
pub struct Head {
    /// The method, as sent.
    pub method: Bytes,
    /// The path: what is left of the target without scheme, authority and query.
    pub path: Bytes,
    /// The query, without its question mark.
    pub query: Option<Bytes>,
    /// Whether the client wants the connection kept.
    pub keep_alive: bool,
    /// The body that follows.
    pub body: Body,
    /// `Authorization`.
    pub authorization: Option<Bytes>,
    /// `Range`.
    pub range: Option<Bytes>,
    /// `If-Range`.
    pub if_range: Option<Bytes>,
    /// `If-None-Match`.
    pub if_none_match: Option<Bytes>,
}

/// Why a head cannot be answered as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HeadError {
    /// Not HTTP, or not sound: 400.
    Malformed(&'static str),
    /// The request line is longer than [`MAX_REQUEST_LINE`]: 414.
    TargetTooLong,
    /// The head exceeds [`MAX_HEAD`] or [`MAX_FIELDS`]: 431.
    TooLarge,
    /// A transfer coding other than chunked: 501.
    UnknownCoding,
    /// Not HTTP/1: 505.
    Version,
    /// The connection failed; there is nobody to answer.
    Session(Error),
}

impl HeadError {
    /// The status to answer with; `None` if there is nobody to answer.
    pub fn status(&self) -> Option<StatusCode> {
        Some(match self {
            HeadError::Malformed(_) => StatusCode(400),
            HeadError::TargetTooLong => StatusCode(414),
            HeadError::TooLarge => StatusCode(431),
            HeadError::UnknownCoding => StatusCode(501),
            HeadError::Version => StatusCode(505),
            HeadError::Session(_) => return None,
        })
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadError::Malformed(what) => f.write_str(what),
            HeadError::TargetTooLong => f.write_str("request line too long"),
            HeadError::TooLarge => f.write_str("request head too large"),
            HeadError::UnknownCoding => f.write_str("unknown transfer coding"),
            HeadError::Version => f.write_str("only HTTP/1.0 and HTTP/1.1 are spoken here"),
            HeadError::Session(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for HeadError {}

impl From<Error> for HeadError {
    fn from(error: Error) -> HeadError {
        HeadError::Session(error)
    }
}

/// A status code (RFC 9110 section 15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusCode(pub u16);

impl StatusCode {
    /// The phrase that goes with the code.
    pub fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            202 => "Accepted",
            206 => "Partial Content",
            304 => "Not Modified",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            411 => "Length Required",
            413 => "Content Too Large",
            414 => "URI Too Long",
            416 => "Range Not Satisfiable",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            _ => "Status",
        }
    }
}

/// Read the next request's head, consuming exactly its octets; `None` if input ends before it
/// begins. What follows it (a body, a pipelined request) stays unread.
pub async fn read_head(client: &mut Connection) -> core::result::Result<Option<Head>, HeadError> {
    let first = client.peek().await?;
    read_head_behind(client, first).await
}

/// The same, where `first` is what [`Connection::peek`] has just shown.
pub async fn read_head_behind(
    client: &mut Connection,
    first: Bytes,
) -> core::result::Result<Option<Head>, HeadError> {
    let mut first = Some(first);
    // What earlier slices held of a head that no single slice holds.
    let mut earlier = BytesMut::new();
    loop {
        let chunk = match first.take() {
            Some(chunk) => chunk,
            None => client.peek().await?,
        };
        if chunk.is_empty() {
            return match blank(&earlier) {
                true => Ok(None),
                false => Err(HeadError::Malformed("input ends within the head")),
            };
        }
        let before = earlier.len();
        let joined;
        let (head, line_ends) = if before == 0 {
            (&chunk, true)
        } else {
            earlier.extend_from_slice(&chunk);
            joined = earlier.clone().freeze();
            // It can only have become complete with the end of a line.
            (&joined, chunk.contains(&b'\n'))
        };
        if line_ends && let Some((octets, head)) = parse(head)? {
            client.consume_input(octets.saturating_sub(before))?;
            return Ok(Some(head));
        }
        check_size(head)?;
        client.consume_input(chunk.len())?;
        if before == 0 {
            earlier.extend_from_slice(&chunk);
        }
    }
}

/// Nothing but the empty lines a client may send before a request.
fn blank(octets: &[u8]) -> bool {
    octets.iter().all(|octet| is_blank(*octet))
}

fn is_blank(octet: u8) -> bool {
    matches!(octet, b'\r' | b'\n')
}

/// Whether an incomplete head may still grow.
fn check_size(head: &[u8]) -> core::result::Result<(), HeadError> {
    let line = head.iter().position(|octet| *octet == b'\n');
    if line.unwrap_or(head.len()) > MAX_REQUEST_LINE {
        return Err(HeadError::TargetTooLong);
    }
    if head.len() >= MAX_HEAD {
        return Err(HeadError::TooLarge);
    }
    Ok(())
}

/// A head at the start of `input` and its length; `None` while it is not complete.
fn parse(input: &Bytes) -> core::result::Result<Option<(usize, Head)>, HeadError> {
    // What is wrong with the first line shows only once there is all of it.
    let begins = input.iter().position(|octet| !is_blank(*octet));
    let first = begins.and_then(|at| input.get(at..)).unwrap_or_default();
    if !first.contains(&b'\n') {
        return Ok(None);
    }
    // Not initialised: that would be more work than most heads are.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let octets = match request.parse_with_uninit_headers(input, &mut fields) {
        Ok(Status::Complete(octets)) => octets,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::Version) if names_a_version(input) => return Err(HeadError::Version),
        Err(_) => return Err(HeadError::Malformed("not an HTTP request")),
    };
    // A short head has no line that is too long.
    if octets > MAX_REQUEST_LINE {
        match check_size(input.get(..octets.min(MAX_HEAD)).unwrap_or_default()) {
            // Complete and of exactly the largest size is fine.
            Err(HeadError::TooLarge) if octets <= MAX_HEAD => {}
            Ok(()) if octets <= MAX_HEAD => {}
            Ok(()) => return Err(HeadError::TooLarge),
            Err(error) => return Err(error),
        }
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(HeadError::Malformed("not an HTTP request"));
    };
    let share = |part: &[u8]| input.slice_ref(part);
    let (path, query) = split_target(target)?;
    let is_1_1 = request.version == Some(1);
    let mut head = Head {
        method: match method {
            "GET" => Bytes::from_static(b"GET"), // which need not be counted
            other => share(other.as_bytes()),
        },
        path: share(path.as_bytes()),
        query: query.map(|query| share(query.as_bytes())),
        keep_alive: is_1_1,
        body: Body::None,
        authorization: None,
        range: None,
        if_range: None,
        if_none_match: None,
    };
    let mut hosts = 0;
    let mut length = None;
    let mut chunked = false;
    for field in request.headers.iter() {
        let name = field.name;
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            hosts += 1;
        } else if is("connection") {
            keep_alive(&mut head.keep_alive, field.value);
        } else if is("content-length") {
            let value = content_length(field.value)?;
            if length.is_some_and(|earlier| earlier != value) {
                return Err(HeadError::Malformed("contradicting Content-Length"));
            }
            length = Some(value);
        } else if is("transfer-encoding") {
            if !field.value.eq_ignore_ascii_case(b"chunked") || chunked {
                return Err(HeadError::UnknownCoding);
            }
            chunked = true;
        } else if is("authorization") {
            head.authorization = Some(share(field.value));
        } else if is("range") {
            head.range = Some(share(field.value));
        } else if is("if-range") {
            head.if_range = Some(share(field.value));
        } else if is("if-none-match") {
            head.if_none_match = Some(share(field.value));
        }
    }
    if hosts > 1 || (is_1_1 && hosts == 0) {
        return Err(HeadError::Malformed("exactly one Host is needed"));
    }
    head.body = match (length, chunked) {
        // Two ideas of where the body ends are how requests are smuggled.
        (Some(_), true) => return Err(HeadError::Malformed("two body lengths")),
        (None, true) => Body::Chunked,
        (None | Some(0), false) => Body::None,
        (Some(octets), false) => Body::Length(octets),
    };
    Ok(Some((octets, head)))
}

/// Whether the first line ends in `HTTP/` and a digit, so that only the version is at fault.
fn names_a_version(input: &[u8]) -> bool {
    let text = input.trim_ascii_start();
    let line = text.split(|octet| *octet == b'\n').next();
    let word = line.and_then(|line| line.trim_ascii_end().rsplit(|o| *o == b' ').next());
    word.and_then(|word| word.strip_prefix(b"HTTP/"))
        .and_then(<[u8]>::first)
        .is_some_and(u8::is_ascii_digit)
}

/// Path and query of a target in origin or absolute form.
fn split_target(target: &str) -> core::result::Result<(&str, Option<&str>), HeadError> {
    let local = if target.starts_with('/') || target == "*" {
        target
    } else {
        let authority = match target.split_once("://") {
            Some(("http" | "https", rest)) => rest,
            _ => return Err(HeadError::Malformed("target is neither a path nor a URL")),
        };
        let end = authority.find(['/', '?']).unwrap_or(authority.len());
        authority.get(end..).unwrap_or_default()
    };
    let local = local.split('#').next().unwrap_or(local);
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    // `http://host` and `http://host?q` mean its root. The slice must lie in the target, or be
    // empty, so an empty path is for the reader to take as `/`.
    Ok((path, query))
}

fn keep_alive(keep: &mut bool, value: &[u8]) {
    for option in value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii) {
        if option.eq_ignore_ascii_case(b"close") {
            *keep = false;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            *keep = true;
        }
    }
}

fn content_length(value: &[u8]) -> core::result::Result<u64, HeadError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = core::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok())
        .ok_or(HeadError::Malformed("unsound Content-Length"))
}

/// What can be a field's value. Written without [`core::fmt`], which costs ten times as much: there
/// is a head in every answer.
pub trait FieldValue {
    /// Append it.
    fn put(&self, text: &mut Vec<u8>);
}

impl FieldValue for &str {
    #[inline]
    fn put(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.as_bytes());
    }
}

impl FieldValue for Vec<u8> {
    #[inline]
    fn put(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self);
    }
}

impl FieldValue for u64 {
    #[inline]
    fn put(&self, text: &mut Vec<u8>) {
        put_number(*self, text);
    }
}

impl FieldValue for usize {
    #[inline]
    fn put(&self, text: &mut Vec<u8>) {
        put_number(*self as u64, text);
    }
}

impl FieldValue for fmt::Arguments<'_> {
    #[inline]
    fn put(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(alloc::fmt::format(*self).as_bytes());
    }
}

/// Append a number in decimal digits.
#[inline]
pub fn put_number(mut number: u64, text: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        from -= 1;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// The head of a response, being written. Inlined, for services that are built for speed: it is a
/// dozen short copies otherwise.
pub struct ResponseHead {
    text: Vec<u8>,
}

impl ResponseHead {
    /// Begin with the status line.
    #[inline]
    pub fn new(status: StatusCode) -> ResponseHead {
        let mut head = ResponseHead {
            text: Vec::with_capacity(256),
        };
        if status == StatusCode(200) {
            return head.put("HTTP/1.1 200 OK\r\n");
        }
        head = head.put("HTTP/1.1 ");
        put_number(status.0.into(), &mut head.text);
        head.put(" ").put(status.reason()).put("\r\n")
    }

    #[inline]
    fn put(mut self, text: &str) -> ResponseHead {
        self.text.extend_from_slice(text.as_bytes());
        self
    }

    /// Add a field.
    #[inline]
    pub fn field(self, name: &str, value: impl FieldValue) -> ResponseHead {
        let mut head = self.put(name).put(": ");
        value.put(&mut head.text);
        head.put("\r\n")
    }

    /// Say whether the connection is kept, and end the head.
    #[inline]
    pub fn end(self, keep_alive: bool) -> Bytes {
        let last = match keep_alive {
            true => "\r\n",
            false => "Connection: close\r\n\r\n",
        };
        Bytes::from(self.put(last).text)
    }
}

/// Write all of `data`, committing whenever that is needed on the way.
///
/// For services that never move, or whose state says how to go on after any part of `data`.
pub async fn send_all<S: Serialize>(
    session: &mut Session<S>,
    client: &mut Connection,
    mut data: Bytes,
) -> Result<()> {
    while !data.is_empty() {
        let room = client.write_room()?.min(data.len());
        if room == 0 {
            session.commit().await?;
            continue;
        }
        client.write_bytes(data.split_to(room))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn head(text: &str) -> core::result::Result<Option<(usize, Head)>, HeadError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn complete(text: &str) -> Head {
        let (octets, head) = head(text).unwrap().unwrap();
        assert_eq!(octets, text.len());
        head
    }

    fn refused(text: &str) -> u16 {
        head(text).unwrap_err().status().unwrap().0
    }

    /// Answers each head's path, one a line; errors by their status.
    struct Paths;

    impl crate::Service for Paths {
        type State = ();
        const NAME: &'static str = "paths";
        const PORT: u16 = 1;

        async fn serve(&self, session: &mut Session<()>) -> Result<()> {
            let mut client = session.client();
            loop {
                let line = match read_head(&mut client).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(head)) => head.path.to_vec(),
                    Err(HeadError::Session(error)) => return Err(error),
                    Err(error) => {
                        let status = error.status().map(|status| status.0);
                        client.write_bytes(std::format!("{status:?}").into())?;
                        return Ok(());
                    }
                };
                client.write_bytes([&line[..], b"\n"].concat().into())?;
                session.commit().await?;
            }
        }
    }

    #[test]
    fn heads_are_read_however_they_are_sliced() {
        let requests = b"\r\nGET /one HTTP/1.1\r\nHost: x\r\n\r\n\
                         GET /two HTTP/1.1\nHost: x\n\n\r\n\
                         GET /three HTTP/1.0\r\n\r\n";
        for slice in 1..requests.len() {
            let mut harness = crate::testing::Harness::new(Paths);
            harness.slice_input(slice);
            harness.client_sends(requests);
            harness.client_closes();
            harness.run();
            assert_eq!(
                harness.received(),
                b"/one\n/two\n/three\n",
                "slices of {slice}"
            );
        }
    }

    #[test]
    fn a_move_within_a_head_loses_none_of_it() {
        let request = b"GET /one HTTP/1.1\r\nHost: x\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\n\r\n";
        for cut in 0..request.len() {
            let mut harness = crate::testing::Harness::new(Paths);
            harness.client_sends(&request[..cut]);
            harness.run();
            harness.move_session();
            harness.client_sends(&request[cut..]);
            harness.run();
            assert_eq!(harness.received(), b"/one\n/two\n", "moved after {cut}");
        }
    }

    #[test]
    fn a_head_that_never_ends_is_refused_not_buffered() {
        for (text, status) in [
            ("a".repeat(MAX_HEAD), "Some(414)"),
            (
                "GET / HTTP/1.1\r\na: ".to_string() + &"b".repeat(2 * MAX_HEAD),
                "Some(431)",
            ),
            ("\r\n".repeat(MAX_HEAD), "Some(431)"),
        ] {
            let mut harness = crate::testing::Harness::new(Paths);
            harness.slice_input(1000);
            harness.client_sends(text.as_bytes());
            harness.run();
            assert_eq!(harness.received(), status.as_bytes());
        }
    }

    #[test]
    fn input_that_ends_within_a_head_is_malformed() {
        let mut harness = crate::testing::Harness::new(Paths);
        harness.client_sends(b"GET / HT");
        harness.client_closes();
        harness.run();
        assert_eq!(harness.received(), b"Some(400)");
    }

    #[test]
    fn a_plain_request_is_read() {
        let head = complete("GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nRange: bytes=1-\r\n\r\n");
        assert_eq!(head.method, "GET");
        assert_eq!(head.path, "/a%20b");
        assert_eq!(head.query.unwrap(), "c=d");
        assert_eq!(head.range.unwrap(), "bytes=1-");
        assert!(head.keep_alive);
        assert_eq!(head.body, Body::None);
    }

    #[test]
    fn absolute_targets_lose_their_authority() {
        assert_eq!(
            complete("GET http://h:80/p?q HTTP/1.1\r\nHost: h\r\n\r\n").path,
            "/p"
        );
        assert_eq!(
            complete("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").path,
            ""
        );
        assert_eq!(
            complete("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n").path,
            ""
        );
        assert_eq!(refused("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(refused("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
    }

    #[test]
    fn the_connection_is_kept_as_the_version_and_the_field_say() {
        let kept = |text: &str| complete(text).keep_alive;
        assert!(kept("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!kept(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n"
        ));
        assert!(!kept("GET / HTTP/1.0\r\n\r\n"));
        assert!(kept("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn bodies_have_one_length_or_the_request_is_refused() {
        let post = |fields: &str| std::format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        assert_eq!(
            complete(&post("Content-Length: 7\r\n")).body,
            Body::Length(7)
        );
        assert_eq!(complete(&post("Content-Length: 0\r\n")).body, Body::None);
        assert_eq!(
            complete(&post("Transfer-Encoding: Chunked\r\n")).body,
            Body::Chunked
        );
        assert_eq!(
            refused(&post("Content-Length: 7\r\nContent-Length: 8\r\n")),
            400
        );
        assert_eq!(refused(&post("Content-Length: +7\r\n")), 400);
        assert_eq!(
            refused(&post("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n")),
            400
        );
        assert_eq!(
            refused(&post("Content-Length: 99999999999999999999\r\n")),
            400
        );
        assert_eq!(refused(&post("Transfer-Encoding: gzip, chunked\r\n")), 501);
    }

    #[test]
    fn what_is_not_http_1_is_told_apart() {
        assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
        assert_eq!(refused("GET / HTTP/1.2\r\nHost: x\r\n\r\n"), 505);
        assert_eq!(refused("GET / HTTX/1.1\r\nHost: x\r\n\r\n"), 400);
        assert_eq!(refused("GET /\r\n\r\n"), 400);
        assert_eq!(refused("\x16\x03\x01\x02\x00\x01\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost : x\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400, "no Host");
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
    }

    #[test]
    fn sizes_are_bounded() {
        let line = std::format!(
            "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n",
            "a".repeat(MAX_REQUEST_LINE)
        );
        assert_eq!(refused(&line), 414);
        let fields = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(
            refused(&std::format!("GET / HTTP/1.1\r\n{fields}\r\n")),
            431
        );
        let field = "b".repeat(MAX_HEAD);
        assert_eq!(
            refused(&std::format!(
                "GET / HTTP/1.1\r\nHost: x\r\na: {field}\r\n\r\n"
            )),
            431
        );
        assert_eq!(
            check_size(&[b'a'; MAX_REQUEST_LINE + 1]),
            Err(HeadError::TargetTooLong)
        );
        assert_eq!(check_size(&[b'a'; MAX_REQUEST_LINE]), Ok(()));
    }

    #[test]
    fn a_head_of_exactly_the_largest_size_is_read() {
        let fixed = "GET / HTTP/1.1\r\nHost: x\r\na: \r\n\r\n".len();
        let fill = "b".repeat(MAX_HEAD - fixed);
        complete(&std::format!(
            "GET / HTTP/1.1\r\nHost: x\r\na: {fill}\r\n\r\n"
        ));
    }

    #[test]
    fn a_first_line_is_judged_as_a_whole() {
        let octets = "\r\nGET http://h/GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for slice in 1..=octets.len() {
            let mut harness = crate::testing::Harness::new(Paths);
            harness.slice_input(slice);
            harness.client_sends(octets.as_bytes());
            harness.client_closes();
            harness.run();
            assert_eq!(harness.received(), b"Some(505)", "{slice} octets at a time");
        }
    }

    proptest::proptest! {
        /// Strangers send anything, in any slices: the outcome depends on the octets alone.
        #[test]
        fn any_octets_mean_the_same_however_they_are_sliced(
            parts in proptest::collection::vec(
                proptest::sample::select(std::vec![
                    "GET ", "/", "a?b", "http://h/", " HTTP/1.1", " HTTP/1.0", " HTTP/9.9", "\r\n",
                    "\n", "\r", "Host: x", "Host:", "Content-Length: 1", "Connection: close",
                    "Transfer-Encoding: chunked", ": ", "\0", "\u{fc}", "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                ]),
                0..24,
            ),
            slice in 1..40_usize,
        ) {
            let octets = parts.concat();
            let outcome = |slice| {
                let mut harness = crate::testing::Harness::new(Paths);
                harness.slice_input(slice);
                harness.client_sends(octets.as_bytes());
                harness.client_closes();
                harness.run();
                harness.received()
            };
            proptest::prop_assert_eq!(outcome(slice), outcome(usize::MAX));
        }
    }
}
