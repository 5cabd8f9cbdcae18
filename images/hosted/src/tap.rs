//! A TAP device as the NIC: one frame per read and write, with a virtio-net header in front
//! (virtio 1.2 section 5.1.6) so that checksums and segmentation can be left to the host kernel.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use bytes::{Buf, Bytes, BytesMut};
use godwit_netstack::stack::frame::Segmentation;
use godwit_netstack::stack::{DeviceCapabilities, RxChecksum, RxFrame, TxFrame};
use nix::errno::Errno;
use nix::libc;
use nix::sys::uio::writev;

/// Octets of the header in front of each frame.
const HEADER: usize = 10;
/// The header's flag: the checksum is still to be computed.
const NEEDS_CHECKSUM: u8 = 1;
/// The header's flag: the device has seen to the checksum.
const DATA_VALID: u8 = 2;
/// The offset of the checksum in a UDP header.
const UDP_CHECKSUM: u16 = 6;
/// What the kernel may leave to us: checksums, and cutting TCP segments (TUN_F_CSUM, TUN_F_TSO4,
/// TUN_F_TSO6).
const LEFT_TO_US: libc::c_int = 1 | 2 | 4;
/// Octets of a frame that the kernel did not cut, at most, behind its Ethernet header.
const LARGEST: usize = u16::MAX as usize;
/// The header's segmentation types.
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// Larger frames received are cut from blocks of this size.
const BLOCK: usize = 256 * 1024;
/// Frames with their header up to this size are copied out: one that stays unread, or waits for what
/// comes before it, would keep a whole block.
const COPIED: usize = 2 * 1024;
/// Ethernet header and VLAN tag.
const LINK_HEADER: usize = 18;
/// Slices of a frame at most: what `writev` takes (IOV_MAX), less the header and the head.
const MAX_SLICES: usize = 1024 - 2;

/// Octets of a short frame and its header, at most: what an ordinary MTU takes.
const SHORT: usize = 1600;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

mod request {
    use super::InterfaceRequest;
    nix::ioctl_write_ptr_bad!(
        /// Attach the descriptor to an interface.
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
        InterfaceRequest
    );
    nix::ioctl_write_int_bad!(
        /// Say which work the kernel may leave to the reader.
        tun_set_offload,
        nix::request_code_write!(b'T', 208, size_of::<nix::libc::c_uint>())
    );
}

/// An attached TAP device.
pub struct Tap {
    file: File,
    mtu: u16,
    offload: bool,
    block: BytesMut,
    /// A frame the kernel did not take at once.
    waiting: Option<TxFrame>,
    /// Frames the kernel refused for good.
    refused: u64,
}

