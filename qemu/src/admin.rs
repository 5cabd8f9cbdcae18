//! A client for the instances' admin port: JSON over HTTP/1.1 with a bearer token.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::net::{Network, Stream};

/// Where instances listen for their operator.
pub const PORT: u16 = 9100;

/// An answer takes a round trip and a little work; losses may add retransmissions.
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger than any answer's head.
const LARGEST_HEAD: usize = 4096;
/// Larger than any status with all sessions of a machine.
const LARGEST_ANSWER: u64 = 64 << 20;

/// What an instance says of itself. Fields that this version does not know are ignored.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Status {
    /// The instance's id.
    pub id: u32,
    /// Another one after each start.
    pub boot_id: String,
    /// `serving`, `draining` or `drained`.
    pub state: String,
    /// It answers for the virtual IP.
    pub ingress: bool,
    /// The ingress role as it sees it.
    pub role: Role,
    /// The service's name.
    pub service: String,
    /// Version of the session states it commits.
    pub state_version: u32,
    /// The oldest version it reads.
    pub oldest_state: u32,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// Its network cards, the service network's first.
    pub nics: Vec<Nic>,
    /// The other instances it knows.
    pub members: Vec<Member>,
    /// How many sessions it owns.
    pub session_count: u64,
    /// The sessions it owns; of many the first.
    pub sessions: Vec<Session>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// The last moves away from it.
    pub moves: Vec<Move>,
}

/// A network card.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Nic {
    /// `service` or `instance`.
    pub network: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Largest IP packet, in octets.
    pub mtu: u16,
    /// `up`, `down` or `failed`.
    pub link: String,
    /// Why it is out of service for good, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The ingress role.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Role {
    /// Who has it, if that is known.
    pub ingress: Option<u32>,
    /// The term, or the highest heard of.
    pub term: u64,
    /// How long the instance may act yet, if it is the ingress and has peers.
    pub lease_ms: Option<u64>,
    /// Who votes; nobody without peers.
    pub voters: Vec<Voter>,
}

/// A member's vote.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Voter {
    /// Its id.
    pub id: u32,
    /// It never has the role itself.
    pub witness: bool,
    /// For how long yet its last vote for the instance counts.
    pub granted_ms: Option<u64>,
}

/// Another instance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Member {
    /// Its id.
    pub id: u32,
    /// Its own address.
    pub ip: IpAddr,
    /// It has been heard of lately.
    #[serde(default)]
    pub up: bool,
}

/// So many sessions, in words.
pub fn count_sessions(count: u64) -> String {
    format!(
        "{count} {}",
        if count == 1 { "session" } else { "sessions" }
    )
}

/// A session.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Session {
    /// Its name, the same wherever it lives.
    pub id: String,
    /// The count of its owners.
    pub epoch: u64,
    /// `live` or `frozen`.
    pub phase: String,
    /// Its connections.
    pub connections: Vec<Connection>,
}

/// A TCP connection of a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Connection {
    /// The service's end.
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
    /// The state's name in RFC 9293.
    #[serde(default)]
    pub state: String,
    /// Everything else.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A finished move, as its source saw it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Move {
    /// The session.
    pub session: String,
    /// The instance it went to.
    pub to: u32,
    /// Its epoch after the move.
    pub epoch: u64,
    /// `accepted`, or `refused:` and a reason.
    pub result: String,
    /// Size of the capsule.
    pub capsule_bytes: u64,
    /// Letting the queues run empty before the freeze.
    pub lull_us: f64,
    /// Freezing and encoding.
    pub export_us: f64,
    /// Encryption.
    pub seal_us: f64,
    /// From the first byte sent to the answer, without the target's work.
    pub link_us: f64,
    /// Decryption at the target.
    pub open_us: f64,
    /// Decoding and taking over at the target.
    pub import_us: f64,
    /// From the freeze to the answer.
    pub total_us: f64,
}

/// How a drain goes, or went.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DrainReport {
    /// The instance's id.
    pub id: u32,
    /// `serving`, `draining` or `drained`.
    pub state: String,
    /// It was called off at its deadline.
    pub cancelled: bool,
    /// Sessions of its service that are here.
    pub sessions: u64,
    /// Nothing if there was none.
    pub drain: Option<Drain>,
}

/// A drain.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Drain {
    /// Milliseconds since it was asked for.
    pub since_ms: u64,
    /// How long it may take.
    pub deadline_ms: u64,
    /// The deadline has passed before everything was done.
    pub overdue: bool,
    /// What it waits for.
    pub waits_for: String,
    /// Sessions that have moved.
    pub moved: u64,
    /// Those of them that the ingress has not confirmed.
    pub unconfirmed: u64,
    /// Sessions that have not moved, by what keeps them.
    pub left: BTreeMap<String, u64>,
    /// What had not been done at the deadline, by its reason.
    pub overrun: BTreeMap<String, u64>,
    /// Sessions that were reset then.
    pub forced: u64,
}

