//! Octets from a stranger at the port of the channel: without the key nothing comes of them.

use bytes::Bytes;
use godwit_netstack::cluster::MemberId;
use godwit_netstack::cluster::keys::Key;
use godwit_netstack::cluster::noise::SecureStream;
use godwit_netstack::migrate::rope::Rope;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "stream",
    run,
    seeds,
};

const KEY: [u8; 32] = [9; 32];

fn responder() -> SecureStream {
    SecureStream::responder(&[Key(KEY)], MemberId(1), MemberId(2), [1; 32])
}

fn run(input: &[u8]) {
    let mut stream = responder();
    let mut plain = Rope::new();
    for piece in input.chunks(37) {
        if stream
            .handle_data(Bytes::copy_from_slice(piece), &mut plain)
            .is_err()
        {
            assert!(!stream.is_open());
        }
    }
    assert!(plain.is_empty(), "plain octets without a sealed record");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut stranger = SecureStream::initiator(&Key([8; 32]), MemberId(1), MemberId(2), [2; 32]);
    let mut member = SecureStream::initiator(&Key(KEY), MemberId(1), MemberId(2), [2; 32]);
    let first = |stream: &mut SecureStream| stream.take_handshake().expect("a first message");
    vec![
        first(&mut stranger).to_vec(),
        first(&mut member).to_vec(),
        vec![0, 48],
        vec![255; 100],
    ]
}
