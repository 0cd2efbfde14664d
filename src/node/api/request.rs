//! Requests: to one peer, and to any.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{ConnId, MAX_WAIT, PeerId};
use crate::connection::{self, Message, RequestError, Response};
use crate::pool::Misbehavior;

use crate::node::error::PeerRequestError;
use crate::node::api::handle::NodeRef;
use crate::node::session::info::Peer;

/// How [`NodeRef::request_any`] goes about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAnyOptions {
    /// For how long in all. Default 10 s.
    pub timeout: Duration,
    /// Peers asked at the most. Default 3.
    pub max_attempts: usize,
    /// How long one peer has before another is asked beside it, and another one again. `None` asks one at a time, each for its share
    /// of the time left: with three tries and peers enough the first has a third. Default `None`.
    pub hedge_after: Option<Duration>,
}

impl Default for RequestAnyOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), max_attempts: 3, hedge_after: None }
    }
}

/// Requests to one peer that one task keeps in flight; see [`NodeRef::pipeline`].
///
/// # Cancel safety
/// Dropping it takes back what was not sent, and cancels at the peer what was.
#[derive(Debug)]
pub struct RequestPipeline {
    requests: connection::RequestPipeline,
    peer: Arc<Peer>,
    node: NodeRef,
}

impl RequestPipeline {
    /// The peer that is asked.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Sends one more request, without waiting; see [`connection::RequestPipeline::send`].
    ///
    /// # Errors
    /// See [`RequestError`]; the message comes back.
    pub fn request(&mut self, message: Message) -> Result<u64, RequestError> {
        self.requests.send(message)
    }

    /// Requests that were asked and whose answers [`RequestPipeline::next`] has not returned yet.
    pub fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// The next answer to arrive, whichever request's, with that request's number; `None` when nothing is in flight. See
    /// [`connection::RequestPipeline::next`].
    ///
    /// # Errors
    /// [`RequestError::Timeout`], [`RequestError::Closed`], [`RequestError::Declined`], for that one request.
    ///
    /// # Cancel safety
    /// Safe: an answer that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<(u64, Result<Response, RequestError>)> {
        let mut waited = false;
        let next = poll_fn(|cx| {
            let next = self.requests.poll_next(cx);
            waited |= next.is_pending();
            next
        });
        let (number, answer) = next.await?;
        match &answer {
            // Answers that came together count once: the clock and the peer's health are read once for all of them.
            Ok(_) if waited => {
                self.peer.reward(self.node.now());
            }
            Err(RequestError::Timeout) => {
                self.peer.penalize(Misbehavior::Timeout, self.node.now());
            }
            _ => {}
        }
        Some((number, answer))
    }
}

impl NodeRef {
    /// Begins to ask one peer for many things at a time, from one task: it asks on without waiting, and takes the answers in the
    /// order in which they come. Each request may take so long. Many small ones cost about half of as many [`NodeRef::request`]s
    /// beside each other.
    ///
    /// ```no_run
    /// # use peerpool::{base::PeerId, node::{Message, NodeRef}};
    /// # async fn example(node: &NodeRef, peer: &PeerId, blocks: Vec<Message>) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut pipeline = node.pipeline(peer, std::time::Duration::from_secs(10))?;
    /// for block in blocks {
    ///     if pipeline.in_flight() == 16 {
    ///         let (number, answer) = pipeline.next().await.expect("sixteen are in flight");
    ///         println!("{number}: {} bytes", answer?.len());
    ///     }
    ///     pipeline.request(block)?;
    /// }
    /// while let Some((number, answer)) = pipeline.next().await {
    ///     println!("{number}: {} bytes", answer?.len());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PeerRequestError::NotConnected`].
    ///
    /// # Cost
    /// One shard's read lock.
    pub fn pipeline(&self, key: &PeerId, within: Duration) -> Result<RequestPipeline, PeerRequestError> {
        let Some(peer) = self.peer(key) else { return Err(PeerRequestError::NotConnected(*key)) };
        let requests = peer.connection().handle().pipeline(within);
        Ok(RequestPipeline { requests, peer, node: self.clone() })
    }

    /// Asks one peer and waits for its answer.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back or cancels it; no waiter is left.
    pub async fn request(
        &self,
        key: &PeerId,
        message: Message,
        within: Duration,
    ) -> Result<Response, PeerRequestError> {
        let Some(peer) = self.peer(key) else { return Err(PeerRequestError::NotConnected(*key)) };
        Ok(self.ask(&peer, message, within).await?)
    }

    /// Asks a peer, and lets its health know.
    async fn ask(
        &self,
        peer: &Arc<Peer>,
        message: Message,
        within: Duration,
    ) -> Result<Response, RequestError> {
        let answer = peer.connection().handle().request(message, within).await;
        match &answer {
            Ok(_) => {
                peer.reward(self.now());
            }
            Err(RequestError::Timeout) => {
                peer.penalize(Misbehavior::Timeout, self.now());
            }
            Err(_) => {}
        }
        answer
    }

