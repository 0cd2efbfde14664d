//! What a peer did, how bad that is, and how long it costs.

use std::time::Duration;

const SECS_PER_DAY: u64 = 24 * 60 * 60;
/// No backoff goes beyond this.
const MAX_BACKOFF: Duration = Duration::from_secs(30 * SECS_PER_DAY);

/// How bad an offence is, and so how long it keeps its peer out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuarantineSeverity {
    /// 5 minutes at first. The peer still counts in consensus.
    Minor,
    /// One hour at first.
    Moderate,
    /// 7 days at first.
    Severe,
    /// A year, every time.
    Permanent,
}

impl QuarantineSeverity {
    /// How long the first offence keeps a peer out.
    pub const fn base_duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Minor => 5 * 60,
            Self::Moderate => 60 * 60,
            Self::Severe => 7 * SECS_PER_DAY,
            Self::Permanent => 365 * SECS_PER_DAY,
        })
    }

    /// How long the `attempts`-th offence keeps a peer out: twice as long each time, at most 30 days; a permanent one always
    /// its year.
    pub fn duration_with_backoff(self, attempts: u32) -> Duration {
        match self {
            Self::Permanent => self.base_duration(),
            _ => backoff_duration(self.base_duration(), attempts),
        }
    }
}

/// Why a peer is kept out. The numbers and texts are for whoever reads them; they decide nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuarantineReason {
    /// It is on another chain.
    #[error("genesis mismatch: ours is {our_genesis}, theirs {their_genesis}")]
    GenesisMismatch {
        /// Ours.
        our_genesis: String,
        /// Theirs.
        their_genesis: String,
    },
    /// It is on a fork.
    #[error("fork at height {height}: ours is {our_hash}, theirs {their_hash}")]
    ForkDetected {
        /// Where the chains part.
        height: u64,
        /// Our block there.
        our_hash: String,
        /// Their block there.
        their_hash: String,
    },
    /// It claims a height that cannot be.
    #[error("suspicious height {their_height}, at most {max_expected} was expected")]
    SuspiciousHeight {
        /// Theirs.
        their_height: u64,
        /// The highest that could be.
        max_expected: u64,
    },
    /// It broke the rules of consensus.
    #[error("consensus violation: {reason}")]
    ConsensusViolation {
        /// How.
        reason: String,
    },
    /// It sent a block that is not valid.
    #[error("invalid block {height}: {reason}")]
    InvalidBlock {
        /// The block's height.
        height: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It speaks another version.
    #[error("protocol mismatch: ours is {our_version}, theirs {their_version}")]
    ProtocolMismatch {
        /// Ours.
        our_version: u32,
        /// Theirs.
        their_version: u32,
    },
    /// It sent a transaction that is not valid.
    #[error("invalid transaction {txid}: {reason}")]
    InvalidTransaction {
        /// The transaction.
        txid: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Connections to it fail.
    #[error("{count} connection failures")]
    ConnectionFailures {
        /// How many did.
        count: u32,
    },
    /// It asks too often.
    #[error("rate limit exceeded: {requests_per_second} requests a second")]
    RateLimitExceeded {
        /// How often.
        requests_per_second: u32,
    },
    /// It does not answer.
    #[error("{count} timeouts")]
    ExcessiveTimeouts {
        /// How often not.
        count: u32,
    },
}

impl QuarantineReason {
    /// How bad it is.
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

    /// Whether whoever did this has no say in consensus while it is kept out.
    pub fn excludes_from_consensus(&self) -> bool {
        self.severity() > QuarantineSeverity::Minor
    }
}

/// `base` backoff_duration with each attempt after the first, at most 30 days.
pub(super) fn backoff_duration(base: Duration, attempts: u32) -> Duration {
    let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(MAX_BACKOFF)
}
