//! virtio-rng (virtio 1.2, section 5.4): a queue the device fills with random bytes.

use alloc::sync::Arc;

use virtio_drivers::transport::DeviceStatus;

use crate::dma::{Buffer, DeviceFault, Pool, QueueOptions, QueueTransport, ReceiveQueue};
use crate::drivers::net::virtio::Features;
use crate::entropy::Seed;

const QUEUE: u16 = 0;
/// How often to look for the answer before giving up. The host normally answers at once.
const PATIENCE: u32 = 2_000_000;

/// A device in use. It is reset when it is dropped.
#[derive(Debug)]
pub struct Source<T: QueueTransport> {
    transport: T,
    queue: ReceiveQueue,
    pool: Arc<Pool>,
}

impl<T: QueueTransport> Source<T> {
    /// Sets the device up and asks it for a seed.
    pub fn bind(mut transport: T) -> Result<Self, DeviceFault> {
        transport.begin_init(Features::VERSION_1);
        let options = QueueOptions {
            index: QUEUE,
            most: 8,
            event_index: false,
            indirect: false,
            apart: false,
        };
        let mut queue = ReceiveQueue::new(&mut transport, options)?;
        queue.set_interrupts(false);
        transport.finish_init();
        let mut source = Self {
            transport,
            queue,
            pool: Pool::new(1, size_of::<Seed>()),
        };
        source.ask();
        Ok(source)
    }

    /// Asks for another seed.
    pub fn ask(&mut self) {
        // What came too late for the question before may have come before this machine was copied: then all
        // copies have it.
        if let Ok(Some((mut buffer, _))) = self.queue.take() {
            buffer.wipe();
        }
        // There is one buffer: whoever asks twice is answered once.
        let posted = self.pool.take().map(|buffer| self.queue.post(buffer));
        if matches!(posted, Some(Ok(()))) {
            self.transport.notify(QUEUE);
        }
    }

    /// Waits for the seed that was asked for. `None`: the device gives nothing, or nothing new.
    pub fn answer(&mut self) -> Result<Option<Seed>, DeviceFault> {
        let mut seed = Seed::default();
        let mut filled = 0;
        while filled < seed.len() {
            if filled > 0 {
                self.ask();
            }
            let Some((mut buffer, len)) = self.wait()? else {
                return Ok(None);
            };
            let len = len.min(seed.len() - filled);
            if len == 0 {
                return Ok(None);
            }
            if let (Some(to), Some(from)) = (
                seed.get_mut(filled..filled + len),
                buffer.bytes().get(..len),
            ) {
                to.copy_from_slice(from);
            }
            // The buffer stays, for the next question.
            buffer.wipe();
            filled += len;
        }
        // A device that says it wrote but did not leaves the zeroes it was given.
        Ok(seed.iter().any(|&byte| byte != 0).then_some(seed))
    }

    fn wait(&mut self) -> Result<Option<(Buffer, usize)>, DeviceFault> {
        for _ in 0..PATIENCE {
            if let Some(answer) = self.queue.take()? {
                return Ok(Some(answer));
            }
            core::hint::spin_loop();
        }
        Ok(None)
    }
}

impl<T: QueueTransport> Drop for Source<T> {
    fn drop(&mut self) {
        // Before the memory goes: a slow device must not write to it any more.
        self.transport.set_status(DeviceStatus::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::virtio::fake::{FakeDevice, FakeTransport};

    fn draw(transport: FakeTransport) -> Result<Option<Seed>, DeviceFault> {
        Source::bind(transport)?.answer()
    }

    #[test]
    fn bytes_from_the_device_become_the_seed_and_the_device_is_reset() {
        let device = FakeDevice::new(8);
        device.on_notify(|device, queue| {
            device.fill_next(queue, |buffer| {
                buffer.fill(0x5a);
                buffer.len().min(20) as u32
            });
        });
        let seed = draw(FakeTransport::new(&device)).unwrap();
        assert_eq!(seed, Some([0x5a; 32]));
        assert_eq!(device.status(), 0);
    }

    #[test]
    fn a_device_that_writes_nothing_gives_no_seed() {
        let device = FakeDevice::new(8);
        device.on_notify(|device, queue| {
            device.fill_next(queue, |_| 32);
        });
        assert_eq!(draw(FakeTransport::new(&device)), Ok(None));
    }

    #[test]
    fn a_device_that_claims_no_bytes_does_not_hang_us() {
        let device = FakeDevice::new(8);
        device.on_notify(|device, queue| {
            device.fill_next(queue, |_| 0);
        });
        assert_eq!(draw(FakeTransport::new(&device)), Ok(None));
    }

    /// Answers what is asked from now on with this octet.
    fn answers_with(device: &FakeDevice, octet: u8) {
        device.on_notify(move |device, queue| {
            device.fill_next(queue, |buffer| {
                buffer.fill(octet);
                32
            });
        });
    }

    #[test]
    fn a_device_that_writes_nothing_does_not_give_the_seed_before_once_more() {
        let device = FakeDevice::new(8);
        answers_with(&device, 1);
        let mut source = Source::bind(FakeTransport::new(&device)).unwrap();
        assert_eq!(source.answer(), Ok(Some([1; 32])));
        device.on_notify(|device, queue| {
            device.fill_next(queue, |_| 32);
        });
        source.ask();
        assert_eq!(source.answer(), Ok(None));
        answers_with(&device, 2);
        source.ask();
        assert_eq!(source.answer(), Ok(Some([2; 32])));
    }

    #[test]
    fn what_comes_too_late_is_no_answer_to_the_next_question() {
        let device = FakeDevice::new(8);
        let mut source = Source::bind(FakeTransport::new(&device)).unwrap();
        assert_eq!(source.answer(), Ok(None));
        device.fill_next(0, |buffer| {
            buffer.fill(1);
            32
        });
        answers_with(&device, 2);
        source.ask();
        assert_eq!(source.answer(), Ok(Some([2; 32])));
    }
}
