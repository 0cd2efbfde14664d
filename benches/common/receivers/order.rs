//! Whether numbered messages arrive in order. Finds the numbers in the bytes, whatever frames
//! surround them.

/// What stands before a number.
const MARK: &[u8] = br#""height":"#;
/// Numbers start again at some point: a number that is smaller by more than this belongs to the next
/// cycle and is not late.
const MAX_STEP_BACK: u64 = 45_000;

/// The numbers of one connection.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Unread bytes: the beginning of a mark or of a number.
    rest: Vec<u8>,
    greatest: u64,
}

/// What some bytes contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) messages: u64,
    /// Messages that came after a later one.
    pub(crate) overtaken: u64,
}

impl Order {
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Numbered {
        self.rest.extend_from_slice(bytes);
        let (mut found, mut at) = (Numbered::default(), 0);
        loop {
            let unread = &self.rest[at..];
            let Some(mark) = unread.windows(MARK.len()).position(|window| window == MARK) else {
                // The last bytes may be the beginning of a mark.
                at += unread.len().saturating_sub(MARK.len() - 1);
                break;
            };
            let digits = &unread[mark + MARK.len()..];
            let Some(end) = digits.iter().position(|byte| !byte.is_ascii_digit()) else {
                at += mark;
                break;
            };
            let number = digits[..end].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            found.messages += 1;
            if number > self.greatest || self.greatest - number > MAX_STEP_BACK {
                self.greatest = number;
            } else {
                found.overtaken += 1;
            }
            at += mark + MARK.len() + end;
        }
        self.rest.drain(..at);
        found
    }
}