/// The admin port of one instance.
#[derive(Clone, Debug)]
pub struct Admin {
    network: Network,
    address: SocketAddr,
    token: String,
}

impl Admin {
    /// The instance at `address`, reached from `network`, that expects `token`.
    pub fn new(network: Network, address: SocketAddr, token: &str) -> Self {
        Self {
            network,
            address,
            token: token.into(),
        }
    }

    /// `GET /status`
    pub fn status(&self) -> Result<Status> {
        let body = self.request("GET", "/status", None)?;
        serde_json::from_value(body).context("the instance's status is not understood")
    }

    /// `POST /move`: starts to move a session (or `all`) to an instance, and returns how many
    /// moves were started.
    pub fn start_move(&self, session: &str, to: u32) -> Result<u64> {
        let body = self.request(
            "POST",
            "/move",
            Some(&json!({ "session": session, "to": to })),
        )?;
        Ok(body.get("started").and_then(Value::as_u64).unwrap_or(0))
    }

    /// `POST /drain`: the instance gives everything away and then says that it is drained; as it is
    /// configured but for what `order` says. Returns its answer: how many sessions that is, and a note
    /// if they cannot go anywhere.
    pub fn drain(&self, order: &Value) -> Result<Value> {
        self.request("POST", "/drain", Some(order))
    }

    /// `GET /drain`: how the drain goes.
    pub fn drain_report(&self) -> Result<DrainReport> {
        let body = self.request("GET", "/drain", None)?;
        serde_json::from_value(body).context("the instance's report is not understood")
    }

    /// Sends a request; what comes back is to be read.
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Box<dyn Stream>> {
        let mut stream = self
            .network
            .connect(self.address, PATIENCE)
            .map_err(|error| {
                let hint = hint(&error, self.address);
                error.context(hint)
            })?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }

    /// Sends a request and returns the answer's JSON; an error status is an error.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.judge(method, path, self.send(method, path, body)?)
    }

    /// `GET` of something that takes its time: what follows the answer's head, as it comes, for `patience` at
    /// most. An error status is an error.
    pub fn stream(&self, path: &str, patience: Duration) -> Result<impl Read + use<>> {
        let mut slow = Slow {
            stream: self.send("GET", path, None)?,
            until: Instant::now() + patience,
        };
        let mut head = Vec::new();
        let mut octet = [0];
        while !head.ends_with(b"\r\n\r\n") && head.len() < LARGEST_HEAD {
            if slow.read(&mut octet).context("no whole answer")? == 0 {
                break;
            }
            head.extend(octet);
        }
        let fine = split_head(&head).is_some_and(|(head, _)| status(head).ok() == Some(200));
        if !fine {
            self.judge("GET", path, head.chain(slow))?;
            bail!("{} {WRONG_PORT}", self.address);
        }
        Ok(slow)
    }

    /// The JSON of an answer, or what it says went wrong.
    fn judge(&self, method: &str, path: &str, answer: impl Read) -> Result<Value> {
        let answer = Answer::read(answer)
            .map_err(|error| match error.is::<io::Error>() {
                true => error,
                false => error.context(format!("{} {WRONG_PORT}", self.address)),
            })
            .with_context(|| format!("{method} {path}"))?;
        if answer.status == 401 {
            bail!("the token is wrong (or the instance has none: `admin_token`)");
        }
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if answer.status >= 300 {
            let Some(error) = json.get("error").and_then(Value::as_str) else {
                bail!("{} {WRONG_PORT}: {}", self.address, answer.status);
            };
            bail!(
                "the instance refuses {method} {path} with {}: {error}",
                answer.status
            );
        }
        Ok(json)
    }
}

/// A connection on which nothing may come for longer than a read waits.
struct Slow {
    stream: Box<dyn Stream>,
    until: Instant,
}

impl Read for Slow {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(into) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) && Instant::now() < self.until => {}
                result => return result,
            }
        }
    }
}

/// What to look at if an instance cannot be reached.
fn hint(error: &anyhow::Error, address: SocketAddr) -> String {
    let mut causes = error.chain().map(|cause| cause.downcast_ref::<io::Error>());
    let kind = causes.find_map(|io| io.map(io::Error::kind));
    let port = address.port();
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => format!(
            "nobody listens at {address}: is the instance running (it prints a line when it is ready), \
             and is {port} its `admin_port`?"
        ),
        _ => format!(
            "{address} does not answer: is the instance running, and is this its own address \
             (`ip`; the admin port is not at the virtual one, `vip`)?"
        ),
    }
}

