//! Seeds and trusted peers that are names.
#![cfg(all(feature = "node", not(peerpool_loom)))]

#[path = "common/node.rs"]
mod harness;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::*;
use peerpool::transport::{BoxFuture, BoxListener, BoxStream, MemoryNet, Transport};
use peerpool::{Node, NodeConfig};

/// A host whose resolver knows these names.
struct Named {
    host: Box<dyn Transport>,
    names: Mutex<HashMap<&'static str, Vec<SocketAddr>>>,
    look_ups: AtomicUsize,
}

/// Shared with the test.
struct Resolver(Arc<Named>);

impl Transport for Resolver {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.0.host.dial(addr)
    }

    fn listen(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxListener>> {
        self.0.host.listen(addr)
    }

    fn resolve<'a>(&'a self, host: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            self.0.look_ups.fetch_add(1, Ordering::Relaxed);
            match self.0.names.lock().unwrap().get(host) {
                Some(addrs) => Ok(addrs.clone()),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }
}

async fn start_named(
    net: &MemoryNet,
    config: NodeConfig,
    names: &[(&'static str, Vec<SocketAddr>)],
) -> (Node, Arc<Named>) {
    let named = Arc::new(Named {
        host: Box::new(net.host(ip(1))),
        names: Mutex::new(names.iter().cloned().collect()),
        look_ups: AtomicUsize::new(0),
    });
    let transport = Resolver(Arc::clone(&named));
    let node = Node::builder().config(config).transport(transport).book(hasty_book()).start().await.unwrap();
    (node, named)
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_resolve_stops_nothing_and_is_looked_up_again() {
    let net = MemoryNet::new(1);
    let (b, c) = (start(&net, 2, quiet(), Rec::new()).await, start(&net, 3, quiet(), Rec::new()).await);
    let mut config = NodeConfig::local();
    config.seeds = vec!["nobody.example:7000".parse().unwrap(), "b.example:7000".parse().unwrap()];
    let (a, named) = start_named(&net, config, &[("b.example", vec![at(2)])]).await;
    until(|| peers(&a) == 1).await;
    let asked = named.look_ups.load(Ordering::Relaxed);
    assert_eq!(asked, 2);
    secs(300).await;
    // The one every half a minute, and the other in ten minutes.
    let asked_again = named.look_ups.load(Ordering::Relaxed) - asked;
    assert!((8..=11).contains(&asked_again), "{asked_again}");
    named.names.lock().unwrap().insert("nobody.example", vec![at(3)]);
    until(|| peers(&a) == 2).await;
    for node in [a, b, c] {
        end(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_trusted_name_is_followed_when_it_moves() {
    let net = MemoryNet::new(1);
    let (b, c) = (start(&net, 2, quiet(), Rec::new()).await, start(&net, 3, quiet(), Rec::new()).await);
    let mut config = quiet();
    config.trusted = vec!["peer.example:7000".parse().unwrap()];
    let (a, named) = start_named(&net, config, &[("peer.example", vec![at(2)])]).await;
    until(|| peers(&a) == 1).await;
    assert_eq!(only(&a).addr(), at(2));
    assert!(a.book().get(&at(2)).unwrap().trusted);
    end(b).await;
    named.names.lock().unwrap().insert("peer.example", vec![at(3)]);
    tokio::time::sleep(Duration::from_secs(601)).await;
    until(|| peers(&a) == 1).await;
    assert_eq!(only(&a).addr(), at(3));
    assert!(!a.book().get(&at(2)).unwrap().trusted && a.book().get(&at(3)).unwrap().trusted);
    end(a).await;
    end(c).await;
}
