//! Asking over one connection that its holder reads.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::link::Message;
use crate::timecoin::wire::{NetworkMessage, What, what};
use crate::wire::{Dialect, Head, Status};

use super::{ConnectionError, PeerConnection, State};

/// What becomes of the frames that a question does not wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Keep,
    Drop,
}

impl PeerConnection {
    /// Sends a question and receives its answer, `within` at the longest. Pings are answered meanwhile; what else comes is kept for
    /// [`PeerConnection::receive_message`].
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// Dropping the future while it waits loses nothing but the answer's place: the answer is then received as any message.
    pub async fn request_response(
        &mut self,
        message: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, ConnectionError> {
        self.ask(message, within, Others::Keep).await
    }

    /// As [`PeerConnection::request_response`], for a connection that nobody reads afterwards: what else comes is dropped, however
    /// much that is.
    pub(in crate::timecoin) async fn request_alone(
        &mut self,
        message: NetworkMessage,
        within: Duration,
    ) -> Result<NetworkMessage, ConnectionError> {
        self.ask(message, within, Others::Drop).await
    }

    async fn ask(
        &mut self,
        message: NetworkMessage,
        within: Duration,
        others: Others,
    ) -> Result<NetworkMessage, ConnectionError> {
        let asked = message.kind();
        let pairs = self.dialect.correlator();
        let Some(pairs) = pairs.filter(|pairs| pairs.awaits(asked.code()).is_some()) else {
            return Err(ConnectionError::NoQuestion(asked));
        };
        let question = message.to_bytes()?;
        if let State::Pooled(peer) = &self.state {
            let lane = asked.lane_for(question.len());
            let message = Message { lane, kind: asked.code(), payload: question };
            let answer = peer.connection().link().request(message, within).await?;
            return Ok(NetworkMessage::decode(&answer)?);
        }
        let deadline = Instant::now() + within.min(LONGEST);
        let late = || ConnectionError::ReadTimeout(within);
        timeout_at(deadline, self.send_message(message)).await.map_err(|_| late())??;
        loop {
            let frame = timeout_at(deadline, self.next_frame()).await.map_err(|_| late())??;
            if let Some((place, status)) = declined(&frame) {
                if pairs.awaits(asked.code()) == Some(place) {
                    return Err(ConnectionError::Declined(status));
                }
                continue;
            }
            let message = match NetworkMessage::decode(&frame) {
                Ok(NetworkMessage::Ping) => {
                    self.send_message(NetworkMessage::Pong).await?;
                    continue;
                }
                Ok(message) => message,
                Err(_) => {
                    self.pass_by(frame, others)?;
                    continue;
                }
            };
            let got = message.kind().code();
            if pairs.fills(got) == pairs.awaits(asked.code())
                && pairs.answers(asked.code(), &question, got, &frame)
            {
                return Ok(message);
            }
            self.pass_by(frame, others)?;
        }
    }

    fn pass_by(&mut self, frame: Bytes, others: Others) -> Result<(), ConnectionError> {
        match others {
            Others::Keep => self.keep(frame),
            Others::Drop => Ok(()),
        }
    }
}

/// That the question in this place has no answer, if that is what a frame says: no message for whoever receives them.
pub(super) fn declined(frame: &[u8]) -> Option<(u32, Status)> {
    match what(frame) {
        What::Message(Head::Response { id, status }) => Some((id, status)),
        _ => None,
    }
}

/// For whoever waits longer than a clock can count.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
