//! The little of ELF that the node image needs: a module's `.modinfo`, what a kernel loads, whether a program is static.
//!
//! Format: System V ABI, chapters 4 and 5 (`elf.h`); 64-bit little-endian only, which is what x86-64 is. The note that
//! lets QEMU boot a kernel directly is `XEN_ELFNOTE_PHYS32_ENTRY` (`include/xen/interface/elfnote.h`).
//!
//! On failure: bytes that are not what they claim to be give a typed error, never a panic; every offset is checked.

use std::ops::Range;

/// Size of the ELF header (`Elf64_Ehdr`).
const HEADER_BYTES: usize = 64;
/// Size of one program header (`Elf64_Phdr`).
const PROGRAM_HEADER_BYTES: usize = 56;
/// Size of one section header (`Elf64_Shdr`).
const SECTION_HEADER_BYTES: usize = 64;
/// What the loader maps.
const PT_LOAD: u32 = 1;
/// The dynamic linker's path.
const PT_INTERP: u32 = 3;
/// Notes.
const PT_NOTE: u32 = 4;
/// A section without bytes in the file.
const SHT_NOBITS: u32 = 8;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of the PVH boot protocol.
const NOTE_PVH_ENTRY: u32 = 18;
/// Alignment of the segments in a file that [`loadable_only`] writes.
const PAGE_BYTES: usize = 4096;

/// The bytes are no ELF file of the kind that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Another kind of file.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf64,
    /// An offset or length points outside the file.
    #[error("{what} lies outside the file")]
    OutOfBounds {
        /// What was to be read.
        what: &'static str,
    },
}

fn bytes_at<'a>(file: &'a [u8], range: Range<u64>, what: &'static str) -> Result<&'a [u8], ElfError> {
    let index = |offset: u64| usize::try_from(offset).ok();
    let (start, end) = (index(range.start), index(range.end));
    start.zip(end).and_then(|(start, end)| file.get(start..end)).ok_or(ElfError::OutOfBounds { what })
}

/// `length` bytes from `offset` on.
pub(super) fn slice<'a>(
    file: &'a [u8],
    offset: u64,
    length: u64,
    what: &'static str,
) -> Result<&'a [u8], ElfError> {
    let end = offset.checked_add(length).ok_or(ElfError::OutOfBounds { what })?;
    bytes_at(file, offset..end, what)
}

/// Little-endian numbers out of a slice that is known to be long enough.
fn u16_in(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}
pub(super) fn u32_in(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}
pub(super) fn u64_in(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn header(file: &[u8]) -> Result<&[u8], ElfError> {
    let header = file.get(..HEADER_BYTES).ok_or(ElfError::NotElf64)?;
    // EI_MAG, then EI_CLASS = ELFCLASS64, EI_DATA = ELFDATA2LSB.
    if header.starts_with(b"\x7fELF\x02\x01") { Ok(header) } else { Err(ElfError::NotElf64) }
}

/// The table of `count` entries of `entry_bytes` each, as slices of one entry.
fn table<'a>(
    file: &'a [u8],
    offset: u64,
    count: u16,
    entry_bytes: usize,
    what: &'static str,
) -> Result<std::slice::ChunksExact<'a, u8>, ElfError> {
    let length = u64::from(count) * entry_bytes as u64;
    Ok(slice(file, offset, length, what)?.chunks_exact(entry_bytes))
}

pub(super) fn program_headers(file: &[u8]) -> Result<std::slice::ChunksExact<'_, u8>, ElfError> {
    let header = header(file)?;
    table(file, u64_in(header, 32), u16_in(header, 56), PROGRAM_HEADER_BYTES, "the program header table")
}

/// The bytes of the first section of that name, or `None` when there is none.
pub(super) fn section<'a>(file: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, ElfError> {
    let header = header(file)?;
    let mut sections =
        table(file, u64_in(header, 40), u16_in(header, 60), SECTION_HEADER_BYTES, "the section table")?;
    let names_index = usize::from(u16_in(header, 62));
    let Some(names_header) = sections.clone().nth(names_index) else { return Ok(None) };
    let names = slice(file, u64_in(names_header, 24), u64_in(names_header, 32), "the section name table")?;
    let has_name = |section: &&[u8]| {
        let start = usize::try_from(u32_in(section, 0)).unwrap_or(usize::MAX);
        names
            .get(start..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    };
    let Some(found) = sections.find(has_name) else { return Ok(None) };
    if u32_in(found, 4) == SHT_NOBITS {
        return Ok(None);
    }
    slice(file, u64_in(found, 24), u64_in(found, 32), "a section").map(Some)
}

