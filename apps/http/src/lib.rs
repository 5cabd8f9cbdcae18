//! The HTTP file service: files carried in the image, and generated files of any size.
//!
//! A session's state says which response is being sent and how far, so a download moves between
//! instances in the middle of its body. Request heads are read by [`godwit::http`]; what to answer
//! is decided in [`mod@answer`]; this module sends it, part by part.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod answer;
pub mod archive;
pub mod generated;
mod range;

use alloc::vec::Vec;
use godwit::http::{Body, Head, HeadError, StatusCode, read_head_behind};

use godwit::{Bytes, Connection, ContentId, Duration, Error, Result, Service, Session};
use serde::{Deserialize, Serialize};

use answer::{Answer, answer, error};
use archive::{Archive, CONTENT, Digest};

/// How long a request's head may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests.
const IDLE: Duration = Duration::from_secs(75);
/// How long the client may be silent after we closed our direction.
const LINGER: Duration = Duration::from_secs(2);
/// Octets still read after we closed our direction.
const LINGER_OCTETS: u32 = 1 << 20;
/// Octets of body between two commits at most.
const PART: usize = 64 * 1024;

/// The file service.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    archive: Archive,
}

impl Files {
    /// Serve these files.
    pub const fn new(archive: Archive) -> Files {
        Files { archive }
    }
}

impl Default for Files {
    /// Serve what `content/` held when this was built.
    fn default() -> Files {
        Files::new(CONTENT)
    }
}

/// Where a body's octets come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Content {
    /// A file of the archive, by its digest.
    File(Digest),
    /// A generated file.
    Generated,
}

/// What a session is doing: the state that moves with it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Progress {
    /// Between two requests.
    #[default]
    Idle,
    /// Within the body of a response.
    Body {
        /// What is sent.
        content: Content,
        /// The next octet of the content to send.
        next: u64,
        /// The octet after the last to send.
        end: u64,
        /// Whether the connection is kept afterwards.
        keep: bool,
    },
    /// Our direction is closed; so many octets of input are still taken, so that the client reads
    /// our answer before a reset can destroy it.
    Closing(u32),
}

impl Progress {
    /// The file that is being sent.
    pub fn file(&self) -> Option<ContentId> {
        match self {
            Progress::Body {
                content: Content::File(digest),
                ..
            } => Some(ContentId(digest.0)),
            _ => None,
        }
    }
}

/// A session's state with a [`Progress`] in it: what [`Files`] needs to serve the session.
pub trait Carrier: Serialize {
    /// What the session is doing.
    fn progress(&self) -> Progress;
    /// It goes on to this.
    fn set_progress(&mut self, progress: Progress);
    /// An answer begins.
    fn answers(&mut self) {}
}

impl Carrier for Progress {
    fn progress(&self) -> Progress {
        *self
    }

    fn set_progress(&mut self, progress: Progress) {
        *self = progress;
    }
}

impl Service for Files {
    type State = Progress;
    const NAME: &'static str = "http";
    const PORT: u16 = 80;

    fn names(state: &Progress) -> Vec<ContentId> {
        state.file().into_iter().collect()
    }

    fn content(&self, id: &ContentId) -> Option<Bytes> {
        self.file(id)
    }

    async fn serve(&self, session: &mut Session<Progress>) -> Result<()> {
        self.serve_session(session).await
    }
}

impl Files {
    /// Serve a session whose state has the progress in it.
    pub async fn serve_session<S: Carrier>(&self, session: &mut Session<S>) -> Result<()> {
        let mut client = session.client();
        loop {
            match session.state().progress() {
                Progress::Idle => match self.request(session, &mut client).await? {
                    Some(next) => self.respond(session, &mut client, next).await?,
                    None => return Ok(()),
                },
                Progress::Body { .. } => self.send_body(session, &mut client).await?,
                Progress::Closing(octets) => return linger(session, &mut client, octets).await,
            }
        }
    }

    /// A file of the archive by its digest.
    pub fn file(&self, id: &ContentId) -> Option<Bytes> {
        let file = archive::by_digest(self.archive, &Digest(id.0))?;
        Some(Bytes::from_static(file.bytes))
    }

