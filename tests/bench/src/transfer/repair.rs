//! The peer: a connection of the Linux kernel, described and restored through TCP_REPAIR, as
//! checkpointing tools do it.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;

/// Options and values of TCP_REPAIR that the C library's headers do not all name
/// (linux/tcp.h).
mod option {
    use nix::libc::c_int;
    pub const ON: c_int = 1;
    /// Off, without a window probe to the peer.
    pub const OFF_QUIETLY: c_int = -1;
    pub const RECEIVE_QUEUE: c_int = 1;
    pub const SEND_QUEUE: c_int = 2;
    pub const OPTION_MSS: u32 = 2;
    pub const OPTION_SCALE: u32 = 3;
    pub const OPTION_SACK: u32 = 4;
    pub const OPTION_TIMESTAMPS: u32 = 8;
    pub const TCP_REPAIR_WINDOW: c_int = 29;
}

/// `struct tcp_repair_window`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Window {
    wl1: u32,
    wnd: u32,
    max_window: u32,
    rcv_wnd: u32,
    rcv_wup: u32,
}

/// `struct tcp_repair_opt`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RepairOption {
    code: u32,
    value: u32,
}

/// A connection that is taken out of the kernel and put back again and again.
pub struct Repair {
    server: OwnedFd,
    local: SocketAddrV4,
    remote: SocketAddrV4,
    /// The other end, which reads nothing.
    _client: TcpStream,
    queue: Vec<u8>,
    queued: usize,
}

impl Repair {
    /// A connection whose server has `queued` octets for a client that does not take them.
    pub fn new(queued: usize) -> Result<Repair> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        // Some conversation, so that there is something to know of the path.
        for _ in 0..20 {
            client.write_all(&[7; 100])?;
            server.read_exact(&mut [0; 100])?;
        }
        if queued > 0 {
            fill(&mut server)?;
        }
        let (local, remote) = match (server.local_addr()?, server.peer_addr()?) {
            (std::net::SocketAddr::V4(local), std::net::SocketAddr::V4(remote)) => (local, remote),
            _ => bail!("not IPv4"),
        };
        let mut repair = Repair {
            server: server.into(),
            local,
            remote,
            _client: client,
            queue: vec![0; 16 << 20],
            queued,
        };
        repair.hand_over().context("TCP_REPAIR (needs root)")?;
        Ok(repair)
    }

    /// Microseconds that taking the connection out and putting it back costs.
    pub fn cost(&mut self, rounds: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..rounds {
            self.hand_over()?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / rounds as f64)
    }

    fn hand_over(&mut self) -> Result<()> {
        // Out.
        let old = &self.server;
        set(old, libc::TCP_REPAIR, option::ON)?;
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        // SAFETY: a `tcp_info` of zeros is one: it has only numbers.
        let info = get_into(old, libc::TCP_INFO, unsafe { info.assume_init_mut() })?;
        let mss: libc::c_int = get(old, libc::TCP_MAXSEG)?;
        let timestamp: libc::c_uint = get(old, libc::TCP_TIMESTAMP)?;
        let window: Window = get(old, option::TCP_REPAIR_WINDOW)?;
        set(old, libc::TCP_REPAIR_QUEUE, option::RECEIVE_QUEUE)?;
        let received: libc::c_uint = get(old, libc::TCP_QUEUE_SEQ)?;
        set(old, libc::TCP_REPAIR_QUEUE, option::SEND_QUEUE)?;
        let sent: libc::c_uint = get(old, libc::TCP_QUEUE_SEQ)?;
        let queued = match self.queued {
            0 => 0,
            _ => peek(old, &mut self.queue)?.min(self.queued),
        };
        // In. The old one has to be gone first, or its address is taken.
        let new = socket()?;
        set_at(&new, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set(&new, libc::TCP_REPAIR, option::ON)?;
        let old = std::mem::replace(&mut self.server, new);
        drop(old);
        let new = &self.server;
        bind(new, self.local)?;
        set(new, libc::TCP_REPAIR_QUEUE, option::RECEIVE_QUEUE)?;
        set(new, libc::TCP_QUEUE_SEQ, received)?;
        set(new, libc::TCP_REPAIR_QUEUE, option::SEND_QUEUE)?;
        set(new, libc::TCP_QUEUE_SEQ, sent.wrapping_sub(queued as u32))?;
        connect(new, self.remote)?;
        let scale = u32::from(info.tcpi_snd_rcv_wscale & 15)
            | u32::from(info.tcpi_snd_rcv_wscale >> 4) << 16;
        let entry = |code, value| RepairOption { code, value };
        let options = [
            entry(option::OPTION_SACK, 0),
            entry(option::OPTION_SCALE, scale),
            entry(option::OPTION_TIMESTAMPS, 0),
            entry(option::OPTION_MSS, mss as u32),
        ];
        set(new, libc::TCP_REPAIR_OPTIONS, options)?;
        set(new, libc::TCP_TIMESTAMP, timestamp)?;
        if queued > 0 {
            write(new, &self.queue[..queued])?;
        }
        set(new, option::TCP_REPAIR_WINDOW, window)?;
        set(new, libc::TCP_REPAIR, option::OFF_QUIETLY)?;
        Ok(())
    }
}

