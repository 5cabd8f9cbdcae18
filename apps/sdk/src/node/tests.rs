use alloc::format;
use alloc::string::String;
use core::fmt;

use godwit_netstack::stack::{DeviceCapabilities, RxFrame, TxFrame};

use super::*;
use crate::platform::{Device, NoEntropy};
use crate::{Result, Session};

#[derive(Default)]
struct Bench {
    /// What [`Platform::restored`] says, the last first.
    restored: Vec<bool>,
    random: u8,
    lines: Vec<String>,
    frames: Vec<Vec<u8>>,
    /// The button has been pressed and not been asked about.
    button: bool,
    /// How the cards are; two make two networks.
    nics: Vec<NicStatus>,
    /// What has passed since the beginning.
    later: Duration,
}

impl Platform for Bench {
    fn now(&mut self) -> Instant {
        Instant::from_nanos(1_000_000) + self.later
    }
    fn device(&self) -> Device {
        Device {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            capabilities: DeviceCapabilities::default(),
        }
    }
    fn choose_nics(&mut self, choice: &NicChoice) -> core::result::Result<(), String> {
        let macs: Vec<[u8; 6]> = self.nics.iter().map(|nic| nic.mac).collect();
        match macs.is_empty() {
            true => Ok(()),
            false => choice.among(&macs).map(|_| ()),
        }
    }
    fn instance_device(&self) -> Option<Device> {
        let nic = self.nics.get(1)?;
        Some(Device {
            mac: nic.mac,
            ..self.device()
        })
    }
    fn nics(&self) -> Vec<NicStatus> {
        self.nics.clone()
    }
    fn receive(&mut self) -> Option<RxFrame> {
        None
    }
    fn can_transmit(&mut self) -> bool {
        true
    }
    fn flush(&mut self) {}
    fn transmit(&mut self, frame: TxFrame) {
        self.frames.push(frame.head.to_vec());
    }
    fn fill_random(&mut self, out: &mut [u8]) -> core::result::Result<(), NoEntropy> {
        self.random += 1;
        out.fill(self.random);
        Ok(())
    }
    fn restored(&mut self) -> bool {
        self.restored.pop().unwrap_or_default()
    }
    fn idle(&mut self, _until: Option<Instant>) {}
    fn power_button(&mut self) -> bool {
        core::mem::take(&mut self.button)
    }
    fn console(&mut self, line: fmt::Arguments<'_>) {
        self.lines.push(format!("{line}"));
    }
}

struct Nothing;

impl Service for Nothing {
    type State = ();
    const NAME: &'static str = "nothing";
    const PORT: u16 = 9;

    async fn serve(&self, _session: &mut Session<()>) -> Result<()> {
        Ok(())
    }
}

/// A member of a cluster of two that has just been set up.
fn member() -> (Bench, Node) {
    let config = format!(
        "id=1 ip=10.77.0.11/24 vip=10.77.0.10 peer=2@10.77.0.12 cluster_key={}",
        "ab".repeat(32)
    );
    let config = Config::parse(&[&config]).unwrap();
    let mut bench = Bench::default();
    let node = Node::new(&mut bench, &config, Nothing).unwrap();
    (bench, node)
}

#[test]
fn readiness_is_told_before_the_peers_are_reached_for() {
    let (mut bench, mut node) = member();
    let asks_for_peer = |bench: &Bench| {
        let peer = [10, 77, 0, 12];
        bench.frames.iter().any(|frame| frame.ends_with(&peer))
    };

    let due = node.step(&mut bench);
    assert_eq!(bench.lines.len(), 1, "ready");
    assert!(!asks_for_peer(&bench));
    assert!(due.is_some_and(|at| at <= bench.now()), "no pause after it");
    node.step(&mut bench);
    assert!(asks_for_peer(&bench));
}

#[test]
fn a_machine_that_was_restored_is_another_boot() {
    let (mut bench, node) = member();
    let boot = node.instance().boot_id();
    bench.restored = alloc::vec![true, false, false];
    let config = Config::parse(&["id=1 ip=10.77.0.11/24"]).unwrap();
    assert_eq!(live(&mut bench, &config, node), Life::Restored);
    let again = Node::new(&mut bench, &config, Nothing).unwrap();
    assert_ne!(again.instance().boot_id(), boot);
}

