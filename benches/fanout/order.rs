//! Whether numbered messages come in order: looks for the numbers in the bytes, whatever frames they are in.

/// What stands before a number.
const MARK: &[u8] = br#""height":"#;
/// Numbers begin again at some point: one that is so much smaller is not late, it is of the next time round.
const ROUND: u64 = 45_000;

/// One peer's stream.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// What may be the beginning of a mark or of a number.
    rest: Vec<u8>,
    greatest: u64,
}

/// Of some bytes: how many messages, and how many of them came after a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) messages: u64,
    pub(crate) overtaken: u64,
}

impl Order {
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Found {
        self.rest.extend_from_slice(bytes);
        let (mut found, mut at) = (Found::default(), 0);
        loop {
            let unread = &self.rest[at..];
            let Some(place) = unread.windows(MARK.len()).position(|window| window == MARK) else {
                // The beginning of a mark may be the end of this.
                at += unread.len().saturating_sub(MARK.len() - 1);
                break;
            };
            let digits = &unread[place + MARK.len()..];
            let Some(end) = digits.iter().position(|byte| !byte.is_ascii_digit()) else {
                at += place;
                break;
            };
            let number = digits[..end].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            found.messages += 1;
            if number > self.greatest || self.greatest - number > ROUND {
                self.greatest = number;
            } else {
                found.overtaken += 1;
            }
            at += place + MARK.len() + end;
        }
        self.rest.drain(..at);
        found
    }
}
