//! A service with bugs, for tests: the first octet a client sends says which one its session hits.
//! `p` panics, `s` spins for ever, `m` takes memory without end, `o` overflows the stack; `e` is an echo and
//! none, and anything else ends the session.
#![cfg_attr(godwit_image, no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;

use godwit::{Result, Service, Session};
use godwit_kernel::{Machine, probe};

godwit_kernel::entry!(serve);

fn serve(machine: Machine) -> ! {
    godwit_image::serve(machine, Faulty)
}

struct Faulty;

impl Service for Faulty {
    /// It is an echo.
    type State = bool;
    const NAME: &'static str = "faulty";
    const PORT: u16 = 7;

    async fn serve(&self, session: &mut Session<bool>) -> Result<()> {
        if *session.state() {
            return echo(session).await;
        }
        let order = session.client().peek().await?;
        match order.first() {
            Some(b'p') => panic!("as the client told"),
            Some(b's') => probe::misbehave("spin"),
            Some(b'm') => hoard(),
            Some(b'o') => probe::misbehave("overflow"),
            Some(b'e') => {
                *session.state_mut() = true;
                echo(session).await
            }
            _ => Ok(()),
        }
    }
}

async fn echo(session: &mut Session<bool>) -> Result<()> {
    let mut client = session.client();
    loop {
        let mut chunk = client.peek().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        chunk.truncate(client.write_room()?);
        client.consume_input(chunk.len())?;
        client.write_bytes(chunk)?;
        session.commit().await?;
    }
}

fn hoard() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(Vec::<u8>::with_capacity(1000));
    }
}
