//! Telling the far end why a connection is not kept, without delaying the caller.
//!
//! Invariant: `one_source_cannot_exhaust_accepts`.
//! - Statement: a source that is refused again and again costs a bounded number of sockets.
//! - Enforced by: each goodbye runs in a task of its own under a bound by source, one in total, and
//!   a deadline. Beyond the bounds the connection is closed without a goodbye.
//! - Breaks if: a goodbye is written in the accept loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::node::error::ConnectError;
use crate::node::protocol::ProtocolId;
use crate::node::runtime::addr_exchange;
use crate::node::runtime::addr_sample::Asker;
use crate::node::runtime::shared::Shared;
use crate::transport::BoxStream;
use crate::wire::{Control, Goodbye, GoodbyeReason, Refusal};

use super::handshake::write_refusal;
use super::state::GOODBYE_LIMITS;

/// When a refused peer may come back.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// The longest that writing a refusal may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that writing a goodbye on an accepted connection may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Refuses a connection that we have not accepted: writes a refusal in place of our hello, where
/// the error has one. If no slot is free, it carries addresses of other nodes.
///
/// Invariant: `full_node_still_helps`.
/// - Statement: a dialler that finds no free slot learns other addresses, a few, at most once a minute for
///   each source.
/// - Enforced by: a refusal for lack of slots takes addresses from the sample that peers get.
/// - Breaks if: a newcomer is refused without addresses while the book has some for it.
pub(crate) fn refuse(
    shared: &Arc<Shared>,
    id: ProtocolId,
    mut stream: BoxStream,
    to: SocketAddr,
    error: &ConnectError,
) {
    let Some(goodbye) = error.goodbye(RETRY_AFTER) else { return };
    let Some(counted) = shared.connecting.goodbyes.begin(to.ip(), GOODBYE_LIMITS) else { return };
    let protocol = Arc::clone(shared.protocols.get(id));
    let mut refusal = Refusal::new(goodbye, protocol.version(), shared.config.network);
    if goodbye.reason == GoodbyeReason::Full {
        let asker = Asker { ip: to.ip(), protocol: id };
        let interval = shared.runtime_config().discovery.refusal_addrs_interval;
        refusal.addrs = addr_exchange::tell_refused(shared, &asker, Refusal::MAX_ADDRS, interval);
    }
    let stopping = Arc::clone(shared);
    shared.tasks.spawn(async move {
        tokio::select! {
            () = stopping.stopped() => {}
            _ = timeout(REFUSAL_TIMEOUT, write_refusal(&mut stream, &*protocol, &refusal)) => {}
        }
        drop(counted);
    });
}

/// Leaves a connection that the far end has accepted: writes a goodbye as a control message, where
/// the error has one.
pub(crate) fn send_goodbye(
    shared: &Arc<Shared>,
    id: ProtocolId,
    mut stream: BoxStream,
    to: SocketAddr,
    error: &ConnectError,
) {
    let Some(goodbye) = error.goodbye(Duration::ZERO) else { return };
    let Some(counted) = shared.connecting.goodbyes.begin(to.ip(), GOODBYE_LIMITS) else { return };
    let control = Control::Goodbye(Goodbye { retry_after: None, ..goodbye });
    let Some(bytes) = shared.protocols.get(id).encode_control(&control) else { return };
    let stopping = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let farewell = async {
            // The acceptor may be gone already; then it needs no goodbye.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut discarded = [0u8; 512];
            while matches!(stream.read(&mut discarded).await, Ok(count) if count > 0) {}
        };
        tokio::select! {
            () = stopping.stopped() => {}
            _ = timeout(GOODBYE_TIMEOUT, farewell) => {}
        }
        drop(counted);
    });
}
