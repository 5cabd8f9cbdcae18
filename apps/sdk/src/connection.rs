//! Handles of a session's connections.

use alloc::rc::Rc;
use core::future::poll_fn;
use core::task::{Context, Poll};

use bytes::Bytes;
use embedded_io_async::{BufRead, ErrorType, Read, Write};
use godwit_netstack::session::{Input, SessionError, SessionId};
use serde::Serialize;

use crate::port::{Port, Waiters};
use crate::{Error, Result, Session};

/// One connection of a session.
///
/// Only consumed bytes count as read: [`Connection::peek`] (and `fill_buf`) shows bytes without
/// taking them, so a reader that looks ahead does not lose a pipelined request to a move. The
/// bytes consumed and written between two commits are bounded; beyond the bound reads and writes
/// fail with [`SessionError::CommitNeeded`].
#[derive(Clone)]
pub struct Connection {
    port: Rc<dyn Port>,
    waiters: Rc<Waiters>,
    session: SessionId,
    number: u16,
    /// What `fill_buf` lent out.
    lent: Bytes,
    /// An error that `consume` of [`BufRead`] could not return.
    late: Option<Error>,
}

impl Connection {
    pub(crate) fn new(
        port: Rc<dyn Port>,
        waiters: Rc<Waiters>,
        session: SessionId,
        number: u16,
    ) -> Connection {
        Connection {
            port,
            waiters,
            session,
            number,
            lent: Bytes::new(),
            late: None,
        }
    }

    fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        if let Some(error) = self.late.take() {
            return Poll::Ready(Err(error));
        }
        match self.port.read(self.session, self.number)? {
            Input::Data(bytes) => Poll::Ready(Ok(bytes)),
            Input::End => {
                self.port.consume_end(self.session, self.number)?;
                Poll::Ready(Ok(Bytes::new()))
            }
            Input::Pending => {
                self.waiters.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Wait for input and show the first slice of it, without copying and without consuming.
    /// Empty at the end of input (which then counts as read).
    pub async fn peek(&mut self) -> Result<Bytes> {
        poll_fn(|cx| self.poll_peek(cx)).await
    }

    /// Wait for input and take at most `limit` octets of it, without copying. Empty at the end
    /// of input.
    pub async fn read_chunk(&mut self, limit: usize) -> Result<Bytes> {
        let mut chunk = self.peek().await?;
        chunk.truncate(limit);
        if !chunk.is_empty() {
            self.consume_input(chunk.len())?;
        }
        Ok(chunk)
    }

    /// Count `octets` of what was shown as read.
    pub fn consume_input(&mut self, octets: usize) -> Result<()> {
        Ok(self.port.consume(self.session, self.number, octets)?)
    }

    /// Write `data` without copying it. All or nothing: fails with
    /// [`SessionError::CommitNeeded`] if it does not fit [`Connection::write_room`].
    pub fn write_bytes(&mut self, data: Bytes) -> Result<()> {
        Ok(self.port.write(self.session, self.number, data)?)
    }

    /// Octets that can be written before a commit is needed.
    pub fn write_room(&self) -> Result<usize> {
        Ok(self.port.write_room(self.session, self.number)?)
    }

    /// Octets that are worth writing before the next commit: as many as the network takes soon.
    /// More can be written (see [`Connection::write_room`]), but would only wait in the send queue,
    /// and travel with the session if it moves. Never zero.
    pub fn send_room(&self) -> Result<usize> {
        Ok(self.port.send_room(self.session, self.number)?)
    }

    /// Close the output direction after what was written.
    pub fn shutdown(&mut self) -> Result<()> {
        Ok(self.port.shutdown(self.session, self.number)?)
    }
}

impl ErrorType for Connection {
    type Error = Error;
}

impl Read for Connection {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let chunk = self.read_chunk(buf.len()).await?;
        if let Some(place) = buf.get_mut(..chunk.len()) {
            place.copy_from_slice(&chunk);
        }
        Ok(chunk.len())
    }
}

impl BufRead for Connection {
    async fn fill_buf(&mut self) -> Result<&[u8]> {
        self.lent = self.peek().await?;
        Ok(&self.lent)
    }

    fn consume(&mut self, amount: usize) {
        if amount > 0
            && let Err(error) = self.consume_input(amount)
        {
            self.late = Some(error);
        }
        self.lent = Bytes::new();
    }
}

impl Write for Connection {
    /// Never waits: output is held back until a commit, and that is where the wait is.
    async fn write(&mut self, buf: &[u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let octets = self.write_room()?.min(buf.len());
        if octets == 0 {
            return Err(SessionError::CommitNeeded.into());
        }
        let part = buf.get(..octets).unwrap_or(buf);
        self.write_bytes(Bytes::copy_from_slice(part))?;
        Ok(octets)
    }

    /// Does nothing: only a commit of the session sends. See [`Session::autocommit`].
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The client's connection with a `flush` that commits. See [`Session::autocommit`].
pub struct AutoCommit<'a, S> {
    connection: Connection,
    session: &'a mut Session<S>,
}

impl<'a, S> AutoCommit<'a, S> {
    pub(crate) fn new(connection: Connection, session: &'a mut Session<S>) -> AutoCommit<'a, S> {
        AutoCommit {
            connection,
            session,
        }
    }

    /// The state, to change before a flush.
    pub fn state_mut(&mut self) -> &mut S {
        self.session.state_mut()
    }
}

impl<S> ErrorType for AutoCommit<'_, S> {
    type Error = Error;
}

impl<S> Read for AutoCommit<'_, S> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.connection.read(buf).await
    }
}

impl<S> BufRead for AutoCommit<'_, S> {
    async fn fill_buf(&mut self) -> Result<&[u8]> {
        self.connection.fill_buf().await
    }

    fn consume(&mut self, amount: usize) {
        self.connection.consume(amount);
    }
}

impl<S: Serialize> Write for AutoCommit<'_, S> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.connection.write(buf).await
    }

    async fn flush(&mut self) -> Result<()> {
        self.session.commit().await
    }
}
