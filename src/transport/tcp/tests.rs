//! The TCP transport on real loopback sockets.
#![allow(clippy::unwrap_used)] // helpers of tests; clippy excuses the tests alone

use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::accept::EXHAUSTION_ERRNOS;
use super::*;
use crate::transport::Listener;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SOON: Duration = Duration::from_secs(10);

async fn pair(tcp: &Tcp, at: SocketAddr) -> (BoxStream, BoxStream, SocketAddr) {
    let mut listener = tcp.listen(at).await.unwrap();
    let dial = tcp.dial(listener.local_addr());
    let (near, accepted) = timeout(SOON, async { tokio::join!(dial, listener.accept()) }).await.unwrap();
    let (far, from) = accepted.unwrap();
    (near.unwrap(), far, from)
}

#[tokio::test]
async fn bytes_go_both_ways_and_vectored_writes_pass_through_the_box() {
    let (mut near, mut far, from) = pair(&Tcp::default(), LOOPBACK).await;
    assert_eq!(from.ip(), LOOPBACK.ip());
    assert!(near.is_write_vectored());
    let parts = [IoSlice::new(b"vec"), IoSlice::new(b"tored")];
    assert_eq!(near.write_vectored(&parts).await.unwrap(), 8);
    let mut buf = [0; 8];
    far.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"vectored");
    far.shutdown().await.unwrap();
    assert_eq!(near.read(&mut buf).await.unwrap(), 0);
    near.write_all(b"after the end").await.unwrap();
    far.read_exact(&mut [0; 13]).await.unwrap();
}

#[tokio::test]
async fn every_option_reaches_the_socket() {
    let config = TcpConfig {
        keepalive: Some(KeepAlive {
            idle: Duration::from_secs(33),
            interval: Duration::from_millis(7_900),
            retries: NonZeroU32::new(5).unwrap(),
        }),
        send_buffer: NonZeroUsize::new(64 * 1024),
        recv_buffer: NonZeroUsize::new(32 * 1024),
        notsent_lowat: NonZeroU32::new(16 * 1024),
        dial_from_v4: Some(Ipv4Addr::LOCALHOST),
        ..TcpConfig::default()
    };
    let tcp = Tcp::new(config);
    let mut listener = tcp.bind(LOOPBACK).unwrap();
    let dialled = tcp.socket(listener.local).unwrap();
    tcp.config().apply(&SockRef::from(&dialled)).unwrap();
    let (accepted, _) = {
        let _stream = std::net::TcpStream::connect(listener.local).unwrap();
        listener.inner.accept().await.unwrap()
    };
    listener.configure(&accepted).unwrap();
    assert_eq!(listener.inherits, Some(cfg!(any(target_os = "linux", target_os = "android"))));
    for socket in [SockRef::from(&dialled), SockRef::from(&accepted)] {
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(33));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16 * 1024);
    }
    // Linux reports twice the configured size.
    assert!((64..=128).contains(&(dialled.send_buffer_size().unwrap() / 1024)));
    assert!((32..=64).contains(&(dialled.recv_buffer_size().unwrap() / 1024)));
    let (_near, _far, from) = pair(&tcp, LOOPBACK).await;
    assert_eq!(from.ip(), LOOPBACK.ip());
}

#[tokio::test]
async fn options_that_are_not_inherited_are_set_on_each_connection() {
    let three = NonZeroU32::new(3).unwrap();
    let wanted = TcpConfig {
        keepalive: Some(KeepAlive { retries: three, ..KeepAlive::default() }),
        ..TcpConfig::default()
    };
    let others = [
        TcpConfig { nodelay: false, ..wanted.clone() },
        TcpConfig { keepalive: None, ..wanted.clone() },
        TcpConfig { keepalive: Some(KeepAlive::default()), ..wanted.clone() },
        TcpConfig { notsent_lowat: None, ..wanted.clone() },
    ];
    for other in others {
        // Simulates a system where accepted sockets do not inherit options.
        let mut listener = Tcp::new(other).bind(LOOPBACK).unwrap();
        listener.config = wanted.clone();
        for _ in 0..2 {
            let _stream = std::net::TcpStream::connect(listener.local).unwrap();
            let (accepted, _) = listener.inner.accept().await.unwrap();
            listener.configure(&accepted).unwrap();
            assert_eq!(listener.inherits, Some(false));
            let socket = SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
            #[cfg(target_os = "linux")]
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 128 * 1024);
        }
    }
}

