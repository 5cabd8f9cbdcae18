//! `GET /key` and `POST /key`: the cluster's key is changed at run time.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use godwit_netstack::Instance;
use godwit_netstack::Instant;
use godwit_netstack::cluster::keys::{Key, KeyError, KeyId};
use serde::{Deserialize, Serialize};

use super::{Answer, encode, parse};
use crate::config::cluster_key;

/// What `POST /key` takes: one of the three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Order {
    /// Take this key too (64 hex digits).
    Add(String),
    /// Open channels with the key of this name.
    Activate(String),
    /// Take the key of this name no more.
    Remove(String),
}

/// What `GET /key` tells.
#[derive(Serialize)]
struct Keys {
    keys: Vec<Held>,
}

#[derive(Serialize)]
struct Held {
    id: String,
    active: bool,
    channels: usize,
}

/// The keys by name; never the keys.
pub(super) fn list(instance: &Instance) -> String {
    let keys = instance.keys().into_iter().map(|key| Held {
        id: key.id.to_string(),
        active: key.active,
        channels: key.channels,
    });
    encode(&Keys {
        keys: keys.collect(),
    })
}

/// Do as the body says.
pub(super) fn order(instance: &mut Instance, now: Instant, body: &[u8]) -> Answer {
    let Some(order) = parse::<Order>(body) else {
        let expected = "expected {\"add\": KEY}, {\"activate\": ID} or {\"remove\": ID}";
        return Answer::error(400, expected);
    };
    let done = match order {
        Order::Add(key) => match cluster_key("add", &key) {
            Ok(key) => instance.add_key(Key(*key.expose())).map(|_| ()),
            // Not what was given: it may be nearly a key.
            Err(_) => return Answer::error(400, "a key is 64 hex digits"),
        },
        Order::Activate(id) => id
            .parse::<KeyId>()
            .and_then(|id| instance.activate_key(now, id)),
        Order::Remove(id) => id
            .parse::<KeyId>()
            .and_then(|id| instance.remove_key(now, id)),
    };
    match done {
        Ok(()) => Answer::json(200, list(instance)),
        Err(error @ KeyError::Unknown) => Answer::error(404, &error.to_string()),
        Err(error) => Answer::error(409, &error.to_string()),
    }
}
