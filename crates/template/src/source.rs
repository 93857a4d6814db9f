//! A template's text and name, from whatever bytes a file holds.
//!
//! Bytes may be UTF-8 with or without a byte order mark, or UTF-16 with one (what Windows PowerShell's `>` writes).
//! Places are byte positions in the decoded text without the mark.

use crate::{Format, Problem, Unreadable, secrets};
use std::fmt;
use std::path::Path;

/// Largest template in bytes. The largest cluster needs about ten thousand.
const SIZE_BYTES_MAX: usize = 1024 * 1024;

/// A template as text, with the name to call it by in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    /// An ARM template that gives defaults. Its places follow those of this text, one byte apart.
    beside: Option<Box<Source>>,
}

/// Leaves the text out: it may hold passwords.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .field("bytes", &self.text.len())
            .field("beside", &self.beside)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// The most bytes that [`Source::from_bytes`] takes; a caller need not read more than one beyond it.
    pub const SIZE_BYTES_MAX: usize = SIZE_BYTES_MAX;

    /// A source from text; a byte order mark at its start is dropped.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Self { name: name.into(), text, beside: None }
    }

    /// This parameters file with the ARM template that it is for. A place past the end of this text is one in the template.
    #[must_use]
    pub fn beside(self, template: Self) -> Self {
        Self { beside: Some(Box::new(template)), ..self }
    }

    /// The ARM template, and where its places begin.
    pub(crate) fn arm_template(&self) -> Option<(&Self, usize)> {
        self.beside.as_deref().map(|template| (template, self.text.len() + 1))
    }

    /// Which of the files a place is in, and where its places begin.
    pub(crate) fn file_at(&self, position: usize) -> (&Self, usize) {
        self.arm_template().filter(|(_, base)| position >= *base).unwrap_or((self, 0))
    }

    /// The name of the file that a place is in.
    pub fn name_at(&self, position: usize) -> &str {
        &self.file_at(position).0.name
    }

    /// A source from a file's bytes.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, Unreadable> {
        let problem = |message: String| Unreadable::new(name, vec![Problem::new(message, None)]);
        if bytes.len() > SIZE_BYTES_MAX {
            return Err(problem(format!("larger than {SIZE_BYTES_MAX} bytes, so it is no template")));
        }
        let decoded = match bytes {
            [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
            [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
            _ => match std::str::from_utf8(bytes) {
                Ok(text) => Some(text.to_owned()),
                Err(error) => {
                    return Err(problem(format!(
                        "not text: the byte at position {} is not valid UTF-8",
                        error.valid_up_to()
                    )));
                }
            },
        };
        match decoded {
            Some(text) if text.contains('\0') => Err(problem("not text: it contains zero bytes".to_owned())),
            Some(text) => Ok(Self::new(name, text)),
            None => Err(problem("not text: it starts like UTF-16 and is not valid UTF-16".to_owned())),
        }
    }

    /// Bytes from the beginning of the file that a place is in.
    pub fn offset_at(&self, position: usize) -> usize {
        position - self.file_at(position).1
    }

    /// What to call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is nothing to show of it.
    #[cfg(feature = "render")]
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text with every secret value and control character masked, each byte for a byte, so that places still hold.
    /// The only form in which the text may be shown.
    pub fn shown(&self) -> String {
        secrets::masked(&self.text)
    }

    /// Line and column, from 1, of a byte position; the column counts characters.
    pub fn line_column(&self, position: usize) -> (usize, usize) {
        let (file, base) = self.file_at(position);
        let position = floor_boundary(&file.text, position - base);
        let before = &file.text[..position];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Which input this is: by its first character, else by the name's extension, else TOML.
    pub fn format(&self) -> Format {
        let start = self.text.trim_start();
        let extension = Path::new(&self.name).extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let json_start = ["{", "//", "/*"].iter().any(|opening| start.starts_with(opening));
        match extension.as_deref() {
            _ if json_start => Format::Arm,
            Some("json" | "jsonc" | "json5") => Format::Arm,
            _ => Format::Toml,
        }
    }
}

/// The largest character boundary that is not past `position`.
pub(crate) fn floor_boundary(text: &str, position: usize) -> usize {
    let mut floor = position.min(text.len());
    while !text.is_char_boundary(floor) {
        floor -= 1;
    }
    floor
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
    if rest.is_empty() { String::from_utf16(&units).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_whoever_wrote_it() {
        let utf16: Vec<u8> =
            [0xff, 0xfe].into_iter().chain("{}".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        for bytes in [&b"{}"[..], b"\xef\xbb\xbf{}", &utf16] {
            assert_eq!(Source::from_bytes("x", bytes).unwrap().text(), "{}");
        }
        for bytes in [&b"\x7fELF\x80\xff"[..], b"{\0}", b"\xff\xfe\0", &vec![b' '; SIZE_BYTES_MAX + 1]] {
            assert!(Source::from_bytes("x", bytes).is_err());
        }
    }

    #[test]
    fn the_format_is_what_the_content_says_then_the_name() {
        for (name, text, format) in [
            ("a.toml", "name = 1", Format::Toml),
            ("a.json", "", Format::Arm),
            ("a", " \n{", Format::Arm),
            ("a.txt", "// note\n{", Format::Arm),
            ("a.toml", "{", Format::Arm),
            ("a", "[x]", Format::Toml),
        ] {
            assert_eq!(Source::new(name, text).format(), format, "{name} {text:?}");
        }
    }

    #[test]
    fn debug_output_has_no_text() {
        assert!(!format!("{:?}", Source::new("a", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let source = Source::new("a", "ä\nöx");
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column(5), (2, 2));
        assert_eq!(source.line_column(999), (2, 3));
    }
}
