//! A stream that makes no system call: it reads what its script sends and counts what is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use peerpool::Nonce;
use peerpool::transport::Stream;
use peerpool::wire::{Hello, Native, Protocol};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug, Default)]
struct State {
    unread: BytesMut,
    written: u64,
    reader: Option<Waker>,
}

/// The remote end, which the guard controls.
#[derive(Debug)]
pub(crate) struct Script {
    state: Arc<Mutex<State>>,
    /// Bytes that the node wrote as its hello.
    pub(crate) hello_bytes: u64,
}

/// The local end, which the node reads and writes.
#[derive(Debug)]
pub(crate) struct ScriptedStream(Arc<Mutex<State>>);

impl Script {
    /// A remote end that begins with a hello.
    pub(crate) fn new(number: u8) -> (Self, ScriptedStream) {
        let mut unread = BytesMut::new();
        let hello = Hello::new(Native::VERSION, 0, Nonce([number.wrapping_add(1); 16]));
        Native::default().encode_hello(&hello, &mut unread).expect("a legal hello");
        let state = Arc::new(Mutex::new(State { unread, ..State::default() }));
        (Self { state: Arc::clone(&state), hello_bytes: 0 }, ScriptedStream(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.unread.extend_from_slice(bytes);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Whether the node has read everything.
    pub(crate) fn is_read(&self) -> bool {
        self.state().unread.is_empty()
    }

    pub(crate) fn written(&self) -> u64 {
        self.state().written
    }
}

impl ScriptedStream {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }
}

impl Stream for ScriptedStream {}

impl AsyncRead for ScriptedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        if state.unread.is_empty() {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = into.remaining().min(state.unread.len());
        into.put_slice(&state.unread[..count]);
        state.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ScriptedStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.state().written += bytes.len() as u64;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = slices.iter().map(|slice| slice.len()).sum();
        self.state().written += count as u64;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
