//! What can go wrong while a session is served.

use core::fmt;

use embedded_io_async::ErrorKind;
use godwit_netstack::instance::MoveError;
use godwit_netstack::session::SessionError;

/// Why a session operation, or the service itself, failed.
///
/// A service that returns an error from [`crate::Service::serve`] resets its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The session or its connection.
    Session(SessionError),
    /// The committed state is of a schema version this service cannot read.
    StateVersion {
        /// The version found.
        found: u32,
    },
    /// The committed state does not decode.
    StateMalformed,
    /// The state does not encode.
    StateNotEncodable,
    /// The state names something this instance does not have.
    StateNotServable(&'static str),
    /// A move that the service asked for could not start.
    Move(MoveError),
    /// The service's own reason.
    Service(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Session(error) => error.fmt(f),
            Error::StateVersion { found } => write!(f, "state of unknown version {found}"),
            Error::StateMalformed => f.write_str("state does not decode"),
            Error::StateNotEncodable => f.write_str("state does not encode"),
            Error::StateNotServable(what) => write!(f, "state cannot be served here: {what}"),
            Error::Move(error) => write!(f, "move refused: {error:?}"),
            Error::Service(reason) => f.write_str(reason),
        }
    }
}

impl core::error::Error for Error {}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Error {
        Error::Session(error)
    }
}

impl From<MoveError> for Error {
    fn from(error: MoveError) -> Error {
        Error::Move(error)
    }
}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Session(SessionError::Gone | SessionError::NoConnection) => {
                ErrorKind::NotConnected
            }
            Error::Session(SessionError::Reset) => ErrorKind::ConnectionReset,
            Error::Session(SessionError::TimedOut) => ErrorKind::TimedOut,
            Error::Session(SessionError::Closed) => ErrorKind::BrokenPipe,
            Error::Session(SessionError::CommitNeeded | SessionError::StateTooLarge) => {
                ErrorKind::OutOfMemory
            }
            Error::StateVersion { .. } | Error::StateMalformed => ErrorKind::InvalidData,
            _ => ErrorKind::Other,
        }
    }
}

/// The result of a session operation.
pub type Result<T> = core::result::Result<T, Error>;
