//! Unpacking what kernel packages hold: the kernel's payload and, from Debian 13 on, its modules.
//!
//! On failure: a format that isn't read here is named; damaged or overlong data is an error.

use std::io::{self, Read};

/// More than any kernel: what unpacks to more is not one.
const UNPACKED_MAX_BYTES: u64 = 1 << 30;

/// The most memory that an XZ decoder may take: kernels are packed with dictionaries of up to 128 MiB
/// (`scripts/xz_wrap.sh`).
const XZ_MEMORY_MAX_KIB: u32 = 160 << 10;

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Not at all: an ELF file.
    Elf,
    /// `.xz` file format.
    Xz,
    /// LZ4's legacy frames, the only ones the kernel's build makes.
    Lz4,
    /// A format that is known by name only.
    Foreign(&'static str),
}

/// Packed bytes could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The format isn't read here.
    #[error("it is packed with {format}, which is not supported (xz and lz4 are)")]
    Unsupported {
        /// The format's name.
        format: &'static str,
    },
    /// The decoder gave up.
    #[error("its packed data is damaged")]
    Damaged {
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// It unpacks to more than anything that is expected here.
    #[error("it unpacks to more than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
}

/// Tells the format by its first bytes (the table of the kernel's `lib/decompress.c`).
pub(super) fn format(packed: &[u8]) -> Format {
    const MAGIC: [(&[u8], Format); 9] = [
        (b"\x7fELF", Format::Elf),
        (b"\xfd7zXZ\0", Format::Xz),
        (b"\x02\x21\x4c\x18", Format::Lz4),
        (b"\x28\xb5\x2f\xfd", Format::Foreign("zstd")),
        (b"\x1f\x8b", Format::Foreign("gzip")),
        (b"\x1f\x9e", Format::Foreign("gzip")),
        (b"BZh", Format::Foreign("bzip2")),
        (b"\x89LZO", Format::Foreign("lzo")),
        (b"\x5d\x00\x00", Format::Foreign("lzma")),
    ];
    let known = MAGIC.iter().find(|(magic, _)| packed.starts_with(magic));
    known.map_or(Format::Foreign("a format that nobody knows"), |(_, format)| *format)
}

/// Unpacks; what isn't packed is given back as it is.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    match format(packed) {
        Format::Elf => Ok(packed.to_vec()),
        Format::Xz => read_bounded(lzma_rust2::XzReader::new_mem_limit(packed, false, XZ_MEMORY_MAX_KIB)),
        Format::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(packed)),
        Format::Foreign(format) => Err(UnpackError::Unsupported { format }),
    }
}

fn read_bounded(decoder: impl Read) -> Result<Vec<u8>, UnpackError> {
    let mut unpacked = Vec::new();
    let read = decoder.take(UNPACKED_MAX_BYTES + 1).read_to_end(&mut unpacked);
    match read {
        Ok(count) if count as u64 > UNPACKED_MAX_BYTES => {
            Err(UnpackError::TooLarge { limit_bytes: UNPACKED_MAX_BYTES })
        }
        Ok(_) => Ok(unpacked),
        Err(source) => Err(UnpackError::Damaged { source }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `"twinrack\n"` as `xz --check=crc32 --x86 --lzma2=dict=1MiB` packs it, as the kernel's `scripts/xz_wrap.sh` does.
    pub(in crate::image) const XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00, 0x21,
        0x01, 0x10, 0x00, 0x8b, 0x21, 0x6f, 0x49, 0x01, 0x00, 0x08, 0x74, 0x77, 0x69, 0x6e, 0x72, 0x61, 0x63,
        0x6b, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x20, 0x74, 0xc6, 0xed, 0x00, 0x01, 0x1d, 0x09, 0x93, 0x61, 0x36,
        0xa6, 0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
    ];

    /// `"twinrack\n"` as `lz4 -l` packs it.
    pub(in crate::image) const LZ4: &[u8] =
        &[0x02, 0x21, 0x4c, 0x18, 10, 0, 0, 0, 0x90, b't', b'w', b'i', b'n', b'r', b'a', b'c', b'k', b'\n'];

    #[test]
    fn both_formats_are_unpacked() {
        assert_eq!(unpack(XZ).unwrap(), b"twinrack\n");
        assert_eq!(unpack(LZ4).unwrap(), b"twinrack\n");
        assert_eq!(unpack(b"\x7fELFx").unwrap(), b"\x7fELFx");
    }

    #[test]
    fn a_format_that_is_not_read_is_named() {
        let error = unpack(b"\x28\xb5\x2f\xfd and so on").unwrap_err();
        assert_eq!(error.to_string(), "it is packed with zstd, which is not supported (xz and lz4 are)");
    }

    #[test]
    fn half_a_file_is_damage() {
        assert!(matches!(unpack(&XZ[..XZ.len() / 2]), Err(UnpackError::Damaged { .. })));
        assert!(matches!(unpack(&LZ4[..12]), Err(UnpackError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoders(tail in proptest::collection::vec(any::<u8>(), 0..200), xz: bool) {
            let mut packed = if xz { XZ[..12].to_vec() } else { LZ4[..4].to_vec() };
            packed.extend(tail);
            let _ = unpack(&packed);
        }
    }
}
