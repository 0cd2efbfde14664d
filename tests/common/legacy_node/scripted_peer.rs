//! A remote peer that the test drives frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Stream;
use super::handshake::{Handshake, Network};
use super::message::{self, Message};

/// Time limit of every read; free under paused time.
const WAIT: Duration = Duration::from_secs(1000);

pub(crate) struct ScriptedPeer {
    stream: Box<dyn Stream>,
}

impl ScriptedPeer {
    pub(crate) fn new(stream: impl Stream) -> Self {
        Self { stream: Box::new(stream) }
    }

    /// The dialler's side of the handshake.
    pub(crate) async fn greet(&mut self, ours: &Handshake, network: Network) -> Result<Handshake, String> {
        ours.send(&mut *self.stream).await.map_err(|error| error.to_string())?;
        self.greeting(network).await
    }

    /// The acceptor's side of the handshake.
    pub(crate) async fn welcome(&mut self, ours: &Handshake, network: Network) -> Result<Handshake, String> {
        let theirs = self.greeting(network).await?;
        ours.send(&mut *self.stream).await.map_err(|error| error.to_string())?;
        Ok(theirs)
    }

    /// Reads a handshake.
    pub(crate) async fn greeting(&mut self, network: Network) -> Result<Handshake, String> {
        timeout(WAIT, Handshake::receive(&mut *self.stream, network)).await.unwrap()
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, json: &str) {
        message::write(&mut *self.stream, json).await.unwrap();
    }

    /// Sends bytes; an error is of no interest.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Reads a frame.
    pub(crate) async fn receive(&mut self) -> Result<Message, String> {
        let bytes = timeout(WAIT, message::read(&mut *self.stream)).await.unwrap()?;
        Message::parse(&bytes)
    }

    /// Reads a frame's JSON, if one comes within the time; a frame that is cut by it is lost.
    pub(crate) async fn receive_within(&mut self, within: Duration) -> Option<String> {
        timeout(within, self.receive()).await.ok()?.ok().map(|message| message.text)
    }

    /// Answers pings for `within`, and returns the other frames in order.
    pub(crate) async fn answer_pings(&mut self, within: Duration) -> Vec<String> {
        let mut others = Vec::new();
        let answering = async {
            while let Ok(message) = self.receive().await {
                if message.variant == "Ping" {
                    self.send(r#""Pong""#).await;
                } else {
                    others.push(message.variant);
                }
            }
        };
        let _ = timeout(within, answering).await;
        others
    }

    /// Whatever comes until the far end closes, or resets.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = timeout(WAIT, self.stream.read_to_end(&mut rest)).await.unwrap();
        rest
    }
}
