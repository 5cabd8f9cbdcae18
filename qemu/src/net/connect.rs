//! From where connections are opened: the host itself, the client's namespace, or the stack that
//! plays the client where there are no namespaces.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Namespace, UserStack};

/// A TCP connection of whichever kind.
pub trait Stream: Read + Write + Send {
    /// Another handle to the same connection.
    fn another(&self) -> Result<Box<dyn Stream>>;
    /// Sends no more; what the peer still sends can be read.
    fn close_sending(&mut self) -> Result<()>;
}

impl Stream for TcpStream {
    fn another(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn close_sending(&mut self) -> Result<()> {
        Ok(self.shutdown(Shutdown::Write)?)
    }
}

/// A place to open connections from.
#[derive(Clone, Debug)]
pub enum Network {
    /// The process's own network.
    Host,
    /// A namespace with the Linux kernel's TCP.
    Namespace(Namespace),
    /// A stack in this process.
    User(UserStack),
}

impl Network {
    /// Opens a connection on which no read and no write waits for longer than `patience`.
    pub fn connect(&self, to: SocketAddr, patience: Duration) -> Result<Box<dyn Stream>> {
        let connect = || -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&to, patience)
                .with_context(|| format!("cannot connect to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        };
        Ok(match self {
            Self::Host => Box::new(connect()?),
            // A socket stays in the namespace it was made in, whichever thread uses it.
            Self::Namespace(namespace) => Box::new(namespace.run(connect)?),
            Self::User(stack) => Box::new(stack.connect(to, patience)?),
        })
    }
}
