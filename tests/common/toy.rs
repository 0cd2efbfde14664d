//! A second protocol, as unlike the native one as the traits allow: text frames without lanes, ids
//! or chunks, and with other names for ping and pong. It proves that the harness and the connection
//! are generic over the protocol.
//!
//! ```text
//! frame    = length of the text (2 bytes, big endian) text
//! text     = "event " kind " " payload | "marco" | "polo" | bye
//! bye      = "bye " reason " " (milliseconds | "-")
//! first    = frame of: hello | bye
//! hello    = "toy " version " " network " " features " " (nonce in hex | "-") " " (address | "-") " " agent
//! ```
//!
//! A frame of more than 1 KiB is decoded in parts, so that [`DecodeStep::PartialFrame`] is tested
//! too.
#![allow(dead_code)]

use bytes::{BufMut, Bytes, BytesMut};
use peerpool::wire::{
    Chunks, Control, DecodeStep, Decoder, EncodeError, Features, FirstFrame, Goodbye, GoodbyeReason,
    HeaderBytes, Hello, MessageHeader, Payload, Protocol, Refusal, WireError, WireLimits,
};
use peerpool::{Lane, Nonce, canonical};
use std::fmt::Write as _;
use std::time::Duration;

/// The protocol. It has goodbyes, but no requests, peers or aborts.
#[derive(Clone, Debug)]
pub(crate) struct Toy {
    limits: WireLimits,
}

/// Longest text of a frame that is decoded in one piece, in bytes.
const MAX_WHOLE_TEXT: usize = 1024;
/// Longest payload of an event, in bytes.
const MAX_PAYLOAD: usize = 32 * 1024;
/// Longest text before a payload, in bytes: `event 65535 `.
const MAX_PREFIX: usize = 12;
const MAGIC: &[u8] = b"toy ";

impl Toy {
    pub(crate) const VERSION: u32 = 7;

    pub(crate) fn new() -> Self {
        let limits = WireLimits {
            urgent: MAX_PAYLOAD,
            normal: MAX_PAYLOAD,
            bulk: MAX_PAYLOAD,
            hello: 512,
            chunk: MAX_PAYLOAD,
            window: 2 + MAX_WHOLE_TEXT,
            peers: 0,
        };
        Self { limits }
    }

    /// The bytes before an event's payload.
    fn event_header(
        &self,
        lane: Lane,
        header: &MessageHeader,
        size: usize,
    ) -> Result<HeaderBytes, EncodeError> {
        let MessageHeader::Event { kind } = *header else {
            return Err(EncodeError::Unsupported { what: "request" });
        };
        if lane == Lane::Control {
            return Err(EncodeError::ControlLaneReserved { kind: header.frame_kind() });
        }
        if size > MAX_PAYLOAD {
            return Err(EncodeError::TooLarge { lane, size, cap: MAX_PAYLOAD });
        }
        let words = format!("event {kind} ");
        let mut bytes = ((words.len() + size) as u16).to_be_bytes().to_vec();
        bytes.extend_from_slice(words.as_bytes());
        Ok(HeaderBytes::new(&bytes).expect("two bytes and at most twelve of words"))
    }
}

impl Protocol for Toy {
    type Decoder = ToyDecoder;

    fn name(&self) -> &'static str {
        "toy"
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    fn features(&self) -> Features {
        Features { goodbye: true, nonce: true, ..Features::NONE }
    }

    fn limits(&self) -> &WireLimits {
        &self.limits
    }

    fn decoder(&self) -> ToyDecoder {
        ToyDecoder { text: Vec::new(), missing: 0 }
    }

    fn encode(
        &self,
        lane: Lane,
        header: &MessageHeader,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        out.put_slice(&self.event_header(lane, header, payload.len())?);
        out.put_slice(payload);
        Ok(())
    }

    fn chunks(&self, lane: Lane, header: MessageHeader, payload: Bytes) -> Result<Chunks, EncodeError> {
        Ok(Chunks::single(self.event_header(lane, &header, payload.len())?, payload))
    }

