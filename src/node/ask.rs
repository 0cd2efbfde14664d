//! Requests: to one peer, and to any.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::base::{ConnId, PeerId};
use crate::link::{Message, RequestError, Response};
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

impl NodeRef {
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
        let fresh: Vec<_> = roster.iter().filter(|peer| !asked.contains(&peer.id())).collect();
        let healthy: Vec<_> = fresh.iter().copied().filter(|peer| peer.is_healthy(now)).collect();
        let pool = if healthy.is_empty() { fresh } else { healthy };
        if pool.is_empty() {
            return None;
        }
        let one = pool[fastrand::usize(..pool.len())];
        let two = pool[fastrand::usize(..pool.len())];
        let rtt = |peer: &Arc<Peer>| peer.rtt().unwrap_or(Duration::ZERO);
        Some(Arc::clone(if rtt(one) <= rtt(two) { one } else { two }))
    }
}

/// For whoever waits longer than a clock can count.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