    /// Asks some peer: the quicker one of two chosen at random, by smoothed round-trip time; another one when it fails, and,
    /// if told to hedge_after, beside it when it takes long.
    ///
    /// # Errors
    /// [`PeerRequestError::NoPeers`], or the last peer's failure.
    ///
    /// # Cancel safety
    /// As [`NodeRef::request`].
    pub async fn request_any(
        &self,
        message: Message,
        how: &RequestAnyOptions,
    ) -> Result<(PeerId, Response), PeerRequestError> {
        let now = Instant::now();
        let deadline = now.checked_add(how.timeout).unwrap_or(now + MAX_WAIT);
        let left = || deadline.saturating_duration_since(Instant::now());
        let tries = how.max_attempts.max(1);
        let mut asked: Vec<ConnId> = Vec::new();
        let mut asking: Vec<Asking<'_>> = Vec::new();
        let mut last = PeerRequestError::NoPeers;
        loop {
            let mut others = self.others(&asked, tries - asked.len());
            if others > 0
                && (asked.is_empty() || !left().is_zero())
                && let Some(peer) = self.choose(&asked)
            {
                asked.push(peer.id());
                let share = u32::try_from(others).unwrap_or(u32::MAX);
                others -= 1;
                let given = if how.hedge_after.is_some() { left() } else { left() / share };
                let (key, message) = (*peer.key(), message.clone());
                asking
                    .push((key, Box::pin(async move { self.ask_for_a_share(&peer, message, given).await })));
            } else if asking.is_empty() {
                return Err(last);
            }
            let patience = how.hedge_after.filter(|_| others > 0);
            match first_of(&mut asking, patience).await {
                Some((key, Ok(response))) => return Ok((key, response)),
                Some((_, Err(error))) => last = error.into(),
                // Another one is asked beside.
                None => {}
            }
        }
    }

    /// How many peers could still be asked, counted up to `most`.
    fn others(&self, asked: &[ConnId], most: usize) -> usize {
        let roster = self.roster();
        let others = roster.iter().filter(|peer| peer.is_live() && !asked.contains(&peer.id()));
        others.take(most).count()
    }

    /// As [`NodeRef::ask`], but that a time too short to judge by is no fault of the peer.
    async fn ask_for_a_share(
        &self,
        peer: &Arc<Peer>,
        message: Message,
        given: Duration,
    ) -> Result<Response, RequestError> {
        if given >= FAIR {
            return self.ask(peer, message, given).await;
        }
        let answer = peer.connection().handle().request(message, given).await;
        if answer.is_ok() {
            peer.reward(self.now());
        }
        answer
    }

    /// Power of two choices among the healthy peers not asked yet: Mitzenmacher, "The Power of Two Choices in Randomized Load
    /// Balancing", 2001. A peer without a round-trip time is neither preferred nor passed over.
    fn choose(&self, asked: &[ConnId]) -> Option<Arc<Peer>> {
        let now = self.now();
        let roster = self.roster();
        let fresh = |peer: &Peer| peer.is_live() && !asked.contains(&peer.id());
        let healthy = |peer: &Peer| fresh(peer) && peer.is_healthy(now);
        let random = |below: usize| fastrand::usize(..below);
        let pick = || roster.choose(random, healthy).or_else(|| roster.choose(random, fresh));
        let (one, two) = (pick()?, pick()?);
        let quicker = match (one.rtt(), two.rtt()) {
            (Some(of_one), Some(of_two)) if of_two < of_one => two,
            _ => one,
        };
        Some(Arc::clone(quicker))
    }
}

/// A peer that is being asked.
type Asking<'a> = (PeerId, Pin<Box<dyn Future<Output = Result<Response, RequestError>> + Send + 'a>>);

/// The first answer to come, taken out of those that are awaited; `None` once this was waited for.
async fn first_of(
    asking: &mut Vec<Asking<'_>>,
    patience: Option<Duration>,
) -> Option<(PeerId, Result<Response, RequestError>)> {
    let first = poll_fn(|cx| {
        for at in 0..asking.len() {
            if let Poll::Ready(answer) = asking[at].1.as_mut().poll(cx) {
                let (key, _) = asking.swap_remove(at);
                return Poll::Ready((key, answer));
            }
        }
        Poll::Pending
    });
    match patience {
        // Never none at all, or whoever waits would not let others run.
        Some(patience) => timeout(patience.max(Duration::from_millis(1)), first).await.ok(),
        None => Some(first.await),
    }
}

/// A peer that had less time than this is not to blame for having taken longer.
const FAIR: Duration = Duration::from_secs(1);
