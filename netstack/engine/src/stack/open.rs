//! Connections opened from here: addresses, ports, and the limits that those opened to us are held to.
//!
//! Who opens many connections to one end runs out of ports long before it runs out of room, as each
//! that it closes first keeps its port for a minute of TIME-WAIT. Such a port is taken again where
//! timestamps keep the two connections apart ([`Connection::may_reopen`]).

use core::net::{IpAddr, SocketAddr};

use super::flows::{self, Entry, Packed};
use super::{ConnId, FlowKey, Stack};
use crate::tcp::{Connection, Pressure};
use crate::time::Instant;

/// First and last local port of connections opened from here (RFC 6335 section 6).
pub(super) const EPHEMERAL: (u16, u16) = (49_152, 65_535);
/// Ports looked at for one that is not in use, before one in TIME-WAIT is taken again.
const LOOKED_AT: u64 = 64;

/// Why [`Stack::connect`] failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// No own address of the remote's family, or the local address given is none of ours.
    NoAddress,
    /// No on-link prefix and no gateway leads there.
    NoRoute,
    /// Every local port towards that remote end is in use.
    NoPort,
    /// The limit of connections is reached.
    TooMany,
    /// Memory for queues is exhausted.
    NoMemory,
}

/// Ends for a new connection, and who has them in TIME-WAIT.
struct Place {
    flow: FlowKey,
    before: Option<ConnId>,
}

impl Stack {
    /// Open a connection, from `local` (an own or virtual address) or the own address that fits.
    pub fn connect(
        &mut self,
        now: Instant,
        local: Option<IpAddr>,
        remote: SocketAddr,
    ) -> Result<ConnId, ConnectError> {
        self.has_memory()?;
        let local = self.local_for(local, remote)?;
        let place = self.free_port(now, local, remote)?;
        self.open(now, place, false)
    }

    /// Open a connection from a port of the caller's choice. [`ConnectError::NoPort`] if it is in use
    /// towards `remote`; a connection in TIME-WAIT makes way where that is safe.
    pub fn connect_from(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<ConnId, ConnectError> {
        self.has_memory()?;
        let address = self.local_for(Some(local.ip()), remote)?;
        let flow = flows::flow((address, local.port()), (remote.ip(), remote.port()));
        let place = self.place(now, flow).ok_or(ConnectError::NoPort)?;
        self.open(now, place, false)
    }

    /// Open a connection to another instance, from the own address that fits: also while memory is
    /// exhausted or as many connections are here as may be, since sessions leave through it, and memory with them.
    pub fn connect_peer(
        &mut self,
        now: Instant,
        remote: SocketAddr,
    ) -> Result<ConnId, ConnectError> {
        // Never through the service network, if there is another, whatever address a stranger gave.
        let peers = self.addresses.peers_interface();
        let own = self.addresses.source_on(peers, remote.ip());
        let local = self.local_for(Some(own.ok_or(ConnectError::NoAddress)?), remote)?;
        let place = self.free_port(now, local, remote)?;
        self.open(now, place, true)
    }

    /// Connections are opened from here no more than to us while memory is exhausted.
    fn has_memory(&mut self) -> Result<(), ConnectError> {
        self.reclaim();
        match self.pressure() {
            Pressure::Exhausted => Err(ConnectError::NoMemory),
            Pressure::None | Pressure::Some => Ok(()),
        }
    }

    /// The address a connection to `remote` leaves from, if one leads there.
    fn local_for(&self, local: Option<IpAddr>, remote: SocketAddr) -> Result<IpAddr, ConnectError> {
        let local = match local {
            Some(local) => Some(local)
                .filter(|local| self.addresses.is_own(*local) || self.addresses.is_vip(*local))
                .filter(|local| local.is_ipv4() == remote.is_ipv4()),
            None => self.addresses.source_for(remote.ip()),
        };
        let local = local.ok_or(ConnectError::NoAddress)?;
        // Nothing here leads back to ourselves.
        if !self.addresses.is_host(remote.ip())
            || self.addresses.is_own(remote.ip())
            || self.addresses.next_hop(local, remote.ip()).is_none()
        {
            return Err(ConnectError::NoRoute);
        }
        Ok(local)
    }

    /// The place between two ends, if it is free or a connection in TIME-WAIT may make way.
    fn place(&self, now: Instant, flow: FlowKey) -> Option<Place> {
        let before = match self.flows.get(&Packed::new(&flow)) {
            None => None,
            Some(Entry::Connection(id)) => {
                let connection = self.connection(id)?;
                let reopens = self.tcp.timestamps && connection.may_reopen(now);
                Some(reopens.then_some(id)?)
            }
            Some(_) => return None,
        };
        Some(Place { flow, before })
    }

    /// A place from a local port that is not in use towards `remote`; each remote end has its own
    /// sequence of ports (RFC 6056 section 3.3.3). So the first that is in TIME-WAIT has been for longest.
    fn free_port(
        &mut self,
        now: Instant,
        local: IpAddr,
        remote: SocketAddr,
    ) -> Result<Place, ConnectError> {
        let (first, last) = EPHEMERAL;
        let count = u64::from(last - first) + 1;
        let ends = flows::flow((local, 0), (remote.ip(), remote.port()));
        let offset = self.keyed.hash_words(Packed::new(&ends).words()) % count;
        let mut again = None;
        for looked_at in 0..count {
            if looked_at >= LOOKED_AT && again.is_some() {
                break;
            }
            self.opened = self.opened.wrapping_add(1);
            let port = first + ((offset + self.opened % count) % count) as u16;
            let flow = flows::flow((local, port), (remote.ip(), remote.port()));
            match self.place(now, flow) {
                Some(place) if place.before.is_none() => return Ok(place),
                Some(place) => again = again.or(Some(place)),
                None => {}
            }
        }
        again.ok_or(ConnectError::NoPort)
    }

    fn open(&mut self, now: Instant, place: Place, peer: bool) -> Result<ConnId, ConnectError> {
        let Place { flow, before } = place;
        let old = before.and_then(|id| self.connection(id));
        let mut connection = Connection::connect(now, &self.tcp, &self.numbers, flow, self.mtu);
        if let Some(old) = old {
            connection.follow(now, old);
        }
        if let Some(id) = before {
            self.counters.time_wait_reopened += 1;
            self.bury(now, id);
        }
        if !self.has_room(now, peer) {
            return Err(ConnectError::TooMany);
        }
        self.counters.opened += 1;
        let id = self.put_block(connection, flow);
        self.settle(now, id);
        Ok(id)
    }
}