    fn encode_control(&self, control: &Control, out: &mut BytesMut) -> Result<bool, EncodeError> {
        match control {
            Control::Ping { .. } => put_frame("marco", out),
            Control::Pong { .. } => put_frame("polo", out),
            Control::Goodbye(goodbye) => put_frame(&bye(goodbye), out),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn encode_hello(&self, hello: &Hello, out: &mut BytesMut) -> Result<(), EncodeError> {
        Hello::validate_agent(hello.agent.as_bytes()).map_err(EncodeError::Agent)?;
        if !hello.app.is_empty() {
            return Err(EncodeError::AppTooLarge { size: hello.app.len(), cap: 0 });
        }
        if hello.genesis.is_some() {
            return Err(EncodeError::Unsupported { what: "genesis" });
        }
        let mut text = format!("toy {} {} {} ", hello.version, hello.network, hello.features);
        match hello.nonce {
            None => text.push('-'),
            Some(nonce) => nonce.0.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string")),
        }
        match hello.listen {
            None => text.push_str(" - "),
            Some(addr) => write!(text, " {} ", canonical(addr)).expect("a string"),
        }
        text.push_str(&hello.agent);
        put_frame(&text, out);
        Ok(())
    }

    fn encode_refusal(&self, refusal: &Refusal, out: &mut BytesMut) -> Result<bool, EncodeError> {
        let Refusal { version, network, addrs, .. } = refusal;
        let mut text = format!("{} {version} {network}", bye(&refusal.goodbye()));
        addrs.iter().for_each(|addr| write!(text, " {}", canonical(*addr)).expect("a string"));
        put_frame(&text, out);
        Ok(true)
    }

    fn decode_first_frame(&self, buf: &[u8]) -> Result<Option<(FirstFrame, usize)>, WireError> {
        let Some((len, rest)) = buf.split_first_chunk::<2>() else { return Ok(None) };
        let size = 2 + usize::from(u16::from_be_bytes(*len));
        let starts = |word: &[u8]| rest.iter().zip(word).all(|(got, want)| got == want);
        if !starts(MAGIC) && !starts(b"bye ") {
            return Err(WireError::BadMagic);
        }
        if size > self.limits.hello {
            return Err(WireError::FirstFrameTooLarge { size, cap: self.limits.hello });
        }
        let Some(text) = rest.get(..size - 2) else { return Ok(None) };
        let first_frame = if text.starts_with(MAGIC) {
            FirstFrame::Hello(parse_hello(text)?)
        } else {
            FirstFrame::Refusal(parse_refusal(text).ok_or(WireError::Malformed { what: "bye" })?)
        };
        Ok(Some((first_frame, size)))
    }
}

/// Collects the text of a long frame.
#[derive(Debug)]
pub(crate) struct ToyDecoder {
    text: Vec<u8>,
    missing: usize,
}

impl Decoder for ToyDecoder {
    fn step<'b>(&mut self, buf: &'b [u8]) -> Result<DecodeStep<'b>, WireError> {
        if self.missing > 0 {
            let used = buf.len().min(self.missing);
            return if used == 0 { Ok(DecodeStep::NeedMore) } else { self.append(0, &buf[..used]) };
        }
        let Some((len, rest)) = buf.split_first_chunk::<2>() else { return Ok(DecodeStep::NeedMore) };
        let len = usize::from(u16::from_be_bytes(*len));
        if len > MAX_PAYLOAD + MAX_PREFIX {
            return Err(WireError::FrameTooLarge { size: len, cap: MAX_PAYLOAD + MAX_PREFIX });
        }
        if len > MAX_WHOLE_TEXT {
            self.missing = len;
            return self.append(2, &rest[..rest.len().min(len)]);
        }
        let Some(text) = rest.get(..len) else { return Ok(DecodeStep::NeedMore) };
        parse(2 + len, text).map(|(step, at)| match step {
            DecodeStep::Message { used, lane, header, .. } => {
                DecodeStep::Message { used, lane, header, payload: Payload::Borrowed(&text[at..]) }
            }
            other => other,
        })
    }

    fn buffered(&self) -> usize {
        self.text.capacity()
    }
}

impl ToyDecoder {
    /// Appends a piece of a long frame.
    fn append(&mut self, header: usize, piece: &[u8]) -> Result<DecodeStep<'static>, WireError> {
        self.text.extend_from_slice(piece);
        self.missing -= piece.len();
        let used = header + piece.len();
        if self.missing > 0 {
            return Ok(DecodeStep::PartialFrame { used });
        }
        let text = Bytes::from(std::mem::take(&mut self.text));
        parse(used, &text).map(|(step, at)| match step {
            DecodeStep::Message { used, lane, header, .. } => {
                DecodeStep::Message { used, lane, header, payload: Payload::Owned(text.slice(at..)) }
            }
            other => other,
        })
    }
}

