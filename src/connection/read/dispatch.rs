//! Where a decoded message goes.

use tokio::time::Instant;

use crate::base::Lane;
use crate::connection::budget::MemoryReservation;
use crate::connection::close_reason::CloseReason;
use crate::connection::handler::ConnectionHandler;
use crate::connection::message::{Event, Request};
use crate::wire::{Control, MessageHeader, Payload, Protocol};

use super::{ReadContext, Reader};

/// Gives a message of the application to the inbox, or to the request that it answers. `cover`
/// counts the memory of a payload that was reassembled.
pub(super) fn dispatch_message<D: Protocol, H: ConnectionHandler>(
    lane: Lane,
    header: MessageHeader,
    payload: Payload<'_>,
    mut cover: Option<&mut MemoryReservation>,
    context: &mut ReadContext<'_, D, H>,
) -> Result<(), CloseReason> {
    let ReadContext { connection, handler, inbox, .. } = context;
    match header {
        MessageHeader::Event { kind } => match connection.match_reply(kind, payload, cover.as_deref_mut()) {
            Some(payload) => {
                inbox.push_event(*handler, connection, Event { lane, kind, payload }, cover)
            }
            None => Ok(()),
        },
        MessageHeader::Request { id, kind } => {
            if connection.is_flooded() {
                return Err(CloseReason::Flood);
            }
            inbox.push_request(*handler, connection, id, Request { lane, kind, payload }, cover)
        }
        MessageHeader::Response { id, status } => {
            // A late or unknown response is dropped.
            let counted = connection.cover(&payload, cover);
            connection.complete_request(id, status, payload.into_bytes(), counted);
            Ok(())
        }
        MessageHeader::Cancel { id } => {
            inbox.cancel(connection, id);
            Ok(())
        }
    }
}

impl<D: Protocol> Reader<D> {
    /// Handles a control message. Replies go to the control queue.
    pub(super) fn dispatch_control<H: ConnectionHandler>(
        &mut self,
        control: Control,
        context: &mut ReadContext<'_, D, H>,
    ) -> Result<(), CloseReason> {
        let (connection, handler) = (context.connection, context.handler);
        match control {
            Control::Ping { token } => context.control.push(context.protocol, &Control::Pong { token })?,
            Control::Pong { token } => {
                let has_token = connection.shared.features.ping_tokens;
                if has_token && context.acks.record(token) {
                    return Ok(());
                }
                if let Some(rtt) = connection.pong(token, has_token) {
                    handler.on_rtt(rtt);
                    if !context.inbox.runs_requests() {
                        connection.drop_idle_state();
                    }
                }
            }
            Control::Goodbye(goodbye) => {
                handler.on_goodbye(goodbye);
                return Err(CloseReason::Goodbye(goodbye));
            }
            Control::Missed { lane, count } => handler.on_missed(lane, count),
            // The decoder has dropped the message.
            Control::Abort { .. } => {}
            Control::GetPeers { max } => {
                let interval = connection.shared.config.peers_interval;
                let timing = self.timing.get_or_insert_default();
                if timing.peers_sent_at.is_none_or(|sent| sent.elapsed() >= interval) {
                    timing.peers_sent_at = Some(Instant::now());
                    let max = usize::from(max).min(connection.shared.limits.peers);
                    let mut peers = handler.on_get_peers(max);
                    peers.truncate(max);
                    context.control.push(context.protocol, &Control::Peers(peers))?;
                }
            }
            // A list that was not asked for is dropped: it may be the beginning of a flood.
            Control::Peers(peers) => {
                if std::mem::take(&mut self.expects_peers) {
                    handler.on_peers(peers);
                }
            }
        }
        Ok(())
    }
}
