//! Netlink attributes as bytes, for messages that the netlink library does not know. Pure.
//!
//! Layout (`struct nlattr`, `uapi/linux/netlink.h`): length with this header, kind with two flags, value, padding to four bytes;
//! numbers in the machine's own order.
//!
//! Invariants: what is read is somebody else's: it ends where it makes no sense, and never panics.

use rtnetlink::packet_core::{NLA_F_NESTED, NLA_TYPE_MASK};

const HEADER_BYTES: usize = 4;

/// Adds an attribute. Values here are far shorter than the 65,531 bytes that its length can say.
pub(super) fn put(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
    buffer.extend(length.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// Adds a string with its end.
pub(super) fn put_text(buffer: &mut Vec<u8>, kind: u16, text: &str) {
    put(buffer, kind, &[text.as_bytes(), &[0]].concat());
}

/// Adds attributes inside one.
pub(super) fn put_nest(buffer: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(buffer, kind | NLA_F_NESTED, &inner);
}

/// The attributes in these bytes: kind without flags, and value.
pub(super) fn read(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_of(bytes.get(..2)?)?);
        let kind = u16_of(bytes.get(2..HEADER_BYTES)?)? & NLA_TYPE_MASK;
        let value = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes).find(|(of, _)| *of == kind).map(|(_, value)| value)
}

pub(super) fn u16_of(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// A string up to its end.
pub(super) fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_put_is_read() {
        let mut buffer = Vec::new();
        put(&mut buffer, 1, &[7]);
        put_nest(&mut buffer, 2, |inner| put_text(inner, 3, "ets"));
        assert_eq!(buffer[..8], [5, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(buffer[8..], [12, 0, 2, 0x80, 8, 0, 3, 0, b'e', b't', b's', 0]);
        assert_eq!(find(&buffer, 1), Some(&[7][..]));
        assert_eq!(find(&buffer, 2).and_then(|inner| find(inner, 3)).and_then(text_of), Some("ets"));
        assert_eq!(find(&buffer, 4), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_reading_ends(bytes: Vec<u8>) {
            prop_assert!(read(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }
    }
}
