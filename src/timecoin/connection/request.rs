//! Requests over a connection that its holder reads.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::base::MAX_WAIT;
use crate::connection::Message;
use crate::timecoin::wire::{FrameContent, Kind, NetworkMessage, peek_frame};
use crate::wire::{Control, MessageHeader, Protocol, Status};

use super::{ConnectionError, PeerConnection, State};

/// A request that was sent and may still be answered.
#[derive(Clone, Debug)]
pub(in crate::timecoin) struct OpenRequest {
    pub(in crate::timecoin) kind: Kind,
    pub(in crate::timecoin) payload: Bytes,
}

/// The role of a frame on a connection that its holder reads.
pub(super) enum FrameRole {
    Ping,
    Pong,
    /// The reply to the open request of this slot.
    Reply(u32),
    /// A refusal of the request of this slot; not a message.
    Declined(u32, Status),
    Other,
}

/// What to do with frames that a request does not wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UnmatchedFrames {
    Keep,
    Drop,
}

/// Requests and replies.
///
/// Invariant: `responses_match_id_and_connection`
///
/// - Statement: a reply is returned only for the request that it answers.
/// - Enforced by: a request is open from sending until its reply is read, whether or not a caller
///   still waits. No request is sent while another of its slot is open whose reply could be
///   mistaken for its own. A handed-over connection takes its open requests along, and leaves out
///   unread frames that could be mistaken for their replies.
/// - Breaks if: a frame is read and not classified.
impl PeerConnection {
    /// Sends a request and waits for its reply, at most `time_limit`. Pings are answered meanwhile;
    /// other frames are kept for [`PeerConnection::receive_message`]. If an earlier request is open
    /// whose reply could be mistaken for this one's, its reply is awaited first.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    ///
    /// # Cancel safety
    /// Dropping the future while it waits loses only the match: the reply is then received as any
    /// message. Dropping it while it writes closes the connection.
    pub async fn request_response(
        &mut self,
        message: NetworkMessage,
        time_limit: Duration,
    ) -> Result<NetworkMessage, ConnectionError> {
        self.send_request(message, time_limit, UnmatchedFrames::Keep).await
    }

    /// [`PeerConnection::request_response`] for a connection that is not read afterwards: all other
    /// frames are dropped.
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
            let reply = peer.connection().handle().request(message, time_limit).await?;
            return Ok(NetworkMessage::decode(&reply)?);
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

    /// Whether the reply to an open request could be mistaken for the reply to this one.
    fn conflicts_with_open(&mut self, slot: u32, kind: Kind, payload: &[u8]) -> bool {
        let (State::Open(open), Some(matcher)) = (&mut self.state, self.protocol.reply_matcher()) else {
            return false;
        };
        // A request whose replies are distinguishable needs no slot: its reply is received as any
        // message.
        open.requests.retain(|open| {
            open.kind.request_slot() != Some(slot)
                || !matcher.are_distinguishable(open.kind.code(), &open.payload, kind.code(), payload)
        });
        open.requests.iter().any(|open| open.kind.request_slot() == Some(slot))
    }

    /// Drops kept frames that the reader of a handed-over connection would mistake for replies:
    /// they were read before the open requests were sent.
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

    /// The role of a frame that was just read. A request that it answers is no longer open.
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
                let is_reply = |request: &OpenRequest| {
                    matcher.is_reply_to(request.kind.code(), &request.payload, kind, frame)
                };
                if self.close_request(slot, is_reply) { FrameRole::Reply(slot) } else { FrameRole::Other }
            }
            FrameContent::Control(_) | FrameContent::Message(MessageHeader::Cancel { .. }) => {
                FrameRole::Other
            }
        }
    }

    /// Closes the open request of this slot if `matches` accepts it.
    fn close_request(&mut self, slot: u32, matches: impl Fn(&OpenRequest) -> bool) -> bool {
        let State::Open(open) = &mut self.state else { return false };
        let at =
            open.requests.iter().position(|open| open.kind.request_slot() == Some(slot) && matches(open));
        at.map(|at| open.requests.swap_remove(at)).is_some()
    }

    /// Handles a frame that is not the awaited one.
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
