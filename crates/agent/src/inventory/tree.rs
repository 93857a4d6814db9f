//! Small text files under `/sys` and `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

/// A file-system root: `/`, or a test's directory.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text without the space around it; `None` if it can't be read, is not text or is empty.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file with a number in it.
    pub(super) fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// A file's bytes.
    pub(super) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// What stands in a directory, sorted; empty if it is not there.
    pub(super) fn entries(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Where a path really leads.
    pub(super) fn real(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        self.path(path).canonicalize().ok()
    }

    /// The name of what a symbolic link leads to.
    pub(super) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.real(path)?.file_name()?.to_str()?.to_owned())
    }

    /// The PCI function that a device hangs on: the last part of its real path that is a PCI address.
    pub(super) fn pci_address(&self, device: impl AsRef<Path>) -> Option<String> {
        let real = self.real(device)?;
        let parts = real.components().rev().filter_map(|part| part.as_os_str().to_str());
        parts.into_iter().find(|part| is_pci_address(part)).map(str::to_owned)
    }
}

/// `0000:00:03.0`: domain (4 digits, more on some machines), bus, device, function.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pci_addresses_are_recognised() {
        for good in ["0000:00:03.0", "10000:e1:00.0", "0000:af:1f.7"] {
            assert!(is_pci_address(good), "{good}");
        }
        for bad in ["pci0000:00", "0000:00", "virtio0", "0000:00:03", "0000:00:03.10", "0000:00:03.0:1", ""] {
            assert!(!is_pci_address(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            is_pci_address(&text);
        }
    }
}
