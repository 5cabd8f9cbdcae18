//! How often the admin port may be asked, and how often with a wrong token, per client; and how many
//! connections it may have: each takes the place of one of the service's.
//!
//! The table is bounded: when it is full, the entry that has been quiet for longest makes way. An
//! IPv6 client is its /64, as it may have all of that.

use core::net::{IpAddr, Ipv6Addr};

use godwit_netstack::Instant;
use godwit_netstack::cluster::budget::{Bucket, Limit};
use godwit_netstack::map::Map;

/// Requests of one client.
const REQUESTS: Limit = Limit {
    rate: 500,
    burst: 2_000,
};
/// Of those, with a wrong token or none.
const FAILURES: Limit = Limit { rate: 1, burst: 10 };
/// Clients remembered.
pub(super) const MAX_CLIENTS: usize = 64;

#[derive(Debug)]
struct Client {
    requests: Bucket,
    failures: Bucket,
    seen: Instant,
}

/// Connections at a time, of all clients.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// Connections at a time of one client: more than anybody needs, fewer than it takes to keep others out.
pub(super) const MAX_OF_ONE: usize = 32;

/// Who asked how often.
#[derive(Debug, Default)]
pub(super) struct Guard {
    clients: Map<IpAddr, Client>,
    /// Connections by client; those without any are not in it.
    connections: Map<IpAddr, usize>,
    /// Connections refused because there were too many.
    pub(super) crowded: u64,
    /// Requests refused because there were too many.
    pub(super) limited: u64,
    /// Requests that were not sound, or could not be met as things are.
    pub(super) refused: u64,
    /// Requests with a wrong token or none.
    pub(super) unauthorized: u64,
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

impl Guard {
    fn client(&mut self, now: Instant, address: IpAddr) -> &mut Client {
        let address = network(address);
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&address) {
            let quiet = self.clients.iter().min_by_key(|(_, client)| client.seen);
            if let Some(quiet) = quiet.map(|(address, _)| *address) {
                self.clients.remove(&quiet);
            }
        }
        let client = self.clients.entry(address).or_insert_with(|| Client {
            requests: Bucket::new(REQUESTS, now),
            failures: Bucket::new(FAILURES, now),
            seen: now,
        });
        client.seen = now;
        client
    }

    /// Whether one more connection of the client is served; then it has to be told when it [leaves].
    ///
    /// [leaves]: Guard::leaves
    pub(super) fn enters(&mut self, address: IpAddr) -> bool {
        let all: usize = self.connections.values().sum();
        let address = network(address);
        let own = self.connections.get(&address).copied().unwrap_or(0);
        let enters = all < MAX_CONNECTIONS && own < MAX_OF_ONE;
        if enters {
            self.connections.insert(address, own + 1);
        }
        self.crowded += u64::from(!enters);
        enters
    }

    /// A connection of the client is over.
    pub(super) fn leaves(&mut self, address: IpAddr) {
        let address = network(address);
        match self.connections.get_mut(&address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                self.connections.remove(&address);
            }
        }
    }

    /// Whether the client may ask. One that has guessed too often may not, whatever it says: else
    /// the limit would not slow it down.
    pub(super) fn admits(&mut self, now: Instant, address: IpAddr) -> bool {
        let client = self.client(now, address);
        let admits = client.failures.has_token(now) && client.requests.take(now);
        self.limited += u64::from(!admits);
        admits
    }

    /// The client had no token, or a wrong one.
    pub(super) fn failed(&mut self, now: Instant, address: IpAddr) {
        self.client(now, address).failures.take(now);
        self.unauthorized += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_netstack::Duration;

    const NOW: Instant = Instant::from_millis(5_000);

    fn guesses(guard: &mut Guard, now: Instant, address: IpAddr) -> usize {
        let mut guesses = 0;
        while guard.admits(now, address) {
            guard.failed(now, address);
            guesses += 1;
            assert!(guesses < 1_000);
        }
        guesses
    }

    #[test]
    fn guessing_is_slowed_down_for_the_one_who_guesses() {
        let mut guard = Guard::default();
        let (bad, good) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(guesses(&mut guard, NOW, bad), 10);
        assert_eq!(guesses(&mut guard, NOW + Duration::from_secs(3), bad), 3);
        assert!(guard.admits(NOW, good));
        assert_eq!((guard.limited, guard.unauthorized), (2, 13));
    }

    #[test]
    fn requests_are_limited_with_the_token_too() {
        let mut guard = Guard::default();
        let client = [10, 0, 0, 1].into();
        let admitted = (0..5_000).filter(|_| guard.admits(NOW, client)).count();
        assert_eq!(admitted, 2_000);
        let later = NOW + Duration::from_secs(1);
        let admitted = (0..5_000).filter(|_| guard.admits(later, client)).count();
        assert_eq!(admitted, 500);
    }

    #[test]
    fn an_ipv6_client_cannot_change_its_address_to_be_another() {
        let mut guard = Guard::default();
        let address = |last: u16| Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, last).into();
        assert_eq!(guesses(&mut guard, NOW, address(1)), 10);
        assert_eq!(guesses(&mut guard, NOW, address(2)), 0);
    }

    #[test]
    fn the_table_is_bounded_and_the_quiet_make_way() {
        let mut guard = Guard::default();
        for number in 0..10_000_u32 {
            let now = NOW + Duration::from_millis(number.into());
            guard.admits(now, IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(guard.clients.len(), MAX_CLIENTS);
        assert!(
            guard
                .clients
                .contains_key(&IpAddr::from(9_999_u32.to_be_bytes()))
        );
    }

    #[test]
    fn connections_are_bounded_for_each_client_and_for_all() {
        let mut guard = Guard::default();
        let client = |number: u8| IpAddr::from([10, 0, 0, number]);
        let opened = |guard: &mut Guard, number| {
            let all = (0..1_000).filter(|_| guard.enters(client(number)));
            all.count()
        };
        let counts: [usize; 5] = core::array::from_fn(|n| opened(&mut guard, n as u8));
        assert_eq!(counts, [32, 32, 32, 32, 0]);
        assert_eq!(guard.crowded, 5_000 - 128);
        for _ in 0..32 {
            guard.leaves(client(2));
        }
        assert_eq!(
            guard.connections.len(),
            3,
            "nobody is remembered for nothing"
        );
        assert_eq!(opened(&mut guard, 4), 32);
    }
}
