//! `GET /policy`: what every trigger sees, and would do.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use godwit_netstack::cluster::MemberId;
use godwit_netstack::instance::PolicyStatus;
use serde_json::json;

/// The policy as JSON. `acts` is false for triggers that are not configured: they tell all the
/// same what they would do.
pub(super) fn json(status: PolicyStatus) -> String {
    let moves = |moves: &[(MemberId, u32)]| -> Vec<_> {
        let entry = |(to, count): &(MemberId, u32)| json!({ "to": to.0, "sessions": count });
        moves.iter().map(entry).collect()
    };
    let triggers = status.triggers.iter().map(|trigger| {
        let would = match (trigger.wrong, trigger.would_move.is_empty(), trigger.due) {
            (None, ..) => "nothing: all is well",
            (Some(_), true, _) => "nothing: no member can take any",
            (Some(_), false, false) => "move, once this has lasted",
            (Some(_), false, true) => "move now",
        };
        json!({
            "trigger": trigger.trigger.name(),
            "acts": trigger.enabled && !status.dry_run,
            "enabled": trigger.enabled,
            "sees": trigger.sees,
            "wrong": trigger.wrong,
            "would": would,
            "moves": moves(&trigger.would_move),
        })
    });
    let triggers: Vec<_> = triggers.collect();
    json!({
        "dry_run": status.dry_run,
        "triggers": triggers,
        "always": [
            "operator: POST /move and POST /drain act at once",
            "power button: drains",
            "service: session.move_to moves after its commit",
            "peer health: whoever drains, is silent or has no memory is given nothing",
        ],
    })
    .to_string()
}
