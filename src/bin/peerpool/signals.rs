//! Ctrl-C, SIGTERM and SIGHUP: requests to end the command early.

/// A receiver of these signals. It keeps signals that arrive while no task waits.
pub(super) struct ShutdownSignals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl ShutdownSignals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// A one-line message if the operating system refused a handler.
    pub(super) fn new() -> Result<Self, String> {
        use tokio::signal::unix::{SignalKind, signal};
        let receive = |kind| signal(kind).map_err(|error| format!("signals cannot be received: {error}"));
        Ok(Self {
            interrupt: receive(SignalKind::interrupt())?,
            terminate: receive(SignalKind::terminate())?,
            hangup: receive(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub(super) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminate",
            _ = self.hangup.recv() => "hangup",
        }
    }
}

#[cfg(not(unix))]
impl ShutdownSignals {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {})
    }

    pub(super) async fn wait(&mut self) -> &'static str {
        // Without a handler the command runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "interrupt"
    }
}
