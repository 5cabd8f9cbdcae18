//! A learning switch (IEEE 802.1D without spanning tree): enough to notice a wrong source MAC.

use std::collections::BTreeMap;

use godwit_netstack::stack::MacAddr;

use super::Port;

/// Which MAC address was last seen behind which port.
#[derive(Debug, Default)]
pub struct Switch {
    table: BTreeMap<MacAddr, Port>,
}

impl Switch {
    /// Learn from a frame that came in at `port`, and say where it goes on: one port, or all
    /// others (`ports` of them in total) when its destination is a group or unknown.
    pub fn ports_for(&mut self, port: Port, frame: &[u8], ports: usize) -> Vec<Port> {
        let (Some(to), Some(from)) = (mac_at(frame, 0), mac_at(frame, 6)) else {
            return Vec::new();
        };
        if !is_group(from) {
            self.table.insert(from, port);
        }
        match self.table.get(&to) {
            Some(known) if !is_group(to) && *known == port => Vec::new(),
            Some(known) if !is_group(to) => vec![*known],
            _ => (0..ports).filter(|other| *other != port).collect(),
        }
    }
}

fn is_group(mac: MacAddr) -> bool {
    mac[0] & 1 == 1
}

fn mac_at(frame: &[u8], at: usize) -> Option<MacAddr> {
    frame.get(at..at + 6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
        [to, from].concat()
    }

    #[test]
    fn floods_the_unknown_and_then_remembers() {
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut switch = Switch::default();
        assert_eq!(switch.ports_for(0, &frame(b, a), 3), [1, 2]);
        assert_eq!(switch.ports_for(1, &frame(a, b), 3), [0]);
        assert_eq!(switch.ports_for(2, &frame([0xff; 6], [2; 6]), 3), [0, 1]);
        // The address moves: a gratuitous announcement from another port is believed at once.
        switch.ports_for(2, &frame([0xff; 6], a), 3);
        assert_eq!(switch.ports_for(1, &frame(a, b), 3), [2]);
    }
}
