//! What a dynamically linked program needs at run time: its loader, its libraries, and where it looks for them.
//!
//! Format: System V ABI, chapter 5 (`PT_INTERP`, `PT_DYNAMIC`, `DT_NEEDED`); search order as in ld.so(8).
//!
//! On failure: damaged bytes give a typed error, never a panic.

use super::elf::{ElfError, program_headers, slice, u32_in, u64_in};

/// What the loader maps.
const PT_LOAD: u32 = 1;
/// The table of dynamic entries.
const PT_DYNAMIC: u32 = 2;
/// The loader's path.
const PT_INTERP: u32 = 3;
/// Size of one dynamic entry (`Elf64_Dyn`): a tag and a value.
const ENTRY_BYTES: usize = 16;

/// The end of the table.
const DT_NULL: u64 = 0;
/// A library's name, as an offset into the strings.
const DT_NEEDED: u64 = 1;
/// Where the strings are in memory.
const DT_STRTAB: u64 = 5;
/// How many bytes the strings take.
const DT_STRSZ: u64 = 10;
/// Folders to search; superseded by the next.
const DT_RPATH: u64 = 15;
/// Folders to search, separated by colons.
const DT_RUNPATH: u64 = 29;

/// What the loader is told by a program or a library.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The loader, an absolute path. Libraries mostly have none.
    pub(super) loader: Option<String>,
    /// The libraries, in order.
    pub(super) libraries: Vec<String>,
    /// Where to look for them before the loader's own folders; may begin with `$ORIGIN`.
    pub(super) folders: Vec<String>,
}

/// Reads what a program or library needs; a static one needs nothing.
pub(super) fn needs(file: &[u8]) -> Result<Needs, ElfError> {
    let mut found = Needs::default();
    let mut entries: Vec<(u64, u64)> = Vec::new();
    for segment in program_headers(file)? {
        let bytes = || slice(file, u64_in(segment, 8), u64_in(segment, 32), "a segment");
        match u32_in(segment, 0) {
            PT_INTERP => found.loader = Some(text(bytes()?, 0)?),
            PT_DYNAMIC => {
                let table =
                    bytes()?.chunks_exact(ENTRY_BYTES).map(|entry| (u64_in(entry, 0), u64_in(entry, 8)));
                entries.extend(table.take_while(|(tag, _)| *tag != DT_NULL));
            }
            _ => {}
        }
    }
    let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else { return Ok(found) };
    let strings = slice(file, file_offset(file, address)?, size, "the dynamic strings")?;
    for (_, offset) in entries.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
        found.libraries.push(text(strings, *offset)?);
    }
    if let Some(offset) = value(DT_RUNPATH).or_else(|| value(DT_RPATH)) {
        let folders = text(strings, offset)?;
        found.folders.extend(folders.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned));
    }
    Ok(found)
}

/// Where in the file the byte is that is at that address in memory.
fn file_offset(file: &[u8], address: u64) -> Result<u64, ElfError> {
    let outside = ElfError::OutOfBounds { what: "the dynamic strings" };
    for segment in program_headers(file)?.filter(|segment| u32_in(segment, 0) == PT_LOAD) {
        let (offset, start, size) = (u64_in(segment, 8), u64_in(segment, 16), u64_in(segment, 32));
        if let Some(inside) = address.checked_sub(start).filter(|inside| *inside < size) {
            return offset.checked_add(inside).ok_or(outside);
        }
    }
    Err(outside)
}

/// The string that begins there and ends with a zero byte.
fn text(bytes: &[u8], offset: u64) -> Result<String, ElfError> {
    let outside = ElfError::OutOfBounds { what: "a dynamic string" };
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).ok_or(outside)?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or(outside)?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::elf::tests::elf;
    use super::*;
    use proptest::prelude::*;

    /// A program or library that says this of itself; the test files of [`elf`] are at address 0 in memory.
    pub(in crate::image) fn object(
        loader: Option<&str>,
        libraries: &[&str],
        runpath: Option<&str>,
    ) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut entries = Vec::new();
        let mut string = |tag: u64, text: &str| {
            entries.push((tag, strings.len() as u64));
            strings.extend(text.bytes().chain([0]));
        };
        for library in libraries {
            string(DT_NEEDED, library);
        }
        if let Some(runpath) = runpath {
            string(DT_RUNPATH, runpath);
        }
        entries.extend([
            (DT_STRTAB, 0),
            (DT_STRSZ, strings.len() as u64),
            (DT_NULL, 0),
            (DT_NEEDED, 1 << 40),
        ]);
        let table: Vec<u8> = entries
            .iter()
            .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
            .collect();
        let loader = loader.map(|loader| [loader.as_bytes(), &[0]].concat());
        let mut segments = vec![(PT_LOAD, strings.as_slice()), (PT_DYNAMIC, table.as_slice())];
        segments.extend(loader.as_deref().map(|loader| (PT_INTERP, loader)));
        elf(&segments, &[])
    }

    #[test]
    fn what_a_program_needs_is_read_up_to_the_tables_end() {
        let needs = needs(&object(Some("/lib64/ld.so"), &["liba.so.1", "libc.so.6"], Some("/opt:$ORIGIN/x")))
            .unwrap();
        assert_eq!(needs.loader.as_deref(), Some("/lib64/ld.so"));
        assert_eq!(needs.libraries, ["liba.so.1", "libc.so.6"]);
        assert_eq!(needs.folders, ["/opt", "$ORIGIN/x"]);
    }

    #[test]
    fn a_static_program_needs_nothing() {
        assert_eq!(needs(&elf(&[(PT_LOAD, b"code")], &[])), Ok(Needs::default()));
    }

    #[test]
    fn a_name_without_an_end_is_damage() {
        let mut file = object(None, &["liba.so.1"], None);
        let at = file.windows(9).position(|bytes| bytes == b"liba.so.1").unwrap();
        file[at + 9] = b'x';
        assert_eq!(needs(&file), Err(ElfError::OutOfBounds { what: "a dynamic string" }));
    }

    proptest! {
        #[test]
        fn no_damage_panics_the_reader(at in 0usize..700, byte: u8) {
            let mut file = object(Some("/l"), &["liba.so.1"], Some("/r"));
            let at = at % file.len();
            file[at] = byte;
            let _ = needs(&file);
        }
    }
}
