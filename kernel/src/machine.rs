//! The machine, as the kernel hands it to an image.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::arch::x86_64::cpu::Hypervisor;
use crate::drivers::net::Nic;
use crate::drivers::rng::Source;
use crate::drivers::virtio::AnyTransport;
use crate::entropy;
use crate::exit::{ExitCode, exit};
use crate::lookout::Lookout;
use crate::mmio::Mmio;
use crate::past::Past;

/// What an image gets to work with.
pub struct Machine {
    /// The kernel command line.
    pub command_line: String,
    /// More configuration, in the order in which it counts: the boot modules, then the file
    /// `opt/godwit/config` the host supplied through fw_cfg.
    pub config: Vec<String>,
    /// The network cards, in the order they were found.
    pub nics: Vec<Box<dyn Nic>>,
    /// Network cards that are there and cannot be used: each with the reason.
    pub(crate) refused: Vec<String>,
    /// Those of them that are not waited for.
    pub(crate) unused: Vec<usize>,
    /// Devices that give randomness.
    pub(crate) sources: Vec<Source<AnyTransport>>,
    pub(crate) stock: Stock,
    /// Asking it costs an exit, so it is asked once.
    pub(crate) hypervisor: Hypervisor,
    /// When to look after the cards again, and whether they want that even if nothing happens.
    pub(crate) watch_at_ns: u64,
    pub(crate) watched: bool,
    pub(crate) past: Past<Mmio>,
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    pub(crate) lookout: Lookout,
    /// When to hold the date against the clock again.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    pub(crate) compare_at_ns: u64,
}

/// What was found at boot and is only of interest to who reads the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stock {
    /// Bytes of RAM.
    pub(crate) ram: u64,
    /// Bytes of it that became heap.
    pub(crate) heap: usize,
    /// What the clock was calibrated with.
    pub(crate) clock: &'static str,
    /// What wakes it up.
    pub(crate) alarm: &'static str,
    /// When the heap may be tidied again, by the clock.
    #[cfg_attr(not(godwit_image), allow(dead_code))]
    pub(crate) reclaim_at: u64,
}

