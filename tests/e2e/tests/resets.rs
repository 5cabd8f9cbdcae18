//! Every card is reset while frames come and go. The probe image sends them back and does the resets; here is
//! the other end of its cable. Frames may be lost then, but what comes back is what was sent, in order and once, and
//! afterwards nothing is lost any more.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use godwit_qemu::image::build_image;
use godwit_qemu::scratch::Scratch;
use godwit_qemu::setup;
use godwit_qemu::vm::{Accelerator, Machine, Netdev, Nic, NicModel, Outcome, Vm, VmSpec};

const CARDS: [(Machine, NicModel); 13] = [
    (Machine::Microvm, NicModel::Virtio),
    (Machine::MicrovmLegacy, NicModel::Virtio),
    (Machine::Q35, NicModel::Virtio),
    (Machine::Pc, NicModel::VirtioModern),
    (Machine::Q35, NicModel::VirtioLegacy),
    (Machine::Pc, NicModel::E1000),
    (Machine::Q35, NicModel::E1000),
    (Machine::Q35, NicModel::I82545em),
    (Machine::Q35, NicModel::E1000e),
    (Machine::Pc, NicModel::Rtl8139),
    (Machine::Q35, NicModel::Rtl8139),
    (Machine::Pc, NicModel::Vmxnet3),
    (Machine::Q35, NicModel::Vmxnet3),
];
/// All descriptors that a card can have, and the fewest; with frames that are on their way at the same time. More
/// than a ring holds are lost without a reset.
const RINGS: [(u16, u32); 2] = [(256, 32), (8, 4)];
const PATIENCE: Duration = Duration::from_secs(60);
/// Of each card; half of them when answers are queued, half when the card was told of them.
const RESETS: usize = 10;
/// Before the first of them, which the probe does after 150.
const BEFORE: u32 = 100;
const AFTER: u32 = 400;
/// Others follow after so long without an answer. Intel's cards have no link for half a second after a reset.
const SILENCE: Duration = Duration::from_millis(800);
/// One after another, so that the card has to interrupt for each: without that they take a second each.
const ALONE: u32 = 40;
const ALONE_WITHIN: Duration = Duration::from_secs(8);

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// For experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

