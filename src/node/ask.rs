//! Requests: to one peer, and to any.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{ConnId, PeerId};
use crate::link::{self, Message, RequestError, Response};
use crate::pool::Cause;

use super::error::AskError;
use super::handle::NodeRef;
use super::info::Peer;

/// How [`NodeRef::request_any`] goes about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskAny {
    /// For how long in all. Default 10 s.
    pub within: Duration,
    /// Peers asked at the most. Default 3.
    pub tries: usize,
    /// How long one peer has before another is asked beside it; `None` asks the next one only after a failure. Default `None`.
    pub hedge: Option<Duration>,
}

impl Default for AskAny {
    fn default() -> Self {
        Self { within: Duration::from_secs(10), tries: 3, hedge: None }
    }
}

/// Requests to one peer that one task keeps in flight; see [`NodeRef::pipeline`].
///
/// # Cancel safety
/// Dropping it takes back what was not sent, and cancels at the peer what was.
#[derive(Debug)]
pub struct Pipeline {
    requests: link::Pipeline,
    peer: Arc<Peer>,
    node: NodeRef,
}

impl Pipeline {
    /// The peer that is asked.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Sends one more request, without waiting; see [`link::Pipeline::ask`].
    ///
    /// # Errors
    /// See [`RequestError`]; the message comes back.
    pub fn ask(&mut self, message: Message) -> Result<u64, RequestError> {
        self.requests.ask(message)
    }

    /// Requests that were asked and whose answers [`Pipeline::next`] has not returned yet.
    pub fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// The next answer to arrive, whichever request's, with that request's number; `None` when nothing is in flight. See
    /// [`link::Pipeline::next`].
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
                self.peer.penalize(Cause::Timeout, self.node.now());
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
    ///     pipeline.ask(block)?;
    /// }
    /// while let Some((number, answer)) = pipeline.next().await {
    ///     println!("{number}: {} bytes", answer?.len());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`AskError::NotConnected`].
    ///
    /// # Cost
    /// One shard's read lock.
    pub fn pipeline(&self, key: &PeerId, within: Duration) -> Result<Pipeline, AskError> {
        let Some(peer) = self.peer(key) else { return Err(AskError::NotConnected(*key)) };
        let requests = peer.connection().link().pipeline(within);
        Ok(Pipeline { requests, peer, node: self.clone() })
    }

    /// Asks one peer and waits for its answer.
    ///
    /// # Errors
    /// See [`AskError`].
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back or cancels it; no waiter is left.
    pub async fn request(
        &self,
        key: &PeerId,
        message: Message,
        within: Duration,
    ) -> Result<Response, AskError> {
        let Some(peer) = self.peer(key) else { return Err(AskError::NotConnected(*key)) };
        Ok(self.ask(&peer, message, within).await?)
    }

    /// Asks a peer, and lets its health know.
    async fn ask(
        &self,
        peer: &Arc<Peer>,
        message: Message,
        within: Duration,
    ) -> Result<Response, RequestError> {
        let answer = peer.connection().link().request(message, within).await;
        match &answer {
            Ok(_) => {
                peer.reward(self.now());
            }
            Err(RequestError::Timeout) => {
                peer.penalize(Cause::Timeout, self.now());
            }
            Err(_) => {}
        }
        answer
    }

    /// Asks some peer: the quicker one of two chosen at random, by smoothed round-trip time; another one when it fails, and,
    /// if told to hedge, beside it when it takes long.
    ///
    /// # Errors
    /// [`AskError::NoPeers`], or the last peer's failure.
    ///
    /// # Cancel safety
    /// As [`NodeRef::request`].
    pub async fn request_any(&self, message: Message, how: &AskAny) -> Result<(PeerId, Response), AskError> {
        let now = Instant::now();
        let deadline = now.checked_add(how.within).unwrap_or(now + FOREVER);
        let mut asked: Vec<ConnId> = Vec::new();
        let mut last = AskError::NoPeers;
        while asked.len() < how.tries.max(1) {
            let Some(first) = self.choose(&asked) else { return Err(last) };
            asked.push(first.id());
            let answer = match how.hedge {
                Some(patience) => self.ask_hedged(first, &message, patience, deadline, how, &mut asked).await,
                None => {
                    let within = deadline.saturating_duration_since(Instant::now());
                    (*first.key(), self.ask(&first, message.clone(), within).await)
                }
            };
            match answer {
                (key, Ok(response)) => return Ok((key, response)),
                (_, Err(error)) => last = error.into(),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(last)
    }

    async fn ask_hedged(
        &self,
        first: Arc<Peer>,
        message: &Message,
        patience: Duration,
        deadline: Instant,
        how: &AskAny,
        asked: &mut Vec<ConnId>,
    ) -> (PeerId, Result<Response, RequestError>) {
        let left = |now| deadline.saturating_duration_since(now);
        let one = self.ask(&first, message.clone(), left(Instant::now()));
        tokio::pin!(one);
        if let Ok(answer) = timeout(patience, &mut one).await {
            return (*first.key(), answer);
        }
        let second = if asked.len() < how.tries { self.choose(asked) } else { None };
        let Some(second) = second else { return (*first.key(), one.await) };
        asked.push(second.id());
        let two = self.ask(&second, message.clone(), left(Instant::now()));
        tokio::pin!(two);
        // The first answer counts; a failure waits for the other one.
        tokio::select! {
            answer = &mut one => match answer {
                Ok(response) => (*first.key(), Ok(response)),
                Err(_) => (*second.key(), two.await),
            },
            answer = &mut two => match answer {
                Ok(response) => (*second.key(), Ok(response)),
                Err(_) => (*first.key(), one.await),
            },
        }
    }

    /// Power of two choices among the healthy peers not asked yet: Mitzenmacher, "The Power of Two Choices in Randomized Load
    /// Balancing", 2001. A peer without a round-trip time yet counts as quick, so that it gets one.
    fn choose(&self, asked: &[ConnId]) -> Option<Arc<Peer>> {
        let now = self.now();
        let roster = self.roster();
        let fresh = |peer: &Peer| peer.is_live() && !asked.contains(&peer.id());
        let healthy = |peer: &Peer| fresh(peer) && peer.is_healthy(now);
        let random = |below: usize| fastrand::usize(..below);
        let pick = || roster.draw(random, healthy).or_else(|| roster.draw(random, fresh));
        let (one, two) = (pick()?, pick()?);
        let rtt = |peer: &Arc<Peer>| peer.rtt().unwrap_or(Duration::ZERO);
        Some(Arc::clone(if rtt(one) <= rtt(two) { one } else { two }))
    }
}

/// For whoever waits longer than a clock can count.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
