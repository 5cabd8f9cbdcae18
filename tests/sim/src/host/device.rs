//! smoltcp's view of the link: two queues.

use std::collections::VecDeque;

use bytes::Bytes;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Frames that arrived and frames to send.
pub(super) struct Queues {
    received: VecDeque<Bytes>,
    sent: VecDeque<Bytes>,
    mtu: usize,
}

const ETHERNET_HEADER: usize = 14;

impl Queues {
    pub(super) fn new(mtu: usize) -> Queues {
        Queues {
            received: VecDeque::new(),
            sent: VecDeque::new(),
            mtu,
        }
    }

    pub(super) fn receive(&mut self, frame: Bytes) {
        self.received.push_back(frame);
    }

    /// The frames that wait to be sent, from the `from`th on.
    pub(super) fn sent_since(&self, from: usize) -> impl Iterator<Item = &Bytes> {
        self.sent.iter().skip(from)
    }

    pub(super) fn transmitted(&mut self) -> Option<Bytes> {
        self.sent.pop_front()
    }
}

pub(super) struct Received(Bytes);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub(super) struct Sender<'a>(&'a mut VecDeque<Bytes>);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, octets: usize, write: F) -> R {
        let mut frame = vec![0; octets];
        let result = write(&mut frame);
        self.0.push_back(frame.into());
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sender(&mut self.sent)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET_HEADER;
        capabilities
    }
}
