//! After a panic in a session's code: the others are handed over before the instance ends.
//!
//! An image does not unwind. The frames of the code that panicked stay on the stack, and above them, called by the
//! panic handler, this runs until the instance ends: nothing of theirs is dropped, freed or gone on with, so they
//! need not be in any state in particular. What this uses they cannot have been at: the platform (code of a
//! session has no way to it), and the instance, if no call into it was under way ([`Shared::is_at_rest`]); a panic
//! in such a call is a bug of the instance's own, and ends everything at once.
//!
//! No task is polled or dropped any more. The service may have been changing what its sessions share, and a
//! session's committed state, which is all that moves, is not part of that. The session that panicked is
//! reset: it would do the same to the next instance.

use alloc::vec::Vec;

use godwit_netstack::instance::{DrainOptions, DrainThen, Event};
use godwit_netstack::session::SessionId;
use godwit_netstack::stack::RxFrame;
use godwit_netstack::{Duration, Instant};

use crate::node::{FAREWELL, receive, transmit};
use crate::platform::Platform;
use crate::shared::Shared;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hand over all sessions but `failed`, as far as there is somebody to take them.
pub(crate) fn hand_over<P: Platform>(
    shared: &Shared,
    received: &mut Vec<RxFrame>,
    platform: &mut P,
    failed: SessionId,
) {
    if !shared.is_at_rest() {
        return;
    }
    let begun = platform.now();
    if !shared.instance().members().iter().any(|member| member.up) {
        return;
    }
    log::error!("session {failed} panicked: it is reset, and the others are handed over");
    let options = DrainOptions {
        deadline: PATIENCE,
        then: DrainThen::Force,
    };
    shared.instance_mut().abort(begun, failed);
    shared.instance_mut().drain_with(begun, options);
    let mut end = begun + PATIENCE + FAREWELL;
    let mut drained = false;
    loop {
        platform.turn();
        let now = platform.now();
        let mut more = receive(shared, received, platform, now);
        if due(shared).is_some_and(|at| at <= now) {
            shared.instance_mut().handle_timeout(now);
        }
        while let Some(event) = poll_event(shared) {
            if matches!(event, Event::Drained) && !drained {
                drained = true;
                end = end.min(now + FAREWELL);
            }
        }
        more |= transmit(shared, platform, now);
        platform.flush();
        if now >= end {
            return;
        }
        if !more {
            platform.idle(Some(due(shared).map_or(end, |at| at.min(end))));
        }
    }
}

fn due(shared: &Shared) -> Option<Instant> {
    shared.instance().poll_timeout()
}

fn poll_event(shared: &Shared) -> Option<Event> {
    shared.instance_mut().poll_event()
}
