//! The date from a time server (SNTP, RFC 4330 and RFC 5905 section 14), still without IO.
//!
//! Answers are not authenticated, so they are believed as little as possible: from the server that
//! was asked, to the very question (its 64 random bits, RFC 9109 asks for a random port besides), within
//! the time an answer takes, a date of this century, and no jump once a server has told the date. Nothing
//! of TCP or the cluster goes by the date. Whatever is not believed raises a counter.

use core::net::{IpAddr, SocketAddr};

use godwit_netstack::{Duration, Instant};

/// Where time servers listen.
const PORT: u16 = 123;
/// Octets of a message without extensions.
pub(crate) const MESSAGE: usize = 48;
/// An answer that takes longer says too little.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first questions, each twice as far from the next.
const SOON: Duration = Duration::from_secs(4);
/// The others (RFC 4330 asks for a minute at least).
const LATER: Duration = Duration::from_secs(1024);
/// How far two answers may be apart, besides the time between them.
const JUMP_NS: u64 = 1000 * 1_000_000_000;
/// Earlier and later dates are wrong: 2026, 2100.
const DATES: core::ops::Range<u64> = 1_767_225_600..4_102_444_800;

/// Asks one server for the date, again and again.
#[derive(Debug)]
pub(crate) struct Sntp {
    server: IpAddr,
    next: Instant,
    pause: Duration,
    asked: Option<(Instant, u64)>,
    told: bool,
}

/// Why an answer was not believed: the name of its counter.
pub(crate) type Refusal = &'static str;

impl Sntp {
    /// Ask this server, from now on.
    pub(crate) fn new(server: IpAddr, now: Instant) -> Sntp {
        Sntp {
            server,
            next: now,
            pause: SOON,
            asked: None,
            told: false,
        }
    }

    /// Where to ask.
    pub(crate) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.server, PORT)
    }

    /// When to ask next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// The question that is due. `nonce` is random.
    pub(crate) fn poll_question(&mut self, now: Instant, nonce: u64) -> Option<[u8; MESSAGE]> {
        if now < self.next {
            return None;
        }
        self.asked = Some((now, nonce));
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LATER);
        let mut question = [0; MESSAGE];
        let (head, _) = question.split_at_mut(1);
        head.fill(0x23); // version 4, client
        let at = MESSAGE - 8;
        for (octet, random) in question.iter_mut().skip(at).zip(nonce.to_be_bytes()) {
            *octet = random;
        }
        Some(question)
    }

    /// The date now by an answer, in nanoseconds since 1970; `known` is the date as it is known.
    pub(crate) fn handle_answer(
        &mut self,
        now: Instant,
        from: SocketAddr,
        answer: &[u8],
        known: Option<u64>,
    ) -> Result<u64, Refusal> {
        const STRANGER: Refusal = "ntp.unasked";
        const WRONG: Refusal = "ntp.refused";
        let word = |at: usize| {
            let octets = answer.get(at..at + 8).and_then(|o| o.first_chunk());
            octets
                .map(|octets| u64::from_be_bytes(*octets))
                .ok_or(WRONG)
        };
        let (asked, nonce) = self
            .asked
            .filter(|_| from == self.server())
            .ok_or(STRANGER)?;
        if word(24)? != nonce {
            return Err(STRANGER);
        }
        self.asked = None; // each question has one answer
        let (&head, &stratum) = answer.first().zip(answer.get(1)).ok_or(WRONG)?;
        let (alarm, version, mode) = (head >> 6 == 3, head >> 3 & 7, head & 7);
        let believable = !alarm && (3..=4).contains(&version) && mode == 4;
        if !believable || !(1..=15).contains(&stratum) {
            // Stratum 0 also asks us to leave it in peace.
            self.pause = LATER;
            self.next = now + LATER;
            return Err(WRONG);
        }
        let (received, sent) = (unix_ns(word(32)?), unix_ns(word(40)?));
        let elapsed = now.since(asked);
        let held = sent.checked_sub(received).ok_or(WRONG)?;
        let way = (elapsed.as_nanos() as u64).checked_sub(held).ok_or(WRONG)?;
        let date = sent + way / 2;
        let jumps = known.is_some_and(|known| known.abs_diff(date) > JUMP_NS);
        let dated = DATES.contains(&(date / 1_000_000_000));
        if elapsed > PATIENCE || !dated || (self.told && jumps) {
            return Err(WRONG);
        }
        self.told = true;
        self.pause = LATER;
        self.next = now + LATER;
        Ok(date)
    }
}

