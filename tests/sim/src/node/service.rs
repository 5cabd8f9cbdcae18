//! The [`crate::script`] service as the SDK wants services: its state is the script.

use godwit::{Duration, Result, Service, Session, SessionError};
use godwit_netstack::cluster::MemberId;
use serde::{Deserialize, Serialize};

use super::SCRIPT_PORT;
use crate::script::{Script, Step};

/// Serves scripts through the SDK.
pub(crate) struct Scripts;

impl Service for Scripts {
    type State = Script;
    const NAME: &'static str = "script";
    const PORT: u16 = SCRIPT_PORT;

    async fn serve(&self, session: &mut Session<Script>) -> Result<()> {
        while !session.state().finished() {
            let mut client = session.client();
            let room = client.write_room()?;
            let ended = session.state().ended();
            // Much needs no input; only when that is done, wait for some.
            let mut step = session.state_mut().step(&[], ended, room);
            if step.is_idle() {
                let input = client.peek().await?;
                step = session.state_mut().step(&input, input.is_empty(), room);
            }
            let Step {
                consumed,
                output,
                shutdown,
                malformed,
                abort,
                ..
            } = step;
            if malformed || abort {
                return Err(SessionError::Reset.into());
            }
            client.consume_input(consumed)?;
            // After the shutdown even nothing cannot be written.
            if !output.is_empty() {
                client.write_bytes(output)?;
            }
            if shutdown {
                client.shutdown()?;
            }
            session.commit().await?;
        }
        Ok(())
    }
}

/// Octets of the stream that each member echoes before the next one does.
const STRETCH: u64 = 20_000;

/// An echo that says itself who is to serve it: each stretch of the stream belongs to another
/// of three members.
pub(crate) struct Wanderer;

/// How far it has come.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Way {
    octets: u64,
}

impl Service for Wanderer {
    type State = Way;
    const NAME: &'static str = "wanderer";
    const PORT: u16 = SCRIPT_PORT;

    async fn serve(&self, session: &mut Session<Way>) -> Result<()> {
        let mut client = session.client();
        loop {
            let mut chunk = client.peek().await?;
            if chunk.is_empty() {
                return Ok(());
            }
            let octets = session.state().octets;
            let there = MemberId(1 + (octets / STRETCH % 3) as u32);
            if there != session.here() && session.move_to(there).is_ok() {
                // Dropped here as soon as it moves. What it peeked at, it has not consumed.
                session.sleep(Duration::from_secs(1)).await;
                continue;
            }
            let stretch = (STRETCH - octets % STRETCH) as usize;
            chunk.truncate(stretch.min(client.write_room()?));
            session.state_mut().octets += chunk.len() as u64;
            client.consume_input(chunk.len())?;
            client.write_bytes(chunk)?;
            session.commit().await?;
        }
    }
}