struct Mac([u8; 6]);

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Machine {
    /// Logs what the machine is made of. Not done by the boot itself: a line costs a twentieth of
    /// it, and can wait until somebody is served, or until it is clear that nobody will be.
    pub fn describe(&self) {
        let Stock {
            ram,
            heap,
            clock,
            alarm,
            ..
        } = self.stock;
        log::info!("{} KiB of RAM, {} KiB heap", ram >> 10, heap >> 10);
        log::info!(
            "clock by {clock}, alarm by {alarm}, {:?}, generation id: {}",
            self.hypervisor,
            self.past.has_generation()
        );
        for nic in &self.nics {
            log::info!(
                "network card {}, MTU {}, rings of {}",
                Mac(nic.mac()),
                nic.mtu(),
                nic.ring()
            );
        }
    }

    /// What to say where there is no network card to work with: which ones cannot be used, and why.
    pub fn no_card(&self) -> String {
        match self.refused[..] {
            [] => String::from("no network card"),
            _ => format!(
                "no network card that can be used: {}",
                self.refused.join("; ")
            ),
        }
    }

    /// Bytes of heap there are.
    pub fn memory(&self) -> usize {
        self.stock.heap
    }

    /// Nanoseconds since the image's first instruction.
    pub fn now_ns(&self) -> u64 {
        crate::clock::now_ns()
    }

    /// Whether the power button was pressed since the last call.
    pub fn power_button(&mut self) -> bool {
        crate::acpi::power::take_button()
    }

    /// Mixes random numbers to come with fresh ones, from wherever there are some; whether there were.
    fn reseed(&mut self) -> bool {
        let mut fresh = false;
        if let Some(seed) = entropy::processor_seed() {
            entropy::add_seed(seed);
            fresh = true;
        }
        for source in &mut self.sources {
            source.ask();
            fresh |= entropy::add_answer(source.answer());
        }
        // Copies differ even if nobody has given them anything.
        if let Some(id) = self.past.generation() {
            let mut seed = entropy::Seed::default();
            for (octets, word) in seed.chunks_exact_mut(4).zip(id) {
                octets.copy_from_slice(&word.to_le_bytes());
            }
            entropy::add_seed(seed);
            fresh = true;
        }
        fresh
    }

    /// Whether this machine has become a copy of what it was (a snapshot that was restored) since the
    /// last call: it then counts as booted anew. Random numbers are fresh ones already; a copy that has none is
    /// ended.
    pub fn restored(&mut self) -> bool {
        let restored = self.past.restored();
        if restored && !self.reseed() {
            exit(
                ExitCode::NoEntropy,
                "a copy of a machine, and nothing makes its random numbers differ from the original's",
            );
        }
        restored
    }

    /// Takes the date from the machine's clock, which no boot waits for; later, sets it right if this machine
    /// was stopped for a while.
    #[cfg(godwit_image)]
    fn compare_clocks(&mut self, now: u64) {
        const INTERVAL_NS: u64 = 2_000_000_000;
        if now < self.compare_at_ns {
            return;
        }
        crate::boot::timer::follow_pace();
        let second = |ns| ns / 1_000_000_000;
        let date = crate::boot::timer::read_date();
        if self.compare_at_ns == 0 {
            match date {
                Some(date) if crate::clock::unix_ns().is_none() => crate::clock::set_date(date),
                Some(_) => {}
                None => log::warn!("no real-time clock: the date is not known"),
            }
        }
        self.compare_at_ns = now + INTERVAL_NS;
        let step = date.and_then(|date| self.past.compare(second(date), second(self.now_ns())));
        if let Some(step) = step {
            crate::past::move_date(step);
            self.reseed();
            log::warn!(
                "the date has stepped by {step} s: this machine was stopped, or its date set"
            );
        }
    }

    /// Whether [`Machine::power_button`] has something to tell.
    pub fn power_pending(&self) -> bool {
        crate::acpi::power::button_pending()
    }

    /// Looks after the network cards, a few times a second however often it is called.
    pub fn watch(&mut self) {
        const INTERVAL_NS: u64 = 250_000_000;
        let now = self.now_ns();
        if now >= self.watch_at_ns {
            self.watch_at_ns = now + INTERVAL_NS;
            let each = |any, nic: &mut Box<dyn Nic>| nic.watch(now) || any;
            self.watched = self.nics.iter_mut().fold(false, each);
            #[cfg(godwit_image)]
            self.compare_clocks(now);
            #[cfg(godwit_image)]
            self.fit_tlb();
        }
    }

    /// QEMU's emulated TLB begins with 256 pages, large ones counted as many small, and gets another size
    /// only when it is emptied: it then looks how full it was. Nothing else here ever empties it.
    #[cfg(godwit_image)]
    fn fit_tlb(&self) {
        if self.hypervisor == Hypervisor::Tcg {
            crate::arch::x86_64::cpu::empty_tlb();
        }
    }

    /// Bytes of heap that are left for blocks of any size. Asking makes room where there is little:
    /// ask often, as it is cheap where there is much.
    #[cfg(godwit_image)]
    pub fn memory_left(&mut self) -> usize {
        /// Making room may take so much of the time: one part in this many.
        const SHARE: u64 = 20;
        const PAUSE_NS: u64 = 100_000_000;
        let usage = crate::mm::memory();
        if !usage.is_worth_reclaiming() {
            return usage.left();
        }
        let begun = self.now_ns();
        if begun < self.stock.reclaim_at {
            return usage.left();
        }
        crate::mm::reclaim();
        let end = self.now_ns();
        self.stock.reclaim_at = end + PAUSE_NS.max((end - begun) * SHARE);
        crate::mm::memory().left()
    }

    /// There is no heap of ours on the host.
    #[cfg(not(godwit_image))]
    pub fn memory_left(&mut self) -> usize {
        usize::MAX
    }

    /// From now on [`Machine::idle`] waits for the cards alone that are `used`, by their places. One
    /// with frames that nobody takes in would let nobody sleep.
    pub fn wait_for(&mut self, used: impl Fn(usize) -> bool) {
        self.unused = (0..self.nics.len()).filter(|at| !used(*at)).collect();
    }

    #[cfg(godwit_image)]
    fn awaited(&mut self) -> impl Iterator<Item = &mut Box<dyn Nic>> {
        let unused = &self.unused;
        let nics = self.nics.iter_mut().enumerate();
        nics.filter_map(|(at, nic)| (!unused.contains(&at)).then_some(nic))
    }

    /// Sleeps until a card has something, the power button is pressed, or `deadline_ns` (see
    /// [`Machine::now_ns`]) has come; may end early. What waits on the console goes out first, piece
    /// by piece. The first moments may be polled through, see [`Lookout`].
    #[cfg(godwit_image)]
    pub fn idle(&mut self, deadline_ns: Option<u64>) {
        if crate::console::flush_piece() {
            return; // to see what has come meanwhile
        }
        self.watch();
        let begun = self.now_ns();
        let until = self.lookout.until(begun, deadline_ns);
        if !until.is_some_and(|until| self.poll(until)) {
            self.sleep(deadline_ns);
        }
        self.lookout.waited(begun, self.now_ns(), deadline_ns);
    }

    /// Waits awake, until `until_ns`; whether a card has something.
    #[cfg(godwit_image)]
    fn poll(&mut self, until_ns: u64) -> bool {
        // QEMU's emulation of PAUSE leaves the guest and takes the lock that its cards work under.
        let yields = self.hypervisor != Hypervisor::Tcg;
        while self.now_ns() < until_ns {
            // All of them, whatever the first one says.
            if self.awaited().fold(false, |any, nic| any | nic.poll()) {
                return true;
            }
            if yields {
                core::hint::spin_loop();
            }
        }
        false
    }

    #[cfg(godwit_image)]
    fn sleep(&mut self, deadline_ns: Option<u64>) {
        use crate::arch::x86_64::{cpu, interrupts};

        let ready = self.awaited().fold(false, |any, nic| any | nic.arm());
        if !ready {
            cpu::disable_interrupts();
            // Interrupts are off: whatever comes after these checks ends the `hlt` at once.
            if interrupts::take_wake() || crate::acpi::power::button_pending() {
                cpu::enable_interrupts();
            } else if crate::alarm::arm(self.limit(deadline_ns)) {
                cpu::enable_interrupts_and_halt();
            } else {
                cpu::enable_interrupts();
            }
        }
        let _ = interrupts::take_wake();
        self.awaited().for_each(|nic| nic.disarm());
    }

    /// There is nothing to sleep on on the host.
    #[cfg(not(godwit_image))]
    pub fn idle(&mut self, _deadline_ns: Option<u64>) {}

    /// A card without interrupts must be polled, and some want to be looked after.
    #[cfg(godwit_image)]
    fn limit(&mut self, deadline_ns: Option<u64>) -> Option<u64> {
        const POLL_NS: u64 = 500_000;
        const WATCH_NS: u64 = 1_000_000_000;
        let polled = self.awaited().any(|nic| !nic.interrupts());
        let most = match (polled, self.watched) {
            (true, _) => POLL_NS,
            (false, true) => WATCH_NS,
            (false, false) => return deadline_ns,
        };
        let limit = self.now_ns() + most;
        Some(deadline_ns.map_or(limit, |deadline| deadline.min(limit)))
    }
}

impl core::fmt::Debug for Machine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Machine")
            .field("command_line", &self.command_line)
            .field("nics", &self.nics.len())
            .finish_non_exhaustive()
    }
}
