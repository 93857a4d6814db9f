//! Which keys hold secrets, and text with the secrets masked.
//!
//! The mask works on bare text, because a file with a syntax error is shown too, and that is when no parser can say what
//! is what. It prefers to mask too much.

/// Parts of key names, lower case, that mark a secret. `pass` also catches `AzureStackLCMAdminPasssword`, which is how
/// some of Microsoft's published files spell it.
const MARKS: [&str; 10] = [
    "pass",
    "pwd",
    "secret",
    "credential",
    "token",
    "accountkey",
    "storagekey",
    "apikey",
    "privatekey",
    "connectionstring",
];

/// Whether what stands under this key must not be shown.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    MARKS.iter().any(|mark| key.contains(mark))
}

/// The text with values under secret keys and control characters masked, byte for byte.
pub(crate) fn masked(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut position = 0;
    while position < bytes.len() {
        if !is_key_byte(bytes[position]) {
            position += 1;
            continue;
        }
        let end = (position..bytes.len()).find(|&i| !is_key_byte(bytes[i])).unwrap_or(bytes.len());
        // Key bytes are ASCII, so both ends are character boundaries.
        let key = &text[position..end];
        // A key written with escapes could be anything.
        position = if !is_secret_key(key) && !key.contains('\\') {
            end
        } else if let Some(value) = assigned_at(&bytes, end) {
            mask_value(&mut bytes, value)
        } else if is_header(&bytes, position, end) {
            mask_section(&mut bytes, end)
        } else {
            end
        };
    }
    mask_controls(&String::from_utf8_lossy(&bytes))
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$' | b'\\')
}

/// Whether the word is a TOML table's header: in square brackets.
fn is_header(bytes: &[u8], start: usize, end: usize) -> bool {
    let opened = bytes[..start].iter().rev().find(|byte| !matches!(byte, b' ' | b'"' | b'\''));
    let closed = bytes[end..].iter().find(|byte| !matches!(byte, b' ' | b'"' | b'\''));
    (opened, closed) == (Some(&b'['), Some(&b']'))
}

/// Masks all of a TOML table, up to the next header; returns where it ends.
fn mask_section(bytes: &mut [u8], header_end: usize) -> usize {
    let line_end = bytes[header_end..].iter().position(|byte| *byte == b'\n');
    let start = line_end.map_or(bytes.len(), |line_end| header_end + line_end);
    let next = bytes[start..].windows(2).position(|pair| pair == b"\n[");
    let end = next.map_or(bytes.len(), |next| start + next);
    for byte in bytes[start..end].iter_mut().filter(|byte| !byte.is_ascii_whitespace()) {
        *byte = b'*';
    }
    end
}

/// Where the value begins, if what ends at `position` is a key: after a quote, spaces and `:` or `=`.
fn assigned_at(bytes: &[u8], position: usize) -> Option<usize> {
    let mut rest = bytes[position..].iter().enumerate();
    if let Some(b'"' | b'\'') = bytes.get(position) {
        rest.next();
    }
    let (offset, byte) = rest.find(|(_, byte)| !byte.is_ascii_whitespace())?;
    matches!(byte, b':' | b'=').then_some(position + offset + 1)
}

/// Masks the value that begins at `start`; returns where it ends. Braces and line ends stay, so that the text keeps
/// its look; all that stands between quotes goes.
fn mask_value(bytes: &mut [u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut seen = false;
    let mut position = start;
    while position < bytes.len() {
        match bytes[position] {
            quote @ (b'"' | b'\'') => {
                position = mask_string(bytes, position, quote);
                seen = true;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return position,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return position + 1;
                }
            }
            b'\n' if depth == 0 && seen => return position,
            byte if byte.is_ascii_whitespace() || matches!(byte, b',' | b':' | b'=') => {}
            _ => {
                bytes[position] = b'*';
                seen = true;
            }
        }
        position += 1;
    }
    position
}

/// Masks what stands between quotes, single or triple; returns the place after the closing ones.
fn mask_string(bytes: &mut [u8], start: usize, quote: u8) -> usize {
    let triple = [quote; 3];
    let closing: &[u8] = if bytes[start..].starts_with(&triple) { &triple } else { &triple[..1] };
    let mut position = start + closing.len();
    while position < bytes.len() && !bytes[position..].starts_with(closing) {
        let escaped = bytes[position] == b'\\' && quote == b'"';
        for _ in 0..=usize::from(escaped) {
            if let Some(byte) = bytes.get_mut(position).filter(|byte| **byte != b'\n') {
                *byte = b'*';
            }
            position += 1;
        }
    }
    (position + closing.len()).min(bytes.len())
}

/// Replaces control characters that could steer a terminal by question marks, as many as they have bytes.
fn mask_controls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let line_end = character == '\r' && characters.peek() == Some(&'\n');
        if character.is_control() && !matches!(character, '\n' | '\t') && !line_end {
            shown.extend(std::iter::repeat_n('?', character.len_utf8()));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_masked_and_their_neighbours_are_not() {
        for (text, shown) in [
            (
                r#"{"localAdminPassword": {"value": "hunter2"}, "a": "b"}"#,
                r#"{"localAdminPassword": {"*****": "*******"}, "a": "b"}"#,
            ),
            (r#"{"adminPASSSWORD": "h\"2}", "a": 1}"#, r#"{"adminPASSSWORD": "*****", "a": 1}"#),
            ("password = \"hunter2\"\nname = \"x\"", "password = \"*******\"\nname = \"x\""),
            ("password = '''a\nb'''\nname = 1", "password = '''*\n*'''\nname = 1"),
            (r#"{"secret":"hunt"#, r#"{"secret":"****"#),
            (r#"{"p\u0061ss": "hunter2"}"#, r#"{"p\u0061ss": "*******"}"#),
            ("[[my.password]]\nx = \"y\"\n[zone]\na = 1", "[[my.password]]\n* * ***\n[zone]\na = 1"),
            ("// apiKey: hunter2 x\n{}", "// apiKey: ******* *\n{}"),
            (r#"{"x": "passport"}"#, r#"{"x": "passport"}"#),
            ("a\u{1b}[31m\r\n\u{9b}x", "a?[31m\r\n??x"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    proptest! {
        #[test]
        fn masking_keeps_every_place(text in any::<String>()) {
            prop_assert_eq!(masked(&text).len(), text.len());
        }

        #[test]
        fn no_secret_survives(secret in "[a-z{}\\[\\],:=' ]{4,12}", cut in 0..20_usize) {
            let text = format!(r#"{{"localAdminPassword": {{"value": "SSS{secret}SSS"}} }}"#);
            let shown = masked(&text[..text.len() - cut]);
            prop_assert!(!shown.contains("SSS"), "{}", shown);
        }
    }
}
