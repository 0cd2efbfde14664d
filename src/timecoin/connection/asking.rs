//! Asking over one connection that its holder reads.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::base::MAX_WAIT;
use crate::connection::Message;
use crate::timecoin::wire::{Kind, NetworkMessage, What, what};
use crate::wire::{Control, MessageHeader, Protocol, Status};

use super::{ConnectionError, PeerConnection, State};

/// A question that was sent and whose answer may still come.
#[derive(Clone, Debug)]
pub(in crate::timecoin) struct Asked {
    pub(in crate::timecoin) kind: Kind,
    pub(in crate::timecoin) question: Bytes,
}

/// What a frame is to whoever reads by hand.
pub(super) enum Sorted {
    Ping,
    Pong,
    /// The answer to the question that was open in this place.
    Answer(u32),
    /// No message: that a question in this place has no answer.
    Declined(u32, Status),
    Other,
}

/// What becomes of the frames that a question does not wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Keep,
    Drop,
}

/// Invariant 26. Statement: an answer is returned only for the question that it answers. Enforced by: a question is open from the
/// moment it is sent until its answer is read, whoever reads it, and whether or not anybody still waits for it; none is sent in a
/// place while another is open there whose answer could be taken for its own; a connection is handed over with those that are open,
/// and without what was kept that could be taken for their answers. Breaks if: a frame is read and not sorted.
impl PeerConnection {
    /// Sends a question and receives its answer, `within` at the longest. Pings are answered meanwhile; what else comes is kept for
    /// [`PeerConnection::receive_message`]. Where the answer to an earlier question is still to come, which would be taken for
    /// this one's, that is waited for first.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// Dropping the future while it waits loses nothing but the answer's place: the answer is then received as any message. While
    /// it writes, it closes the connection.
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
        let Some(place) = asked.awaits() else { return Err(ConnectionError::NoQuestion(asked)) };
        let question = message.to_bytes()?;
        if let State::Pooled(peer) = &self.state {
            let lane = asked.lane_for(question.len());
            let message = Message { lane, kind: asked.code(), payload: question };
            let answer = peer.connection().handle().request(message, within).await?;
            return Ok(NetworkMessage::decode(&answer)?);
        }
        let deadline = Instant::now() + within.min(MAX_WAIT);
        while self.is_in_the_way(place, asked, &question) {
            let frame = timeout_at(deadline, self.next_frame()).await;
            let frame = frame.map_err(|_| ConnectionError::AnswerOpen(asked))??;
            let sorted = self.sort(&frame);
            self.pass_by(sorted, frame, others).await?;
        }
        let sending = timeout_at(deadline, self.send_message(message)).await;
        sending.map_err(|_| ConnectionError::WriteTimeout(within))??;
        if let State::Open(open) = &mut self.state {
            open.asked.push(Asked { kind: asked, question });
        }
        loop {
            let frame = timeout_at(deadline, self.next_frame()).await;
            let frame = frame.map_err(|_| ConnectionError::ReadTimeout(within))??;
            match self.sort(&frame) {
                Sorted::Answer(of) if of == place => return Ok(NetworkMessage::decode(&frame)?),
                Sorted::Declined(of, status) if of == place => return Err(ConnectionError::Declined(status)),
                sorted => self.pass_by(sorted, frame, others).await?,
            }
        }
    }

    /// Whether the answer to a question that is open could be taken for this one's.
    fn is_in_the_way(&mut self, place: u32, asked: Kind, question: &[u8]) -> bool {
        let (State::Open(open), Some(pairs)) = (&mut self.state, self.dialect.reply_matcher()) else {
            return false;
        };
        // What cannot be mistaken is received as any message.
        open.asked.retain(|open| {
            open.kind.awaits() != Some(place)
                || !pairs.are_distinguishable(open.kind.code(), &open.question, asked.code(), question)
        });
        open.asked.iter().any(|open| open.kind.awaits() == Some(place))
    }

    /// What was kept was read before the questions that are open were asked, and would be taken for their answers by whoever reads it
    /// again.
    pub(super) fn forget_earlier_answers(&mut self) {
        let (State::Open(open), Some(pairs)) = (&mut self.state, self.dialect.reply_matcher()) else {
            return;
        };
        let asked = &open.asked;
        open.unread.retain(|frame| match what(frame) {
            What::Message(MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }) => {
                let place = pairs.reply_slot(kind);
                place.is_none() || !asked.iter().any(|asked| asked.kind.awaits() == place)
            }
            _ => true,
        });
    }

    /// What a frame that was just read is. The question that it answers is open no more.
    pub(super) fn sort(&mut self, frame: &[u8]) -> Sorted {
        match what(frame) {
            What::Control(Control::Ping { .. }) => Sorted::Ping,
            What::Control(Control::Pong { .. }) => Sorted::Pong,
            What::Message(MessageHeader::Response { id: place, status }) => {
                self.close(place, |_| true);
                Sorted::Declined(place, status)
            }
            What::Message(MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }) => {
                let Some(pairs) = self.dialect.reply_matcher() else { return Sorted::Other };
                let Some(place) = pairs.reply_slot(kind) else { return Sorted::Other };
                let answers =
                    |asked: &Asked| pairs.is_reply_to(asked.kind.code(), &asked.question, kind, frame);
                if self.close(place, answers) { Sorted::Answer(place) } else { Sorted::Other }
            }
            What::Control(_) | What::Message(MessageHeader::Cancel { .. }) => Sorted::Other,
        }
    }

    /// The question in this place is open no more, if it is the right one.
    fn close(&mut self, place: u32, is_right: impl Fn(&Asked) -> bool) -> bool {
        let State::Open(open) = &mut self.state else { return false };
        let at = open.asked.iter().position(|asked| asked.kind.awaits() == Some(place) && is_right(asked));
        at.map(|at| open.asked.swap_remove(at)).is_some()
    }

    /// Deals with a frame that is not what is waited for.
    pub(super) async fn pass_by(
        &mut self,
        sorted: Sorted,
        frame: Bytes,
        others: Others,
    ) -> Result<(), ConnectionError> {
        match sorted {
            Sorted::Ping => self.send_message(NetworkMessage::Pong).await,
            Sorted::Declined(..) => Ok(()),
            _ if others == Others::Drop => Ok(()),
            Sorted::Pong | Sorted::Answer(_) | Sorted::Other => self.keep(frame),
        }
    }
}
