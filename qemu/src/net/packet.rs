//! A raw socket on an interface: what somebody else sends through the interface can be read, and
//! what is written is sent to them.

use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use super::Namespace;

/// Room for several windows of a fast sender; a raw socket drops what does not fit.
const RECEIVE_BUFFER: usize = 32 << 20;

/// Opens a raw socket on the interface `name` of `namespace`: one Ethernet frame per read and
/// write, without the frames that the namespace's own kernel sends.
pub fn open_packet_socket(namespace: &Namespace, name: &str) -> Result<OwnedFd> {
    namespace.run(|| {
        let index = if_nametoindex(name).with_context(|| format!("no interface {name}"))?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("cannot open a raw socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open; the kernel reads one `c_int`, which outlives the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Errno::result(set).context("cannot leave out outgoing frames")?;
        // SAFETY: `sockaddr_ll` is plain old data: all-zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { core::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: the descriptor is open; the kernel reads one `sockaddr_ll` of the size given,
        // which outlives the call.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(bound).with_context(|| format!("cannot bind to {name}"))?;
        Ok(socket)
    })
}
