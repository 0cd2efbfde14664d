//! Two nodes talking: `cargo run --example two_nodes`.
//!
//! One node answers questions and passes gossip on; the other dials it, broadcasts, asks, and
//! follows its state.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use peerpool::{Context, Event, Handled, Handler, Lane, Message, Node, Request, Responder, Typed};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Transaction {
    from: String,
    amount: u64,
}

impl Typed for Transaction {
    const KIND: u16 = 1;
}

#[derive(Debug, Serialize, Deserialize)]
struct Tip {
    height: u64,
}

impl Typed for Tip {
    const KIND: u16 = 2;
    const LANE: Lane = Lane::Urgent;
}

struct Ledger {
    name: &'static str,
}

impl Handler for Ledger {
    fn event(&self, cx: Context<'_>, event: Event<'_>) -> Handled {
        if let Ok(transaction) = event.read::<Transaction>() {
            println!("{}: {transaction:?} from {}", self.name, cx.peer().key());
        } else if let Ok(tip) = event.read::<Tip>() {
            println!("{}: {} is at height {}", self.name, cx.peer().key(), tip.height);
        }
        Handled::Done
    }

    fn request(&self, _: Context<'_>, request: Request<'_>, responder: Responder) -> Handled {
        let question = String::from_utf8_lossy(&request.payload).into_owned();
        Handled::later(async move {
            // The asker may have gone; then nobody needs the answer.
            let _ = responder.respond(format!("you asked: {question}"));
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let alice =
        Node::builder().listen("127.0.0.1:0".parse()?).handler(Ledger { name: "alice" }).start().await?;
    let bob = Node::builder().handler(Ledger { name: "bob" }).start().await?;

    alice.set_state(Tip::KIND, b"tip", Message::of(&Tip { height: 41 })?.payload)?;
    let peer = bob.connect(alice.local_addrs()[0]).await?;
    bob.broadcast(&Message::of(&Transaction { from: "bob".into(), amount: 7 })?)?;
    let answer = bob.request(peer.key(), Message::new(9, "how are you?"), Duration::from_secs(5)).await?;
    println!("bob: {}", String::from_utf8_lossy(&answer));
    alice.set_state(Tip::KIND, b"tip", Message::of(&Tip { height: 42 })?.payload)?;

    bob.ready(Lane::Normal).await;
    let left = bob.shutdown(Duration::from_secs(2)).await;
    println!("bob left nothing behind: {}", left.is_clean());
    alice.shutdown(Duration::from_secs(2)).await;
    Ok(())
}
