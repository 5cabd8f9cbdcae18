//! What the node agent tells.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use godwit_netstack::Duration;
use godwit_netstack::counts::Counts;
use godwit_netstack::instance::{
    ConnectionStatus, DrainStatus, MemberStatus, MoveReport, RoleStatus, SessionStatus,
};
use godwit_netstack::stack::Interface;
use godwit_netstack::tcp::Phase;
use serde::Serialize;

use super::{Agent, encode};
use crate::Service;
use crate::nics::{self, NicStatus};
use crate::port::Port;
use crate::shared::Shared;

/// Sessions listed at most; `session_count` counts all.
const MAX_LISTED: usize = 1024;

/// The whole of `GET /status`.
#[derive(Serialize)]
pub(super) struct Status {
    id: u32,
    boot_id: String,
    state: &'static str,
    ingress: bool,
    role: Role,
    service: &'static str,
    /// Version of the states it commits, and the oldest it reads.
    state_version: u32,
    oldest_state: u32,
    uptime_ms: u64,
    /// The network cards, the service network's first.
    nics: Vec<Nic>,
    members: Vec<Member>,
    session_count: usize,
    sessions: Vec<Session>,
    #[serde(serialize_with = "named")]
    counters: Vec<(&'static str, u64)>,
    moves: Vec<Move>,
}

/// Leaving.
#[derive(Serialize)]
struct Drain {
    since_ms: u64,
    deadline_ms: u64,
    /// The deadline has passed before everything was done.
    overdue: bool,
    waits_for: &'static str,
    moved: usize,
    /// Of which the ingress has not said that it knows where they are.
    unconfirmed: usize,
    /// Sessions that have not moved, by what keeps them.
    #[serde(serialize_with = "counts")]
    left: Option<Rc<Counts>>,
    /// What had not been done at the deadline, by its reason.
    #[serde(serialize_with = "counts")]
    overrun: Option<Rc<Counts>>,
    /// Sessions that were reset then.
    forced: u64,
}

fn counts<S: serde::Serializer>(counts: &Option<Rc<Counts>>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(counts.iter().flat_map(|counts| counts.iter()))
}

fn named<S: serde::Serializer>(counts: &[(&str, u64)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(counts.iter().copied())
}

impl Drain {
    fn new(shared: &Shared, drain: DrainStatus) -> Drain {
        Drain {
            since_ms: shared.now().since(drain.since).as_millis() as u64,
            deadline_ms: drain.options.deadline.as_millis() as u64,
            overdue: drain.overrun.is_some(),
            waits_for: drain.stage,
            moved: drain.moved,
            unconfirmed: drain.unconfirmed,
            left: Some(drain.left),
            overrun: drain.overrun,
            forced: shared.instance().sessions_forced(),
        }
    }
}

/// `GET /drain`: how the present drain goes, or how the last one was when it was called off.
#[derive(Serialize)]
struct DrainReport {
    id: u32,
    state: &'static str,
    cancelled: bool,
    /// Of the service.
    sessions: usize,
    drain: Option<Drain>,
}

/// How a drain goes, as JSON.
pub(super) fn drain(shared: &Shared) -> String {
    let instance = shared.instance();
    let cancelled = instance.cancelled_drain().cloned();
    let report = DrainReport {
        id: instance.id().0,
        state: shared.phase().name(),
        cancelled: cancelled.is_some(),
        sessions: instance.movable_count(),
        drain: instance
            .drain_status()
            .or(cancelled)
            .map(|drain| Drain::new(shared, drain)),
    };
    encode(&report)
}

/// The ingress role.
#[derive(Serialize)]
struct Role {
    /// Who has it, if that is known.
    ingress: Option<u32>,
    term: u64,
    /// How long this instance may act yet; absent if it does not, or has no peers.
    lease_ms: Option<u64>,
    /// Empty without peers.
    voters: Vec<Voter>,
}

#[derive(Serialize)]
struct Voter {
    id: u32,
    witness: bool,
    /// For how long yet its last vote for this instance counts.
    granted_ms: Option<u64>,
}

#[derive(Serialize)]
struct Nic {
    /// `service` or `instance`.
    network: &'static str,
    mac: String,
    mtu: u16,
    /// `up`, `down` or `failed`.
    link: &'static str,
    /// Why it is out of service for good; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl From<&NicStatus> for Nic {
    fn from(nic: &NicStatus) -> Nic {
        Nic {
            network: nics::network(nic.interface),
            mac: nics::Mac(nic.mac).to_string(),
            mtu: nic.mtu,
            link: match (&nic.fault, nic.link) {
                (Some(_), _) => "failed",
                (None, true) => "up",
                (None, false) => "down",
            },
            fault: nic.fault.clone(),
        }
    }
}

#[derive(Serialize)]
struct Member {
    id: u32,
    ip: String,
    up: bool,
}

#[derive(Serialize)]
struct Session {
    id: String,
    epoch: u64,
    phase: &'static str,
    connections: Vec<Connection>,
}

#[derive(Serialize)]
struct Connection {
    local: String,
    remote: String,
    state: &'static str,
    tx_bytes: u64,
    rx_bytes: u64,
    cwnd: u32,
    /// Absent before the first loss.
    ssthresh: Option<u32>,
    srtt_us: u64,
    rttvar_us: u64,
    min_rtt_us: u64,
    rto_us: u64,
    retransmits: u64,
    timeouts: u64,
    recovery: &'static str,
    reordering: bool,
    mss: u16,
    pmtu: u16,
    /// Octets per second; absent where octets are not paced.
    pacing_rate: Option<u64>,
    in_flight: u32,
    send_queued: u32,
    send_window: u32,
    unread: u32,
    out_of_order: u32,
    receive_buffer: u32,
    receive_window: u32,
    sack: bool,
    timestamps: bool,
    ecn: bool,
    moves: u32,
}

/// Times in microseconds, with their fractions: sealing a small capsule takes less than one.
#[derive(Serialize)]
struct Move {
    session: String,
    to: u32,
    epoch: u64,
    result: String,
    capsule_bytes: u32,
    lull_us: f64,
    export_us: f64,
    seal_us: f64,
    link_us: f64,
    open_us: f64,
    import_us: f64,
    total_us: f64,
}

impl From<RoleStatus> for Role {
    fn from(role: RoleStatus) -> Role {
        let millis = |time: Duration| time.as_millis() as u64;
        let voters = role.voters.into_iter().map(|voter| Voter {
            id: voter.id.0,
            witness: voter.witness,
            granted_ms: voter.granted.map(millis),
        });
        Role {
            ingress: role.ingress.map(|id| id.0),
            term: role.term,
            lease_ms: role.lease.map(millis),
            voters: voters.collect(),
        }
    }
}

impl From<MemberStatus> for Member {
    fn from(member: MemberStatus) -> Member {
        Member {
            id: member.id.0,
            ip: member.address.to_string(),
            up: member.up,
        }
    }
}

impl From<SessionStatus> for Session {
    fn from(session: SessionStatus) -> Session {
        Session {
            id: session.id.to_string(),
            epoch: session.epoch,
            phase: if session.frozen { "frozen" } else { "live" },
            connections: session.connections.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ConnectionStatus> for Connection {
    fn from(connection: ConnectionStatus) -> Connection {
        let us = |time: Duration| time.as_micros() as u64;
        let tcp = connection.tcp;
        Connection {
            local: connection.local.to_string(),
            remote: connection.remote.to_string(),
            state: tcp.state.name(),
            tx_bytes: tcp.tx_bytes,
            rx_bytes: tcp.rx_bytes,
            cwnd: tcp.cwnd,
            ssthresh: (tcp.ssthresh != u32::MAX).then_some(tcp.ssthresh),
            srtt_us: us(tcp.srtt.unwrap_or_default()),
            rttvar_us: us(tcp.rttvar),
            min_rtt_us: us(tcp.min_rtt.unwrap_or_default()),
            rto_us: us(tcp.rto),
            retransmits: tcp.counters.retransmits,
            timeouts: tcp.counters.timeouts,
            recovery: match tcp.phase {
                Phase::Open => "open",
                Phase::Recovery => "recovery",
                Phase::Loss => "loss",
            },
            reordering: tcp.reordering,
            mss: tcp.mss,
            pmtu: tcp.pmtu,
            pacing_rate: tcp.pacing_rate,
            in_flight: tcp.in_flight,
            send_queued: tcp.send_queued,
            send_window: tcp.snd_wnd,
            unread: tcp.unread,
            out_of_order: tcp.out_of_order,
            receive_buffer: tcp.receive_buffer,
            receive_window: tcp.rcv_wnd,
            sack: tcp.sack,
            timestamps: tcp.timestamps,
            ecn: tcp.ecn,
            moves: tcp.counters.moves,
        }
    }
}

impl From<MoveReport> for Move {
    fn from(report: MoveReport) -> Move {
        let us = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
        Move {
            session: report.session.to_string(),
            to: report.to.0,
            epoch: report.epoch,
            result: report.result,
            capsule_bytes: report.capsule_bytes,
            lull_us: us(report.lull),
            export_us: us(report.export),
            seal_us: us(report.seal),
            link_us: us(report.link),
            open_us: us(report.open),
            import_us: us(report.import),
            total_us: us(report.total),
        }
    }
}

/// The status as JSON.
pub(super) fn json(shared: &Shared, service: &'static str) -> String {
    let instance = shared.instance();
    // The agent's own connections are not the service's sessions.
    let mut sessions = instance.sessions();
    sessions.retain(|session| session.service != Agent::NAME);
    let spec = instance.services().find(|spec| spec.name == service);
    let versions = spec.map_or((0, 0), |spec| (spec.state_version, spec.oldest_state));
    let status = Status {
        id: instance.id().0,
        boot_id: hex(&instance.boot_id()),
        state: shared.phase().name(),
        ingress: instance.acts_as_ingress(shared.now()),
        role: instance.role(shared.now()).into(),
        service,
        state_version: versions.0,
        oldest_state: versions.1,
        uptime_ms: uptime(shared).as_millis() as u64,
        nics: shared.nics().iter().map(Into::into).collect(),
        members: instance.members().into_iter().map(Into::into).collect(),
        session_count: sessions.len(),
        sessions: sessions
            .into_iter()
            .take(MAX_LISTED)
            .map(Into::into)
            .collect(),
        counters: shared.counters(),
        moves: instance.moves().into_iter().map(Into::into).collect(),
    };
    encode(&status)
}

/// The counters as Prometheus text.
pub(super) fn metrics(shared: &Shared, service: &str) -> String {
    let instance = shared.instance();
    let sessions = instance.sessions();
    let sessions = sessions.iter().filter(|s| s.service != Agent::NAME).count();
    let members_up = instance.members().iter().filter(|member| member.up).count();
    let mut text = String::new();
    let mut gauge = |name: &str, value: u64| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "# TYPE godwit_{name} gauge\ngodwit_{name} {value}");
    };
    gauge("uptime_seconds", uptime(shared).as_secs());
    if let Some(date) = shared.date() {
        gauge("date_unix_seconds", date);
    }
    gauge("sessions", sessions as u64);
    gauge("members_up", members_up as u64);
    for nic in shared.nics().iter() {
        let name = match nic.interface {
            Interface::Service => "service_nic_link",
            Interface::Instance => "instance_nic_link",
        };
        gauge(name, nic.works().into());
    }
    let role = instance.role(shared.now());
    gauge("ingress", role.acting.into());
    gauge("ingress_member", role.ingress.map_or(0, |id| id.0.into()));
    gauge("ingress_term", role.term);
    gauge("voters", role.voters.len() as u64);
    let granted = role.voters.iter().filter(|voter| voter.granted.is_some());
    gauge("voters_granted", granted.count() as u64);
    let lease = role.lease.unwrap_or_default();
    let _ = writeln!(
        text,
        "# TYPE godwit_ingress_lease_seconds gauge\ngodwit_ingress_lease_seconds {}.{:03}",
        lease.as_secs(),
        lease.subsec_millis()
    );
    let id = instance.id().0;
    let _ = writeln!(
        text,
        "# TYPE godwit_info gauge\ngodwit_info{{id=\"{id}\",service=\"{service}\"}} 1"
    );
    for (name, count) in shared.counters() {
        counter(&mut text, name, count);
    }
    text
}

/// Add a counter.
pub(super) fn counter(text: &mut String, name: &str, count: u64) {
    let name = metric_name(name);
    let _ = writeln!(text, "# TYPE {name} counter\n{name} {count}");
}

fn uptime(shared: &Shared) -> Duration {
    shared.now().since(shared.started())
}

/// A counter's name in the characters Prometheus allows.
fn metric_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    format!("godwit_{name}_total")
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_names_fit_the_exposition_format() {
        assert_eq!(
            metric_name("tcp.segments-in"),
            "godwit_tcp_segments_in_total"
        );
    }

    #[test]
    fn boot_ids_keep_their_leading_zeros() {
        assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
    }
}