/// Whether the program needs no dynamic linker: it can be the only file on its machine.
pub(super) fn is_static(file: &[u8]) -> Result<bool, ElfError> {
    Ok(program_headers(file)?.all(|segment| u32_in(segment, 0) != PT_INTERP))
}

/// Whether the kernel says where the PVH boot protocol enters it.
pub(super) fn has_pvh_entry(file: &[u8]) -> Result<bool, ElfError> {
    for segment in program_headers(file)?.filter(|segment| u32_in(segment, 0) == PT_NOTE) {
        let notes = slice(file, u64_in(segment, 8), u64_in(segment, 32), "a note segment")?;
        if notes_have(notes, b"Xen\0", NOTE_PVH_ENTRY) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of the notes has that owner and type (`Elf64_Nhdr`: three words, then name and descriptor, padded to 4).
fn notes_have(mut notes: &[u8], owner: &[u8], kind: u32) -> bool {
    while notes.len() >= 12 {
        let length = |at| usize::try_from(u32_in(notes, at)).unwrap_or(usize::MAX);
        let (name_bytes, descriptor_bytes) = (length(0), length(4));
        let name = 12usize.checked_add(name_bytes).and_then(|end| notes.get(12..end));
        if name == Some(owner) && u32_in(notes, 8) == kind {
            return true;
        }
        let padded = |bytes: usize| bytes.checked_next_multiple_of(4);
        let next = padded(name_bytes)
            .zip(padded(descriptor_bytes))
            .and_then(|(name, descriptor)| name.checked_add(descriptor)?.checked_add(12));
        match next.and_then(|next| notes.get(next..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

/// The same program with nothing but what is loaded, and the notes: no sections, no zeros at a segment's end (a loader
/// fills up to the segment's size in memory), nothing after it.
///
/// A kernel image carries its relocation table and its zeroed data in full: a third of the file.
pub(super) fn loadable_only(file: &[u8]) -> Result<Vec<u8>, ElfError> {
    let mut segments = Vec::new();
    for segment in program_headers(file)? {
        if matches!(u32_in(segment, 0), PT_LOAD | PT_NOTE) {
            let bytes = slice(file, u64_in(segment, 8), u64_in(segment, 32), "a segment")?;
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            segments.push((segment, &bytes[..used]));
        }
    }
    let mut out = header(file)?.to_vec();
    out[32..40].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes()); // e_phoff
    out[40..48].fill(0); // e_shoff
    let count = u16::try_from(segments.len()).map_err(|_| ElfError::OutOfBounds { what: "a segment" })?;
    out[56..58].copy_from_slice(&count.to_le_bytes());
    out[58..64].fill(0); // e_shentsize, e_shnum, e_shstrndx
    let mut next = (HEADER_BYTES + segments.len() * PROGRAM_HEADER_BYTES).next_multiple_of(PAGE_BYTES);
    for (segment, bytes) in &segments {
        let mut entry = segment.to_vec();
        entry[8..16].copy_from_slice(&(next as u64).to_le_bytes()); // p_offset
        entry[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes()); // p_filesz
        out.extend(entry);
        next = (next + bytes.len()).next_multiple_of(PAGE_BYTES);
    }
    for (_, bytes) in &segments {
        out.resize(out.len().next_multiple_of(PAGE_BYTES), 0);
        out.extend_from_slice(bytes);
    }
    Ok(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ELF file with these segments (type, bytes) and sections (name, bytes).
    pub(in crate::image) fn elf(segments: &[(u32, &[u8])], sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut names = vec![0u8];
        let mut body = Vec::new();
        let body_start = HEADER_BYTES + segments.len() * PROGRAM_HEADER_BYTES;
        let mut program_table = Vec::new();
        for (kind, bytes) in segments {
            let mut entry = vec![0; PROGRAM_HEADER_BYTES];
            entry[0..4].copy_from_slice(&kind.to_le_bytes());
            entry[8..16].copy_from_slice(&((body_start + body.len()) as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            entry[40..48].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            program_table.extend(entry);
            body.extend_from_slice(bytes);
        }
        let mut section_table = vec![0; SECTION_HEADER_BYTES];
        let with_names = sections.iter().copied().chain([(".shstrtab", &[][..])]);
        for (name, bytes) in with_names {
            let mut entry = vec![0; SECTION_HEADER_BYTES];
            entry[0..4].copy_from_slice(&u32::try_from(names.len()).unwrap().to_le_bytes());
            entry[4..8].copy_from_slice(&1u32.to_le_bytes());
            names.extend(name.bytes().chain([0]));
            let own = if name == ".shstrtab" { names.clone() } else { bytes.to_vec() };
            entry[24..32].copy_from_slice(&((body_start + body.len()) as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(own.len() as u64).to_le_bytes());
            body.extend(own);
            section_table.extend(entry);
        }
        let mut file = vec![0; HEADER_BYTES];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        file[40..48].copy_from_slice(&((body_start + body.len()) as u64).to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        file[60..62].copy_from_slice(&u16::try_from(sections.len() + 2).unwrap().to_le_bytes());
        file[62..64].copy_from_slice(&u16::try_from(sections.len() + 1).unwrap().to_le_bytes());
        file.extend(program_table);
        file.extend(body);
        file.extend(section_table);
        file
    }

    /// A note segment's bytes.
    pub(in crate::image) fn note(owner: &[u8], kind: u32) -> Vec<u8> {
        let mut note = u32::try_from(owner.len()).unwrap().to_le_bytes().to_vec();
        note.extend(8u32.to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(owner);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(0x0100_0000u64.to_le_bytes());
        note
    }

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        let file = elf(&[], &[(".modinfo.x", b"no"), (".modinfo", b"name=x\0")]);
        assert_eq!(section(&file, ".modinfo"), Ok(Some(&b"name=x\0"[..])));
        assert_eq!(section(&file, ".text"), Ok(None));
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        assert_eq!(is_static(&elf(&[(PT_LOAD, b"code")], &[])), Ok(true));
        assert_eq!(is_static(&elf(&[(PT_LOAD, b"code"), (PT_INTERP, b"/lib/ld.so\0")], &[])), Ok(false));
    }

    #[test]
    fn the_pvh_note_is_found_behind_others() {
        let mut notes = note(b"GNU\0", 3);
        notes.extend(note(b"Xen\0", 5));
        assert_eq!(has_pvh_entry(&elf(&[(PT_NOTE, &notes)], &[])), Ok(false));
        notes.extend(note(b"Xen\0", NOTE_PVH_ENTRY));
        assert_eq!(has_pvh_entry(&elf(&[(PT_NOTE, &notes)], &[])), Ok(true));
    }

    #[test]
    fn what_is_loaded_stays_and_the_rest_goes() {
        let notes = note(b"Xen\0", NOTE_PVH_ENTRY);
        let mut data = b"data".to_vec();
        data.resize(100_000, 0);
        let file = elf(&[(PT_LOAD, b"code"), (PT_LOAD, &data), (PT_NOTE, &notes)], &[(".symtab", b"names")]);
        let small = loadable_only(&file).unwrap();
        assert!(small.len() < 20_000, "{}", small.len());
        assert_eq!(has_pvh_entry(&small), Ok(true));
        let segments: Vec<(&[u8], u64)> = program_headers(&small)
            .unwrap()
            .map(|s| (slice(&small, u64_in(s, 8), u64_in(s, 32), "").unwrap(), u64_in(s, 40)))
            .collect();
        assert_eq!(segments[0], (&b"code"[..], 4));
        assert_eq!(segments[1], (&b"data"[..], 100_000), "the size in memory stays");
        assert_eq!(section(&small, ".symtab"), Ok(None));
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(section(b"", ".modinfo"), Err(ElfError::NotElf64));
        assert_eq!(is_static(&[b'#'; 200]), Err(ElfError::NotElf64));
    }

    #[test]
    fn a_table_that_points_outside_is_an_error() {
        let mut file = elf(&[(PT_LOAD, b"code")], &[(".modinfo", b"x")]);
        file[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(section(&file, ".modinfo"), Err(ElfError::OutOfBounds { what: "the section table" }));
        file[32..40].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        assert_eq!(is_static(&file), Err(ElfError::OutOfBounds { what: "the program header table" }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (section(&bytes, ".modinfo"), is_static(&bytes), has_pvh_entry(&bytes), loadable_only(&bytes));
        }

        #[test]
        fn no_damage_panics_the_reader(at in 0usize..700, byte: u8) {
            let notes = note(b"Xen\0", 3);
            let mut file = elf(&[(PT_LOAD, b"code"), (PT_NOTE, &notes)], &[(".modinfo", b"name=x\0")]);
            let at = at % file.len();
            file[at] = byte;
            let _ = (section(&file, ".modinfo"), is_static(&file), has_pvh_entry(&file), loadable_only(&file));
        }
    }
}
