//! How many sessions to give to whom, so that members end up alike.
//!
//! A pure function of what heartbeats say ([`rebalance`]). When to ask is policy; this only sees to
//! it that asking does not make matters worse: every member works out its own part alone, and though
//! they all see the same loads, what they give away together makes nobody the new heaviest, so
//! nothing is sent back the next time.

use alloc::vec::Vec;

use super::MemberId;

/// A member as far as balance goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// The member.
    pub id: MemberId,
    /// Sessions it serves, those on their way to it included.
    pub sessions: u32,
    /// Sessions it would still take.
    pub room: u32,
}

/// Differences up to this many sessions are none worth a move, whatever their share.
const LEAST: u32 = 2;
/// Nor are those up to this part of the mean load.
const PART: u32 = 8;

/// What `us` should give to each of `others` (those that take sessions), the largest part first.
///
/// Whoever is above the mean by more than an eighth gives what it has above the mean, to those below it
/// in proportion to what they lack; nobody gets more than brings it to the mean, or than it has
/// room for.
pub fn rebalance(us: Share, others: &[Share]) -> Vec<(MemberId, u32)> {
    let all = others.iter().map(|other| u64::from(other.sessions));
    let total = all.sum::<u64>() + u64::from(us.sessions);
    let members = others.len() as u64 + 1;
    // Rounded up for who gives, down for who takes: a remainder stays where it is.
    let above = u64::from(us.sessions).saturating_sub(total.div_ceil(members));
    let mean = total / members;
    let slack = u64::from(LEAST).max(mean / u64::from(PART));
    if above == 0 || u64::from(us.sessions) - mean <= slack {
        return Vec::new();
    }
    let lacks = |share: &Share| {
        let lack = mean.saturating_sub(u64::from(share.sessions));
        lack.min(u64::from(share.room))
    };
    // What all others above the mean have to give is theirs to give: our part of what is lacking.
    let surplus = others
        .iter()
        .map(|other| u64::from(other.sessions).saturating_sub(mean));
    let surplus = surplus.sum::<u64>() + (u64::from(us.sessions) - mean);
    let mut parts: Vec<(MemberId, u32)> = others
        .iter()
        .map(|other| {
            let part = u128::from(lacks(other)) * u128::from(above) / u128::from(surplus);
            (other.id, part as u32)
        })
        .filter(|(_, part)| *part > 0)
        .collect();
    parts.sort_by_key(|(id, part)| (core::cmp::Reverse(*part), *id));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(loads: &[u32], room: u32) -> Vec<Share> {
        let ids = 1..;
        ids.zip(loads)
            .map(|(id, sessions)| Share {
                id: MemberId(id),
                sessions: *sessions,
                room,
            })
            .collect()
    }

    /// Every member gives its part, all by the same heartbeats. The loads after it.
    fn round(shares: &[Share]) -> Vec<Share> {
        let mut after = shares.to_vec();
        for (index, us) in shares.iter().enumerate() {
            let mut others = shares.to_vec();
            others.remove(index);
            for (to, count) in rebalance(*us, &others) {
                after[index].sessions -= count;
                let taker = after.iter_mut().find(|share| share.id == to).unwrap();
                taker.sessions += count;
                taker.room -= count;
            }
        }
        after
    }

    #[test]
    fn two_members_meet_in_the_middle_at_once() {
        let after = round(&shares(&[1_000, 0], 10_000));
        assert_eq!((after[0].sessions, after[1].sessions), (500, 500));
        assert_eq!(round(&after), after, "and stay there");
        let near = shares(&[105, 95], 10_000);
        assert_eq!(round(&near), near, "not worth a move");
    }

    proptest! {
        #[test]
        fn nobody_is_given_more_than_the_mean_or_its_room_and_nothing_is_sent_back(
            loads in proptest::collection::vec(0u32..200_000, 1..9),
            room in 0u32..300_000,
        ) {
            let before = shares(&loads, room);
            let total: u64 = loads.iter().map(|load| u64::from(*load)).sum();
            let mean = total / loads.len() as u64;
            let mut now = before.clone();
            for _ in 0..64 {
                let after = round(&now);
                let count: u64 = after.iter().map(|share| u64::from(share.sessions)).sum();
                prop_assert_eq!(count, total);
                for (was, is) in now.iter().zip(&after) {
                    // Who gets something does not end above the mean, who gives not below it.
                    if is.sessions > was.sessions {
                        prop_assert!(u64::from(is.sessions) <= mean);
                        prop_assert!(is.sessions - was.sessions <= was.room);
                    } else if is.sessions < was.sessions {
                        prop_assert!(u64::from(is.sessions) >= mean);
                    }
                }
                now = after;
            }
            prop_assert_eq!(round(&now), now, "it comes to rest");
        }

        #[test]
        fn with_room_everywhere_nobody_stays_far_above_the_mean(
            loads in proptest::collection::vec(0u32..200_000, 2..9),
        ) {
            let mut now = shares(&loads, u32::MAX);
            for _ in 0..8 {
                now = round(&now);
            }
            let total: u64 = loads.iter().map(|load| u64::from(*load)).sum();
            let mean = total / loads.len() as u64;
            let slack = u64::from(LEAST).max(mean / u64::from(PART));
            let members = loads.len() as u64;
            for share in now {
                prop_assert!(u64::from(share.sessions) <= mean + slack + members);
            }
        }
    }
}