#[tokio::test]
async fn an_option_that_the_system_refuses_fails_the_listen() {
    let keepalive = KeepAlive { retries: NonZeroU32::MAX, ..KeepAlive::default() };
    let tcp = Tcp::new(TcpConfig { keepalive: Some(keepalive), ..TcpConfig::default() });
    assert!(tcp.listen(LOOPBACK).await.is_err());
}

#[tokio::test]
async fn both_families_listen_on_one_port() {
    let tcp = Tcp::default();
    let Ok(six) = tcp.listen("[::1]:0".parse().unwrap()).await else { return };
    // The port is ours on IPv6; another process may have it on IPv4.
    let four = SocketAddr::new(LOOPBACK.ip(), six.local_addr().port());
    match tcp.listen(four).await {
        Ok(listener) => assert_eq!(listener.local_addr(), four),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
    }
    assert!(tcp.socket(six.local_addr()).unwrap().only_v6().unwrap());
}

#[tokio::test]
async fn a_mapped_address_is_dialled_as_ipv4() {
    let tcp = Tcp::default();
    let mut listener = tcp.listen(LOOPBACK).await.unwrap();
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), listener.local_addr().port());
    let (near, far) = tokio::join!(tcp.dial(mapped), listener.accept());
    near.unwrap();
    assert!(far.unwrap().1.is_ipv4());
}

#[tokio::test]
async fn a_dial_without_a_listener_is_refused() {
    let tcp = Tcp::default();
    let listener = tcp.listen(LOOPBACK).await.unwrap();
    let addr = listener.local_addr();
    drop(listener);
    assert_eq!(tcp.dial(addr).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_dropped_dial_closes_what_it_opened() {
    let tcp = Tcp::default();
    let mut listener = tcp.listen(LOOPBACK).await.unwrap();
    {
        let mut dial = tcp.dial(listener.local_addr());
        let first = std::future::poll_fn(|cx| Poll::Ready(dial.as_mut().poll(cx))).await;
        drop(first);
    }
    let (mut far, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    // An end of stream or a reset, never silence.
    let heard = timeout(SOON, far.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(heard, Ok(0) | Err(_)));
}

#[tokio::test(start_paused = true)]
async fn after_an_error_the_listener_pauses_longer_each_time() {
    let inner = TcpListener::bind(LOOPBACK).await.unwrap();
    let local = inner.local_addr().unwrap();
    let config = TcpConfig::default();
    let mut accept = TcpAcceptor { inner, local, config, inherits: None, errors: 0, pause: None };
    for millis in [50, 100, 200, 400, 800, 1_000, 1_000] {
        let start = Instant::now();
        accept.start_pause();
        accept.pause.as_mut().unwrap().await;
        assert_eq!(start.elapsed(), Duration::from_millis(millis));
    }
    let polled = std::future::poll_fn(|cx| {
        accept.start_pause();
        Poll::Ready(accept.poll_accept(cx).is_pending())
    });
    assert!(polled.await);
}

#[test]
fn accept_errors_are_classified() {
    let code = |code| AcceptErrorKind::of(&io::Error::from_raw_os_error(code));
    assert!(EXHAUSTION_ERRNOS.iter().all(|os| code(*os) == AcceptErrorKind::Exhausted));
    let kind = |kind: io::ErrorKind| AcceptErrorKind::of(&kind.into());
    assert_eq!(kind(io::ErrorKind::ConnectionAborted), AcceptErrorKind::Connection);
    assert_eq!(kind(io::ErrorKind::PermissionDenied), AcceptErrorKind::Other);
}
