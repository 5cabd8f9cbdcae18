//! The echo service (RFC 862): returns what it gets, byte for byte, and closes when its client
//! does.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use godwit::{Bytes, Result, Service, Session};

/// The echo service. Its sessions have no state: what is unread is not yet echoed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Echo;

impl Service for Echo {
    type State = ();
    const NAME: &'static str = "echo";
    const PORT: u16 = 7;

    async fn serve(&self, session: &mut Session<()>) -> Result<()> {
        let mut client = session.client();
        loop {
            let mut chunk: Bytes = client.peek().await?;
            if chunk.is_empty() {
                // The client has closed its direction; what it sent is on its way back.
                return Ok(());
            }
            // The very buffers that came in go out again.
            chunk.truncate(client.write_room()?);
            client.consume_input(chunk.len())?;
            client.write_bytes(chunk)?;
            session.commit().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit::testing::{End, Harness};

    #[test]
    fn everything_comes_back_and_then_the_end() {
        let mut harness = Harness::new(Echo);
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        harness.slice_input(1448);
        for part in data.chunks(10_000) {
            harness.client_sends(part);
            harness.run();
        }
        assert_eq!(harness.received(), data);
        assert_eq!(harness.end(), None, "the client may still want to send");
        harness.client_closes();
        harness.run();
        assert_eq!(harness.end(), Some(End::Finished));
        assert_eq!(harness.received(), data);
    }

    #[test]
    fn a_move_at_every_commit_neither_loses_nor_repeats() {
        let mut harness = Harness::new(Echo);
        let data: Vec<u8> = (0..100_000_u32).map(|n| (n * 31) as u8).collect();
        harness.slice_input(1448);
        harness.hold_commits();
        harness.client_sends(&data);
        harness.client_closes();
        while harness.end().is_none() {
            harness.run();
            harness.move_session();
        }
        assert_eq!(harness.end(), Some(End::Finished));
        assert_eq!(harness.received(), data);
        assert!(harness.commits() > 60);
    }

    #[test]
    fn a_client_that_only_closes_is_closed() {
        let mut harness = Harness::new(Echo);
        harness.client_closes();
        harness.run();
        assert_eq!(harness.end(), Some(End::Finished));
        assert_eq!(harness.received(), b"");
    }
}
