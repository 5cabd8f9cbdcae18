//! What befalls a rough run besides its links' rules: the client's link is dead for a while, an instance
//! stands still, two lose sight of each other, one of two cables of an instance is out. In between it is
//! fine for longer than any time-out: no segment that is repeated for minutes is lost each time by the
//! weather alone.

use godwit_netstack::stack::Interface;
use godwit_netstack::{Duration, Instant};

use crate::net::Port;
use crate::rng::Rng;
use crate::scenario::Cluster;

/// How long spells follow each other.
const BAD: Duration = Duration::from_secs(116);
/// How long there are none then: longer than the longest time-out there is (RFC 6298 section 2.5). Some give
/// up after five minutes in which nothing got through, and then the other end may wait for ever (seed 11367).
const FINE: Duration = Duration::from_secs(64);

/// Spells of bad weather, and when the next one is due.
pub(crate) struct Weather {
    rng: Rng,
    /// When it gets fine.
    fine: Instant,
    /// When the next spell begins, and when the one that is on ends.
    next: Instant,
    until: Option<Instant>,
    every: Duration,
    /// Whether instances lose sight of each other.
    splits: bool,
    /// The instance whose cable in one of two networks is out, and which.
    out: Option<(Port, Interface)>,
}

impl Weather {
    /// Weather from `now` on; half of the runs have none.
    pub(crate) fn new(mut rng: Rng, now: Instant) -> Option<Weather> {
        let every = Duration::from_millis(20 + rng.below(400));
        rng.chance(500_000).then(|| Weather {
            fine: now + BAD,
            next: now + every,
            until: None,
            every,
            splits: rng.split(0x7370, 0).chance(300_000),
            out: None,
            rng,
        })
    }

    /// A spell may begin or end. Whether anything happens then or not: weather that changed only with
    /// the next frame would follow a client that seldom sends, and swallow each of its frames.
    pub(crate) fn look(&mut self, cluster: &mut Cluster) {
        self.change(cluster);
        cluster.world.wake_at(self.until.unwrap_or(self.next));
    }

    /// A spell begins or ends: the client's link is dead for a while, or an instance stands still.
    fn change(&mut self, cluster: &mut Cluster) {
        let now = cluster.now();
        let client = cluster.client;
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            cluster.world.link(client).set_black_hole(false);
            cluster.world.heal();
            self.plug(cluster);
        }
        if now < self.next || self.until.is_some() {
            return;
        }
        if now >= self.fine {
            self.next = now + FINE;
            self.fine = self.next + BAD;
            return;
        }
        let length = Duration::from_micros(self.rng.below(300_000));
        self.next = now + length + self.every;
        if self.splits && self.rng.chance(200_000) {
            return self.split(cluster);
        }
        if cluster.setup.instance_link.is_some() && self.rng.chance(300_000) {
            return self.pull(cluster);
        }
        if self.rng.chance(500_000) {
            self.until = Some(now + length);
            cluster.world.link(client).set_black_hole(true);
        } else {
            let nodes: Vec<_> = cluster.nodes().collect();
            let at = self.rng.below(nodes.len() as u64) as usize;
            cluster.world.pause(nodes[at], length / 10);
        }
    }

    /// Two instances lose sight of each other, at times for so long that they give their channel up.
    fn split(&mut self, cluster: &mut Cluster) {
        let nodes: Vec<_> = cluster.nodes().collect();
        let one = self.rng.below(nodes.len() as u64) as usize;
        let other = (one + 1) % nodes.len();
        let most = match self.rng.chance(200_000) {
            true => 8_000_000,
            false => 100_000,
        };
        let length = Duration::from_micros(self.rng.below(most));
        let until = cluster.now() + length;
        self.until = Some(until);
        // Four times as long in sight of each other: with a session in doubt nobody speaks, and a client
        // that finds it so each time it tries gives up in the end (seed 61854).
        self.next = until + self.every + length * 4;
        cluster.world.sever(nodes[one], nodes[other]);
    }

    /// One of an instance's two cables is pulled out, at times for so long that it gives away what it has.
    fn pull(&mut self, cluster: &mut Cluster) {
        let nodes: Vec<_> = cluster.nodes().collect();
        let node = nodes[self.rng.below(nodes.len() as u64) as usize];
        let interface = match self.rng.chance(700_000) {
            true => Interface::Service,
            false => Interface::Instance,
        };
        let most = match self.rng.chance(500_000) {
            true => 6_000_000,
            false => 300_000,
        };
        let length = Duration::from_micros(self.rng.below(most));
        let until = cluster.now() + length;
        self.until = Some(until);
        self.next = until + self.every + length * 2;
        self.out = Some((node, interface));
        cluster.set_cable(node, interface, false);
    }

    /// It is put in again.
    fn plug(&mut self, cluster: &mut Cluster) {
        if let Some((node, interface)) = self.out.take() {
            cluster.set_cable(node, interface, true);
        }
    }

    /// The weather is fine from now on.
    pub(crate) fn clear(mut self, cluster: &mut Cluster) {
        let client = cluster.client;
        cluster.world.link(client).set_black_hole(false);
        cluster.world.heal();
        self.plug(cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Setup;

    #[test]
    fn whoever_repeats_a_segment_for_five_minutes_finds_the_link_alive() {
        for seed in 1..=4 {
            let mut cluster = Cluster::new(Setup::default());
            let begun = cluster.now();
            let mut weather = (0..).find_map(|n| Weather::new(Rng::new(seed).split(0, n), begun));
            let weather = weather.as_mut().expect("bad weather");
            let (mut dead, mut dead_last, mut fine) = (0, begun, 0);
            while cluster.now() < begun + Duration::from_secs(600) {
                cluster.world.step();
                weather.look(&mut cluster);
                let now = cluster.now();
                let client = cluster.client;
                if cluster.world.link(client).down.rules.black_hole {
                    fine += u32::from(now.since(dead_last) >= Duration::from_secs(60));
                    dead += 1;
                    dead_last = now;
                }
            }
            assert!(dead > 100, "{dead}");
            assert_eq!(fine, 3, "once in three minutes");
        }
    }
}
