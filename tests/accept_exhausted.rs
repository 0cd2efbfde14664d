//! An accept loop that runs out of file descriptors pauses and recovers. In a child process, whose
//! limit is lowered.
#![cfg(all(feature = "node", unix))]
#![allow(clippy::unwrap_used)] // helpers of tests; clippy excuses the tests alone

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use peerpool::transport::{AcceptErrorKind, Tcp, Transport};
use tokio::time::{Instant, timeout_at};

const CHILD: &str = "child_with_few_descriptors";
const MARK: &str = "PEERPOOL_FEW_DESCRIPTORS";

/// Not a test of its own: without its variable, as in a normal run, it does nothing.
#[tokio::test]
async fn child_with_few_descriptors() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut listener = Tcp::default().listen(loopback).await.unwrap();
    let addr = listener.local_addr();
    // The kernel completes these without anybody accepting, so they take every descriptor there is.
    let mut clients = Vec::new();
    while let Ok(client) = std::net::TcpStream::connect(addr) {
        clients.push(client);
        assert!(clients.len() < 1_000, "the limit is not in force");
    }
    let (end, mut errors) = (Instant::now() + Duration::from_millis(500), 0);
    while let Ok(result) = timeout_at(end, listener.accept()).await {
        assert_eq!(AcceptErrorKind::of(&result.err().unwrap()), AcceptErrorKind::Exhausted);
        errors += 1;
        // A listener that always answers would starve the timeout.
        assert!(errors < 100, "it spins");
    }
    // At 0, 50, 150 and 350 ms.
    assert!((1..=4).contains(&errors), "{errors} errors in half a second");
    clients.truncate(clients.len() / 2);
    let soon = Instant::now() + Duration::from_secs(10);
    while timeout_at(soon, listener.accept()).await.unwrap().is_err() {}
}

#[test]
fn an_accept_loop_out_of_descriptors_does_not_spin_and_recovers() {
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(CHILD)
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
