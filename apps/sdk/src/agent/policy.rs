//! `GET /policy`: what every trigger sees, and would do.

use alloc::string::String;
use alloc::vec::Vec;

use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::PolicyStatus;
use serde::Serialize;

use super::encode;

/// What happens whatever is configured.
const ALWAYS: [&str; 4] = [
    "operator: POST /move and POST /drain act at once",
    "power button: drains",
    "service: session.move_to moves after its commit",
    "peer health: whoever drains, is silent or has no memory is given nothing",
];

#[derive(Serialize)]
struct Policy<'a> {
    dry_run: bool,
    triggers: Vec<Trigger<'a>>,
    always: [&'static str; 4],
}

#[derive(Serialize)]
struct Trigger<'a> {
    trigger: &'static str,
    acts: bool,
    enabled: bool,
    sees: &'a str,
    wrong: Option<&'static str>,
    would: &'static str,
    moves: Vec<Move>,
}

#[derive(Serialize)]
struct Move {
    to: u32,
    sessions: u32,
}

/// The policy as JSON. `acts` is false for triggers that are not configured: they tell all the
/// same what they would do.
pub(super) fn json(status: PolicyStatus) -> String {
    let moves = |moves: &[(MemberId, u32)]| {
        let entry = |&(to, sessions): &(MemberId, u32)| Move { to: to.0, sessions };
        moves.iter().map(entry).collect()
    };
    let triggers = status.triggers.iter().map(|trigger| {
        let would = match (trigger.wrong, trigger.would_move.is_empty(), trigger.due) {
            (None, ..) => "nothing: all is well",
            (Some(_), true, _) => "nothing: no member can take any",
            (Some(_), false, false) => "move, once this has lasted",
            (Some(_), false, true) => "move now",
        };
        Trigger {
            trigger: trigger.trigger.name(),
            acts: trigger.enabled && !status.dry_run,
            enabled: trigger.enabled,
            sees: &trigger.sees,
            wrong: trigger.wrong,
            would,
            moves: moves(&trigger.would_move),
        }
    });
    encode(&Policy {
        dry_run: status.dry_run,
        triggers: triggers.collect(),
        always: ALWAYS,
    })
}
