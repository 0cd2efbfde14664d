//! The TIME Coin network's bytes: its messages, and how they are framed.

#![cfg(feature = "timecoin")]

#[path = "../common/conformance.rs"]
mod conformance;
mod frames;
mod handshakes;
mod probes;
mod reply_matching;
mod samples;

use bytes::Bytes;
use conformance::{Expectations, WireMessage};
use peerpool::timecoin::wire::{Kind, NetworkMessage, NetworkType, Software, TimeCoin, UNKNOWN};
use peerpool::wire::{Control, Hello, MessageHeader, Status};
use peerpool::{Lane, canonical};

/// How this network transforms messages: JSON texts, recognised by their content, and refusals by
/// silence.
struct Json {
    network: NetworkType,
}

impl Expectations for Json {
    fn message(&self, header: MessageHeader, payload: Bytes) -> (MessageHeader, Bytes) {
        // Most are a message of the kind that the header names, with blanks behind it up to the
        // payload's length; some stay what no message is, some of a kind there is not.
        let kind = match header {
            MessageHeader::Event { kind } | MessageHeader::Request { kind, .. } => kind,
            MessageHeader::Response { id, .. } => id as u16,
            MessageHeader::Cancel { .. } => return (header, payload),
        };
        if kind % 16 == 15 {
            return (header, payload);
        }
        let kind = kind % 71;
        let mut text = samples::MESSAGES.lines().nth(usize::from(kind)).expect("71 lines").to_owned();
        text.extend(std::iter::repeat_n(' ', payload.len().saturating_sub(text.len())));
        let header = match header {
            MessageHeader::Event { .. } => MessageHeader::Event { kind },
            MessageHeader::Request { id, .. } => MessageHeader::Request { id, kind },
            other => other,
        };
        (header, text.into())
    }

    fn received(&self, lane: Lane, header: MessageHeader, payload: &Bytes) -> Option<WireMessage> {
        match header {
            MessageHeader::Cancel { .. } => return None,
            MessageHeader::Response { id, status } if status != Status::Ok => {
                // Sent where the id is the place of a request that is not broadcast too; without
                // the payload.
                let answer = u16::try_from(id).ok().and_then(Kind::from_code)?;
                let broadcast = matches!(answer, Kind::ConsensusVoteAck | Kind::TransactionApproved);
                let told = answer.reply_slot() == Some(id) && !broadcast;
                return told.then(|| WireMessage::Message { lane, header, payload: Bytes::new() });
            }
            _ => {}
        }
        // Told by the full parse, where the protocol looks at the start only.
        let kind = NetworkMessage::decode(payload).ok().map(|message| message.kind());
        let header = match kind {
            Some(Kind::Ping) => return Some(WireMessage::Control(Control::Ping { token: 0 })),
            Some(Kind::Pong) => return Some(WireMessage::Control(Control::Pong { token: 0 })),
            None => MessageHeader::Event { kind: UNKNOWN },
            Some(kind) => match kind.request_slot() {
                Some(id) => MessageHeader::Request { id, kind: kind.code() },
                None => MessageHeader::Event { kind: kind.code() },
            },
        };
        Some(WireMessage::Message { lane, header, payload: payload.clone() })
    }

    fn hello(&self, hello: Hello) -> (Hello, Hello) {
        let sent = Hello { network: self.network.id(), ..hello };
        let app = r#"{"commit_date":null,"commit_count":null,"wallet_address":null,"capabilities":["masternode","sync","peerpool"]}"#;
        let heard = Hello {
            nonce: None,
            features: 0,
            listen: sent.listen.map(canonical),
            app: Bytes::from_static(app.as_bytes()),
            ..sent.clone()
        };
        (sent, heard)
    }
}

#[test]
fn the_timecoin_protocol_conforms_on_both_networks() {
    for network in [NetworkType::Mainnet, NetworkType::Testnet] {
        conformance::conforms_with(&TimeCoin::new(network, Software::default()), &Json { network });
    }
}
