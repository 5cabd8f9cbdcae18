//! Network cards: which is for which network, and how they are.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(crate) use godwit_config::Mac;
pub use godwit_config::NicName;
use godwit_netstack::stack::{Interface, MacAddr};

/// The cards that are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NicChoice {
    /// That of the service network, if not the first.
    pub service: Option<NicName>,
    /// Whether there is an instance network, and its card, if not the first other one.
    pub instance: Option<Option<NicName>>,
}

/// How a card is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NicStatus {
    /// What it is for.
    pub interface: Interface,
    /// Its address.
    pub mac: MacAddr,
    /// Largest IP packet it carries, in octets.
    pub mtu: u16,
    /// Whether it has a link.
    pub link: bool,
    /// Why it is out of service for good, if it is.
    pub fault: Option<String>,
}

impl NicStatus {
    /// Whether anything comes or goes.
    pub fn works(&self) -> bool {
        self.link && self.fault.is_none()
    }
}

/// The network's name in messages.
pub(crate) fn network(interface: Interface) -> &'static str {
    match interface {
        Interface::Service => "service",
        Interface::Instance => "instance",
    }
}

impl NicChoice {
    /// The places of the service network's card and of the instance network's among these cards, or what is
    /// wrong.
    #[cold]
    #[inline(never)]
    pub fn among(&self, cards: &[MacAddr]) -> Result<(usize, Option<usize>), String> {
        let find = |key, name: NicName| {
            let found = match name {
                NicName::Place(place) => Some(usize::from(place)).filter(|at| *at < cards.len()),
                NicName::Mac(mac) => cards.iter().position(|card| *card == mac),
            };
            found.ok_or_else(|| {
                let cards: Vec<String> = cards.iter().map(|mac| format!("{}", Mac(*mac))).collect();
                let list = cards.join(", ");
                format!("`{key}`: there is no network card {name}; there are: {list}")
            })
        };
        let service = self.service.map(|name| find("service_nic", name));
        let service = service.transpose()?;
        let wanted = self.instance.flatten();
        let instance = wanted.map(|name| find("instance_nic", name)).transpose()?;
        let other = |than: Option<usize>| (0..cards.len()).find(|at| Some(*at) != than);
        let Some(service) = service.or_else(|| other(instance)) else {
            return Err("`service_nic`: the only network card is the instance network's".into());
        };
        if self.instance.is_none() {
            return Ok((service, None));
        }
        let Some(instance) = instance.or_else(|| other(Some(service))) else {
            return Err("`instance_ip`: there is no second network card for that network".into());
        };
        if instance == service {
            return Err("`instance_nic` and `service_nic` are one network card".into());
        }
        if cards.get(service) == cards.get(instance) {
            return Err("the cards of both networks have one Ethernet address".into());
        }
        Ok((service, Some(instance)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARDS: [MacAddr; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];

    fn choice(service: Option<NicName>, instance: Option<Option<NicName>>) -> NicChoice {
        NicChoice { service, instance }
    }

    #[test]
    fn cards_are_found_by_place_and_address_and_else_taken_in_order() {
        use NicName::{Mac, Place};
        for (service, instance, places) in [
            (None, None, (0, None)),
            (Some(Place(2)), None, (2, None)),
            (None, Some(None), (0, Some(1))),
            (Some(Place(1)), Some(None), (1, Some(0))),
            (None, Some(Some(Mac(CARDS[0]))), (1, Some(0))),
            (Some(Mac(CARDS[2])), Some(Some(Place(1))), (2, Some(1))),
        ] {
            let chosen = choice(service, instance).among(&CARDS);
            assert_eq!(chosen, Ok(places), "{service:?} {instance:?}");
        }
    }

    #[test]
    fn a_card_that_is_not_there_is_named_with_those_that_are() {
        let nowhere = [2, 0, 0, 0, 0, 9];
        let wrong = choice(Some(NicName::Mac(nowhere)), None);
        let error = wrong.among(&CARDS).unwrap_err();
        assert!(error.contains("`service_nic`") && error.contains("02:00:00:00:00:09"));
        assert!(error.contains("02:00:00:00:00:01"), "{error}");
        let wrong = choice(None, Some(Some(NicName::Place(3))));
        let error = wrong.among(&CARDS).unwrap_err();
        assert!(error.contains("`instance_nic`"), "{error}");
    }

    #[test]
    fn one_card_is_not_two() {
        let place = |at| Some(NicName::Place(at));
        for (wrong, cards) in [
            (choice(None, Some(None)), &CARDS[..1]),
            (choice(None, Some(place(0))), &CARDS[..1]),
            (choice(place(1), Some(Some(NicName::Mac(CARDS[1])))), &CARDS),
            (choice(None, Some(None)), &[CARDS[0], CARDS[0]]),
            (choice(None, None), &[]),
        ] {
            assert!(wrong.among(cards).is_err(), "{wrong:?}");
        }
    }
}
