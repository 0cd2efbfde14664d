//! Reasons for a quarantine, their severity, and the resulting duration.

use std::time::Duration;

const SECS_PER_DAY: u64 = 24 * 60 * 60;
/// Longest duration that doubling can reach.
const MAX_BACKOFF: Duration = Duration::from_secs(30 * SECS_PER_DAY);

/// The severity of an offence. It decides the duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuarantineSeverity {
    /// 5 minutes at first. The peer still counts in consensus.
    Minor,
    /// One hour at first.
    Moderate,
    /// 7 days at first.
    Severe,
    /// One year, every time.
    Permanent,
}

impl QuarantineSeverity {
    /// Duration for a first offence.
    pub const fn base_duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Minor => 5 * 60,
            Self::Moderate => 60 * 60,
            Self::Severe => 7 * SECS_PER_DAY,
            Self::Permanent => 365 * SECS_PER_DAY,
        })
    }

    /// Duration for the `attempts`-th offence: doubled each time, at most 30 days. A permanent one
    /// always lasts one year.
    pub fn duration_with_backoff(self, attempts: u32) -> Duration {
        match self {
            Self::Permanent => self.base_duration(),
            _ => backoff_duration(self.base_duration(), attempts),
        }
    }
}

/// Why a peer is quarantined. The numbers and texts are informative; they decide nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuarantineReason {
    /// The peer is on another chain.
    #[error("genesis mismatch: ours is {our_genesis}, theirs {their_genesis}")]
    GenesisMismatch {
        /// Our genesis hash.
        our_genesis: String,
        /// The peer's genesis hash.
        their_genesis: String,
    },
    /// The peer is on a fork.
    #[error("fork at height {height}: ours is {our_hash}, theirs {their_hash}")]
    ForkDetected {
        /// The height at which the chains differ.
        height: u64,
        /// Our block hash at this height.
        our_hash: String,
        /// The peer's block hash at this height.
        their_hash: String,
    },
    /// The peer announces an impossible height.
    #[error("suspicious height {their_height}, at most {max_expected} was expected")]
    SuspiciousHeight {
        /// The announced height.
        their_height: u64,
        /// The highest plausible height.
        max_expected: u64,
    },
    /// The peer violated the consensus rules.
    #[error("consensus violation: {reason}")]
    ConsensusViolation {
        /// Description of the violation.
        reason: String,
    },
    /// The peer sent an invalid block.
    #[error("invalid block {height}: {reason}")]
    InvalidBlock {
        /// The block's height.
        height: u64,
        /// Why it is invalid.
        reason: String,
    },
    /// The peer uses another protocol version.
    #[error("protocol mismatch: ours is {our_version}, theirs {their_version}")]
    ProtocolMismatch {
        /// Our version.
        our_version: u32,
        /// The peer's version.
        their_version: u32,
    },
    /// The peer sent an invalid transaction.
    #[error("invalid transaction {txid}: {reason}")]
    InvalidTransaction {
        /// The transaction id.
        txid: String,
        /// Why it is invalid.
        reason: String,
    },
    /// Connections to the peer fail.
    #[error("{count} connection failures")]
    ConnectionFailures {
        /// Number of failures.
        count: u32,
    },
    /// The peer sends too many requests.
    #[error("rate limit exceeded: {requests_per_second} requests a second")]
    RateLimitExceeded {
        /// The observed rate.
        requests_per_second: u32,
    },
    /// The peer does not reply.
    #[error("{count} timeouts")]
    ExcessiveTimeouts {
        /// Number of missing replies.
        count: u32,
    },
}

impl QuarantineReason {
    /// The severity of the offence.
    pub const fn severity(&self) -> QuarantineSeverity {
        match self {
            Self::GenesisMismatch { .. } => QuarantineSeverity::Permanent,
            Self::ForkDetected { .. } | Self::SuspiciousHeight { .. } | Self::ConsensusViolation { .. } => {
                QuarantineSeverity::Severe
            }
            Self::InvalidBlock { .. } | Self::ProtocolMismatch { .. } => QuarantineSeverity::Moderate,
            Self::InvalidTransaction { .. }
            | Self::ConnectionFailures { .. }
            | Self::RateLimitExceeded { .. }
            | Self::ExcessiveTimeouts { .. } => QuarantineSeverity::Minor,
        }
    }

    /// Whether the peer is excluded from consensus during the quarantine.
    pub fn excludes_from_consensus(&self) -> bool {
        self.severity() > QuarantineSeverity::Minor
    }
}

/// `base`, doubled for each attempt after the first, at most [`MAX_BACKOFF`].
pub(super) fn backoff_duration(base: Duration, attempts: u32) -> Duration {
    let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(MAX_BACKOFF)
}