/// Write until the client's buffer and then ours are full.
fn fill(server: &mut TcpStream) -> Result<()> {
    server.set_nonblocking(true)?;
    let data = [0x5a; 16 * 1024];
    let mut refused = 0;
    while refused < 20 {
        match server.write(&data) {
            Ok(_) => refused = 0,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn set_at<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: T) -> Result<()> {
    // SAFETY: the descriptor is open; the kernel reads `size_of::<T>()` octets from `value`, which
    // outlives the call, and keeps no pointer to it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).with_context(|| format!("setsockopt {option}"))
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: T) -> Result<()> {
    set_at(socket, libc::IPPROTO_TCP, option, value)
}

fn get_into<'a, T>(socket: &OwnedFd, option: libc::c_int, value: &'a mut T) -> Result<&'a mut T> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the kernel writes at most `length` octets to `value`, a type
    // that is valid whatever they are (numbers only).
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw mut *value).cast(),
            &raw mut length,
        )
    };
    check(result).with_context(|| format!("getsockopt {option}"))?;
    Ok(value)
}

fn get<T: Copy>(socket: &OwnedFd, option: libc::c_int) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: only used with types of numbers, for which zeros are a value.
    let value = unsafe { value.assume_init_mut() };
    Ok(*get_into(socket, option, value)?)
}

fn check(result: libc::c_int) -> Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

fn socket() -> Result<OwnedFd> {
    // SAFETY: takes no pointers; a descriptor it returns is ours alone.
    let descriptor = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*of.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

fn bind(socket: &OwnedFd, to: SocketAddrV4) -> Result<()> {
    let address = address(to);
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the descriptor is open, `address` has the length told and outlives the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    check(result).context("bind")
}

fn connect(socket: &OwnedFd, to: SocketAddrV4) -> Result<()> {
    let address = address(to);
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: as for `bind`.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    check(result).context("connect")
}

/// Look at the send queue, which repair mode lets be read.
fn peek(socket: &OwnedFd, into: &mut [u8]) -> Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open; the kernel writes at most `into.len()` octets to `into`.
    let count = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            into.as_mut_ptr().cast(),
            into.len(),
            flags,
        )
    };
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => Err(std::io::Error::last_os_error()).context("recv"),
    }
}

fn write(socket: &OwnedFd, data: &[u8]) -> Result<()> {
    // SAFETY: the descriptor is open; the kernel reads at most `data.len()` octets from `data`.
    let count = unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) };
    match usize::try_from(count) {
        Ok(count) if count == data.len() => Ok(()),
        Ok(count) => bail!("send took {count} of {} octets", data.len()),
        Err(_) => Err(std::io::Error::last_os_error()).context("send"),
    }
}
