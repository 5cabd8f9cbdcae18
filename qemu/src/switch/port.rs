//! One port: its descriptor, its framing and the frames that wait for it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{read, write};

use super::impair::Link;
use super::{Attachment, Direction, MAX_FRAME, Observer, PortConfig};

/// Received bytes taken in one go from a stream.
const RX_BYTES: usize = 256 << 10;
/// What a socket may hold for a peer that is busy (the system may grant less).
const SOCKET_BUFFER: usize = 1 << 20;

pub(super) struct Port {
    pub end: End,
    pub link: Link,
    pub observers: Vec<Box<dyn Observer>>,
    /// Received bytes of a stream; the first `rx_len` are not yet forwarded.
    pub rx: Vec<u8>,
    pub rx_len: usize,
    pub backlog: Backlog,
    /// Ports that wait until this one has taken its backlog.
    pub waiters: Vec<usize>,
    /// This port waits for another one and is not read.
    pub paused: bool,
    /// Since when nothing at all could be written.
    pub blocked_since: Option<Instant>,
    /// Blocked for so long that its frames are dropped.
    pub stalled: bool,
    /// What epoll was told last.
    pub interest: (bool, bool),
}

/// The descriptor behind a port.
pub(super) enum End {
    Stream {
        listener: UnixListener,
        peer: Option<OwnedFd>,
    },
    Packet(OwnedFd),
}

/// Frames that wait to be written.
#[derive(Default)]
pub(super) struct Backlog {
    /// Streams: bytes with length prefixes; the first `written` are gone.
    bytes: Vec<u8>,
    written: usize,
    /// Packet ports: whole frames, and their bytes.
    frames: VecDeque<Vec<u8>>,
    frame_bytes: usize,
}

impl Backlog {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written + self.frame_bytes
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What came of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing is left.
    All,
    /// The descriptor takes no more for now; `progress`: it took something.
    Blocked { progress: bool },
    /// The peer is gone.
    Closed,
}

impl Port {
    pub fn new(config: PortConfig, seed: u64) -> Result<Self> {
        let end = match config.attachment {
            Attachment::Listen(path) => {
                let listener = UnixListener::bind(&path)
                    .with_context(|| format!("cannot listen on {}", path.display()))?;
                listener.set_nonblocking(true)?;
                End::Stream {
                    listener,
                    peer: None,
                }
            }
            Attachment::Packet(descriptor) => {
                set_nonblocking(descriptor.as_fd())?;
                End::Packet(descriptor)
            }
        };
        let rx = match &end {
            End::Stream { .. } => vec![0; RX_BYTES],
            End::Packet(_) => vec![0; MAX_FRAME],
        };
        Ok(Self {
            end,
            link: Link::new(config.impairment, seed),
            observers: config.observers,
            rx,
            rx_len: 0,
            backlog: Backlog::default(),
            waiters: Vec::new(),
            paused: false,
            blocked_since: None,
            stalled: false,
            interest: (false, false),
        })
    }

    /// The descriptor frames cross, if anybody is there.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.end {
            End::Stream { peer, .. } => peer.as_ref().map(AsFd::as_fd),
            End::Packet(descriptor) => Some(descriptor.as_fd()),
        }
    }

    /// Takes a new peer of a listening port; false if there is none or one is there already.
    pub fn accept(&mut self) -> Result<bool> {
        let End::Stream { listener, peer } = &mut self.end else {
            return Ok(false);
        };
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot accept on a switch port"),
        };
        if peer.is_some() {
            return Ok(false);
        }
        stream.set_nonblocking(true)?;
        // Best effort: without the room the port only pauses its senders more often.
        let _ = setsockopt(&stream, sockopt::SndBuf, &SOCKET_BUFFER);
        *peer = Some(stream.into());
        Ok(true)
    }

    /// Forgets the peer and all that was on its way from and to it.
    pub fn hang_up(&mut self) {
        if let End::Stream { peer, .. } = &mut self.end {
            *peer = None;
        }
        self.rx_len = 0;
        self.backlog.clear();
        self.blocked_since = None;
        self.stalled = false;
        self.interest = (false, false);
    }

    pub fn observe(&mut self, direction: Direction, frame: &[u8]) {
        if !self.observers.is_empty() {
            let now = Instant::now();
            for observer in &mut self.observers {
                observer.frame(now, direction, frame);
            }
        }
    }

    /// Puts a frame at the end of the backlog. Packet ports try to write it first; false: the
    /// device would not take it.
    pub fn enqueue(&mut self, frame: &[u8]) -> bool {
        match &self.end {
            End::Stream { .. } => {
                self.backlog
                    .bytes
                    .extend((frame.len() as u32).to_be_bytes());
                self.backlog.bytes.extend_from_slice(frame);
                true
            }
            End::Packet(descriptor) => {
                if self.backlog.frames.is_empty() {
                    match write(descriptor, frame) {
                        Ok(_) => return true,
                        Err(Errno::EAGAIN) => {}
                        Err(_) => return false,
                    }
                }
                self.backlog.frame_bytes += frame.len();
                self.backlog.frames.push_back(frame.to_vec());
                true
            }
        }
    }

    /// Writes as much of the backlog as the descriptor takes.
    pub fn flush(&mut self) -> Written {
        let mut progress = false;
        match &self.end {
            End::Stream { peer: None, .. } => {
                self.backlog.clear();
                Written::All
            }
            End::Stream {
                peer: Some(peer), ..
            } => {
                let backlog = &mut self.backlog;
                while backlog.written < backlog.bytes.len() {
                    match write(peer, &backlog.bytes[backlog.written..]) {
                        Ok(n) => {
                            backlog.written += n;
                            progress = true;
                        }
                        Err(Errno::EAGAIN) => {
                            // Move the rest to the front before the gone part gets large.
                            if backlog.written > backlog.bytes.len() / 2 {
                                backlog.bytes.drain(..backlog.written);
                                backlog.written = 0;
                            }
                            return Written::Blocked { progress };
                        }
                        Err(Errno::EINTR) => {}
                        Err(_) => return Written::Closed,
                    }
                }
                backlog.bytes.clear();
                backlog.written = 0;
                Written::All
            }
            End::Packet(descriptor) => {
                while let Some(frame) = self.backlog.frames.front() {
                    match write(descriptor, frame) {
                        Err(Errno::EAGAIN) => return Written::Blocked { progress },
                        Err(Errno::EINTR) => continue,
                        // A frame the device refuses is lost, as on a real cable.
                        Ok(_) | Err(_) => progress = true,
                    }
                    self.backlog.frame_bytes -= frame.len();
                    self.backlog.frames.pop_front();
                }
                Written::All
            }
        }
    }

    /// Reads once. `None`: nothing more for now; `Some(0)`: the peer is gone.
    pub fn read(&mut self) -> Option<usize> {
        let descriptor = match &self.end {
            End::Stream { peer, .. } => peer.as_ref()?,
            End::Packet(descriptor) => descriptor,
        };
        loop {
            match read(descriptor, &mut self.rx[self.rx_len..]) {
                Ok(n) => return Some(n),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                Err(_) => return Some(0),
            }
        }
    }
}

pub(super) fn set_nonblocking(descriptor: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
        .with_context(|| format!("descriptor {}", descriptor.as_raw_fd()))?;
    Ok(())
}
