//! TCP headers and their options. Input: a TCP segment from its first octet on.

use bytes::Bytes;
use godwit_netstack::tcp::Segment;
use godwit_netstack::tcp::options::Options;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "options",
    run,
    seeds,
};

/// Octets a TCP header has for options.
const MAX_OPTIONS: usize = 40;

fn run(input: &[u8]) {
    let _ = Segment::parse(&Bytes::copy_from_slice(input));
    let options = Options::parse(&input[..input.len().min(MAX_OPTIONS)]);
    if options.len() > MAX_OPTIONS {
        return;
    }
    // What was understood says the same when it is written again.
    let mut out = [0; MAX_OPTIONS + 4];
    let length = options.emit(&mut out);
    assert_eq!(Options::parse(&out[..length]), options);
}

fn seeds() -> Vec<Vec<u8>> {
    let options: [&[u8]; 4] = [
        &[
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
        &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        &[
            1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 20,
            0, 0, 0, 30,
        ],
        &[0, 2, 4],
    ];
    let header = |options: &&[u8]| {
        let mut header = [0; 20];
        header[12] = (((20 + options.len()) / 4) << 4) as u8;
        header[13] = 0x12;
        [&header[..], options, b"payload"].concat()
    };
    let mut seeds: Vec<Vec<u8>> = options.iter().map(header).collect();
    seeds.extend(options.map(<[u8]>::to_vec));
    seeds
}
