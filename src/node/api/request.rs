//! Requests: to one peer, to any peer, and pipelines of requests.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{ConnId, MAX_WAIT, PeerId};
use crate::connection::{self, Message, RequestError, Response};
use crate::node::error::PeerRequestError;
use crate::node::session::peer::Peer;
use crate::pool::Misbehavior;

use super::handle::NodeRef;

/// A peer that had less time than this is not penalised for a timeout.
const MIN_PENALISED_TIMEOUT: Duration = Duration::from_secs(1);
/// Nor one that had less than this many of its own round trips.
const MIN_PENALISED_ROUND_TRIPS: u32 = 4;
/// The shortest wait between two polls of [`first_of`]: with none at all, other tasks would not
/// run.
const MIN_HEDGE_WAIT: Duration = Duration::from_millis(1);

/// Options of [`NodeRef::request_any`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAnyOptions {
    /// Time for the whole call. Default 10 s.
    pub timeout: Duration,
    /// The most peers that are asked. Default 3.
    pub max_attempts: usize,
    /// How long a peer has before another one is asked too. `None` asks one peer at a time, each
    /// for its share of the time left: with three attempts and enough peers, the first has a third.
    /// Default `None`.
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
/// Dropping it takes back the requests that are not sent yet, and cancels the others at the peer.
#[derive(Debug)]
pub struct RequestPipeline {
    requests: connection::RequestPipeline,
    /// Of each request.
    timeout: Duration,
    peer: Arc<Peer>,
    node: NodeRef,
}

impl RequestPipeline {
    /// The peer that is asked.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Sends one more request without waiting. Returns its number, which counts from zero.
    ///
    /// # Errors
    /// See [`RequestError`]; the message comes back.
    pub fn request(&mut self, message: Message) -> Result<u64, RequestError> {
        self.requests.send(message)
    }

    /// Requests whose responses [`RequestPipeline::next`] has not returned yet.
    pub fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// The next response, in order of arrival, with the number of its request; `None` if nothing is
    /// in flight.
    ///
    /// A request's time is measured from the first call of this after it was sent that finds no
    /// response taken already, and is at most a 32nd longer than the timeout. Timeouts are reported
    /// after the responses that were taken.
    ///
    /// # Errors
    /// A failure of that one request: [`RequestError::Timeout`], [`RequestError::Closed`] or a
    /// rejection.
    ///
    /// # Cancel safety
    /// Safe: a response that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<(u64, Result<Response, RequestError>)> {
        let mut waited = false;
        let next = poll_fn(|cx| {
            let next = self.requests.poll_next(cx);
            waited |= next.is_pending();
            next
        });
        let (number, response) = next.await?;
        match &response {
            // Responses that arrived together count once: the clock and the peer's health are used
            // once for all of them.
            Ok(_) if waited => {
                self.peer.reward(self.node.now());
            }
            Err(RequestError::Timeout) if had_its_time(&self.peer, self.timeout) => {
                self.peer.penalize(Misbehavior::Timeout, self.node.now());
            }
            _ => {}
        }
        Some((number, response))
    }
}

/// Requests.
impl NodeRef {
    /// Starts a pipeline of requests to one peer: one task sends requests without waiting, and
    /// takes the responses in the order in which they arrive. `timeout` applies to each request.
    /// Many small requests cost about half of as many concurrent calls of [`NodeRef::request`].
    ///
    /// ```no_run
    /// # use peerpool::{base::PeerId, node::{Message, NodeRef}};
    /// # async fn example(node: &NodeRef, peer: &PeerId, blocks: Vec<Message>) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut pipeline = node.pipeline(peer, std::time::Duration::from_secs(10))?;
    /// for block in blocks {
    ///     if pipeline.in_flight() == 16 {
    ///         let (number, response) = pipeline.next().await.expect("sixteen are in flight");
    ///         println!("{number}: {} bytes", response?.len());
    ///     }
    ///     pipeline.request(block)?;
    /// }
    /// while let Some((number, response)) = pipeline.next().await {
    ///     println!("{number}: {} bytes", response?.len());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PeerRequestError::NotConnected`].
    ///
    /// # Cost
    /// One shard's read lock.
    pub fn pipeline(&self, key: &PeerId, timeout: Duration) -> Result<RequestPipeline, PeerRequestError> {
        let Some(peer) = self.peer(key) else { return Err(PeerRequestError::NotConnected(*key)) };
        let requests = peer.connection().handle().pipeline(timeout);
        Ok(RequestPipeline { requests, timeout, peer, node: self.clone() })
    }

    /// Sends a request to one peer and waits for the response.
    ///
    /// # Errors
    /// See [`PeerRequestError`].
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back or cancels it at the peer; no reply slot is left.
    pub async fn request(
        &self,
        key: &PeerId,
        message: Message,
        timeout: Duration,
    ) -> Result<Response, PeerRequestError> {
        let Some(peer) = self.peer(key) else { return Err(PeerRequestError::NotConnected(*key)) };
        Ok(self.request_from(&peer, message, timeout).await?)
    }

