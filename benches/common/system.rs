//! Clocks, processors, and memory of this process.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the monotonic clock that all processes of the machine share.
pub(crate) fn clock() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time that this process has used.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps this thread, and the threads that it starts, on one processor; `None` allows all.
///
/// Where the system does not allow that, the scheduler decides.
pub(crate) fn pin(cpu: Option<usize>) {
    let mut set = CpuSet::new();
    match cpu {
        // Not modulo `processors`: that counts what an inherited mask leaves, one in a child
        // process.
        Some(cpu) => set.set(cpu),
        None => (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu)),
    }
    let _ = sched_setaffinity(None, &set);
}

pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Resident bytes of this process.
pub(crate) fn resident() -> u64 {
    status_kib("VmRSS:") * 1024
}

/// The most resident bytes of this process since [`reset_peak_resident`] or its start.
pub(crate) fn peak_resident() -> u64 {
    status_kib("VmHWM:") * 1024
}

/// Starts a new peak. Where the system does not allow that, the peak since the start remains.
pub(crate) fn reset_peak_resident() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn status_kib(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Raises the limit of open files as far as it goes.
///
/// # Panics
/// If fewer than `needed` files may be open.
pub(crate) fn allow_open_files(needed: u64) {
    let allowed = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    assert!(allowed == 0 || allowed >= needed, "{allowed} files may be open; the bench needs {needed}");
}
