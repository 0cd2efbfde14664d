//! One connection. Whoever uses it holds its mutex, for a request and for a ping over the wait for
//! the reply, too.

use std::net::IpAddr;

use tokio::time::timeout;

use super::Stream;
use super::message::{self, Message};
use super::record::{FrameFate, Record, What};
use super::setup::Timing;

/// The replies that `request_response` recognises, all others time out.
const RECOGNISED: [(&str, &str); 6] = [
    ("GetMempool", "MempoolResponse"),
    ("RequestFinalizedTransactions", "FinalizedTransactionsResponse"),
    ("HeightRequest", "HeightResponse"),
    ("BlockRequest", "BlockResponse"),
    ("GetBlockchainInfo", "BlockchainInfo"),
    ("GetGenesis", "GenesisBlock"),
];

pub(super) struct Connection {
    stream: Box<dyn Stream>,
    ip: IpAddr,
    times: Timing,
    record: Record,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>, ip: IpAddr, times: Timing, record: Record) -> Self {
        Self { stream, ip, times, record }
    }

    fn note(&self, what: What) {
        self.record.add(self.ip, what);
    }

    pub(super) fn variant(json: &str) -> String {
        Message::parse(json.as_bytes()).map_or_else(|_| "?".to_owned(), |message| message.variant)
    }

    /// Writes a frame, within the time for a write.
    pub(super) async fn send_message(&mut self, json: &str) -> Result<(), String> {
        let written = timeout(self.times.send, message::write(&mut *self.stream, json)).await;
        let result = written.unwrap_or_else(|_| Err("Send timeout".to_owned()));
        self.note(match &result {
            Ok(()) => What::Sent(Self::variant(json)),
            Err(error) => What::SendFailed(error.clone()),
        });
        result
    }

    /// Writes bytes as they are: what no legacy node sends, but a test may want.
    pub(super) async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        use tokio::io::AsyncWriteExt;
        self.stream.write_all(bytes).await.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())
    }

    /// Reads a frame, within the time for a read. The caller notes what becomes of it.
    pub(super) async fn receive_message(&mut self) -> Result<Message, String> {
        let read = timeout(self.times.receive, message::read(&mut *self.stream)).await;
        let bytes = read.unwrap_or_else(|_| Err(format!("Receive timeout after {:?}", self.times.receive)));
        let message = bytes.and_then(|bytes| Message::parse(&bytes));
        if let Err(error) = &message {
            self.note(What::ReadFailed(error.clone()));
        }
        message
    }

    /// Reads a frame for a full node's loop.
    pub(super) async fn read(&mut self) -> Result<Message, String> {
        let message = self.receive_message().await?;
        self.note(What::Got(message.clone(), FrameFate::Read));
        Ok(message)
    }

    /// Sends, then reads until a reply is recognised: a Ping is answered, everything else is thrown
    /// away.
    pub(super) async fn request_response(
        &mut self,
        json: &str,
        within: std::time::Duration,
    ) -> Result<Message, String> {
        let asked = Self::variant(json);
        self.note(What::Asked(asked.clone()));
        let result = match timeout(within, self.ask(json, &asked)).await {
            Ok(result) => result,
            Err(_) => Err(format!("Request timeout after {within:?}")),
        };
        self.note(match &result {
            Ok(message) => What::Replied(message.variant.clone()),
            Err(error) => What::Unanswered(error.clone()),
        });
        result
    }

    async fn ask(&mut self, json: &str, asked: &str) -> Result<Message, String> {
        match self.send_message(json).await {
            Err(error) if error.contains("Broken pipe") => {
                tokio::time::sleep(self.times.broken_pipe).await;
                self.send_message(json).await?;
            }
            other => other?,
        }
        loop {
            let message = self.receive_message().await?;
            if RECOGNISED.contains(&(asked, &message.variant)) {
                self.note(What::Got(message.clone(), FrameFate::Reply));
                return Ok(message);
            }
            if message.variant == "Ping" {
                self.note(What::Got(message, FrameFate::Answered));
                self.send_message(r#""Pong""#).await?;
            } else {
                self.note(What::Got(message, FrameFate::Discarded));
            }
        }
    }

    /// Sends a Ping and takes the next frame for its answer.
    pub(super) async fn ping(&mut self) -> Result<(), String> {
        self.note(What::PingSent);
        let result = self.ping_pong().await;
        self.note(match &result {
            Ok(()) => What::PingOk,
            Err(error) => What::PingFailed(error.clone()),
        });
        result
    }

    async fn ping_pong(&mut self) -> Result<(), String> {
        self.send_message(r#""Ping""#).await?;
        let next = timeout(self.times.pong, self.receive_message()).await;
        let message = next.unwrap_or_else(|_| Err("Pong timeout".to_owned()))?;
        if message.variant == "Pong" {
            self.note(What::Got(message, FrameFate::Pong));
            return Ok(());
        }
        let error = format!("Protocol error: expected Pong, got {}", message.variant);
        self.note(What::Got(message, FrameFate::LostToPing));
        Err(error)
    }
}