    /// Sends a request, and adjusts the peer's health by the outcome.
    async fn request_from(
        &self,
        peer: &Arc<Peer>,
        message: Message,
        timeout: Duration,
    ) -> Result<Response, RequestError> {
        let response = peer.connection().handle().request(message, timeout).await;
        match &response {
            Ok(_) => {
                peer.reward(self.now());
            }
            Err(RequestError::Timeout) if had_its_time(peer, timeout) => {
                peer.penalize(Misbehavior::Timeout, self.now());
            }
            Err(_) => {}
        }
        response
    }

    /// Sends a request to some peer: of two chosen at random, the one with the smaller smoothed
    /// round-trip time. Asks another one when a peer fails, and with
    /// [`hedge_after`](RequestAnyOptions::hedge_after) also when it is slow.
    ///
    /// # Errors
    /// [`PeerRequestError::NoPeers`], or the failure of the last peer.
    ///
    /// # Cancel safety
    /// As [`NodeRef::request`].
    pub async fn request_any(
        &self,
        message: Message,
        options: &RequestAnyOptions,
    ) -> Result<(PeerId, Response), PeerRequestError> {
        let now = Instant::now();
        let deadline = now.checked_add(options.timeout).unwrap_or(now + MAX_WAIT);
        let left = || deadline.saturating_duration_since(Instant::now());
        let max_attempts = options.max_attempts.max(1);
        let mut asked: Vec<ConnId> = Vec::new();
        let mut in_flight: Vec<InFlightRequest<'_>> = Vec::new();
        let mut last_error = PeerRequestError::NoPeers;
        loop {
            let mut attempts_left = self.count_others(&asked, max_attempts - asked.len());
            if attempts_left > 0
                && (asked.is_empty() || !left().is_zero())
                && let Some(peer) = self.choose(&asked)
            {
                asked.push(peer.id());
                let shares = u32::try_from(attempts_left).unwrap_or(u32::MAX);
                attempts_left -= 1;
                let share = if options.hedge_after.is_some() { left() } else { left() / shares };
                let (key, message) = (*peer.key(), message.clone());
                let request = async move { self.request_from(&peer, message, share).await };
                in_flight.push((key, Box::pin(request)));
            } else if in_flight.is_empty() {
                return Err(last_error);
            }
            let hedge_after = options.hedge_after.filter(|_| attempts_left > 0);
            match first_of(&mut in_flight, hedge_after).await {
                Some((key, Ok(response))) => return Ok((key, response)),
                Some((_, Err(error))) => last_error = error.into(),
                // The next round asks another peer too.
                None => {}
            }
        }
    }

    /// How many peers could still be asked, counted up to `max`.
    fn count_others(&self, asked: &[ConnId], max: usize) -> usize {
        let roster = self.roster();
        let others = roster.iter().filter(|peer| peer.is_live() && !asked.contains(&peer.id()));
        others.take(max).count()
    }

    /// The power of two choices among the healthy peers not asked yet: Mitzenmacher, "The Power of
    /// Two Choices in Randomized Load Balancing", 2001. A peer without a round-trip time is neither
    /// preferred nor passed over.
    fn choose(&self, asked: &[ConnId]) -> Option<Arc<Peer>> {
        let now = self.now();
        let roster = self.roster();
        let is_other = |peer: &Peer| peer.is_live() && !asked.contains(&peer.id());
        let is_healthy = |peer: &Peer| is_other(peer) && peer.is_healthy(now);
        let random = |below: usize| fastrand::usize(..below);
        let draw = || roster.choose(random, is_healthy).or_else(|| roster.choose(random, is_other));
        let (one, two) = (draw()?, draw()?);
        let faster = match (one.rtt(), two.rtt()) {
            (Some(rtt_of_one), Some(rtt_of_two)) if rtt_of_two < rtt_of_one => two,
            _ => one,
        };
        Some(Arc::clone(faster))
    }
}

/// Whether a timeout says something about the peer, rather than about the time that it was given.
fn had_its_time(peer: &Peer, timeout: Duration) -> bool {
    let round_trips = peer.rtt().unwrap_or_default().saturating_mul(MIN_PENALISED_ROUND_TRIPS);
    timeout >= MIN_PENALISED_TIMEOUT.max(round_trips)
}

/// A request to one of several peers.
type InFlightRequest<'a> =
    (PeerId, Pin<Box<dyn Future<Output = Result<Response, RequestError>> + Send + 'a>>);

/// The first request to end, removed from `in_flight`; `None` after `limit`.
async fn first_of(
    in_flight: &mut Vec<InFlightRequest<'_>>,
    limit: Option<Duration>,
) -> Option<(PeerId, Result<Response, RequestError>)> {
    let first = poll_fn(|cx| {
        for at in 0..in_flight.len() {
            if let Poll::Ready(response) = in_flight[at].1.as_mut().poll(cx) {
                let (key, _) = in_flight.swap_remove(at);
                return Poll::Ready((key, response));
            }
        }
        Poll::Pending
    });
    match limit {
        Some(limit) => timeout(limit.max(MIN_HEDGE_WAIT), first).await.ok(),
        None => Some(first.await),
    }
}