/// Nanoseconds since 1970 of a timestamp: seconds since 1900, or since 2036 if the first bit is not
/// set (RFC 4330, section 3), and their fraction.
fn unix_ns(timestamp: u64) -> u64 {
    const FROM_1900: u64 = 2_208_988_800;
    let (seconds, fraction) = (timestamp >> 32, timestamp & 0xffff_ffff);
    let seconds = match seconds >> 31 {
        0 => seconds + (1 << 32),
        _ => seconds,
    };
    let seconds = seconds.saturating_sub(FROM_1900);
    seconds * 1_000_000_000 + ((fraction * 1_000_000_000) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const NONCE: u64 = 0x0123_4567_89ab_cdef;
    /// 2026-11-26, in seconds since 1900.
    const DATE: u64 = 1_795_651_200 + 2_208_988_800;

    fn server() -> SocketAddr {
        "10.0.0.1:123".parse().unwrap()
    }

    fn asked() -> Sntp {
        let mut sntp = Sntp::new(server().ip(), Instant::from_millis(0));
        let question = sntp.poll_question(Instant::from_millis(0), NONCE).unwrap();
        assert_eq!(question[0], 0x23);
        assert_eq!(question[40..], NONCE.to_be_bytes());
        sntp
    }

    /// An answer that has been right, from a server that took a second for it.
    fn answer() -> [u8; MESSAGE] {
        let mut answer = [0; MESSAGE];
        answer[..2].copy_from_slice(&[0x24, 2]);
        answer[24..32].copy_from_slice(&NONCE.to_be_bytes());
        answer[32..40].copy_from_slice(&(DATE << 32).to_be_bytes());
        answer[40..48].copy_from_slice(&((DATE + 1) << 32).to_be_bytes());
        answer
    }

    #[test]
    fn the_date_is_the_servers_and_half_of_the_way() {
        let mut sntp = asked();
        let now = Instant::from_millis(1_200);
        let date = sntp.handle_answer(now, server(), &answer(), Some(0));
        assert_eq!(date, Ok(1_795_651_201_100_000_000));
        assert_eq!(sntp.poll_timeout(), now + LATER);
        let again = sntp.handle_answer(now, server(), &answer(), date.ok());
        assert_eq!(again, Err("ntp.unasked"), "an answer counts once");
    }

    #[test]
    fn a_server_that_is_silent_is_asked_ever_more_seldom() {
        let mut sntp = asked();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let due = sntp.poll_timeout();
            assert!(
                sntp.poll_question(due - Duration::from_millis(1), 1)
                    .is_none()
            );
            assert!(sntp.poll_question(due, 1).is_some());
            pauses.push(sntp.poll_timeout().since(due).as_millis() / 1000);
        }
        assert_eq!(pauses[..3], [8, 16, 32]);
        assert_eq!(pauses[9], 1024);
    }

    #[test]
    fn what_was_not_asked_for_or_cannot_be_is_refused() {
        type Spoil = fn(&mut [u8; MESSAGE]);
        let spoil: [(&str, Spoil); 8] = [
            ("another question's", |a| a[31] ^= 1),
            ("a question", |a| a[0] = 0x23),
            ("the clock is not set", |a| a[0] |= 0xc0),
            ("go away", |a| a[1] = 0),
            ("unsynchronised", |a| a[1] = 16),
            ("sent before it came", |a| a[35] += 2),
            ("held for longer than it took", |a| {
                a[32..36].copy_from_slice(&(DATE as u32 - 9).to_be_bytes());
            }),
            ("of 1968", |a| {
                a[32..36].copy_from_slice(&[0x80, 0, 0, 0]);
                a[40..44].copy_from_slice(&[0x80, 0, 0, 1]);
            }),
        ];
        for (what, spoil) in spoil {
            let mut bad = answer();
            spoil(&mut bad);
            let now = Instant::from_millis(1_200);
            let answer = asked().handle_answer(now, server(), &bad, None);
            assert!(answer.is_err(), "{what}");
        }
        let now = Instant::from_millis(1_200);
        let stranger = "10.0.0.2:123".parse().unwrap();
        let refused = asked().handle_answer(now, stranger, &answer(), None);
        assert_eq!(refused, Err("ntp.unasked"));
        let late = Instant::from_millis(2_001);
        assert!(
            asked()
                .handle_answer(late, server(), &answer(), None)
                .is_err()
        );
    }

    #[test]
    fn once_told_the_date_does_not_jump() {
        let mut sntp = asked();
        let now = Instant::from_millis(1_200);
        let date = sntp.handle_answer(now, server(), &answer(), None).unwrap();
        let due = sntp.poll_timeout();
        sntp.poll_question(due, NONCE);
        let refused = sntp.handle_answer(
            due + Duration::from_millis(1_200),
            server(),
            &answer(),
            Some(date + LATER.as_nanos() as u64),
        );
        assert_eq!(
            refused,
            Err("ntp.refused"),
            "the same date, a quarter of an hour later"
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in prop::collection::vec(any::<u8>(), 0..100), nonce: bool) {
            let mut answer = answer;
            if nonce && answer.len() >= 32 {
                answer[24..32].copy_from_slice(&NONCE.to_be_bytes());
            }
            let now = Instant::from_millis(5);
            if let Ok(date) = asked().handle_answer(now, server(), &answer, None) {
                prop_assert!(DATES.contains(&(date / 1_000_000_000)));
            }
        }
    }
}
