//! What a service is.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use bytes::Bytes;
use godwit_netstack::instance::ServiceSpec;
use godwit_netstack::session::{ContentId, SessionError, SessionId, States};
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

    /// Oldest version that [`Service::upgrade`] reads. Sessions with an older state, or with a newer
    /// one than [`Service::STATE_VERSION`], stay where they are.
    const OLDEST_STATE: u32 = Self::STATE_VERSION;

    /// Serve one session until it is done. `Ok` closes it gracefully (with what was not yet
    /// committed), an error resets the client. A client that has sent what was not read, or goes on sending,
    /// is reset too, once it has all that was written and its end: its octets are lost, and it is to know.
    /// Who does not want that reads on for a while after [`crate::Connection::shutdown`].
    fn serve(&self, session: &mut Session<Self::State>) -> impl Future<Output = Result<()>>;

    /// Read a state committed by an older version of the service.
    ///
    /// Called before a session is taken in, and a session whose state this cannot read is refused and
    /// goes on where it was; then again whenever it is started, until it commits.
    fn upgrade(version: u32, bytes: &[u8]) -> Result<Self::State> {
        let _ = bytes;
        Err(Error::StateVersion { found: version })
    }

    /// The contents a state names by digest: without them it cannot be served. An instance that
    /// lacks one is sent it before it takes the session ([`Session::content`]).
    fn names(state: &Self::State) -> Vec<ContentId> {
        let _ = state;
        Vec::new()
    }

    /// A content that this service brings along.
    fn content(&self, id: &ContentId) -> Option<Bytes> {
        let _ = id;
        None
    }
}

/// What the instance asks about states, answered by the service.
struct StatesOf<S>(Rc<S>);

impl<S: Service> States for StatesOf<S> {
    fn names(&self, version: u32, state: &[u8]) -> Option<Vec<ContentId>> {
        Some(S::names(&decode_state::<S>(version, state).ok()?))
    }

    fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.0.content(id)
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
    fn spec(self: Rc<Self>, port: Option<u16>, scope: Scope) -> ServiceSpec;
    fn start(
        self: Rc<Self>,
        port: Rc<dyn Port>,
        waiters: Rc<Waiters>,
        id: SessionId,
    ) -> LocalFuture;
}

impl<S: Service> AnyService for S {
    fn spec(self: Rc<Self>, port: Option<u16>, scope: Scope) -> ServiceSpec {
        // What never moves is never asked; the node agent would own its own instance.
        let states: Option<Rc<dyn States>> = match scope {
            Scope::Service => Some(Rc::new(StatesOf(self))),
            _ => None,
        };
        ServiceSpec {
            name: S::NAME,
            port: port.unwrap_or(S::PORT),
            scope,
            state_version: S::STATE_VERSION,
            oldest_state: S::OLDEST_STATE,
            states,
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
