//! What a DHCP server says besides address and gateway: a time server, and configuration.
//!
//! Read from the whole message, since an option may come in pieces (RFC 3396), and in the fields for names
//! that nobody boots from (option 52, RFC 2132 section 9.3). What is cut or absurd is nothing.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

/// NTP servers (RFC 2132, section 8.3).
const NTP: u8 = 42;
/// Words of configuration: the first of the codes that belong to whoever runs a site (RFC 3942, 224 to
/// 254). Option 43 means whatever the vendor class in option 60 does, which servers answer without having
/// read it, and options 124 and 125 (RFC 3925) need a number for the enterprise, which we do not have.
pub const CONFIGURATION: u8 = 224;

/// What the client asks for: mask, router, and these.
pub(super) const REQUESTED: &[u8] = &[1, 3, NTP, CONFIGURATION];

/// Octets of configuration at most. More is nothing: half of a configuration would be another one.
pub const MAX_CONFIGURATION: usize = 2048;

/// The options of a lease that are not the stack's own business.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseOptions {
    /// The first time server.
    pub time_server: Option<IpAddr>,
    /// The words of configuration, as they came.
    pub configuration: Vec<u8>,
}

impl LeaseOptions {
    /// The options of a DHCP message.
    pub(super) fn read(message: &[u8]) -> LeaseOptions {
        let server = option(message, NTP);
        let server = server.first_chunk().copied().map(Ipv4Addr::from);
        let nobody = |ip: &Ipv4Addr| ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
        let mut configuration = option(message, CONFIGURATION);
        if configuration.len() > MAX_CONFIGURATION {
            configuration.clear();
        }
        LeaseOptions {
            time_server: server.filter(|ip| !nobody(ip)).map(IpAddr::V4),
            configuration,
        }
    }
}

/// All pieces of an option, in the order of RFC 3396: options, `file`, `sname`.
fn option(message: &[u8], code: u8) -> Vec<u8> {
    const OPTIONS: usize = 240;
    const OVERLOAD: u8 = 52;
    let mut all = Vec::new();
    let field = |from: usize, to: usize| message.get(from..to).unwrap_or_default();
    let options = field(OPTIONS, message.len().max(OPTIONS));
    let mut overload = 0;
    each(options, |at, value| match at {
        _ if at == code => all.extend_from_slice(value),
        OVERLOAD => overload = value.first().copied().unwrap_or(0),
        _ => {}
    });
    for (bit, field) in [(1, field(108, 236)), (2, field(44, 108))] {
        if overload & bit != 0 {
            each(field, |at, value| {
                if at == code {
                    all.extend_from_slice(value);
                }
            });
        }
    }
    all
}

fn each(mut rest: &[u8], mut take: impl FnMut(u8, &[u8])) {
    const PAD: u8 = 0;
    const END: u8 = 255;
    while let Some((&code, after)) = rest.split_first() {
        match code {
            PAD => rest = after,
            END => return,
            _ => {
                let Some((&length, after)) = after.split_first() else {
                    return;
                };
                let Some((value, after)) = after.split_at_checked(usize::from(length)) else {
                    return;
                };
                take(code, value);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 236];
        message.extend([99, 130, 83, 99]);
        message.extend_from_slice(options);
        message
    }

    #[test]
    fn a_long_option_is_put_together_from_its_pieces_wherever_they_are() {
        let mut long = message(&[
            CONFIGURATION,
            3,
            b'a',
            b'=',
            b'1',
            0,
            52,
            1,
            3,
            NTP,
            4,
            10,
            0,
            0,
            1,
            CONFIGURATION,
            1,
            b' ',
            255,
            CONFIGURATION,
            1,
            b'!',
        ]);
        long[108..114].copy_from_slice(&[CONFIGURATION, 3, b'b', b'=', b'2', 255]);
        long[44..49].copy_from_slice(&[CONFIGURATION, 2, b'2', b'2', 255]);
        let options = LeaseOptions::read(&long);
        assert_eq!(options.configuration, b"a=1 b=222");
        assert_eq!(options.time_server, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn names_that_are_no_options_are_not_read_as_such() {
        let mut plain = message(&[255]);
        plain[108..113].copy_from_slice(&[CONFIGURATION, 2, b'x', b'=', 255]);
        assert_eq!(LeaseOptions::read(&plain), LeaseOptions::default());
    }

    #[test]
    fn what_is_cut_short_too_long_or_nobodys_is_nothing() {
        for options in [
            &[CONFIGURATION, 200, b'x'][..],
            &[CONFIGURATION],
            &[NTP, 3, 10, 0, 0],
            &[NTP, 4, 224, 0, 1, 1],
            &[NTP, 4, 0, 0, 0, 0],
        ] {
            let read = LeaseOptions::read(&message(options));
            assert_eq!(read, LeaseOptions::default(), "{options:?}");
        }
        let piece = [&[CONFIGURATION, 255][..], &[b'x'; 255]].concat();
        let long = LeaseOptions::read(&message(&piece.repeat(9)));
        assert_eq!(long.configuration, b"", "more than {MAX_CONFIGURATION}");
    }

    proptest! {
        #[test]
        fn no_message_panics(message in prop::collection::vec(any::<u8>(), 0..600)) {
            let read = LeaseOptions::read(&message);
            prop_assert!(read.configuration.len() <= MAX_CONFIGURATION);
        }
    }
}