impl Tap {
    /// Attach to the TAP device `name`, or create it if the process may.
    pub fn open(name: &str, mtu: u16, offload: bool) -> io::Result<Tap> {
        let mut wanted = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
            rest: [0; 22],
        };
        // The last octet stays zero.
        if name.is_empty() || name.len() >= wanted.name.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a device name",
            ));
        }
        for (to, from) in wanted.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: the descriptor is open; TUNSETIFF reads (and writes back) one `ifreq`, whose
        // size `InterfaceRequest` has, and keeps no pointer to it.
        unsafe { request::tun_set_iff(file.as_raw_fd(), &wanted) }?;
        let left = if offload { LEFT_TO_US } else { 0 };
        // SAFETY: the descriptor is open; TUNSETOFFLOAD takes its argument as a number.
        unsafe { request::tun_set_offload(file.as_raw_fd(), left) }?;
        Ok(Tap {
            file,
            mtu,
            offload,
            block: BytesMut::new(),
            waiting: None,
            refused: 0,
        })
    }

    /// What the host kernel does for us.
    pub fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities {
            tx_checksum: self.offload,
            tso4: self.offload,
            tso6: self.offload,
        }
    }

    /// Largest IP packet it carries.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The next frame received. With offloads it may be longer than the MTU, and lack its checksum.
    pub fn receive(&mut self) -> io::Result<Option<RxFrame>> {
        let most = match self.offload {
            true => LARGEST,
            false => usize::from(self.mtu),
        };
        let room = HEADER + LINK_HEADER + most;
        if self.block.len() < room {
            self.block = BytesMut::zeroed(BLOCK.max(room));
        }
        let octets = loop {
            match self.file.read(&mut self.block[..room]) {
                Ok(octets) => break octets,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        Ok(received(cut(&mut self.block, octets)))
    }

    /// Whether another frame can be sent; tries the one that waits first.
    pub fn can_transmit(&mut self) -> bool {
        match self.waiting.take() {
            None => true,
            Some(frame) => {
                self.send(frame);
                self.waiting.is_none()
            }
        }
    }

    /// Whether a frame waits for room.
    pub fn is_stalled(&self) -> bool {
        self.waiting.is_some()
    }

    /// Send a frame; at most one waits, after [`Tap::can_transmit`] said yes.
    pub fn send(&mut self, mut frame: TxFrame) {
        if frame.payload.len() > MAX_SLICES {
            let whole = frame.payload.concat();
            frame.payload.clear();
            frame.payload.push(whole.into());
        }
        let header = header(&frame);
        let sent = loop {
            match write(&self.file, &header, &frame) {
                Err(Errno::EINTR) => {}
                sent => break sent,
            }
        };
        match sent {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS) => self.waiting = Some(frame),
            // The device is down, or the frame is not to its taste: a lossy link, for TCP.
            Err(error) => {
                if self.refused.is_power_of_two() || self.refused == 0 {
                    log::warn!(
                        "the TAP device refuses frames ({} so far): {error}",
                        self.refused
                    );
                }
                self.refused += 1;
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Hand a frame to the kernel; a short one from one place, since to tell of several takes longer than to
/// put them together (a fifth more frames a second, at 1500 octets).
fn write(file: &File, header: &[u8], frame: &TxFrame) -> nix::Result<usize> {
    let pieces = [header, &frame.head[..]].into_iter();
    let pieces = pieces.chain(frame.payload.iter().map(|slice| &slice[..]));
    let length = pieces.clone().map(<[u8]>::len).sum();
    let mut place = [0; SHORT];
    let Some(whole) = place.get_mut(..length) else {
        return writev(file, &pieces.map(IoSlice::new).collect::<Vec<_>>());
    };
    let mut at = 0;
    for piece in pieces {
        whole[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    nix::unistd::write(file, whole)
}

/// The first `octets` of `block`: in a place of their own if they are few, else as part of it.
fn cut(block: &mut BytesMut, octets: usize) -> BytesMut {
    match octets <= COPIED {
        true => BytesMut::from(&block[..octets]),
        false => block.split_to(octets),
    }
}

/// The frame behind the virtio-net header that `bytes` begin with.
fn received(mut bytes: BytesMut) -> Option<RxFrame> {
    let [flags, kind, _, _, z0, z1, s0, s1, o0, o1] = *bytes.first_chunk::<HEADER>()?;
    bytes.advance(HEADER);
    let (start, offset) = (u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([o0, o1]));
    let unsummed = flags & NEEDS_CHECKSUM != 0;
    // TCP's checksum is not missed. What is for smoltcp has to have one.
    let summed = unsummed && offset == UDP_CHECKSUM && complete(&mut bytes, start, offset);
    let mut frame = RxFrame::new(Bytes::from(bytes));
    if flags & DATA_VALID != 0 || unsummed && !summed {
        frame.checksum = RxChecksum::Verified;
    }
    frame.segmentation = match kind {
        GSO_TCP4 | GSO_TCP6 => Some(Segmentation {
            ipv6: kind == GSO_TCP6,
            segment_size: u16::from_ne_bytes([z0, z1]),
        }),
        _ => None,
    };
    Some(frame)
}

/// Complete a checksum (RFC 1071) that covers the frame from `start` on. False if it lies outside.
fn complete(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let Some(covered) = frame.get_mut(usize::from(start)..) else {
        return false;
    };
    let sum: u64 = covered
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    let at = usize::from(offset);
    let Some(field) = covered.get_mut(at..at + 2) else {
        return false;
    };
    // Zero would say that there is none (RFC 768).
    let value = match !(folded as u16) {
        0 => 0xffff,
        value => value,
    };
    field.copy_from_slice(&value.to_be_bytes());
    true
}

/// The virtio-net header of a frame (legacy layout, in the host's byte order).
fn header(frame: &TxFrame) -> [u8; HEADER] {
    let mut flags = 0;
    let mut kind = 0;
    let (mut length, mut size, mut start, mut offset) = (0_u16, 0_u16, 0_u16, 0_u16);
    if let Some(checksum) = frame.checksum {
        flags = NEEDS_CHECKSUM;
        start = checksum.start;
        offset = checksum.offset;
    }
    if let Some(segmentation) = frame.segmentation {
        kind = if segmentation.ipv6 {
            GSO_TCP6
        } else {
            GSO_TCP4
        };
        size = segmentation.segment_size;
        length = frame.head.len() as u16;
    }
    let [l0, l1] = length.to_ne_bytes();
    let [z0, z1] = size.to_ne_bytes();
    let [s0, s1] = start.to_ne_bytes();
    let [o0, o1] = offset.to_ne_bytes();
    [flags, kind, l0, l1, z0, z1, s0, s1, o0, o1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_netstack::stack::frame::TxChecksum;

    #[test]
    fn a_plain_frame_has_an_empty_header() {
        assert_eq!(header(&TxFrame::default()), [0; HEADER]);
    }

    #[test]
    fn offloads_are_where_the_kernel_looks_for_them() {
        let frame = TxFrame {
            head: [0; 74].into_iter().collect(),
            checksum: Some(TxChecksum {
                start: 54,
                offset: 16,
            }),
            segmentation: Some(Segmentation {
                ipv6: true,
                segment_size: 1440,
            }),
            ..TxFrame::default()
        };
        let octets = header(&frame);
        let word = |at: usize| u16::from_ne_bytes([octets[at], octets[at + 1]]);
        assert_eq!(octets[..2], [NEEDS_CHECKSUM, GSO_TCP6]);
        assert_eq!([word(2), word(4), word(6), word(8)], [74, 1440, 54, 16]);
    }

    #[test]
    fn what_the_kernel_left_to_us_is_seen_to() {
        let head = |flags, kind, start: u16, offset: u16| -> BytesMut {
            let mut octets = vec![flags, kind, 0, 0];
            for word in [1448, start, offset] {
                octets.extend_from_slice(&word.to_ne_bytes());
            }
            octets.extend_from_slice(&[0; 34]);
            // A UDP header whose checksum is the pseudo-header's so far.
            octets.extend_from_slice(&[0, 53, 0, 54, 0, 9, 0x12, 0x34, 7]);
            octets[..].into()
        };
        let plain = received(head(0, 0, 0, 0)).unwrap();
        assert_eq!(plain.checksum, RxChecksum::Unchecked);
        let tcp = received(head(NEEDS_CHECKSUM, GSO_TCP4, 34, 16)).unwrap();
        assert_eq!(tcp.checksum, RxChecksum::Verified);
        assert_eq!(tcp.segmentation.unwrap().segment_size, 1448);
        let udp = received(head(NEEDS_CHECKSUM, 0, 34, UDP_CHECKSUM)).unwrap();
        assert_eq!(udp.checksum, RxChecksum::Unchecked, "it can be verified");
        let sum = !(53 + 54 + 9 + 0x1234 + 0x0700u16);
        assert_eq!(udp.bytes[40..42], sum.to_be_bytes());
        assert!(received(BytesMut::new()).is_none());
    }

    #[test]
    fn a_small_frame_does_not_keep_the_block_it_was_read_into() {
        let mut block = BytesMut::zeroed(BLOCK);
        let place = block.as_ptr_range();
        block[COPIED - 1] = 7;
        let small = received(cut(&mut block, COPIED)).unwrap().bytes;
        assert!(!place.contains(&small.as_ptr()), "it shares the block");
        assert_eq!((small.len(), small.last()), (COPIED - HEADER, Some(&7)));
        assert_eq!(block.len(), BLOCK, "the next frame goes where it was");
        let large = received(cut(&mut block, COPIED + 1)).unwrap().bytes;
        assert!(place.contains(&large.as_ptr()), "it was copied");
        assert_eq!(block.len(), BLOCK - COPIED - 1);
    }

    #[test]
    fn names_a_device_cannot_have_are_refused() {
        for name in ["", "sixteen-octets-x"] {
            assert!(Tap::open(name, 1500, false).is_err());
        }
    }
}
