//! The types of a results file; the bench side and the `plots` example share this file. See the
//! schema in `mod.rs`.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// The version of the schema.
pub(crate) const SCHEMA: u32 = 1;

/// What distinguishes cells of one family: names and values, such as `peers` and `64`.
pub(crate) type Case = BTreeMap<String, String>;

/// A case of these names and values.
pub(crate) fn case(pairs: &[(&str, &dyn Display)]) -> Case {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
}

/// All results of one family.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) schema: u32,
    pub(crate) family: String,
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) unix_time: u64,
    /// How long the run took.
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) cells: Vec<Cell>,
}

/// Where a run took place.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The system's load average over one minute when the run began: other work beside the bench.
    pub(crate) load_before: f64,
}

/// One figure over all rounds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Cell {
    pub(crate) case: Case,
    pub(crate) contender: String,
    /// The contender that `contender` is divided by, of a ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<String>,
    pub(crate) metric: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: usize,
}