#[test]
fn cards_that_are_reset_at_work_lose_frames_and_nothing_else() {
    setup::ensure().unwrap_or_else(|error| panic!("{error:#}"));
    let image = build_image("probe").expect("the probe image builds");
    let rows: Vec<_> = RINGS
        .into_iter()
        .flat_map(|ring| CARDS.map(|card| (card, ring)))
        .collect();
    let next = AtomicUsize::new(0);
    let some = || {
        let mut failures = Vec::new();
        while let Some(&(card, ring)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            match try_card(&image, card, ring) {
                Ok(lost) => println!("{card:?}, rings of {}: {lost} frames lost", ring.0),
                Err(error) => failures.push(format!("{card:?}, rings of {}: {error:#}", ring.0)),
            }
        }
        failures
    };
    // Most of it is waiting for links.
    let failures: Vec<String> = thread::scope(|scope| {
        let workers = [0; 4].map(|_| scope.spawn(some));
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.flat_map(|failures| failures.unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// How many frames were lost.
fn try_card(
    image: &std::path::Path,
    (machine, model): (Machine, NicModel),
    (ring, window): (u16, u32),
) -> Result<u32> {
    let scratch = Scratch::new("resets")?;
    let socket = scratch.path("port");
    let listener = UnixListener::bind(&socket)?;
    let mut spec = VmSpec::new("probe", image);
    spec.machine = machine;
    spec.append = format!("probe=reflect:{RESETS} ring={ring}");
    spec.nics.push(Nic {
        model,
        mac: MAC,
        netdev: Netdev::Switch(socket),
    });
    let mut vm = Vm::start(&spec, Accelerator::Tcg, |_| {})?;
    vm.wait_ready(PATIENCE)?;
    let mut cable = Cable::new(listener.accept()?.0)?;
    let lost = work(&vm, &mut cable, window);
    let lost = lost.with_context(|| vm.console().tail(30).join("\n"))?;

    vm.press_power_button()?;
    let outcome = vm.wait_exit(PATIENCE);
    let reason = match &outcome {
        Outcome::Verdict(verdict) if verdict.code == 0 => &verdict.reason,
        _ => bail!("{outcome}\n{}", vm.console().tail(30).join("\n")),
    };
    let resets = format!(" resets: {RESETS},");
    for says in [&*resets, " rx_errors: 0,"] {
        ensure!(reason.contains(says), "{reason}");
    }
    // Half of the resets were done with an answer in the ring that the card had not been told of.
    ensure!(!reason.contains(" tx_lost: 0,"), "{reason}");
    ensure!(lost >= RESETS as u32 / 2, "{lost} frames lost");
    Ok(lost)
}

fn work(vm: &Vm, cable: &mut Cable, window: u32) -> Result<u32> {
    // A link may take its time.
    cable.find_link()?;
    // Rings are filled bit by bit at first.
    cable.send_all(BEFORE, window.min(8))?;

    let (sent, answered) = (cable.next, cable.answered);
    let deadline = Instant::now() + PATIENCE;
    while resets(vm) < RESETS {
        let done = resets(vm);
        ensure!(Instant::now() < deadline, "{done} resets of {RESETS}");
        cable.send(window, window, SILENCE)?;
    }
    cable.find_link()?;
    let lost = (cable.next - sent) - (cable.answered - answered);

    cable.send_all(AFTER, window)?;
    let begun = Instant::now();
    cable.send_all(ALONE, 1)?;
    let took = begun.elapsed();
    ensure!(took < ALONE_WITHIN, "one by one they took {took:?}");
    Ok(lost)
}

/// Those that the console tells of.
fn resets(vm: &Vm) -> usize {
    let lines = vm.console().tail(usize::MAX);
    let told = |line: &&String| line.contains("GODWIT PROBE reset ");
    lines.iter().filter(told).count()
}

/// Our end: frames with a length before them, as QEMU has them on a stream.
struct Cable {
    sending: UnixStream,
    arrived: Receiver<Vec<u8>>,
    /// The number of the next frame, and how many have come back.
    next: u32,
    answered: u32,
    /// The first one that may still come back, and the first one that is waited for.
    expected: u32,
    awaited: u32,
}

impl Cable {
    fn new(stream: UnixStream) -> Result<Self> {
        let mut receiving = stream.try_clone()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (found, arrived) = channel();
        thread::spawn(move || -> Result<()> {
            loop {
                let mut len = [0; 4];
                receiving.read_exact(&mut len)?;
                let mut frame = vec![0; u32::from_be_bytes(len) as usize];
                receiving.read_exact(&mut frame)?;
                found.send(frame)?;
            }
        });
        Ok(Self {
            sending: stream,
            arrived,
            next: 0,
            answered: 0,
            expected: 0,
            awaited: 0,
        })
    }

    /// Sends so many frames, `window` at the same time, and takes what comes back. Those that have not when there
    /// was `silence` are not waited for.
    fn send(&mut self, count: u32, window: u32, silence: Duration) -> Result<()> {
        let end = self.next + count;
        while self.awaited < end {
            while self.next < end && self.next - self.awaited < window {
                let frame = frame(self.next, MAC, OURS);
                let len = (frame.len() as u32).to_be_bytes();
                self.sending.write_all(&[&len[..], &frame].concat())?;
                self.next += 1;
            }
            match self.arrived.recv_timeout(silence) {
                Ok(frame) => self.take(&frame)?,
                Err(RecvTimeoutError::Timeout) => self.awaited = self.next,
                Err(RecvTimeoutError::Disconnected) => bail!("the machine is gone"),
            }
        }
        Ok(())
    }

    /// The same, and all come back.
    fn send_all(&mut self, count: u32, window: u32) -> Result<()> {
        let before = self.answered;
        self.send(count, window, PATIENCE)?;
        let answered = self.answered - before;
        ensure!(answered == count, "{answered} frames of {count} came back");
        Ok(())
    }

    /// A frame came back: one of those that are out, as it was sent.
    fn take(&mut self, got: &[u8]) -> Result<()> {
        let number = got.get(14..18).and_then(|at| at.try_into().ok());
        let number = u32::from_be_bytes(number.ok_or_else(|| anyhow!("a runt"))?);
        ensure!(
            number < self.next,
            "frame {number} was never sent: {got:02x?}"
        );
        ensure!(
            number >= self.expected,
            "frame {number} again, or after frame {}",
            self.expected - 1
        );
        ensure!(got == frame(number, OURS, MAC), "frame {number} is corrupt");
        self.answered += 1;
        self.expected = number + 1;
        self.awaited = self.awaited.max(self.expected);
        Ok(())
    }

    /// Until a frame comes back at once. Nothing that was sent before comes back later.
    fn find_link(&mut self) -> Result<()> {
        for _ in 0..40 {
            self.send(1, 1, SILENCE)?;
            if self.expected == self.next {
                return Ok(());
            }
        }
        bail!("nothing comes back any more")
    }
}

/// A frame of any length, with octets that no other one has.
fn frame(number: u32, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut random = number.wrapping_mul(0x9e37_79b9) | 1;
    let mut word = || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    let len = 60 + word() as usize % 1455;
    let mut frame = [&to[..], &from, &ETHERTYPE, &number.to_be_bytes()].concat();
    while frame.len() < len {
        frame.extend(word().to_le_bytes());
    }
    frame.truncate(len);
    frame
}
