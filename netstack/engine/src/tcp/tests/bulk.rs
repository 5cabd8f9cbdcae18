//! Octets get across, whatever the link does, and without needless time-outs.

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

/// Send `len` octets each way and close; everything must arrive.
fn exchange(seed: u64, link: Link, len: usize, config: TcpConfig) -> Pair {
    let mut pair = Pair::with(seed, config.clone(), config, link);
    pair.establish();
    for end in [CLIENT, SERVER] {
        pair.send(end, 0, len);
        pair.close(end);
    }
    pair.run_until(Duration::from_secs(600), |pair| {
        pair.ends.iter().all(|end| {
            end.received.len() == len && end.connection.as_ref().unwrap().receive_finished()
        })
    });
    pair.check_received(CLIENT, len);
    pair.check_received(SERVER, len);
    pair
}

#[test]
fn octets_arrive_over_a_clean_link_without_retransmission() {
    let mut pair = exchange(3, Link::default(), 2_000_000, TcpConfig::default());
    for end in [CLIENT, SERVER] {
        let info = pair.end(end).info();
        assert_eq!(info.counters.retransmits, 0);
        assert_eq!(info.counters.timeouts, 0);
    }
}

#[test]
fn octets_arrive_over_bad_links() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let link = Link {
            delay: Duration::from_micros(random.below(30_000)),
            jitter: Duration::from_micros(random.below(4) * random.below(5_000)),
            loss: random.below(80) as u32,
            duplicate: random.below(50) as u32,
            rate: 0,
        };
        let config = TcpConfig {
            receive_buffer: 4_000 + random.below(200_000) as u32,
            congestion: match seed % 2 {
                0 => CongestionAlgorithm::Cubic,
                _ => CongestionAlgorithm::NewReno,
            },
            ..TcpConfig::default()
        };
        exchange(seed, link, 200_000, config);
    }
}