#[test]
fn only_a_second_press_of_the_button_leaves_sessions_behind() {
    let (mut bench, mut node) = member();
    // An operator has asked for the drain that the button then asks for too.
    node.drain(&mut bench);
    bench.button = true;
    node.step(&mut bench);
    assert_eq!(node.verdict(), None);
    bench.button = true;
    node.step(&mut bench);
    let verdict = node.verdict().expect("an order");
    assert_eq!(verdict.code, Code::Incomplete);
}

fn with_words(bench: &mut Bench, words: &str) -> Node {
    let words = format!("{words} instance_ip=10.88.0.11/24 drain_deadline=1s");
    let config = Config::parse(&[&words]).unwrap();
    let mut node = Node::new(bench, &config, Nothing).unwrap();
    node.step(bench);
    node
}

/// A bench with two cards, and an instance with two networks on it that is up.
fn two_networks() -> (Bench, Node) {
    let nic = |interface, n| NicStatus {
        interface,
        mac: [2, 0, 0, 0, 0, n],
        mtu: 1500,
        link: true,
        fault: None,
    };
    let mut bench = Bench {
        nics: [nic(Interface::Service, 1), nic(Interface::Instance, 2)].into(),
        ..Bench::default()
    };
    let node = with_words(&mut bench, "ip=10.77.0.11/24 vip=10.77.0.10");
    assert!(
        bench.lines[0].contains("\"instance_ip\":[\"10.88.0.11\"]"),
        "{:?}",
        bench.lines
    );
    (bench, node)
}

fn step_after(bench: &mut Bench, node: &mut Node, millis: u64) {
    bench.later += Duration::from_millis(millis);
    node.step(bench);
}

#[test]
fn a_card_that_is_not_there_ends_the_boot_with_its_name() {
    let (mut bench, _) = two_networks();
    bench.nics.truncate(1);
    for (words, said) in [
        ("instance_ip=10.88.0.11/24", "no second network card"),
        ("service_nic=02:00:00:00:00:07", "02:00:00:00:00:07"),
    ] {
        let config = format!("ip=10.77.0.11/24 {words}");
        let config = Config::parse(&[&config]).unwrap();
        let verdict = Node::new(&mut bench, &config, Nothing).err().expect(words);
        assert_eq!(verdict.code, Code::BadConfig);
        assert!(verdict.reason.contains(said), "{}", verdict.reason);
    }
}

#[test]
fn an_instance_knows_when_its_clients_cannot_reach_it() {
    let (mut bench, mut node) = two_networks();
    for link in [true, false, true] {
        bench.nics[0].link = link;
        step_after(&mut bench, &mut node, 200);
        assert_eq!(node.instance().is_cut_off(), !link);
    }
    // The other card's link is the members' concern.
    bench.nics[1].link = false;
    step_after(&mut bench, &mut node, 200);
    assert!(!node.instance().is_cut_off());
}

#[test]
fn without_its_clients_card_for_good_an_instance_leaves_and_says_why() {
    let (mut bench, mut node) = two_networks();
    bench.nics[1].fault = Some("it melts".into());
    step_after(&mut bench, &mut node, 200);
    assert_eq!(node.verdict(), None, "clients are served");
    bench.nics[1].fault = None;
    bench.nics[0].fault = Some("it burns".into());
    for _ in 0..100 {
        step_after(&mut bench, &mut node, 200);
    }
    let verdict = node.verdict().expect("an end");
    assert_eq!(verdict.code, Code::NoNic);
    assert!(verdict.reason.contains("it burns"), "{}", verdict.reason);
}

#[test]
fn who_loses_the_clients_card_before_it_has_a_lease_says_that_and_not_that_there_is_none() {
    let (mut bench, _) = two_networks();
    let mut node = with_words(&mut bench, "ip=dhcp");
    bench.nics[0].fault = Some("it burns".into());
    for _ in 0..100 {
        step_after(&mut bench, &mut node, 200);
    }
    let verdict = node.verdict().expect("an end before DHCP gives up");
    assert_eq!(verdict.code, Code::NoNic);
    assert!(verdict.reason.contains("it burns"), "{}", verdict.reason);
}

#[test]
fn no_lease_for_want_of_a_link_is_said_to_be_that() {
    let (mut bench, _) = two_networks();
    for (link, said) in [(true, false), (false, true)] {
        bench.nics[0].link = link;
        let mut node = with_words(&mut bench, "ip=dhcp");
        step_after(&mut bench, &mut node, 31_000);
        let verdict = node.verdict().expect("an end");
        assert_eq!(verdict.code, Code::NoLease);
        let reason = &verdict.reason;
        assert_eq!(reason.contains("has no link"), said, "{reason}");
    }
}
