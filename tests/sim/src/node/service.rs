//! The [`crate::script`] service as the SDK wants services: its state is the script.

use godwit::{Result, Service, Session, SessionError};

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
                ..
            } = step;
            if malformed {
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
