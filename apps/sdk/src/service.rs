//! What a service is.

use alloc::boxed::Box;
use alloc::rc::Rc;

use bytes::Bytes;
use godwit_netstack::instance::ServiceSpec;
use godwit_netstack::session::{SessionError, SessionId};
use godwit_netstack::stack::Scope;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::executor::LocalFuture;
use crate::port::{Port, Waiters};
use crate::{Error, Result, Session};

/// A network service whose sessions can move.
///
/// [`Service::serve`] is started for every new connection with the default state, and again,
/// with the last committed state, wherever the session arrives by a move. Between commits it may
/// be dropped at any `await`: what it read since the last commit is then unread again, what it
/// wrote was never sent.
pub trait Service: 'static {
    /// What a session is, besides its connections. Encoded at every commit, so keep it small.
    type State: Default + Serialize + DeserializeOwned + 'static;

    /// Names the service; sessions only move between services of one name.
    const NAME: &'static str;

    /// The port it listens at unless the configuration says otherwise.
    const PORT: u16;

    /// Version of [`Service::State`]'s encoding; raise it when the struct changes.
    const STATE_VERSION: u32 = 1;

    /// Serve one session until it is done. `Ok` closes it gracefully (with what was not yet
    /// committed), an error resets the client.
    fn serve(&self, session: &mut Session<Self::State>) -> impl Future<Output = Result<()>>;

    /// Read a state committed by another version of the service.
    fn upgrade(version: u32, bytes: &[u8]) -> Result<Self::State> {
        let _ = bytes;
        Err(Error::StateVersion { found: version })
    }
}

/// Decode a committed state as `S` has it.
pub(crate) fn decode_state<S: Service>(version: u32, bytes: &[u8]) -> Result<S::State> {
    if version != S::STATE_VERSION {
        return S::upgrade(version, bytes);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Ok(state),
        _ => Err(Error::StateMalformed),
    }
}

/// Encode a state for a commit.
pub(crate) fn encode_state<T: Serialize>(state: &T) -> Result<Bytes> {
    match postcard::to_allocvec(state) {
        Ok(bytes) => Ok(Bytes::from(bytes)),
        Err(_) => Err(Error::StateNotEncodable),
    }
}

/// A service with its state type hidden, as the node keeps it.
pub(crate) trait AnyService {
    fn spec(&self, port: Option<u16>, scope: Scope) -> ServiceSpec;
    fn start(
        self: Rc<Self>,
        port: Rc<dyn Port>,
        waiters: Rc<Waiters>,
        id: SessionId,
    ) -> LocalFuture;
}

impl<S: Service> AnyService for S {
    fn spec(&self, port: Option<u16>, scope: Scope) -> ServiceSpec {
        ServiceSpec {
            name: S::NAME,
            port: port.unwrap_or(S::PORT),
            scope,
            state_version: S::STATE_VERSION,
        }
    }

    fn start(
        self: Rc<Self>,
        port: Rc<dyn Port>,
        waiters: Rc<Waiters>,
        id: SessionId,
    ) -> LocalFuture {
        Box::pin(async move {
            if let Err(error) = serve_to_the_end(&*self, &port, waiters, id).await {
                match error {
                    // The client's doing, or the session went elsewhere: nothing to tell.
                    Error::Session(
                        SessionError::Gone | SessionError::Reset | SessionError::TimedOut,
                    ) => log::debug!("{}: session {id}: {error}", S::NAME),
                    _ => log::warn!("{}: session {id}: {error}", S::NAME),
                }
                port.abort(id);
            }
        })
    }
}

async fn serve_to_the_end<S: Service>(
    service: &S,
    port: &Rc<dyn Port>,
    waiters: Rc<Waiters>,
    id: SessionId,
) -> Result<()> {
    let state = match port.committed_state(id) {
        Some((version, bytes)) => decode_state::<S>(version, &bytes)?,
        None => S::State::default(),
    };
    let mut session = Session::new(port.clone(), waiters, id, state);
    service.serve(&mut session).await?;
    let state = encode_state(session.state())?;
    port.finish(id, state)?;
    Ok(())
}
