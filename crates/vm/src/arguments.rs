//! QEMU's arguments, as they are put together: of a virtual machine, and of a lab's nodes. Pure.

use std::path::Path;

/// Arguments, in order.
#[derive(Debug, Default)]
pub struct Arguments(pub Vec<String>);

impl Arguments {
    /// One that stands alone.
    pub fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    /// An option and its value.
    pub fn pair(&mut self, option: &str, value: impl Into<String>) -> &mut Self {
        self.0.extend([option.to_owned(), value.into()]);
        self
    }
}

/// A path as a value in a list of options ([`text`]).
pub fn value(path: &Path) -> String {
    text(&path.to_string_lossy())
}

/// A value in a list of options, `key=value,…`: a comma inside is doubled (QEMU's `qemu-options.hx`).
pub fn text(text: &str) -> String {
    text.replace(',', ",,")
}
