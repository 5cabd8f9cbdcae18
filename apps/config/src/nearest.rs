//! The key that was probably meant.

use alloc::vec::Vec;

/// Every key there is.
pub(super) const KEYS: &[&str] = &[
    "id",
    "ip",
    "gw",
    "vip",
    "peer",
    "service_nic",
    "instance_ip",
    "instance_nic",
    "instance_gw",
    "discover",
    "ingress",
    "priority",
    "preempt",
    "witness",
    "prefer",
    "lease",
    "heartbeat",
    "drain_deadline",
    "drain_then",
    "cluster_key",
    "cluster_key_old",
    "policy",
    "policy_dry_run",
    "policy_margin",
    "policy_hold",
    "policy_syn_rate",
    "admin_port",
    "admin_token",
    "connections",
    "port",
    "watchdog",
    "ntp",
    "timer",
    "ring",
    "log",
];

/// The key nearest to `given`, if one is near: it begins so, or one in three characters is wrong at most.
pub(super) fn nearest(given: &str) -> Option<&'static str> {
    let given = given.to_ascii_lowercase();
    let begun = KEYS
        .iter()
        .find(|key| given.len() >= 3 && key.starts_with(&given));
    let distances = KEYS.iter().map(|key| (distance(&given, key), *key));
    let near = distances.min_by_key(|(distance, _)| *distance);
    let near = near.filter(|(distance, key)| distance * 3 <= key.len().max(3));
    begun.copied().or(near.map(|(_, key)| key))
}

/// Characters to put in, take out, change or swap with the next one to make `key` of `given`.
fn distance(given: &str, key: &str) -> usize {
    let given: Vec<char> = given.chars().collect();
    let key: Vec<char> = key.chars().collect();
    let at = |list: &[usize], index: usize| list.get(index).copied().unwrap_or(usize::MAX / 2);
    let (mut above, mut before): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=key.len()).collect());
    for (row, character) in given.iter().enumerate() {
        let mut current = Vec::from([row + 1]);
        for (column, wanted) in key.iter().enumerate() {
            let changed = at(&before, column) + usize::from(character != wanted);
            let left_out = at(&before, column + 1) + 1;
            let put_in = at(&current, column) + 1;
            let crossed = row > 0
                && column > 0
                && given.get(row - 1) == Some(wanted)
                && key.get(column - 1) == Some(character);
            let swapped = match crossed {
                true => at(&above, column - 1) + 1,
                false => usize::MAX,
            };
            current.push(changed.min(left_out).min(put_in).min(swapped));
        }
        above = core::mem::replace(&mut before, current);
    }
    at(&before, key.len())
}
