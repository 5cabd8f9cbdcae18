//! A TAP device inside a [`Namespace`].

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use nix::libc;

use super::Namespace;

/// Frames the kernel queues for us while the switch is busy. A TAP drops what does not fit, and
/// the default of 1000 is less than one large TCP window.
const TX_QUEUE_LEN: usize = 8192;

mod request {
    use nix::libc;
    nix::ioctl_write_ptr_bad!(
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
}

/// Creates the TAP device `name` in `namespace` with the given addresses (`10.77.0.1/24`), brings
/// it up, and returns its file descriptor (non-blocking, one Ethernet frame per read and write).
///
/// The descriptor works from any namespace; the device goes when it is closed.
pub fn open_tap(namespace: &Namespace, name: &str, addresses: &[&str]) -> Result<OwnedFd> {
    if name.len() >= libc::IFNAMSIZ {
        bail!("interface name {name:?} is too long");
    }
    let file = namespace.run(|| attach(name))?;
    let mut batch = format!("link set dev {name} txqueuelen {TX_QUEUE_LEN}\n");
    for address in addresses {
        // A duplicate-address probe would delay the first connection over IPv6 by a second.
        let probe = if address.contains(':') { " nodad" } else { "" };
        batch += &format!("addr add {address} dev {name}{probe}\n");
    }
    batch += &format!("link set dev {name} up\n");
    namespace.ip(&batch)?;
    Ok(file.into())
}

fn attach(name: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun")?;
    // SAFETY: `ifreq` is plain old data (integers, arrays, a union of those): all-zero is valid.
    let mut wanted: libc::ifreq = unsafe { core::mem::zeroed() };
    for (to, from) in wanted.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    wanted.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and TUNSETIFF reads one `ifreq`, which outlives the call.
    unsafe { request::tun_set_iff(file.as_raw_fd(), &wanted) }
        .with_context(|| format!("cannot create the TAP device {name}"))?;
    Ok(file)
}
