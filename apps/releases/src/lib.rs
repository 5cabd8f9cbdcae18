//! Two releases of one file service, to try a rolling upgrade with.
//!
//! They differ as releases do. Each brings its own files: `/release.txt` says which it is, and
//! `/news.bin` is large and another one in each. And the second has a state of another version, in
//! which it also counts answers; it reads the first one's. So sessions move from the first to the
//! second at any moment, and a download of the first one's `/news.bin` goes on in the very same file.
//! Back they cannot go once they have committed there.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;

use godwit::{Bytes, ContentId, Error, Result, Service, Session};
use godwit_http::archive::{Archive, Digest, File};
use godwit_http::{Carrier, Files, Progress};
use serde::{Deserialize, Serialize};

/// The files of the first release.
pub static FIRST: Archive = include!(concat!(env!("OUT_DIR"), "/release1.rs"));
/// The files of the second release.
pub static SECOND: Archive = include!(concat!(env!("OUT_DIR"), "/release2.rs"));

/// The first release.
pub fn first() -> Files {
    Files::new(FIRST)
}

/// The second release.
#[derive(Clone, Copy, Debug)]
pub struct Second(Files);

impl Default for Second {
    fn default() -> Second {
        Second(Files::new(SECOND))
    }
}

/// The state of the second release.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Visit {
    /// Answers begun on the connection, as far as this release has seen.
    pub answers: u32,
    /// What the first release's state is all of.
    pub progress: Progress,
}

impl Carrier for Visit {
    fn progress(&self) -> Progress {
        self.progress
    }

    fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
    }

    fn answers(&mut self) {
        self.answers = self.answers.saturating_add(1);
    }
}

impl Service for Second {
    type State = Visit;
    const NAME: &'static str = Files::NAME;
    const PORT: u16 = Files::PORT;
    const STATE_VERSION: u32 = Files::STATE_VERSION + 1;
    const OLDEST_STATE: u32 = Files::STATE_VERSION;

    fn upgrade(version: u32, bytes: &[u8]) -> Result<Visit> {
        match (version, postcard::take_from_bytes(bytes)) {
            (Files::STATE_VERSION, Ok((progress, []))) => Ok(Visit {
                answers: 0,
                progress,
            }),
            (Files::STATE_VERSION, _) => Err(Error::StateMalformed),
            _ => Err(Error::StateVersion { found: version }),
        }
    }

    fn names(state: &Visit) -> Vec<ContentId> {
        Files::names(&state.progress)
    }

    fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.0.file(id)
    }

    async fn serve(&self, session: &mut Session<Visit>) -> Result<()> {
        self.0.serve_session(session).await
    }
}

#[cfg(test)]
mod tests {
    use godwit::RefuseReason;
    use godwit::testing::Harness;
    use godwit_http::archive::by_path;

    use super::*;

    const REQUEST: &[u8] = b"GET /news.bin HTTP/1.1\r\nHost: x\r\n\r\n";

    /// The body behind the head.
    fn body(received: &[u8]) -> &[u8] {
        let end = received.windows(4).position(|four| four == b"\r\n\r\n");
        &received[end.expect("a head") + 4..]
    }

    fn news(archive: Archive) -> &'static [u8] {
        by_path(archive, "/news.bin").unwrap().bytes
    }

    #[test]
    fn a_download_goes_on_in_the_file_it_began_with() {
        for commits in 1..3 {
            let mut old = Harness::new(first());
            old.hold_commits();
            old.client_sends(REQUEST);
            for _ in 0..commits {
                old.run();
                old.send_window();
            }
            let mut new = old.move_to(Second::default()).unwrap();
            new.client_sends(REQUEST);
            for _ in 0..20 {
                new.run();
                new.send_window();
            }
            let received = new.received();
            let octets = body(&received);
            assert!(octets.starts_with(news(FIRST)), "{commits} commits");
            assert_eq!(body(&octets[news(FIRST).len()..]), news(SECOND));
        }
    }

    #[test]
    fn the_first_release_takes_nothing_from_the_second() {
        let mut new = Harness::new(Second::default());
        new.client_sends(REQUEST);
        new.run();
        let state = new.committed_state();
        assert_eq!(new.move_to(first()).err(), Some(RefuseReason::StateVersion));
        new.client_sends(REQUEST);
        new.run();
        assert_ne!(new.committed_state(), state, "it goes on where it was");
        assert_eq!(new.end(), None);
        // Nothing committed, nothing to be read.
        assert!(Harness::new(Second::default()).move_to(first()).is_ok());
    }

    #[test]
    fn a_state_that_does_not_decode_is_refused() {
        let mut old = Harness::new(first());
        old.replace_state(1, &[9, 9, 9]);
        let refused = old.move_to(Second::default()).err();
        assert_eq!(refused, Some(RefuseReason::BadState));
    }
}
