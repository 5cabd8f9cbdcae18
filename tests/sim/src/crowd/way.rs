//! How one connection of a crowd is to go: what is said on it, who leaves it how, and what is done to it
//! meanwhile, all drawn by chance.

use bytes::Bytes;
use godwit_netstack::{Duration, Instant};

use crate::host::{Expect, HangUp, Plan};
use crate::rng::Rng;
use crate::script::{Closing, HEADER, Mode};

/// How a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// Everything is said, both sides close, in any order or at once.
    Orderly,
    /// Nobody serves the port.
    Refused,
    /// The client resets it.
    Aborted,
    /// The client's TCP forgets it.
    Forgotten,
    /// The client vanishes.
    Vanished,
    /// The client closes before it has said what it announced; the service resets.
    Short,
    /// The client closes without a word; the service resets.
    Silent,
    /// The client makes no sense; the service resets.
    Garbage,
    /// The service resets, as asked for.
    Reset,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 9] = [
        Way::Orderly,
        Way::Refused,
        Way::Aborted,
        Way::Forgotten,
        Way::Vanished,
        Way::Short,
        Way::Silent,
        Way::Garbage,
        Way::Reset,
    ];

    /// Its name, as a key of the counts.
    pub fn name(self) -> &'static str {
        match self {
            Way::Orderly => "orderly",
            Way::Refused => "refused",
            Way::Aborted => "aborted",
            Way::Forgotten => "forgotten",
            Way::Vanished => "vanished",
            Way::Short => "short",
            Way::Silent => "silent",
            Way::Garbage => "garbage",
            Way::Reset => "reset",
        }
    }

    fn draw(rng: &mut Rng) -> Way {
        match rng.below(100) {
            0..60 => Way::Orderly,
            60..64 => Way::Refused,
            64..73 => Way::Aborted,
            73..79 => Way::Forgotten,
            79..83 => Way::Vanished,
            83..88 => Way::Short,
            88..91 => Way::Silent,
            91..94 => Way::Garbage,
            _ => Way::Reset,
        }
    }
}

/// Something done to a connection from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// Its session is told to move.
    Move,
    /// The client stops to read, or goes on with it.
    Read(bool),
    /// The client closes, whatever is still to be said.
    Close,
    /// The client leaves.
    HangUp(HangUp),
}

/// What is to become of a connection.
pub(super) struct Fate {
    pub(super) way: Way,
    pub(super) plan: Plan,
    /// What is done to it and when, the last first.
    pub(super) acts: Vec<(Instant, Act)>,
    /// Its session moves also when both ends have sent so many segments, the last first.
    pub(super) moves: Vec<u64>,
}

/// How long a client waits for a reset that may have been lost, before it resets too.
const PATIENCE: Duration = Duration::from_secs(60);

/// From some microseconds to a quarter of a second, short ones as often as long ones: from before the
/// SYN has arrived to long after everything is over.
fn a_while(rng: &mut Rng) -> Duration {
    let scale = 1 << rng.below(18);
    Duration::from_micros(scale + rng.below(scale))
}

impl Fate {
    pub(super) fn draw(rng: &mut Rng, now: Instant) -> Fate {
        let way = Way::draw(rng);
        let mode = [Mode::Download, Mode::Upload, Mode::Echo][rng.below(3) as usize];
        let closing = match way {
            Way::Reset => Closing::Abort,
            _ if rng.chance(500_000) => Closing::Client,
            _ => Closing::Server,
        };
        let octets = match rng.below(18) {
            0 => 0,
            scale => rng.below(1 << scale),
        };
        let mut plan = Plan::script(mode, closing, octets, rng.draw());
        plan.half_close = way != Way::Reset && rng.chance(250_000);
        if rng.chance(250_000) {
            plan.chunk = 1 + rng.below(3_000) as usize;
        }
        let mut acts = Vec::new();
        if rng.chance(250_000) {
            acts.push((now + a_while(rng), Act::Move));
        }
        let count = [0, 1, 1, 1, 2, 2, 3, 5][rng.below(8) as usize];
        let segments = 3 + octets / 500;
        let mut moves: Vec<u64> = (0..count).map(|_| 2 + rng.below(segments)).collect();
        moves.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
        if rng.chance(100_000) {
            let from = now + a_while(rng);
            acts.push((from, Act::Read(false)));
            acts.push((from + a_while(rng), Act::Read(true)));
        }
        let leave = now + a_while(rng);
        let last = match way {
            Way::Orderly | Way::Refused => None,
            Way::Aborted => Some((leave, Act::HangUp(HangUp::Abort))),
            Way::Forgotten => Some((leave, Act::HangUp(HangUp::Forget))),
            Way::Vanished => Some((leave, Act::HangUp(HangUp::Vanish))),
            Way::Short | Way::Silent | Way::Garbage | Way::Reset => {
                Some((now + PATIENCE, Act::HangUp(HangUp::Abort)))
            }
        };
        acts.extend(last);
        match way {
            Way::Short => acts.push((leave, Act::Close)),
            Way::Silent => {
                plan.opening = Bytes::new();
                plan.send = 0;
                plan.expect = Expect::Stream(0, 0);
                plan.closes_early = true;
            }
            Way::Garbage => plan.opening = Bytes::from_static(&[b'?'; HEADER]),
            _ => {}
        }
        acts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Fate {
            way,
            plan,
            acts,
            moves,
        }
    }
}
