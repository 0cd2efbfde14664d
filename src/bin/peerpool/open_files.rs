//! The limit of open files. Every connection needs one file descriptor.

/// The limit of open files before and after [`raise_limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFileLimit {
    pub(super) now: u64,
    pub(super) before: u64,
}

/// Raises the soft limit to the hard limit.
///
/// # Errors
/// The operating system refused to read or set the limit.
pub(super) fn raise_limit() -> std::io::Result<OpenFileLimit> {
    let (before, _) = rlimit::Resource::NOFILE.get()?;
    let now = rlimit::increase_nofile_limit(u64::MAX)?;
    Ok(OpenFileLimit { now, before })
}