/// Said of an address where something else than a node agent answers.
const WRONG_PORT: &str = "does not answer as an admin port does (the service's port? the admin \
                          port is 9100 unless configured)";

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// Reads an answer: to its `Content-Length`, or to the end of the connection.
    fn read(source: impl Read) -> Result<Self> {
        let mut source = source.take(LARGEST_ANSWER);
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(answer) = Self::parse(&bytes)? {
                return Ok(answer);
            }
            match source.read(&mut chunk).context("no whole answer")? {
                0 => break,
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
        let (head, body) = split_head(&bytes).context("the answer ends within its header")?;
        if header(head, "content-length").is_some() {
            bail!("the answer ends too early");
        }
        Ok(Self {
            status: status(head)?,
            body: body.to_vec(),
        })
    }

    /// The answer, if `bytes` holds all that its `Content-Length` promises.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some((head, body)) = split_head(bytes) else {
            return Ok(None);
        };
        let Some(length) = header(head, "content-length") else {
            return Ok(None);
        };
        let length: usize = length
            .parse()
            .context("the answer's length is not a number")?;
        match body.get(..length) {
            Some(body) => Ok(Some(Self {
                status: status(head)?,
                body: body.to_vec(),
            })),
            None => Ok(None),
        }
    }
}

fn split_head(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn status(head: &str) -> Result<u16> {
    if !head.starts_with("HTTP/1.") {
        bail!("this is no HTTP answer");
    }
    let code = head
        .split_whitespace()
        .nth(1)
        .context("the answer has no status")?;
    code.parse().context("the answer's status is not a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// An instance that answers one request; the request's text comes back.
    fn instance(answer: &'static str) -> (Admin, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = Admin::new(Network::Host, listener.local_addr().unwrap(), "secret");
        let served = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                reader.read_line(&mut request).unwrap();
            }
            let length = header(&request, "content-length").unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            request += std::str::from_utf8(&body).unwrap();
            reader.into_inner().write_all(answer.as_bytes()).unwrap();
            request
        });
        (admin, served)
    }

    #[test]
    fn a_move_is_commanded_with_the_token() {
        let (admin, served) =
            instance("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"started\":1}");
        assert_eq!(admin.start_move("1-7", 2).unwrap(), 1);
        let request = served.join().unwrap();
        assert!(request.starts_with("POST /move HTTP/1.1\r\n"));
        assert!(request.contains("Authorization: Bearer secret\r\n"));
        assert!(request.ends_with("{\"session\":\"1-7\",\"to\":2}"));
    }

    #[test]
    fn a_refusal_is_an_error_with_its_reason() {
        let (admin, _served) = instance(
            "HTTP/1.1 404 Not Found\r\ncontent-length: 28\r\n\r\n{\"error\":\"no such session 9\"}",
        );
        let error = admin.start_move("9", 2).unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
    }

    #[test]
    fn a_wrong_token_and_a_wrong_port_are_told_apart() {
        for (answer, said) in [
            (
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 17\r\n\r\n{\"error\":\"token\"}",
                "the token is wrong",
            ),
            (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found",
                "the service's port?",
            ),
            // The echo service.
            (
                "GET /status HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
                "the service's port?",
            ),
            ("220 mail.example ESMTP\r\n\r\n", "the service's port?"),
        ] {
            let (admin, _served) = instance(answer);
            let error = format!("{:#}", admin.status().unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn who_finds_nobody_is_told_where_to_look() {
        // Bound and given back: nobody listens there.
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let admin = Admin::new(Network::Host, free, "secret");
        let error = format!("{:#}", admin.status().unwrap_err());
        for said in [&*free.to_string(), "running", "`admin_port`", "refused"] {
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"star";
        assert!(Answer::read(cut.as_bytes()).is_err());
        assert!(Answer::read("HTTP/1.1 200".as_bytes()).is_err());
    }

    #[test]
    fn a_status_with_missing_and_unknown_fields_is_read() {
        let status: Status = serde_json::from_str(
            r#"{"id":1,"state":"serving","new":{},"sessions":[{"id":"1-7","epoch":3,"phase":"live",
                "connections":[{"local":"[fd77::10]:80","remote":"[fd77::1]:4000","cwnd":10}]}],
                "moves":[{"session":"1-7","to":2,"epoch":4,"result":"accepted","link_us":30.5}]}"#,
        )
        .unwrap();
        assert_eq!(status.sessions[0].connections[0].more["cwnd"], 10);
        assert_eq!(status.moves[0].link_us, 30.5);
    }
}
