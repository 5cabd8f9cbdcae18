//! A TCP/IP stack in this process (smoltcp), plugged into a port of the switch. It plays the
//! unmodified client where the system permits neither TAP devices nor namespaces.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, recv, send};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::Stream;
use crate::switch::MAX_FRAME;

/// Send and receive buffer of a connection.
const BUFFER: usize = 512 << 10;
/// Ethernet header and payload.
const FRAME: usize = 1514;
/// The first port connections leave from.
const FIRST_PORT: u16 = 49_152;

/// A stack with one address. Clones are the same stack; it ends with the switch.
#[derive(Clone)]
pub struct UserStack {
    shared: Arc<Shared>,
}

struct Shared {
    core: Mutex<Core>,
    changed: Condvar,
    wake: EventFd,
}

struct Core {
    interface: Interface,
    sockets: SocketSet<'static>,
    port: Port,
    begun: Instant,
    next_port: u16,
    /// Connections nobody has a handle to any more, until they are closed.
    closing: Vec<SocketHandle>,
    /// The switch is gone.
    over: bool,
}

impl UserStack {
    /// Starts a stack with `address` at the [in-process port](crate::switch::SwitchBuilder)
    /// whose other end is `port`.
    pub fn start(port: OwnedFd, address: IpAddr, prefix: u8, seed: u64) -> Result<Self> {
        let begun = Instant::now();
        let mut port = Port {
            socket: port,
            blocked: false,
            over: false,
        };
        let mac = EthernetAddress([0x02, 0x67, 0x77, 0, 1, 0]);
        let mut config = Config::new(mac.into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut port, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(address.into(), prefix));
        });
        let core = Core {
            interface,
            sockets: SocketSet::new(Vec::new()),
            port,
            begun,
            next_port: FIRST_PORT,
            closing: Vec::new(),
            over: false,
        };
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            changed: Condvar::new(),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        });
        let stack = Self { shared };
        let running = stack.clone();
        thread::Builder::new()
            .name("user stack".into())
            .spawn(move || running.run())?;
        Ok(stack)
    }

    fn run(&self) {
        let Ok(socket) = self.lock().port.socket.try_clone() else {
            return;
        };
        loop {
            let (delay, events) = {
                let mut core = self.lock();
                core.port.blocked = false;
                let delay = core.turn();
                self.shared.changed.notify_all();
                if core.over {
                    return;
                }
                let blocked = PollFlags::POLLIN | PollFlags::POLLOUT;
                // What cannot be sent for now is no reason to try again at once.
                if core.port.blocked {
                    (None, blocked)
                } else {
                    (delay, PollFlags::POLLIN)
                }
            };
            let timeout = delay.map_or(PollTimeout::NONE, |delay| {
                // Rounded up: waking early would only be waking twice.
                PollTimeout::try_from(delay + Duration::from_micros(999))
                    .unwrap_or(PollTimeout::MAX)
            });
            let mut descriptors = [
                PollFd::new(socket.as_fd(), events),
                PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut descriptors, timeout);
            let _ = self.shared.wake.read();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.shared
            .core
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection; no read or write on it waits for longer than `patience`.
    pub fn connect(&self, to: SocketAddr, patience: Duration) -> Result<UserStream> {
        let handle = self.lock().open(to)?;
        let stream = UserStream {
            end: Arc::new(End {
                stack: self.clone(),
                handle,
            }),
            patience,
        };
        let _ = self.shared.wake.write(1);
        stream
            .wait(|socket| match socket.state() {
                State::SynSent | State::SynReceived => None,
                State::Closed => Some(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => Some(Ok(())),
            })
            .with_context(|| format!("cannot connect to {to}"))?;
        Ok(stream)
    }
}

impl fmt::Debug for UserStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserStack")
    }
}

impl Core {
    fn turn(&mut self) -> Option<Duration> {
        let now = smoltcp::time::Instant::from_micros(self.begun.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.port, &mut self.sockets);
        self.over = self.port.over;
        let sockets = &mut self.sockets;
        self.closing.retain(|handle| {
            let open = sockets.get::<Socket<'_>>(*handle).state() != State::Closed;
            if !open {
                sockets.remove(*handle);
            }
            open
        });
        self.interface
            .poll_delay(now, &self.sockets)
            .map(Into::into)
    }

    fn open(&mut self, to: SocketAddr) -> Result<SocketHandle> {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let from = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        if let Err(error) = socket.connect(self.interface.context(), to, from) {
            bail!("cannot connect to {to}: {error}");
        }
        Ok(self.sockets.add(socket))
    }
}

/// A connection of a [`UserStack`].
pub struct UserStream {
    end: Arc<End>,
    patience: Duration,
}

/// The connection goes when its last handle does.
struct End {
    stack: UserStack,
    handle: SocketHandle,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut core = self.stack.lock();
        core.sockets.get_mut::<Socket<'_>>(self.handle).close();
        core.closing.push(self.handle);
        drop(core);
        let _ = self.stack.shared.wake.write(1);
    }
}

impl UserStream {
    /// Waits until `ready` has an answer.
    fn wait<T>(
        &self,
        mut ready: impl FnMut(&mut Socket<'_>) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + self.patience;
        let mut core = self.end.stack.lock();
        loop {
            if let Some(answer) = ready(core.sockets.get_mut::<Socket<'_>>(self.end.handle)) {
                drop(core);
                let _ = self.end.stack.shared.wake.write(1);
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if core.over || left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let waited = self.end.stack.shared.changed.wait_timeout(core, left);
            core = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Read for UserStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(|socket| {
            if socket.can_recv() {
                Some(socket.recv_slice(buffer).map_err(io::Error::other))
            } else if socket.may_recv() {
                None
            } else if socket.state() == State::Closed {
                Some(Err(io::ErrorKind::ConnectionReset.into()))
            } else {
                Some(Ok(0))
            }
        })
    }
}

impl Write for UserStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(|socket| {
            if socket.can_send() {
                Some(socket.send_slice(bytes).map_err(io::Error::other))
            } else if socket.may_send() {
                None
            } else {
                Some(Err(io::ErrorKind::BrokenPipe.into()))
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for UserStream {
    fn another(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Self {
            end: Arc::clone(&self.end),
            patience: self.patience,
        }))
    }

    fn close_sending(&mut self) -> Result<()> {
        Ok(self.wait(|socket| {
            socket.close();
            Some(Ok(()))
        })?)
    }
}

/// The switch's port as smoltcp sees it.
struct Port {
    socket: OwnedFd,
    /// Frames wait for room in the socket.
    blocked: bool,
    over: bool,
}

impl Device for Port {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Frame, Sender<'_>)> {
        let mut frame = vec![0; FRAME.max(MAX_FRAME.min(2048))];
        match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.over = true;
                None
            }
            Ok(len) => {
                frame.truncate(len);
                Some((Frame(frame), Sender(&self.socket)))
            }
            Err(_) => None,
        }
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        let mut descriptor = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        self.blocked = poll(&mut descriptor, PollTimeout::ZERO) == Ok(0);
        (!self.blocked).then_some(Sender(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sender<'a>(&'a OwnedFd);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        // A frame that finds no room is lost, as in any NIC.
        let _ = send(
            self.0.as_raw_fd(),
            &frame,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        );
        result
    }
}
