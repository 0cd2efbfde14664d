//! TCP socket options and their application to sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};

/// Socket options. The defaults suit connections between hosts on the internet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpConfig {
    /// Sends small segments at once (`TCP_NODELAY`). Default: yes. The connection batches by
    /// itself, so waiting only adds latency.
    pub nodelay: bool,
    /// Probes silent connections, so that the system ends dead ones too. Default: after 60 s, every
    /// 15 s, 4 times. `None` turns probes off.
    #[serde(with = "crate::base::config_serde::switchable")]
    pub keepalive: Option<KeepAlive>,
    /// Binds although connections of an earlier process linger (`SO_REUSEADDR`). Default: yes.
    /// Without it, a restarted node waits a minute for its port.
    pub reuse_addr: bool,
    /// Kernel send buffer per connection, in bytes. Default: `None`, the system tunes it. A fixed
    /// size bounds memory and caps throughput at one buffer per round trip.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub send_buffer: Option<NonZeroUsize>,
    /// Kernel receive buffer per connection, in bytes. Default: `None`, as for the send buffer.
    /// With the native protocol it need not be small: the connection bounds the bulk bytes in
    /// flight, so votes do not wait behind a large block.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub recv_buffer: Option<NonZeroUsize>,
    /// Unsent bytes above which a socket is not writable (`TCP_NOTSENT_LOWAT`). Default: 128 KiB.
    /// `None` leaves it to the system, which sets no bound. Ignored on systems without the option.
    ///
    /// Bytes above the mark stay in the connection, where urgent lanes overtake them, and not in a
    /// send buffer that grows to megabytes. Bytes in flight to the peer are not bounded, so
    /// throughput over long round trips does not suffer. Much smaller values cost wake-ups.
    #[serde(with = "crate::base::config_serde::byte_size")]
    pub notsent_lowat: Option<NonZeroU32>,
    /// Connections that may wait to be accepted. Default: 1,024. The system may cap it.
    pub backlog: NonZeroU32,
    /// Source address of IPv4 dials. Default: `None`, the system chooses.
    pub dial_from_v4: Option<Ipv4Addr>,
    /// Source address of IPv6 dials. Default: `None`, the system chooses.
    pub dial_from_v6: Option<Ipv6Addr>,
}

impl TcpConfig {
    /// Sets the options that do not depend on whether the socket is connected.
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        if let Some(keepalive) = &self.keepalive {
            socket.set_tcp_keepalive(&keepalive.params())?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(lowat) = self.notsent_lowat {
            socket.set_tcp_notsent_lowat(lowat.get())?;
        }
        Ok(())
    }

    /// Whether a socket has the options that [`TcpConfig::apply`] sets; `false` on systems where
    /// they are not read.
    pub(super) fn is_applied(&self, socket: &SockRef<'_>) -> io::Result<bool> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let keepalive = match &self.keepalive {
                Some(keepalive) => socket.keepalive()? && keepalive.is_applied(socket)?,
                None => true,
            };
            let lowat = match self.notsent_lowat {
                Some(lowat) => socket.tcp_notsent_lowat()? == lowat.get(),
                None => true,
            };
            Ok(keepalive && lowat && socket.tcp_nodelay()? == self.nodelay)
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = socket;
            Ok(false)
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(KeepAlive::default()),
            reuse_addr: true,
            send_buffer: None,
            recv_buffer: None,
            notsent_lowat: NonZeroU32::new(128 * 1024),
            backlog: const { NonZeroU32::new(1024).expect("not zero") },
            dial_from_v4: None,
            dial_from_v6: None,
        }
    }
}

/// When the system probes a silent connection. It ends a connection that stays silent for `idle +
/// interval * retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepAlive {
    /// Silence before the first probe, in whole seconds on most systems. Default: 60 s.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Time between probes, in whole seconds on most systems. Default: 15 s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Unanswered probes before the connection is given up. Default: 4.
    pub retries: NonZeroU32,
}

impl KeepAlive {
    fn params(&self) -> TcpKeepalive {
        let params = TcpKeepalive::new().with_time(whole_seconds(self.idle));
        #[cfg(not(target_os = "openbsd"))]
        let params = params.with_interval(whole_seconds(self.interval));
        #[cfg(not(any(target_os = "openbsd", windows)))]
        let params = params.with_retries(self.retries.get());
        params
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_applied(&self, socket: &SockRef<'_>) -> io::Result<bool> {
        Ok(socket.tcp_keepalive_time()? == whole_seconds(self.idle)
            && socket.tcp_keepalive_interval()? == whole_seconds(self.interval)
            && socket.tcp_keepalive_retries()? == self.retries.get())
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            retries: const { NonZeroU32::new(4).expect("not zero") },
        }
    }
}

/// Most systems count whole seconds and refuse zero.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}
