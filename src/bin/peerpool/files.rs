//! The limit of open files: every connection takes one.

/// What became of the attempt to raise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// How many files may be open now.
    pub(super) now: u64,
    /// How many might have been before.
    pub(super) before: u64,
}

/// Raises the soft limit to the hard one.
pub(super) fn raise() -> std::io::Result<Files> {
    let (before, _) = rlimit::Resource::NOFILE.get()?;
    let now = rlimit::increase_nofile_limit(u64::MAX)?;
    Ok(Files { now, before })
}
