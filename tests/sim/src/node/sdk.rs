//! The SDK's drive loop on a simulated machine.

use std::cell::{Ref, RefMut};
use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use godwit::nics::NicChoice;
use godwit::platform::{Device, NoEntropy};
use godwit::{Config, Platform, Service};
use godwit_netstack::stack::{Interface, RxFrame, TxFrame};
use godwit_netstack::{Instance, Instant};

use super::{Engine, on_the_wire};
use crate::rng::Rng;

/// The hardware of a simulated machine.
pub struct Machine {
    /// Its NIC.
    pub device: Device,
    /// Its NIC in a network for the instances alone, if there is one.
    pub instance_device: Option<Device>,
    /// Where its entropy comes from.
    pub entropy: Rng,
}

/// A [`Platform`] of queues and virtual time.
struct Board {
    machine: Machine,
    now: Instant,
    received: VecDeque<RxFrame>,
    sent: VecDeque<TxFrame>,
    button: bool,
    console: Vec<String>,
}

impl Platform for Board {
    fn now(&mut self) -> Instant {
        self.now
    }

    fn choose_nics(&mut self, choice: &NicChoice) -> Result<(), String> {
        match choice.instance.is_some() == self.machine.instance_device.is_some() {
            true => Ok(()),
            false => Err("another number of cards".into()),
        }
    }

    fn device(&self) -> Device {
        self.machine.device
    }

    fn instance_device(&self) -> Option<Device> {
        self.machine.instance_device
    }

    fn receive(&mut self) -> Option<RxFrame> {
        self.received.pop_front()
    }

    fn can_transmit(&mut self) -> bool {
        true
    }

    fn transmit(&mut self, frame: TxFrame) {
        self.sent.push_back(frame);
    }

    fn flush(&mut self) {}

    fn fill_random(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        for chunk in out.chunks_mut(8) {
            let octets = self.machine.entropy.draw().to_le_bytes();
            chunk.copy_from_slice(octets.get(..chunk.len()).ok_or(NoEntropy)?);
        }
        Ok(())
    }

    fn idle(&mut self, _until: Option<Instant>) {}

    fn power_button(&mut self) -> bool {
        std::mem::take(&mut self.button)
    }

    fn console(&mut self, line: fmt::Arguments<'_>) {
        self.console.push(line.to_string());
    }
}

/// The drive loop and its board.
pub(super) struct Sdk {
    node: godwit::Node,
    board: Board,
    due: Option<Instant>,
}

impl Sdk {
    pub(super) fn new<S: Service>(
        config: &Config,
        machine: Machine,
        service: S,
        now: Instant,
    ) -> Sdk {
        let mut board = Board {
            machine,
            now,
            received: VecDeque::new(),
            sent: VecDeque::new(),
            button: false,
            console: Vec::new(),
        };
        let node = match godwit::Node::new(&mut board, config, service) {
            Ok(node) => node,
            Err(verdict) => panic!("the simulated machine does not start: {}", verdict.line()),
        };
        Sdk {
            node,
            board,
            due: Some(now),
        }
    }
}

impl Engine for Sdk {
    fn instance(&self) -> Ref<'_, Instance> {
        self.node.instance()
    }

    fn instance_mut(&mut self) -> RefMut<'_, Instance> {
        self.node.instance_mut()
    }

    fn receive(&mut self, now: Instant, frame: RxFrame) {
        self.board.now = now;
        self.board.received.push_back(frame);
    }

    fn turn(&mut self, now: Instant) -> bool {
        self.board.now = now;
        if self.node.verdict().is_some() {
            self.due = None;
            return false;
        }
        self.due = self.node.step(&mut self.board);
        self.due.is_some_and(|at| at <= now)
    }

    fn transmit(&mut self, _now: Instant) -> Option<(Interface, Vec<Bytes>)> {
        let frame = self.board.sent.pop_front();
        frame.map(|frame| (frame.interface, on_the_wire(&frame)))
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn drain(&mut self, now: Instant) {
        self.board.now = now;
        self.board.button = true;
    }

    fn gone(&self) -> bool {
        self.node.verdict().is_some()
    }

    fn failures(&self) -> u64 {
        0
    }
}