    /// Wait for a request and decide on its answer; `None` when there will be no more.
    async fn request<S: Carrier>(
        &self,
        session: &mut Session<S>,
        client: &mut Connection,
    ) -> Result<Option<Answer>> {
        let input = session.timeout(IDLE, client.peek()).await.transpose()?;
        let Some(input) = input.filter(|input| !input.is_empty()) else {
            return Ok(None);
        };
        match session
            .timeout(PATIENCE, read_head_behind(client, input))
            .await
        {
            None => Ok(Some(error(StatusCode(408)))),
            Some(Ok(None)) => Ok(None),
            Some(Ok(Some(head))) => Ok(Some(self.decide(&head))),
            Some(Err(HeadError::Session(error))) => Err(error),
            Some(Err(refusal)) => Ok(refusal.status().map(error)),
        }
    }

    fn decide(&self, head: &Head) -> Answer {
        let mut answer = answer(self.archive, head);
        // Nobody sends us a body with good reason. It is not read, so nothing can follow it.
        answer.keep &= head.keep_alive && head.body == Body::None;
        answer
    }

    /// Send the head, and the body with it if it is short.
    async fn respond<S: Carrier>(
        &self,
        session: &mut Session<S>,
        client: &mut Connection,
        answer: Answer,
    ) -> Result<()> {
        let (head, keep) = (answer.head, answer.keep);
        session.state_mut().answers();
        client.write_bytes(head.end(keep))?;
        let body = match answer.body {
            answer::Body::None => None,
            answer::Body::Text(text) => {
                client.write_bytes(Bytes::from_static(text.as_bytes()))?;
                None
            }
            answer::Body::Content(content, range) => Some((content, range)),
        };
        match body {
            Some((content, range)) if range.start < range.end => {
                session.state_mut().set_progress(Progress::Body {
                    content,
                    next: range.start,
                    end: range.end,
                    keep,
                });
                // Commits head and the first part of the body together.
                self.send_body(session, client).await
            }
            _ => {
                end_response(session, client, keep)?;
                session.commit().await
            }
        }
    }

    /// Send the rest of the body.
    async fn send_body<S: Carrier>(
        &self,
        session: &mut Session<S>,
        client: &mut Connection,
    ) -> Result<()> {
        while let Progress::Body {
            content,
            next,
            end,
            keep,
        } = session.state().progress()
        {
            let left = usize::try_from(end.saturating_sub(next)).unwrap_or(usize::MAX);
            let room = client.write_room()?.min(client.send_room()?);
            let octets = left.min(PART).min(room);
            let part = self.part(session, content, next, octets)?;
            client.write_bytes(part)?;
            if octets == left {
                end_response(session, client, keep)?;
            } else {
                session.state_mut().set_progress(Progress::Body {
                    content,
                    next: next + octets as u64,
                    end,
                    keep,
                });
            }
            session.commit().await?;
        }
        Ok(())
    }

    /// `octets` of the content from `from` on.
    fn part<S>(
        &self,
        session: &Session<S>,
        content: Content,
        from: u64,
        octets: usize,
    ) -> Result<Bytes> {
        match content {
            Content::Generated => Ok(generated::slice(from, octets)),
            Content::File(digest) => {
                let id = ContentId(digest.0);
                // Of another image, if not of ours.
                let file = self.file(&id).or_else(|| session.content(&id));
                let file = file.ok_or(Error::StateNotServable("file not in this image"))?;
                let from = usize::try_from(from).map_err(|_| Error::StateMalformed)?;
                match from.checked_add(octets) {
                    Some(end) if end <= file.len() => Ok(file.slice(from..end)),
                    _ => Err(Error::StateMalformed),
                }
            }
        }
    }
}

/// What comes after a response.
fn end_response<S: Carrier>(
    session: &mut Session<S>,
    client: &mut Connection,
    keep: bool,
) -> Result<()> {
    let next = if keep {
        Progress::Idle
    } else {
        client.shutdown()?;
        Progress::Closing(LINGER_OCTETS)
    };
    session.state_mut().set_progress(next);
    Ok(())
}

/// Take what the client still sends, within bounds, until it closes too.
async fn linger<S: Carrier>(
    session: &mut Session<S>,
    client: &mut Connection,
    mut octets: u32,
) -> Result<()> {
    while octets > 0 {
        let limit = PART.min(octets as usize);
        match session.timeout(LINGER, client.read_chunk(limit)).await {
            Some(Ok(chunk)) if !chunk.is_empty() => {
                octets = octets.saturating_sub(chunk.len() as u32);
                session.state_mut().set_progress(Progress::Closing(octets));
                session.commit().await?;
            }
            _ => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
