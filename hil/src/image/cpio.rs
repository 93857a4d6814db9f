//! A writer of initramfs archives.
//!
//! Format: "newc" cpio as the kernel reads it, `Documentation/driver-api/early-userspace/buffer-format.rst`: a header
//! of 110 ASCII characters, the name and a zero byte, padding to four, the contents, padding to four; `TRAILER!!!` last.
//! Archives may follow each other in one file, each beginning at a multiple of four: that is how the image puts the
//! agent behind modules that are packed once.
//!
//! Invariants: the same calls give the same bytes (no clock, no host ids, inode numbers count up), everything belongs
//! to root. Directories are to be written before what is in them: the kernel doesn't make them.

use std::io::{self, Write};

/// `S_IFREG`.
const REGULAR: u32 = 0o100_000;
/// `S_IFDIR`.
const DIRECTORY: u32 = 0o040_000;
/// `S_IFCHR`.
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    last_inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, last_inode: 0 }
    }

    /// A directory with these permissions.
    pub(super) fn directory(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.entry(name, DIRECTORY | permissions, 2, (0, 0), &[])
    }

    /// A file with these permissions and contents.
    pub(super) fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | permissions, 1, (0, 0), contents)
    }

    /// A character device node (major, minor) with these permissions.
    pub(super) fn device(&mut self, name: &str, permissions: u32, number: (u32, u32)) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE | permissions, 1, number, &[])
    }

    /// Ends the archive and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.last_inode = u32::MAX; // the trailer's inode number is 0
        self.entry("TRAILER!!!", 0, 1, (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> io::Result<()> {
        if name.is_empty() || name.starts_with('/') || name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no archive name")));
        }
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is over 4 GiB"));
        let contents_bytes = u32::try_from(contents.len()).map_err(too_large)?;
        let name_bytes = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.last_inode = self.last_inode.wrapping_add(1);
        let fields = [
            self.last_inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // modification time
            contents_bytes,
            0, // device of the file, major and minor
            0,
            device.0,
            device.1,
            name_bytes,
            0, // checksum, unused with this magic
        ];
        let mut head = b"070701".to_vec();
        for field in fields {
            write!(head, "{field:08X}")?;
        }
        head.extend_from_slice(name.as_bytes());
        head.push(0);
        head.resize(head.len().next_multiple_of(4), 0);
        self.out.write_all(&head)?;
        self.out.write_all(contents)?;
        let padding = contents.len().next_multiple_of(4) - contents.len();
        self.out.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry, written down by hand from the format's description.
    fn by_hand(fields: [&str; 13], name_and_padding: &[u8], contents_and_padding: &[u8]) -> Vec<u8> {
        let mut bytes = b"070701".to_vec();
        bytes.extend(fields.concat().bytes());
        bytes.extend(name_and_padding);
        bytes.extend(contents_and_padding);
        bytes
    }

    const ZERO: &str = "00000000";

    #[test]
    fn an_archive_is_what_the_kernel_document_says() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev", 0o755).unwrap();
        archive.device("dev/console", 0o600, (5, 1)).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let written = archive.finish().unwrap();

        let z = ZERO;
        let dev = ["00000001", "000041ED", z, z, "00000002", z, z, z, z, z, z, "00000004", z];
        let console =
            ["00000002", "00002180", z, z, "00000001", z, z, z, z, "00000005", "00000001", "0000000C", z];
        let init = ["00000003", "000081ED", z, z, "00000001", z, "00000005", z, z, z, z, "00000005", z];
        let trailer = [z, z, z, z, "00000001", z, z, z, z, z, z, "0000000B", z];
        // 110 + name + 1 is to be a multiple of four.
        let expected = [
            by_hand(dev, b"dev\0\0\0", b""),
            by_hand(console, b"dev/console\0\0\0", b""),
            by_hand(init, b"init\0\0", b"hello\0\0\0"),
            by_hand(trailer, b"TRAILER!!!\0\0\0\0", b""),
        ]
        .concat();
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn an_archive_can_be_followed_by_another() {
        for size in 0..9 {
            let mut archive = Archive::new(Vec::new());
            archive.file("x", 0o644, &vec![1; size]).unwrap();
            assert_eq!(archive.finish().unwrap().len() % 4, 0);
        }
    }

    #[test]
    fn names_that_the_kernel_would_misread_are_refused() {
        for name in ["", "/init", "a\0b"] {
            assert!(Archive::new(Vec::new()).file(name, 0o644, b"").is_err(), "{name:?}");
        }
    }
}
