//! Asking over one connection that its holder reads.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::base::MAX_WAIT;
use crate::connection::Message;
use crate::timecoin::wire::{FrameContent, Kind, NetworkMessage, peek_frame};
use crate::wire::{Control, MessageHeader, Protocol, Status};

use super::{ConnectionError, PeerConnection, State};

/// A question that was sent and whose answer may still come.
#[derive(Clone, Debug)]
pub(in crate::timecoin) struct OpenRequest {
    pub(in crate::timecoin) kind: Kind,
    pub(in crate::timecoin) payload: Bytes,
}

/// What a frame is to whoever reads by hand.
pub(super) enum FrameRole {
    Ping,
    Pong,
    /// The answer to the question that was open in this slot.
    Reply(u32),
    /// No message: that a question in this slot has no answer.
    Declined(u32, Status),
    Other,
}

/// What becomes of the frames that a question does not wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UnmatchedFrames {
    Keep,
    Drop,
}

/// Invariant 26. Statement: an answer is returned only for the question that it answers. Enforced by: a question is open from the
/// moment it is sent until its answer is read, whoever reads it, and whether or not anybody still waits for it; none is sent in a
/// slot while another is open there whose answer could be taken for its own; a connection is handed over with those that are open,
/// and without peek_frame was kept that could be taken for their answers. Breaks if: a frame is read and not sorted.
impl PeerConnection {
    /// Sends a question and receives its answer, `time_limit` at the longest. Pings are answered meanwhile; peek_frame else comes is kept for
    /// [`PeerConnection::receive_message`]. Where the answer to an earlier question is still to come, which would be taken for
    /// this one's, that is waited for first.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// Dropping the future while it waits loses nothing but the answer's slot: the answer is then received as any message. While
    /// it writes, it closes the connection.
    pub async fn request_response(
        &mut self,
        message: NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, ConnectionError> {
        self.send_request(message, time_limit, UnmatchedFrames::Keep).await
    }

    /// As [`PeerConnection::request_response`], for a connection that nobody reads afterwards: peek_frame else comes is dropped, however
    /// much that is.
    pub(in crate::timecoin) async fn request_exclusive(
        &mut self,
        message: NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, ConnectionError> {
        self.send_request(message, time_limit, UnmatchedFrames::Drop).await
    }

    async fn send_request(
        &mut self,
        message: NetworkMessage,
        time_limit: Duration,
        unmatched: UnmatchedFrames,
    ) -> Result<NetworkMessage, ConnectionError> {
        let kind = message.kind();
        let Some(slot) = kind.request_slot() else { return Err(ConnectionError::NotARequest(kind)) };
        let payload = message.to_bytes()?;
        if let State::Pooled(peer) = &self.state {
            let lane = kind.lane_for(payload.len());
            let message = Message { lane, kind: kind.code(), payload };
            let answer = peer.connection().handle().request(message, time_limit).await?;
            return Ok(NetworkMessage::decode(&answer)?);
        }
        let deadline = Instant::now() + time_limit.min(MAX_WAIT);
        while self.conflicts_with_open(slot, kind, &payload) {
            let frame = timeout_at(deadline, self.next_frame()).await;
            let frame = frame.map_err(|_| ConnectionError::ReplyOutstanding(kind))??;
            let sorted = self.classify(&frame);
            self.handle_unmatched(sorted, frame, unmatched).await?;
        }
        let sending = timeout_at(deadline, self.send_message(message)).await;
        sending.map_err(|_| ConnectionError::WriteTimeout(time_limit))??;
        if let State::Open(open) = &mut self.state {
            open.requests.push(OpenRequest { kind, payload });
        }
        loop {
            let frame = timeout_at(deadline, self.next_frame()).await;
            let frame = frame.map_err(|_| ConnectionError::ReadTimeout(time_limit))??;
            match self.classify(&frame) {
                FrameRole::Reply(of) if of == slot => return Ok(NetworkMessage::decode(&frame)?),
                FrameRole::Declined(of, status) if of == slot => {
                    return Err(ConnectionError::Declined(status));
                }
                sorted => self.handle_unmatched(sorted, frame, unmatched).await?,
            }
        }
    }

    /// Whether the answer to a question that is open could be taken for this one's.
    fn conflicts_with_open(&mut self, slot: u32, kind: Kind, payload: &[u8]) -> bool {
        let (State::Open(open), Some(matcher)) = (&mut self.state, self.protocol.reply_matcher()) else {
            return false;
        };
        // What cannot be mistaken is received as any message.
        open.requests.retain(|open| {
            open.kind.request_slot() != Some(slot)
                || !matcher.are_distinguishable(open.kind.code(), &open.payload, kind.code(), payload)
        });
        open.requests.iter().any(|open| open.kind.request_slot() == Some(slot))
    }

    /// What was kept was read before the questions that are open were asked, and would be taken for their answers by whoever reads it
    /// again.
    pub(super) fn drop_stale_replies(&mut self) {
        let (State::Open(open), Some(matcher)) = (&mut self.state, self.protocol.reply_matcher()) else {
            return;
        };
        let requests = &open.requests;
        open.unread.retain(|frame| match peek_frame(frame) {
            FrameContent::Message(MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }) => {
                let slot = matcher.reply_slot(kind);
                slot.is_none() || !requests.iter().any(|open| open.kind.request_slot() == slot)
            }
            _ => true,
        });
    }

    /// What a frame that was just read is. The question that it answers is open no more.
    pub(super) fn classify(&mut self, frame: &[u8]) -> FrameRole {
        match peek_frame(frame) {
            FrameContent::Control(Control::Ping { .. }) => FrameRole::Ping,
            FrameContent::Control(Control::Pong { .. }) => FrameRole::Pong,
            FrameContent::Message(MessageHeader::Response { id: slot, status }) => {
                self.close_request(slot, |_| true);
                FrameRole::Declined(slot, status)
            }
            FrameContent::Message(MessageHeader::Event { kind } | MessageHeader::Request { kind, .. }) => {
                let Some(matcher) = self.protocol.reply_matcher() else { return FrameRole::Other };
                let Some(slot) = matcher.reply_slot(kind) else { return FrameRole::Other };
                let answers = |request: &OpenRequest| {
                    matcher.is_reply_to(request.kind.code(), &request.payload, kind, frame)
                };
                if self.close_request(slot, answers) { FrameRole::Reply(slot) } else { FrameRole::Other }
            }
            FrameContent::Control(_) | FrameContent::Message(MessageHeader::Cancel { .. }) => {
                FrameRole::Other
            }
        }
    }

    /// The question in this slot is open no more, if it is the right one.
    fn close_request(&mut self, slot: u32, matches: impl Fn(&OpenRequest) -> bool) -> bool {
        let State::Open(open) = &mut self.state else { return false };
        let at =
            open.requests.iter().position(|open| open.kind.request_slot() == Some(slot) && matches(open));
        at.map(|at| open.requests.swap_remove(at)).is_some()
    }

    /// Deals with a frame that is not peek_frame is waited for.
    pub(super) async fn handle_unmatched(
        &mut self,
        sorted: FrameRole,
        frame: Bytes,
        unmatched: UnmatchedFrames,
    ) -> Result<(), ConnectionError> {
        match sorted {
            FrameRole::Ping => self.send_message(NetworkMessage::Pong).await,
            FrameRole::Declined(..) => Ok(()),
            _ if unmatched == UnmatchedFrames::Drop => Ok(()),
            FrameRole::Pong | FrameRole::Reply(_) | FrameRole::Other => self.keep_unread(frame),
        }
    }
}
