//! The cluster's key changes while sessions stay: which keys are taken, and how a channel gets a
//! new one.
//!
//! A channel is never given another key: a new channel is opened beside it, and the old one is
//! closed once the peer has greeted in the new one. What was under way in the old one is in doubt
//! for a round trip, and is asked about as after any broken channel. Only the end that opens
//! channels (the lower id) does this; the other end sees a new channel of a known boot.

use alloc::vec::Vec;
use core::net::SocketAddr;

use super::Instance;
use crate::cluster::keys::{Key, KeyError, KeyId, Keyring};
use crate::cluster::{CHANNEL_PORT, MemberId};
use crate::stack::ConnId;
use crate::time::{Duration, Instant};

/// How long a channel that could not be renewed keeps its key until the next attempt.
const RENEW: Duration = Duration::from_secs(5);

/// A key an instance holds, without telling it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyStatus {
    /// Its name.
    pub id: KeyId,
    /// Channels are opened with it.
    pub active: bool,
    /// Channels that are up and were opened with it.
    pub channels: usize,
}

impl Instance {
    /// Take this key too when a peer opens a channel.
    pub fn add_key(&mut self, key: Key) -> Result<KeyId, KeyError> {
        let keys = self.key.as_mut().ok_or(KeyError::NoCluster)?;
        let id = keys.add(key)?;
        log::info!(target: "cluster", "key {id} is taken");
        Ok(id)
    }

    /// Open channels with this key from now on, and renew those that were opened with another.
    /// A peer that does not take it keeps its channel, and is tried again every few seconds.
    pub fn activate_key(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        let keys = self.key.as_mut().ok_or(KeyError::NoCluster)?;
        keys.activate(id)?;
        log::info!(target: "cluster", "key {id} is active");
        self.renew_at = now;
        self.renew_keys(now);
        self.pump(now);
        Ok(())
    }

    /// Take this key no more. Channels that were opened with it are closed, and opened again with
    /// the active key.
    pub fn remove_key(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        let keys = self.key.as_mut().ok_or(KeyError::NoCluster)?;
        keys.remove(id)?;
        log::info!(target: "cluster", "key {id} is refused from now on");
        let under = |(conn, link): (&ConnId, &super::Link)| {
            (link.channel.key() == Some(id)).then_some(*conn)
        };
        let closed: Vec<ConnId> = self.links.iter().filter_map(under).collect();
        for conn in closed {
            self.counters.add("channels_of_removed_keys");
            self.drop_link(now, conn);
        }
        self.pump(now);
        Ok(())
    }

    /// The keys held, the active one first.
    pub fn keys(&self) -> Vec<KeyStatus> {
        let keys = self.key.as_ref().map_or(&[][..], Keyring::keys);
        let status = |(place, key): (usize, &Key)| {
            let id = key.id();
            let up = self
                .links
                .values()
                .filter(|link| link.channel.peer().is_some() && link.channel.key() == Some(id));
            KeyStatus {
                id,
                active: place == 0,
                channels: up.count(),
            }
        };
        keys.iter().enumerate().map(status).collect()
    }

    /// The key to open the next channel to `peer` with.
    pub(super) fn next_key(&mut self, peer: MemberId) -> Option<Key> {
        let keys = self.key.as_ref()?;
        // While a channel is up, only the active key is worth another one.
        if self.members.get(peer).is_some_and(|member| member.is_up()) {
            return keys.for_attempt(0).cloned();
        }
        let tries = self.tries.entry(peer).or_default();
        let attempt = *tries;
        *tries = tries.wrapping_add(1);
        keys.for_attempt(attempt).cloned()
    }

    /// Open new channels beside those that have another key than the active one.
    pub(super) fn renew_keys(&mut self, now: Instant) {
        if self.renew_at > now {
            return;
        }
        self.renew_at = now + RENEW;
        let Some(active) = self.key.as_ref().map(Keyring::active) else {
            return;
        };
        let young = |peer| {
            let mut links = self.links.values();
            links.any(|link| link.channel.peer_id() == peer && link.channel.peer().is_none())
        };
        let old: Vec<(MemberId, SocketAddr)> = self
            .members
            .iter()
            .filter(|member| member.id > self.id && member.is_up() && !young(member.id))
            .filter(|member| {
                let link = member.link.and_then(|conn| self.links.get(&conn));
                link.is_some_and(|link| link.channel.key() != Some(active))
            })
            .map(|member| (member.id, SocketAddr::new(member.address, CHANNEL_PORT)))
            .collect();
        for (peer, remote) in old {
            self.counters.add("channels_renewed");
            self.connect_channel(now, peer, remote);
        }
    }
}