/// Parses a text. The payload of an event is left empty; it starts at the returned offset.
fn parse(used: usize, text: &[u8]) -> Result<(DecodeStep<'static>, usize), WireError> {
    let control = |control| Ok((DecodeStep::Control { used, control }, 0));
    match text {
        b"marco" => return control(Control::Ping { token: 0 }),
        b"polo" => return control(Control::Pong { token: 0 }),
        _ if text.starts_with(b"bye ") => {
            return control(Control::Goodbye(parse_bye(text).ok_or(WireError::Malformed { what: "bye" })?));
        }
        _ => {}
    }
    let bad = WireError::Malformed { what: "frame" };
    let rest = text.strip_prefix(b"event ").ok_or(bad.clone())?;
    let digits = rest.iter().position(|byte| *byte == b' ').ok_or(bad.clone())?;
    let kind = std::str::from_utf8(&rest[..digits]).ok().and_then(|kind| kind.parse().ok()).ok_or(bad)?;
    let at = text.len() - rest.len() + digits + 1;
    let size = text.len() - at;
    if size > MAX_PAYLOAD {
        return Err(WireError::MessageTooLarge { lane: Lane::Normal, size, cap: MAX_PAYLOAD });
    }
    let step = DecodeStep::Message {
        used,
        lane: Lane::Normal,
        header: MessageHeader::Event { kind },
        payload: Payload::Borrowed(&[]),
    };
    Ok((step, at))
}

fn put_frame(text: &str, out: &mut BytesMut) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn bye(goodbye: &Goodbye) -> String {
    match goodbye.retry_after {
        None => format!("bye {} -", goodbye.reason.code()),
        Some(wait) => format!("bye {} {}", goodbye.reason.code(), wait.as_nanos().div_ceil(1_000_000)),
    }
}

fn parse_bye(text: &[u8]) -> Option<Goodbye> {
    let (reason, wait) = std::str::from_utf8(text).ok()?.strip_prefix("bye ")?.split_once(' ')?;
    let retry_after = if wait == "-" { None } else { Some(Duration::from_millis(wait.parse().ok()?)) };
    Some(Goodbye { reason: GoodbyeReason::from_code(reason.parse().ok()?), retry_after })
}

fn parse_refusal(text: &[u8]) -> Option<Refusal> {
    let text = std::str::from_utf8(text).ok()?;
    let ends = text.match_indices(' ').nth(2)?.0;
    let goodbye = parse_bye(&text.as_bytes()[..ends])?;
    let mut words = text[ends + 1..].split(' ');
    let (version, network) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let addrs: Option<Vec<_>> = words.map(|word| word.parse().ok().map(canonical)).collect();
    let addrs = addrs.filter(|addrs| addrs.len() <= Refusal::MAX_ADDRS)?;
    Some(Refusal { addrs, ..Refusal::new(goodbye, version, network) })
}

fn parse_hello(text: &[u8]) -> Result<Hello, WireError> {
    let bad = WireError::Malformed { what: "hello" };
    // The agent comes last and need not be text: it is split off before the rest is read as text.
    let mut words = text[MAGIC.len()..].splitn(6, |byte| *byte == b' ');
    let mut word = || words.next().ok_or(bad.clone());
    let text_of = |word: &'_ [u8]| std::str::from_utf8(word).map(str::to_owned).map_err(|_| bad.clone());
    let number = |word: String| word.parse::<u64>().map_err(|_| bad.clone());
    let version = number(text_of(word()?)?)?;
    let network = number(text_of(word()?)?)?;
    let features = number(text_of(word()?)?)?;
    let nonce = match text_of(word()?)?.as_str() {
        "-" => None,
        hex if hex.len() == 32 => {
            Some(Nonce(u128::from_str_radix(hex, 16).map_err(|_| bad.clone())?.to_be_bytes()))
        }
        _ => return Err(bad),
    };
    let listen = match text_of(word()?)?.as_str() {
        "-" => None,
        addr => Some(canonical(addr.parse().map_err(|_| bad.clone())?)),
    };
    let agent = Hello::validate_agent(word()?).map_err(WireError::Agent)?.to_owned();
    let version = u32::try_from(version).map_err(|_| bad.clone())?;
    Ok(Hello { version, network, nonce, features, listen, agent, genesis: None, app: Bytes::new() })
}
