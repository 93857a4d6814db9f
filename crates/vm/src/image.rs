//! Images of disks, read for what a virtual machine would see: raw, and QEMU's qcow2 (versions 2 and 3, `docs/interop/qcow2.rst` in QEMU's source).
//!
//! Purpose: [`Image`] over anything that can be read and sought in. Pure.
//!
//! Invariants: a file is not trusted. Whatever it says, no other file is opened (one with a backing file, or with its data elsewhere, is refused), nothing is read
//! twice as large as a table or a cluster may be, and nothing panics. Bytes that the file should have and has not are an error, never zeros: a file that was cut off is not an image.
//!
//! On failure: [`ImageError`].

mod qcow2;
#[cfg(test)]
mod tests;

use qcow2::Qcow2;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk, byte for byte.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// Why an image is not read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file can't be read, or ends before it should.
    #[error("the file can't be read at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it was said to be.
    #[error("it is no qcow2 image")]
    NotQcow2,
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// A version or a feature that is not read.
    #[error("{0} is not read")]
    Unsupported(&'static str),
    /// Something it says can't be so.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Somebody asked for what is behind its end.
    #[error("the disk has {size_bytes} bytes, and {end} were asked for")]
    BehindEnd {
        /// How large it is.
        size_bytes: u64,
        /// Where what was asked for ends.
        end: u64,
    },
}

impl ImageError {
    /// What to do about it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "make a plain one of it: `qemu-img convert -O qcow2 OLD NEW`",
            Self::NotQcow2 => "name what it is: `--format raw`",
            Self::Read { .. } | Self::Empty | Self::Damaged(_) | Self::BehindEnd { .. } => {
                "see that the file is whole: compare its checksum, or copy it again"
            }
        }
    }
}

/// A disk in a file.
#[derive(Debug)]
pub struct Image<F> {
    file: Bounded<F>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Raw,
    Qcow2(Qcow2),
}

impl<F: Read + Seek> Image<F> {
    /// Looks at a file. Without a format it is what its first bytes say; whoever has a raw one from a virtual machine's hands should name it.
    pub fn open(file: F, format: Option<Format>) -> Result<Self, ImageError> {
        let mut file = Bounded::new(file)?;
        if file.size == 0 {
            return Err(ImageError::Empty);
        }
        let is_qcow2 = qcow2::is_one(&mut file)?;
        let kind = match format {
            Some(Format::Raw) => Kind::Raw,
            Some(Format::Qcow2) if !is_qcow2 => return Err(ImageError::NotQcow2),
            None if !is_qcow2 => Kind::Raw,
            _ => Kind::Qcow2(Qcow2::open(&mut file)?),
        };
        Ok(Self { file, kind })
    }

    /// What it is.
    pub const fn format(&self) -> Format {
        match self.kind {
            Kind::Raw => Format::Raw,
            Kind::Qcow2(_) => Format::Qcow2,
        }
    }

    /// How large the disk is, bytes.
    pub const fn size_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Raw => self.file.size,
            Kind::Qcow2(image) => image.size_bytes,
        }
    }

    /// What the disk has at a place. Nothing of it may be behind the end.
    pub fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), ImageError> {
        let size_bytes = self.size_bytes();
        let end = at.saturating_add(into.len() as u64);
        if end > size_bytes {
            return Err(ImageError::BehindEnd { size_bytes, end });
        }
        match &mut self.kind {
            Kind::Raw => self.file.read(at, into),
            Kind::Qcow2(image) => image.read(&mut self.file, at, into),
        }
    }
}

/// A file of a known size.
#[derive(Debug)]
struct Bounded<F> {
    file: F,
    size: u64,
}

impl<F: Read + Seek> Bounded<F> {
    fn new(mut file: F) -> Result<Self, ImageError> {
        let size = file.seek(SeekFrom::End(0)).map_err(|source| ImageError::Read { at: 0, source })?;
        Ok(Self { file, size })
    }

    /// Whether these bytes are all in the file.
    fn holds(&self, at: u64, length: u64) -> bool {
        at.checked_add(length).is_some_and(|end| end <= self.size)
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), ImageError> {
        let failed = |source| ImageError::Read { at, source };
        self.file.seek(SeekFrom::Start(at)).map_err(failed)?;
        self.file.read_exact(into).map_err(failed)
    }
}
