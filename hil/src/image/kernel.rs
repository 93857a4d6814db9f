//! From Debian's `vmlinuz` to the kernel that QEMU enters directly.
//!
//! A bzImage unpacks itself in the guest, which takes an emulated processor more than two seconds. The ELF kernel
//! inside it, given to QEMU's `-kernel`, is entered by the PVH protocol and saves them. The payload's place is in the
//! boot header: `Documentation/arch/x86/boot.rst` (`setup_sects`, `payload_offset`, `payload_length`; protocol 2.08 on).
//!
//! On failure: the error says what about the file isn't as expected; nothing is guessed.

use super::compression::{self, UnpackError};
use super::elf::{self, ElfError};

/// Offset of `setup_sects`, the number of 512-byte sectors of real-mode code after the first.
const SETUP_SECTS: usize = 0x1f1;
/// Offset of the two bytes 55 AA.
const BOOT_FLAG: usize = 0x1fe;
/// Offset of the letters `HdrS`.
const HEADER_MAGIC: usize = 0x202;
/// Offset of the boot protocol's version.
const PROTOCOL_VERSION: usize = 0x206;
/// Offset of the payload's offset from the end of the real-mode code.
const PAYLOAD_OFFSET: usize = 0x248;
/// Offset of the payload's length.
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first protocol version that has a payload offset.
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;
/// Bytes of a sector.
const SECTOR_BYTES: usize = 512;

