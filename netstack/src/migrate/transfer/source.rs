//! The source's side: one attempt to give one session away.

use crate::cluster::{BootId, MemberId};
use crate::migrate::transfer::RefuseReason;

/// Where an attempt stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The capsule is on its way or imported; an answer will come over the same channel.
    Offered,
    /// The channel broke before the answer: only the target's boot can tell.
    Doubt,
}

/// What a target said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It owns the session (`Accepted`), or has owned it (`Owned`).
    Affirmed,
    /// It never will (`Refused`).
    Refused(RefuseReason),
    /// It never will (`NotOwner`, in answer to a doubt).
    NotOwner,
    /// It cannot tell any more.
    Forgotten,
}

/// What follows for the frozen session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The target owns it: drop the frozen copy, keep a tombstone.
    Moved,
    /// It is proved that the target never owned it: go on here, under a higher epoch.
    Thaw(Option<RefuseReason>),
    /// The target's boot is over and it may have owned it: the session ends as in a crash of its
    /// owner.
    Lost,
    /// The target cannot tell, and another instance may own it by now: drop the frozen copy and
    /// say nothing to the client.
    Unknown,
    /// Nothing follows: the answer is not about this attempt, or the doubt goes on.
    None,
}

/// One attempt, from the freeze to the verdict.
#[derive(Clone, Debug)]
pub struct Source {
    /// The target.
    pub target: MemberId,
    /// The target's boot.
    pub boot: BootId,
    /// The target's generation of the channel the capsule went into.
    pub generation: u64,
    /// The epoch the target would own the session under.
    pub epoch: u64,
    phase: Phase,
}

impl Source {
    /// An attempt whose capsule goes into that channel.
    pub fn new(target: MemberId, boot: BootId, generation: u64, epoch: u64) -> Source {
        Source {
            target,
            boot,
            generation,
            epoch,
            phase: Phase::Offered,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// An answer came from that boot of that member, about that epoch.
    pub fn handle_answer(
        &mut self,
        from: MemberId,
        boot: BootId,
        epoch: u64,
        answer: Answer,
    ) -> Verdict {
        if from != self.target || boot != self.boot || epoch != self.epoch {
            return Verdict::None;
        }
        match answer {
            Answer::Affirmed => Verdict::Moved,
            Answer::Refused(reason) => Verdict::Thaw(Some(reason)),
            Answer::NotOwner => Verdict::Thaw(None),
            // Only the answer to a doubt can be that.
            Answer::Forgotten if self.phase == Phase::Doubt => Verdict::Unknown,
            Answer::Forgotten => Verdict::None,
        }
    }

    /// A member says of itself that it owns the session under that epoch. Nobody but the target can have
    /// passed on what was offered to it, and the epochs from this attempt on are its and its successors'.
    pub fn handle_claim(&self, epoch: u64) -> Verdict {
        match epoch >= self.epoch {
            true => Verdict::Moved,
            false => Verdict::None,
        }
    }

    /// The channel to the target broke.
    pub fn handle_channel_lost(&mut self) {
        self.phase = Phase::Doubt;
    }

    /// A channel to the target is up, with that boot. [`Verdict::None`] in doubt means: ask it.
    pub fn handle_channel_up(&mut self, boot: BootId) -> Verdict {
        self.phase = Phase::Doubt;
        if boot == self.boot {
            Verdict::None
        } else {
            Verdict::Lost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: MemberId = MemberId(2);
    const BOOT: BootId = BootId([1; 16]);

    fn source() -> Source {
        Source::new(TARGET, BOOT, 1, 5)
    }

    #[test]
    fn an_owner_under_this_epoch_or_a_later_one_proves_that_the_target_had_it() {
        let source = source();
        assert_eq!(source.handle_claim(4), Verdict::None);
        assert_eq!(source.handle_claim(5), Verdict::Moved);
        assert_eq!(source.handle_claim(9), Verdict::Moved);
    }

    #[test]
    fn only_a_denial_by_the_same_boot_of_the_same_epoch_thaws() {
        let denied = Answer::Refused(RefuseReason::Capacity);
        let mut source = source();
        for (from, boot, epoch) in [
            (MemberId(3), BOOT, 5),
            (TARGET, BootId([2; 16]), 5),
            (TARGET, BOOT, 4),
            (TARGET, BOOT, 6),
        ] {
            assert_eq!(
                source.handle_answer(from, boot, epoch, denied),
                Verdict::None
            );
        }
        assert_eq!(
            source.handle_answer(TARGET, BOOT, 5, denied),
            Verdict::Thaw(Some(RefuseReason::Capacity))
        );
    }

    #[test]
    fn silence_and_a_new_boot_never_thaw() {
        let mut source = source();
        source.handle_channel_lost();
        assert_eq!(source.phase(), Phase::Doubt);
        assert_eq!(source.handle_channel_up(BOOT), Verdict::None, "ask");
        assert_eq!(source.handle_channel_up(BootId([9; 16])), Verdict::Lost);
    }

    #[test]
    fn a_doubt_ends_with_the_targets_word() {
        for (answer, verdict) in [
            (Answer::Affirmed, Verdict::Moved),
            (Answer::NotOwner, Verdict::Thaw(None)),
            (Answer::Forgotten, Verdict::Unknown),
        ] {
            let mut source = source();
            source.handle_channel_lost();
            source.handle_channel_up(BOOT);
            assert_eq!(source.handle_answer(TARGET, BOOT, 5, answer), verdict);
        }
    }
}
