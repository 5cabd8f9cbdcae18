//! What differs from seed to seed besides the links: options of TCP at both ends, whose TCP the client
//! has, sizes of packets and buffers, a bottleneck of packet size on the way, and a client that rests.

use godwit_netstack::Duration;
use godwit_netstack::tcp::{CongestionAlgorithm, EcnMode, Keepalive, SocketOptions, TcpConfig};

use crate::host::SocketConfig;
use crate::net::{Narrow, Rules};
use crate::rng::Rng;
use crate::run::rough_rules;
use crate::scenario::{Rests, Setup};

/// Largest packets of links, the usual one more often.
const MTUS_V6: [u16; 6] = [1500, 1500, 1500, 1280, 1400, 9000];
const MTUS_V4: [u16; 8] = [1500, 1500, 1500, 576, 1006, 1280, 1400, 9000];
/// And of a client: even what nobody has had for decades.
const OLD_MTU: u16 = 296;

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

fn half(rng: &mut Rng) -> bool {
    rng.chance(500_000)
}

fn millis(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(least + rng.below(most - least + 1))
}

/// Limits and options of our TCP. A quarter is what it comes with.
fn tcp(rng: &mut Rng) -> TcpConfig {
    let usual = TcpConfig::default();
    if rng.chance(250_000) {
        return usual;
    }
    let receive_buffer = pick(rng, &[4 * 1024, 16 * 1024, 65_535, 256 * 1024]);
    let send_buffer = pick(rng, &[4 * 1024, 16 * 1024, 32 * 1024, 256 * 1024]);
    TcpConfig {
        receive_buffer,
        max_receive_buffer: receive_buffer << rng.below(5),
        send_buffer,
        max_send_buffer: send_buffer << rng.below(5),
        congestion: match half(rng) {
            true => CongestionAlgorithm::Cubic,
            false => CongestionAlgorithm::NewReno,
        },
        sack: rng.chance(700_000),
        timestamps: rng.chance(700_000),
        socket: socket(rng),
        ..usual
    }
}

fn socket(rng: &mut Rng) -> SocketOptions {
    SocketOptions {
        nagle: half(rng),
        ack_delay: match rng.chance(250_000) {
            true => Duration::ZERO,
            false => millis(rng, 1, 200),
        },
        peer_ack_delay: millis(rng, 0, 200),
        min_rto: millis(rng, 20, 1_000),
        // Patient enough that no run of bad weather passes for a dead peer: links are dead for a third of
        // the time in some runs, and a time-out then soon is a minute.
        keepalive: half(rng).then(|| Keepalive {
            idle: millis(rng, 50, 2_000),
            interval: millis(rng, 200, 1_000),
            probes: 60,
        }),
        user_timeout: rng
            .chance(300_000)
            .then(|| millis(rng, 1_800_000, 3_600_000)),
        exchange_user_timeout: half(rng),
        ecn: pick(rng, &[EcnMode::Off, EcnMode::Accept, EcnMode::Request]),
        mtu_probing: half(rng),
    }
}

/// How smoltcp's sockets are set up.
fn sockets(rng: &mut Rng) -> SocketConfig {
    const BUFFERS: [usize; 5] = [4 * 1024, 16 * 1024, 65_535, 256 * 1024, 1024 * 1024];
    if rng.chance(250_000) {
        return SocketConfig::default();
    }
    SocketConfig {
        receive: pick(rng, &BUFFERS),
        send: pick(rng, &BUFFERS),
        timestamps: half(rng),
        ack_delay: Duration::from_millis(rng.below(100)),
        nagle: half(rng),
    }
}

/// Choose everything for `setup`; `rough` also puts a bottleneck on the path of some.
pub fn choose(setup: &mut Setup, rough: bool, rng: &mut Rng) {
    setup.tcp = tcp(rng);
    setup.sockets = sockets(rng);
    setup.native = half(rng).then(|| tcp(rng));
    let mtus: &[u16] = match setup.ipv6 {
        true => &MTUS_V6,
        false => &MTUS_V4,
    };
    setup.mtu = pick(rng, mtus);
    setup.client_mtu = half(rng).then(|| match !setup.ipv6 && rng.chance(100_000) {
        true => OLD_MTU,
        false => pick(rng, mtus),
    });
    if rough && rng.chance(300_000) {
        setup.narrow = Some(narrow(setup, rng));
    }
    setup.rests = rng.chance(300_000).then(|| Rests {
        reads: millis(rng, 1, 50),
        // Often longer than a move has patience.
        rests: millis(rng, 1, 600),
    });
    // A queue of less than a few packets is no queue: of jumbo frames it would drop most, and the
    // channels between instances, which moves wait for, would live on time-outs (seed 50168).
    let least = 4 * u64::from(setup.mtu.max(setup.client_mtu.unwrap_or(0)));
    for link in [&mut setup.node_link, &mut setup.client_link] {
        if let Some(rate) = &mut link.rate {
            rate.queue = rate.queue.max(least);
        }
    }
}

/// Give the instances a network of their own; half of the time with a member more, which has to be found there.
pub fn part_networks(setup: &mut Setup, rough: bool, rng: &mut Rng) {
    let mtus: &[u16] = match setup.ipv6 {
        true => &MTUS_V6,
        false => &MTUS_V4,
    };
    setup.instance_mtu = pick(rng, mtus);
    let mut link = Rules::delayed(Duration::from_micros(20));
    if rough {
        link = Rules {
            delay: link.delay,
            ..rough_rules(rng)
        };
    }
    if let Some(rate) = &mut link.rate {
        rate.queue = rate
            .queue
            .max(4 * u64::from(setup.instance_mtu.max(setup.mtu)));
    }
    setup.instance_link = Some(link);
    if half(rng) {
        setup.nodes += 1;
        setup.found = 1;
    }
}

fn narrow(setup: &mut Setup, rng: &mut Rng) -> Narrow {
    let least = match setup.ipv6 {
        true => 1_280,
        false => 576,
    };
    let tells_every = rng.chance(700_000).then(|| millis(rng, 0, 500));
    if tells_every.is_none() {
        // Nobody says why large packets vanish: they have to find out.
        setup.tcp.socket.mtu_probing = true;
        if let Some(native) = &mut setup.native {
            native.socket.mtu_probing = true;
        }
    }
    Narrow {
        mtu: (least + rng.below(1_500 - least)) as u16,
        tells_every,
    }
}