/// A kernel file is not what can be booted here.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No bzImage.
    #[error("it is no bzImage")]
    NotBzImage,
    /// The boot protocol is older than the payload fields.
    #[error("its boot protocol {}.{:02} has no payload offset (2.08 has)", version >> 8, version & 0xff)]
    OldProtocol {
        /// The version, high byte major.
        version: u16,
    },
    /// The payload lies outside the file.
    #[error("its payload lies outside the file")]
    PayloadOutside,
    /// The payload can't be unpacked.
    #[error("its payload cannot be unpacked")]
    Payload(#[source] UnpackError),
    /// The payload's size isn't the one that is written behind it.
    #[error("its payload unpacks to {found_bytes} bytes where it says {expected_bytes}")]
    PayloadSize {
        /// What the file says.
        expected_bytes: u64,
        /// What came out.
        found_bytes: u64,
    },
    /// The payload is no kernel.
    #[error("its payload is damaged")]
    Elf(#[source] ElfError),
    /// The kernel was built without `CONFIG_PVH`.
    #[error("it cannot be entered directly: it has no PVH note (CONFIG_PVH)")]
    NoPvh,
}

/// The kernel inside a bzImage, reduced to what is loaded.
pub(super) fn direct_boot_kernel(bz_image: &[u8]) -> Result<Vec<u8>, KernelError> {
    let payload = payload(bz_image)?;
    // The build appends the unpacked size to every format (`scripts/Makefile.lib`, size_append).
    let (packed, size) = payload.split_last_chunk::<4>().ok_or(KernelError::PayloadOutside)?;
    let kernel = compression::unpack(packed).map_err(KernelError::Payload)?;
    let (expected_bytes, found_bytes) = (u64::from(u32::from_le_bytes(*size)), kernel.len() as u64);
    if expected_bytes != found_bytes {
        return Err(KernelError::PayloadSize { expected_bytes, found_bytes });
    }
    if !elf::has_pvh_entry(&kernel).map_err(KernelError::Elf)? {
        return Err(KernelError::NoPvh);
    }
    elf::loadable_only(&kernel).map_err(KernelError::Elf)
}

/// The packed kernel and its appended size.
fn payload(bz_image: &[u8]) -> Result<&[u8], KernelError> {
    let bytes = |at: usize, count: usize| bz_image.get(at..at + count).ok_or(KernelError::NotBzImage);
    let word = |at| bytes(at, 4).map(|b| b.iter().rev().fold(0usize, |n, &byte| n << 8 | usize::from(byte)));
    if bytes(BOOT_FLAG, 2)? != [0x55, 0xaa] || bytes(HEADER_MAGIC, 4)? != b"HdrS" {
        return Err(KernelError::NotBzImage);
    }
    let version = bytes(PROTOCOL_VERSION, 2)?;
    let version = u16::from(version[1]) << 8 | u16::from(version[0]);
    if version < PROTOCOL_WITH_PAYLOAD {
        return Err(KernelError::OldProtocol { version });
    }
    // Zero stands for four, for old boot loaders' sake.
    let setup_sectors = match bytes(SETUP_SECTS, 1)?[0] {
        0 => 4,
        count => usize::from(count),
    };
    // All four numbers are below 2^32: their sum fits.
    let start = (setup_sectors + 1) * SECTOR_BYTES + word(PAYLOAD_OFFSET)?;
    let end = start + word(PAYLOAD_LENGTH)?;
    bz_image.get(start..end).ok_or(KernelError::PayloadOutside)
}

#[cfg(test)]
mod tests {
    use super::super::compression::tests as packed;
    use super::super::elf::tests::{elf, note};
    use super::*;
    use proptest::prelude::*;

    /// A bzImage around that payload, the size appended.
    fn bz_image(payload: &[u8], unpacked_bytes: usize) -> Vec<u8> {
        let (setup_sectors, offset) = (2u8, 100u32);
        let mut file = vec![0; 3 * SECTOR_BYTES + 100];
        file[SETUP_SECTS] = setup_sectors;
        file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
        file[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        file[PROTOCOL_VERSION..PROTOCOL_VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&offset.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file.extend_from_slice(payload);
        file.extend(u32::try_from(unpacked_bytes).unwrap().to_le_bytes());
        file.extend_from_slice(b"behind the payload");
        file
    }

    #[test]
    fn the_kernel_comes_out_of_the_image() {
        let notes = note(b"Xen\0", 18);
        let kernel = elf(&[(1, b"code"), (4, &notes)], &[]);
        let out = direct_boot_kernel(&bz_image(&kernel, kernel.len())).unwrap();
        assert_eq!(elf::has_pvh_entry(&out), Ok(true));
        assert!(out.windows(4).any(|bytes| bytes == b"code"));
    }

    #[test]
    fn no_setup_sectors_means_four() {
        let mut file = bz_image(packed::LZ4, 9);
        file[SETUP_SECTS] = 0;
        file.splice(3 * SECTOR_BYTES..3 * SECTOR_BYTES, [0; 2 * SECTOR_BYTES]);
        assert!(payload(&file).unwrap().starts_with(packed::LZ4));
    }

    #[test]
    fn a_payload_is_unpacked_and_must_be_a_kernel() {
        let error = direct_boot_kernel(&bz_image(packed::XZ, 9)).unwrap_err();
        assert!(matches!(error, KernelError::Elf(ElfError::NotElf64)), "{error}");
    }

    #[test]
    fn a_size_that_does_not_agree_is_damage() {
        let error = direct_boot_kernel(&bz_image(packed::LZ4, 10)).unwrap_err();
        assert_eq!(error.to_string(), "its payload unpacks to 9 bytes where it says 10");
    }

    #[test]
    fn a_kernel_without_the_direct_entry_is_refused() {
        let kernel = elf(&[(1, b"code")], &[]);
        let error = direct_boot_kernel(&bz_image(&kernel, kernel.len())).unwrap_err();
        assert!(matches!(error, KernelError::NoPvh), "{error}");
    }

    #[test]
    fn what_is_no_bz_image_is_refused() {
        assert!(matches!(direct_boot_kernel(b""), Err(KernelError::NotBzImage)));
        assert!(matches!(direct_boot_kernel(&[0; 4096]), Err(KernelError::NotBzImage)));
        let mut old = bz_image(b"", 0);
        old[PROTOCOL_VERSION] = 0x07;
        let error = direct_boot_kernel(&old).unwrap_err();
        assert_eq!(error.to_string(), "its boot protocol 2.07 has no payload offset (2.08 has)");
        let mut short = bz_image(packed::XZ, 9);
        short.truncate(3 * SECTOR_BYTES + 110);
        assert!(matches!(direct_boot_kernel(&short), Err(KernelError::PayloadOutside)));
    }

    proptest! {
        #[test]
        fn no_header_panics_the_reader(
            fields in proptest::collection::vec(any::<u8>(), 0x60),
            length in 0usize..4096,
        ) {
            let mut file = bz_image(packed::LZ4, 9);
            file[SETUP_SECTS..SETUP_SECTS + 0x60].copy_from_slice(&fields);
            file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
            file[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
            file.truncate(length);
            let _ = direct_boot_kernel(&file);
        }
    }
}
