//! A record: CRC-32 (IEEE 802.3) over table, key and content, four bytes little-endian, then the content as JSON.
//!
//! redb's page checksums are verified when the file is opened; this one with every read, and it also finds a record that stands
//! under another's key.

use super::Fault;
use crc32fast::Hasher;
use redb::{ReadableTable, Table, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

/// The single records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    /// The format of all others.
    Format,
    /// Whose store it is.
    Identity,
    /// Raft's vote.
    Vote,
    /// The last log id known to be committed. Not forced to disk by itself: it goes with the next write that is.
    Committed,
    /// The last log id that was purged.
    Purged,
    /// What the snapshot covers.
    Snapshot,
    /// The snapshot itself.
    Contents,
}

impl Meta {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Identity => "identity",
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
            Self::Snapshot => "snapshot",
            Self::Contents => "contents",
        }
    }
}

fn checksum(table: &str, key: &[u8], content: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::new();
    for part in [table.as_bytes(), &[0], key, &[0], content] {
        hasher.update(part);
    }
    hasher.finalize().to_le_bytes()
}

fn seal(table: &str, key: &[u8], value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    let content = serde_json::to_vec(value).map_err(Fault::Encode)?;
    let mut record = checksum(table, key, &content).to_vec();
    record.extend(content);
    Ok(record)
}

fn unseal<T: DeserializeOwned>(table: &str, key: &[u8], name: &str, record: &[u8]) -> Result<T, Fault> {
    let damaged = |what: &str| Fault::Damaged(format!("{name} {what}"));
    let (sum, content) = record.split_first_chunk::<4>().ok_or_else(|| damaged("is cut off"))?;
    if *sum != checksum(table, key, content) {
        return Err(damaged("does not have its checksum"));
    }
    serde_json::from_slice(content).map_err(|error| damaged(&format!("can't be read: {error}")))
}

pub(super) fn put(table: &mut Table<&str, &[u8]>, what: Meta, value: &impl Serialize) -> Result<(), Fault> {
    let record = seal("meta", what.key().as_bytes(), value)?;
    table.insert(what.key(), record.as_slice())?;
    Ok(())
}

pub(super) fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    what: Meta,
) -> Result<Option<T>, Fault> {
    let Some(record) = table.get(what.key())? else { return Ok(None) };
    unseal("meta", what.key().as_bytes(), what.key(), record.value()).map(Some)
}

pub(super) fn put_entry(
    table: &mut Table<u64, &[u8]>,
    index: u64,
    value: &impl Serialize,
) -> Result<(), Fault> {
    let record = seal("log", &index.to_le_bytes(), value)?;
    table.insert(index, record.as_slice())?;
    Ok(())
}

pub(super) fn entry<T: DeserializeOwned>(index: u64, record: &[u8]) -> Result<T, Fault> {
    unseal("log", &index.to_le_bytes(), &format!("entry {index}"), record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_under_another_key_is_found() {
        let record = seal("log", &1u64.to_le_bytes(), &"x").unwrap();
        assert_eq!(entry::<String>(1, &record).unwrap(), "x");
        assert!(entry::<String>(2, &record).unwrap_err().to_string().contains("entry 2"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_changed_bit_passes(bytes: Vec<u8>, text: String, bit: usize) {
            let _ = entry::<String>(1, &bytes);
            let mut record = seal("log", &1u64.to_le_bytes(), &text).unwrap();
            let bit = bit % (record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(entry::<String>(1, &record).is_err());
        }
    }
}
