//! Requests on their way: ours that await an answer, the peer's that are being handled.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::base::Lane;
use crate::link::message::Response;
use crate::link::outbox::{Outgoing, Rejected};
use crate::wire::{Head, Status};

use super::{Answer, Declined, Link};

#[derive(Debug, Default)]
pub(super) struct Waiters {
    pub(super) next: u32,
    pub(super) table: HashMap<u32, oneshot::Sender<Result<Response, Declined>>, foldhash::fast::RandomState>,
    pub(super) closed: bool,
}

/// Requests of the peer that are being handled and not answered yet.
#[derive(Debug, Default)]
pub(super) struct Answering {
    pub(super) ids: Vec<u32>,
}

/// Requests of ours.
impl Link {
    pub(in crate::link) fn add_waiter(&self) -> Result<(u32, Answer), Option<Rejected>> {
        let mut waiters = self.waiters.lock();
        if waiters.closed {
            return Err(Some(Rejected::Closed));
        }
        if waiters.table.len() >= self.common.config.waiters {
            return Err(None);
        }
        // The table is far smaller than the number space, so a free number is near.
        let id = loop {
            waiters.next = waiters.next.wrapping_add(1);
            if !waiters.table.contains_key(&waiters.next) {
                break waiters.next;
            }
        };
        let (sender, receiver) = oneshot::channel();
        waiters.table.insert(id, sender);
        Ok((id, receiver))
    }

    /// An answer arrived. `false` if nobody waits for it: late, or never asked.
    pub(in crate::link) fn answered(&self, id: u32, status: Status, payload: Response) -> bool {
        let Some(waiter) = self.waiters.lock().table.remove(&id) else { return false };
        let answer =
            if status == Status::Ok { Ok(payload) } else { Err(Declined { status, detail: payload }) };
        waiter.send(answer).is_ok()
    }

    /// Nobody waits for this answer any more: the request is taken back if it was not sent, or cancelled.
    pub(in crate::link) fn give_up(&self, lane: Lane, id: u32) {
        let waiter = self.waiters.lock().table.remove(&id);
        if waiter.is_none() {
            return;
        }
        let retracted = self.outbox.lock().retract(lane, id);
        if retracted.is_none() {
            let cancel = Outgoing { head: Head::Cancel { id }, payload: Response::new() };
            // A closed link needs no cancel.
            let _ = self.queue(lane, cancel, true);
        }
    }
}

/// Requests of the peer.
impl Link {
    /// Notes a request that is about to be handled; `false` if its id is being handled already.
    pub(in crate::link) fn begin_answer(&self, id: u32) -> bool {
        let mut answering = self.answering.lock();
        if answering.ids.contains(&id) {
            return false;
        }
        answering.ids.push(id);
        true
    }

    /// `true` for exactly one of: the answer, the cancel.
    pub(in crate::link) fn end_answer(&self, id: u32) -> bool {
        let mut answering = self.answering.lock();
        let Some(at) = answering.ids.iter().position(|open| *open == id) else { return false };
        answering.ids.swap_remove(at);
        if answering.ids.is_empty() {
            answering.ids = Vec::new();
        }
        true
    }

    pub(in crate::link) fn is_answering(&self, id: u32) -> bool {
        self.answering.lock().ids.contains(&id)
    }

    pub(in crate::link) fn answers_open(&self) -> usize {
        self.answering.lock().ids.len()
    }
}
