//! What was tried on the network's own node has the same outcome here.

use peerpool::timecoin::wire::{DecodeFault, HandshakeMessage, NetworkMessage, NetworkType};

/// What a probe should give: the message in its usual form, or how the error's text begins.
enum Want {
    Read(&'static str),
    Refused(DecodeFault, &'static str),
}
use DecodeFault::{Data, Eof, Syntax, UnknownMessage};
use Want::{Read, Refused};

const LISTED: &str = ", expected one of `Ping`, `Pong`, `TimeRequest`, `TimeResponse`, `Transaction`, `Val";

/// Texts that are messages, though not the way the network's nodes write them.
const READ: &[(&str, &str, &str)] = &[
    ("unit variant", r#""Ping""#, r#""Ping""#),
    ("unit variant as map with null", r#"{"Ping":null}"#, r#""Ping""#),
    ("leading and trailing whitespace", " \n \"Ping\" \n", r#""Ping""#),
    (
        "unknown field in struct variant",
        r#"{"UpdateTip":{"height":1,"hash":"a","zzz":[1,2]}}"#,
        r#"{"UpdateTip":{"height":1,"hash":"a"}}"#,
    ),
    (
        "missing Option field (BlockchainInfo.height)",
        r#"{"BlockchainInfo":{"best_block_hash":"a"}}"#,
        r#"{"BlockchainInfo":{"height":null,"best_block_hash":"a"}}"#,
    ),
    (
        "missing Option field (BlockResponse.block)",
        r#"{"BlockResponse":{}}"#,
        r#"{"BlockResponse":{"block":null}}"#,
    ),
    (
        "missing Option field (UtxoCommit.reason)",
        r#"{"UtxoCommit":{"txid":"a","status":"b","ack_count":1,"total_weight":1.5,"timestamp":1}}"#,
        r#"{"UtxoCommit":{"txid":"a","status":"b","ack_count":1,"total_weight":1.5,"timestamp":1,"reason":null}}"#,
    ),
    ("struct variant as array", r#"{"UpdateTip":[1,"a"]}"#, r#"{"UpdateTip":{"height":1,"hash":"a"}}"#),
    (
        "fields in another order",
        r#"{"UpdateTip":{"hash":"a","height":1}}"#,
        r#"{"UpdateTip":{"height":1,"hash":"a"}}"#,
    ),
    (
        "u64 max",
        r#"{"BlockchainHeight":18446744073709551615}"#,
        r#"{"BlockchainHeight":18446744073709551615}"#,
    ),
    (
        "f64 as integer",
        r#"{"UtxoCommit":{"txid":"a","status":"b","ack_count":1,"total_weight":2,"timestamp":1,"reason":null}}"#,
        r#"{"UtxoCommit":{"txid":"a","status":"b","ack_count":1,"total_weight":2.0,"timestamp":1,"reason":null}}"#,
    ),
    ("escapes in the variant's name", r#"{"\u0050ing":null}"#, r#""Ping""#),
];

/// Invalid texts with their error texts. The ending `UNKNOWN` stands for the list of known names.
const REFUSED: &[(&str, &[u8], DecodeFault, &str)] = &[
    ("unit variant as map with {}", br#"{"Ping":{}}"#, Data, "invalid type: map, expected unit at line 1 column 8"),
    ("trailing bytes", br#""Ping" x"#, Syntax, "trailing characters at line 1 column 8"),
    ("two values in one frame", br#""Ping""Ping""#, Syntax, "trailing characters at line 1 column 7"),
    ("empty frame", b"", Eof, "EOF while parsing a value at line 1 column 0"),
    ("unknown variant", br#""Nope""#, UnknownMessage, "unknown variant `Nope`UNKNOWN"),
    ("unknown variant with body", br#"{"Nope":{"a":1}}"#, UnknownMessage, "unknown variant `Nope`UNKNOWN"),
    ("wrong case", br#""ping""#, UnknownMessage, "unknown variant `ping`UNKNOWN"),
    ("two keys", br#"{"BlockchainHeight":1,"Ping":null}"#, Syntax, "expected value at line 1 column 21"),
    (
        "missing field",
        br#"{"UpdateTip":{"height":1}}"#,
        Data,
        "missing field `hash` at line 1 column 25",
    ),
    (
        "duplicate field",
        br#"{"UpdateTip":{"height":1,"hash":"a","height":2}}"#,
        Data,
        "duplicate field `height` at line 1 column 44",
    ),
    (
        "struct variant as short array",
        br#"{"UpdateTip":[1]}"#,
        Data,
        "invalid length 1, expected struct variant NetworkMessage::UpdateTip with 2 elements at line 1 column 16",
    ),
    (
        "struct variant without body",
        br#""UpdateTip""#,
        Data,
        "invalid type: unit variant, expected struct variant",
    ),
    (
        "u64 overflow",
        br#"{"BlockchainHeight":18446744073709551616}"#,
        Data,
        "invalid type: floating point `1.8446744073709552e19`, expected u64 at line 1 column 40",
    ),
    (
        "negative u64",
        br#"{"BlockchainHeight":-1}"#,
        Data,
        "invalid value: integer `-1`, expected u64 at line 1 column 22",
    ),
    (
        "u64 as 1.0",
        br#"{"BlockchainHeight":1.0}"#,
        Data,
        "invalid type: floating point `1.0`, expected u64 at line 1 column 23",
    ),
    (
        "u64 as 1e3",
        br#"{"BlockchainHeight":1e3}"#,
        Data,
        "invalid type: floating point `1000.0`, expected u64 at line 1 column 23",
    ),
    (
        "u64 as string",
        br#"{"BlockchainHeight":"1"}"#,
        Data,
        "invalid type: string \"1\", expected u64 at line 1 column 23",
    ),
    (
        "f64 null",
        br#"{"UtxoCommit":{"txid":"a","status":"b","ack_count":1,"total_weight":null,"timestamp":1,"reason":null}}"#,
        Data,
        "invalid type: null, expected f64 at line 1 column 72",
    ),
    (
        "byte array out of range",
        br#"{"BlockProposal":[256]}"#,
        Data,
        "invalid value: integer `256`, expected u8 at line 1 column 21",
    ),
    (
        "byte array as base64 string",
        br#"{"BlockProposal":"AQI="}"#,
        Data,
        "invalid type: string \"AQI=\", expected a sequence at line 1 column 23",
    ),
    (
        "lone surrogate escape",
        br#"{"GenesisBlock":"\ud800"}"#,
        Syntax,
        "unexpected end of hex escape at line 1 column 24",
    ),
    (
        "an envelope of the second protocol",
        br#"{"Notification":{"message":"Ping"}}"#,
        UnknownMessage,
        "unknown variant `Notification`UNKNOWN",
    ),
    (
        // Older releases of the JSON library point behind the text, this one at the byte.
        "invalid UTF-8 in a string",
        b"{\"GenesisBlock\":\"\xff\"}",
        Syntax,
        "invalid unicode code point at line 1 column 18",
    ),
];

fn message_probes() -> impl Iterator<Item = (&'static str, &'static [u8], Want)> {
    let read = READ.iter().map(|(case, text, want)| (*case, text.as_bytes(), Read(want)));
    read.chain(REFUSED.iter().map(|(case, text, fault, want)| (*case, *text, Refused(*fault, want))))
}

#[test]
fn messages_are_accepted_and_refused_as_by_legacy_nodes() {
    for (case, text, want) in message_probes() {
        match (NetworkMessage::decode(text), want) {
            (Ok(message), Read(want)) => assert_eq!(message.to_bytes().unwrap(), want, "{case}"),
            (Err(error), Refused(fault, want)) => {
                // Releases of the JSON library differ in how they print an exponent, in errors
                // only.
                let said = error.to_string().replace("e+", "e");
                let want = want.replace("UNKNOWN", LISTED);
                let same = if want.ends_with(LISTED) { said.starts_with(&want) } else { said == want };
                assert!(same, "{case}: {said}, not {want}");
                assert_eq!(error.fault(), fault, "{case}");
            }
            (got, _) => panic!("{case}: {got:?}"),
        }
    }
}

#[test]
fn deep_nesting_in_an_ignored_field_is_read() {
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let text = format!(r#"{{"UpdateTip":{{"height":1,"hash":"a","zzz":{nested}}}}}"#);
    NetworkMessage::decode(text.as_bytes()).unwrap();
}

#[test]
fn a_decode_error_quotes_the_peer_briefly_without_control_characters() {
    let name = format!("\u{1b}[31m\u{7}{}", "é".repeat(100_000));
    let text = serde_json::to_vec(&name).unwrap();
    let error = NetworkMessage::decode(&text).unwrap_err();
    let said = error.to_string();
    assert!(said.len() <= 303 && said.ends_with("..."), "{} bytes", said.len());
    assert!(!said.chars().any(char::is_control));
}

/// A handshake with only the fields that must be there, one of them replaced.
fn handshake(key: &str, value: Option<&str>) -> String {
    let fields = [
        ("version", r#""0.6.4-abc""#),
        ("protocol_version", "1"),
        ("network", r#""Testnet""#),
        ("listen_addr", r#""127.0.0.9:24100""#),
        ("timestamp", "1"),
        ("capabilities", "[]"),
    ];
    let replaced = fields.iter().any(|(name, _)| *name == key);
    let mut parts: Vec<String> = fields
        .iter()
        .filter_map(|(name, usual)| {
            let value = if *name == key { value? } else { usual };
            Some(format!(r#""{name}":{value}"#))
        })
        .collect();
    if let (false, Some(value)) = (replaced, value) {
        parts.push(format!(r#""{key}":{value}"#));
    }
    format!("{{{}}}", parts.join(","))
}

#[test]
fn handshakes_are_accepted_and_refused_as_by_legacy_nodes() {
    let many = format!("[{}]", vec![r#""x""#; 10_000].join(","));
    let other = format!(r#""{}""#, "ab".repeat(32));
    let fine = [
        ("", None),
        ("zzz", Some("[1,{}]")),
        ("commit_date", Some("null")),
        ("commit_count", Some("null")),
        ("wallet_address", Some("null")),
        ("genesis_hash", Some("null")),
        ("timestamp", Some("0")),
        ("listen_addr", Some(r#""[2001:db8::1]:24100""#)),
        ("listen_addr", Some(r#""0.0.0.0:24100""#)),
        ("version", Some(r#""""#)),
        ("capabilities", Some(many.as_str())),
        ("genesis_hash", Some(other.as_str())),
    ];
    for (key, value) in fine {
        let message = HandshakeMessage::decode(handshake(key, value).as_bytes())
            .unwrap_or_else(|error| panic!("{key} {value:?}: {error}"));
        assert_eq!(message.validate(NetworkType::Testnet), Ok(()), "{key} {value:?}");
        assert!(message.capabilities.len() <= HandshakeMessage::MAX_CAPABILITIES);
    }
    let mismatched = [
        ("network", r#""Mainnet""#, "Network mismatch: expected Testnet, got Mainnet"),
        ("protocol_version", "2", "Protocol version mismatch: expected 1, got 2"),
    ];
    for (key, value, want) in mismatched {
        let message = HandshakeMessage::decode(handshake(key, Some(value)).as_bytes()).unwrap();
        assert_eq!(message.validate(NetworkType::Testnet).unwrap_err().to_string(), want);
    }
    let refused = [
        ("commit_count", Some("5"), "invalid type: integer `5`, expected a string at line 1 column 144"),
        ("version", None, "missing field `version` at line 1 column 106"),
        ("capabilities", None, "missing field `capabilities` at line 1 column 110"),
        ("timestamp", None, "missing field `timestamp` at line 1 column 114"),
        ("timestamp", Some("-1"), "invalid value: integer `-1`, expected u64 at line 1 column 110"),
        (
            "network",
            Some(r#""testnet""#),
            "unknown variant `testnet`, expected `Mainnet` or `Testnet` at line 1 column 63",
        ),
        ("listen_addr", Some(r#""localhost:24100""#), "invalid socket address syntax at line 1 column 95"),
        ("listen_addr", Some(r#""127.0.0.9""#), "invalid socket address syntax at line 1 column 89"),
    ];
    for (key, value, want) in refused {
        let error = HandshakeMessage::decode(handshake(key, value).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), want, "{key} {value:?}");
        assert_eq!(error.fault(), Data);
    }
    // Those beyond the few that are kept must be text all the same.
    let mixed = format!("[{},7]", vec![r#""x""#; 20].join(","));
    assert!(HandshakeMessage::decode(handshake("capabilities", Some(&mixed)).as_bytes()).is_err());
    let twice = handshake("zzz", Some("0")).replace(r#""zzz":0"#, r#""timestamp":2"#);
    let error = HandshakeMessage::decode(twice.as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("duplicate field `timestamp`"), "{error}");
}
