//! A peer of the native protocol that does what the test says, from an address of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use peerpool::wire::{Control, DecodeStep, Decoder, FirstFrame, Hello, MessageHeader, Native, Protocol};
use peerpool::{Lane, Nonce};
use socket2::{Domain, Socket, Type};

use crate::victim::PATIENCE;

pub(crate) struct RawPeer {
    pub(crate) stream: TcpStream,
    decoder: <Native as Protocol>::Decoder,
    unread: Vec<u8>,
    tokens: u64,
}

/// A TCP connection from an address of this machine.
pub(crate) fn connect_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(crate) fn random_nonce() -> Nonce {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("the system has random numbers");
    Nonce(nonce)
}

/// How a handshake ended.
#[derive(Debug)]
pub(crate) enum Greeting {
    Welcome,
    Refused(#[expect(dead_code, reason = "shown when a test fails")] FirstFrame),
    Closed,
}

impl RawPeer {
    /// Connects and exchanges hellos.
    pub(crate) fn join(source: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        let (peer, greeting) = Self::greet(source, to, &Hello::new(Native::VERSION, 0, random_nonce()))?;
        match greeting {
            Greeting::Welcome => Ok(peer),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    pub(crate) fn greet(source: Ipv4Addr, to: SocketAddr, hello: &Hello) -> io::Result<(Self, Greeting)> {
        let mut bytes = BytesMut::new();
        Native::default().encode_hello(hello, &mut bytes).expect("a legal hello");
        let mut stream = connect_from(source, to)?;
        stream.write_all(&bytes)?;
        let (mut unread, mut some) = (Vec::new(), [0; 4096]);
        let mut peer = Self { stream, decoder: Native::default().decoder(), unread: Vec::new(), tokens: 0 };
        loop {
            if let Some((greeting, used)) = Native::default().decode_first_frame(&unread).expect("a greeting")
            {
                peer.unread = unread.split_off(used);
                let greeting = match greeting {
                    FirstFrame::Hello(_) => Greeting::Welcome,
                    other => Greeting::Refused(other),
                };
                return Ok((peer, greeting));
            }
            match peer.stream.read(&mut some) {
                Ok(0) => return Ok((peer, Greeting::Closed)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok((peer, Greeting::Closed));
                }
                read => unread.extend_from_slice(&some[..read?]),
            }
        }
    }

    pub(crate) fn send_control(&mut self, control: &Control) -> io::Result<()> {
        let mut out = BytesMut::new();
        Native::default().encode_control(control, &mut out).expect("a legal message");
        self.stream.write_all(&out)
    }

    /// Time until a ping is answered. Other pings are answered meanwhile, everything else is
    /// dropped.
    pub(crate) fn ping(&mut self) -> io::Result<Duration> {
        self.tokens += 1;
        let (token, since) = (self.tokens, Instant::now());
        self.send_control(&Control::Ping { token })?;
        loop {
            if matches!(self.next_control()?, Some(Control::Pong { token: its }) if its == token) {
                return Ok(since.elapsed());
            }
            if since.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Reads one control message; `None` for any other message.
    pub(crate) fn next_control(&mut self) -> io::Result<Option<Control>> {
        loop {
            let step = self.decoder.step(&self.unread).expect("legal bytes");
            let used = step.used();
            let found = match step {
                DecodeStep::NeedMore => {
                    let mut some = [0; 16 * 1024];
                    let count = self.stream.read(&mut some)?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.unread.extend_from_slice(&some[..count]);
                    continue;
                }
                DecodeStep::Control { control, .. } => Some(control),
                _ => None,
            };
            self.unread.drain(..used);
            if let Some(Control::Ping { token }) = found {
                self.send_control(&Control::Pong { token })?;
                continue;
            }
            return Ok(found);
        }
    }
}

/// Encoded events.
pub(crate) fn events(count: usize, payload: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let mut out = BytesMut::new();
    for at in 0..count {
        let head = MessageHeader::Event { kind: 7 };
        Native::default().encode(Lane::Normal, &head, &payload(at), &mut out).expect("a legal message");
    }
    out.to_vec()
}

/// The address of an attacker: its own source in a subnet of its own.
pub(crate) fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 50, number, 9)
}
