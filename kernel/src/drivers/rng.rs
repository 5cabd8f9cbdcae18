//! virtio-rng (virtio 1.2, section 5.4): a queue the device fills with random bytes.

use alloc::sync::Arc;

use virtio_drivers::transport::{DeviceStatus, Transport};

use crate::dma::{Buffer, DeviceFault, Pool, QueueOptions, ReceiveQueue};
use crate::drivers::net::virtio::Features;
use crate::entropy::Seed;

const QUEUE: u16 = 0;
/// How often to look for the answer before giving up. The host normally answers at once.
const PATIENCE: u32 = 2_000_000;

/// Draws one seed from the device and resets it.
pub fn draw(mut transport: impl Transport) -> Result<Option<Seed>, DeviceFault> {
    transport.begin_init(Features::VERSION_1);
    let options = QueueOptions {
        index: QUEUE,
        most: 8,
        event_index: false,
        indirect: false,
    };
    let mut queue = ReceiveQueue::new(&mut transport, options)?;
    queue.set_interrupts(false);
    transport.finish_init();
    let pool = Pool::new(1, size_of::<Seed>());
    let seed = fill(&mut transport, &mut queue, &pool);
    // Before the memory goes: a slow device must not write to it any more.
    transport.set_status(DeviceStatus::empty());
    seed
}

fn fill(
    transport: &mut impl Transport,
    queue: &mut ReceiveQueue,
    pool: &Arc<Pool>,
) -> Result<Option<Seed>, DeviceFault> {
    let mut seed = Seed::default();
    let mut filled = 0;
    while filled < seed.len() {
        let posted = pool.take().map(|buffer| queue.post(buffer));
        if !matches!(posted, Some(Ok(()))) {
            return Ok(None);
        }
        transport.notify(QUEUE);
        let Some((buffer, len)) = wait(queue)? else {
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
        filled += len;
    }
    // A device that says it wrote but did not leaves the zeroes it was given.
    Ok(seed.iter().any(|&byte| byte != 0).then_some(seed))
}

fn wait(queue: &mut ReceiveQueue) -> Result<Option<(Buffer, usize)>, DeviceFault> {
    for _ in 0..PATIENCE {
        if let Some(answer) = queue.take()? {
            return Ok(Some(answer));
        }
        core::hint::spin_loop();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::virtio::fake::{FakeDevice, FakeTransport};

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
}
