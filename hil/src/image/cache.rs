//! The image cache: entries named by what they are made from.
//!
//! Layout: `KIND/KEY/` holds an entry's files and its `manifest.json`, with the size and SHA-256 of each. A key is a
//! hash over everything that goes into the entry, so an entry is never changed, only made, used and removed.
//!
//! Invariants: an entry is filled under another name (`.building-…`) and renamed when it is whole. An entry is used
//! only after its files agree with its manifest. Whoever makes, replaces or removes something holds the cache's lock
//! (flock(2) on `lock`; the kernel drops it when the holder dies); reading needs no lock.
//!
//! On failure: a build that is interrupted leaves only a `.building-…` folder, which the next builder removes. A
//! damaged entry counts as absent and is made anew. A cache that somebody removes is only slow.

use super::error::{ImageError, file_error};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The name of an entry's manifest.
const MANIFEST: &str = "manifest.json";

/// How names of unfinished things begin.
const UNFINISHED: &str = ".building-";

/// A folder of entries of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// The folder's name.
    pub(super) folder: &'static str,
    /// How many entries are kept: those used last.
    pub(super) keep: usize,
}

/// What an entry is made from, hashed: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Key(String);

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

/// Proof that the cache's lock is held.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// An entry that is whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its folder.
    pub(super) path: PathBuf,
    /// What its maker wanted to be remembered.
    pub(super) facts: Facts,
}

/// What is remembered of an entry beside its files.
pub(super) type Facts = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Manifest {
    key: Key,
    facts: Facts,
    files: BTreeMap<String, FileRecord>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct FileRecord {
    size_bytes: u64,
    sha256: String,
}

/// A folder isn't a whole entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It has no manifest that can be read.
    #[error("its {MANIFEST} cannot be read")]
    Manifest(#[source] io::Error),
    /// A file of it is missing or changed.
    #[error("its file {name} is missing or damaged")]
    File {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
}

impl Key {
    /// The key of something that is made from these parts, in this order.
    pub(super) fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With their lengths, so that moving a boundary between parts is another key.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hex(&hash.finalize()))
    }

    /// All of it.
    pub(super) fn whole(&self) -> &str {
        &self.0
    }

    /// Enough of it for people.
    pub(super) fn short(&self) -> &str {
        self.0.get(..16).unwrap_or(&self.0)
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Cache {
    /// The cache in that folder, which is made if need be.
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        fs::create_dir_all(root).map_err(file_error("make", root))?;
        // Absolute: apt and dpkg-deb are run in other folders.
        let root = root.canonicalize().map_err(file_error("find", root))?;
        Ok(Self { root })
    }

    /// The folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until no other builder is at work, and removes what killed ones have left.
    pub(super) fn lock(&self, progress: &dyn Progress) -> Result<Lock, ImageError> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(file_error("open", &path))?;
        if let Err(refused) = file.try_lock() {
            match refused {
                fs::TryLockError::WouldBlock => progress.step("waiting for another build of the node image"),
                fs::TryLockError::Error(source) => return Err(file_error("lock", &path)(source)),
            }
            file.lock().map_err(file_error("lock", &path))?;
        }
        let lock = Lock { _file: file };
        remove_unfinished(&lock, &self.root)?;
        Ok(lock)
    }

    /// A folder in the cache that goes when it is dropped.
    pub(super) fn scratch(&self, _lock: &Lock) -> Result<tempfile::TempDir, ImageError> {
        unfinished_in(&self.root)
    }

    /// The entry, if it is there and whole; it then counts as used now.
    pub(super) fn find(&self, kind: Kind, key: &Key) -> Option<Entry> {
        let path = self.root.join(kind.folder).join(&key.0);
        let (found, entry) = Entry::open(&path, &[]).ok()?;
        if found != *key {
            return None;
        }
        // Best effort: it only decides who is removed first.
        let _ = File::options()
            .write(true)
            .open(path.join(MANIFEST))
            .and_then(|file| file.set_modified(SystemTime::now()));
        Some(entry)
    }

    /// Makes the entry: `fill` puts files into a folder and says what to remember. Then removes the entries of that
    /// kind that were not used for longest.
    pub(super) fn build(
        &self,
        lock: &Lock,
        kind: Kind,
        key: &Key,
        fill: impl FnOnce(&Path) -> Result<Facts, ImageError>,
    ) -> Result<Entry, ImageError> {
        let folder = self.root.join(kind.folder);
        fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
        remove_unfinished(lock, &folder)?;
        let building = unfinished_in(&folder)?;
        let facts = fill(building.path())?;
        write_manifest(building.path(), key, &facts)?;
        let path = folder.join(&key.0);
        remove(&path)?; // a damaged one
        let building = building.keep();
        fs::rename(&building, &path).map_err(file_error("rename", &building))?;
        prune(&folder, kind.keep)?;
        Ok(Entry { path, facts })
    }
}

/// Removes what a builder left that was killed. Nobody else is building: the lock is held.
fn remove_unfinished(_lock: &Lock, folder: &Path) -> Result<(), ImageError> {
    for path in entries(folder)? {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED)) {
            remove(&path)?;
        }
    }
    Ok(())
}

impl Entry {
    /// The entry in that folder, wherever it is, and what it is made from; an error unless it is whole and has the files
    /// that are needed.
    pub(super) fn open(path: &Path, needed: &[&str]) -> Result<(Key, Self), EntryError> {
        let json = fs::read(path.join(MANIFEST)).map_err(EntryError::Manifest)?;
        let manifest: Manifest =
            serde_json::from_slice(&json).map_err(|error| EntryError::Manifest(error.into()))?;
        if let Some(&name) = needed.iter().find(|name| !manifest.files.contains_key(**name)) {
            return Err(EntryError::File { name: name.into(), source: io::ErrorKind::NotFound.into() });
        }
        for (name, record) in &manifest.files {
            record
                .check(&path.join(name))
                .map_err(|source| EntryError::File { name: name.clone(), source })?;
        }
        Ok((manifest.key, Self { path: path.to_owned(), facts: manifest.facts }))
    }
}

impl FileRecord {
    fn check(&self, path: &Path) -> io::Result<()> {
        let changed = || io::Error::new(io::ErrorKind::InvalidData, "not what the manifest says");
        // The size first: it costs nothing.
        let same = fs::metadata(path)?.len() == self.size_bytes && sha256_of_file(path)? == self.sha256;
        same.then_some(()).ok_or_else(changed)
    }
}

fn unfinished_in(folder: &Path) -> Result<tempfile::TempDir, ImageError> {
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(folder)
        .map_err(file_error("make a folder in", folder))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let listed = fs::read_dir(folder).and_then(|list| list.map(|entry| Ok(entry?.path())).collect());
    listed.map_err(file_error("list", folder))
}

fn remove(folder: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn write_manifest(folder: &Path, key: &Key, facts: &Facts) -> Result<(), ImageError> {
    let mut files = BTreeMap::new();
    for path in entries(folder)? {
        let size_bytes = fs::metadata(&path).map_err(file_error("read", &path))?.len();
        let sha256 = sha256_of_file(&path).map_err(file_error("read", &path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, FileRecord { size_bytes, sha256 });
    }
    let manifest = Manifest { key: key.clone(), facts: facts.clone(), files };
    let path = folder.join(MANIFEST);
    let written = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from);
    written.and_then(|json| fs::write(&path, json)).map_err(file_error("write", &path))
}

/// Keeps the entries that were used last. One whose manifest is gone is the oldest of all.
fn prune(folder: &Path, keep: usize) -> Result<(), ImageError> {
    let mut by_use: Vec<(SystemTime, PathBuf)> = entries(folder)?
        .into_iter()
        .map(|path| {
            let used = fs::metadata(path.join(MANIFEST)).and_then(|manifest| manifest.modified());
            (used.unwrap_or(SystemTime::UNIX_EPOCH), path)
        })
        .collect();
    by_use.sort();
    let surplus = by_use.len().saturating_sub(keep);
    by_use[..surplus].iter().try_for_each(|(_, path)| remove(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::time::Duration;

    const KIND: Kind = Kind { folder: "things", keep: 2 };

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("deep/cache")).unwrap();
        (folder, cache)
    }

    fn make(cache: &Cache, key: &Key, contents: &str) -> Result<Entry, ImageError> {
        let lock = cache.lock(&Silent)?;
        cache.build(&lock, KIND, key, |folder| {
            let path = folder.join("file");
            fs::write(&path, contents).map_err(file_error("write", &path))?;
            Ok(Facts::from([("release".to_owned(), "6.1".to_owned())]))
        })
    }

    #[test]
    fn a_key_depends_on_every_part_and_where_it_ends() {
        assert_eq!(Key::of(&["a", "b"]), Key::of(&["a", "b"]));
        assert_ne!(Key::of(&["a", "b"]), Key::of(&["b", "a"]));
        assert_ne!(Key::of(&["ab", ""]), Key::of(&["a", "b"]));
        assert_eq!(Key::of(&["a"]).short().len(), 16);
    }

    #[test]
    fn the_hash_is_sha_256() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn what_was_built_is_found_again() {
        let (_folder, cache) = cache();
        let key = Key::of(&["x"]);
        assert_eq!(cache.find(KIND, &key), None);
        let made = make(&cache, &key, "contents").unwrap();
        assert_eq!(fs::read_to_string(made.path.join("file")).unwrap(), "contents");
        assert_eq!(cache.find(KIND, &key), Some(made));
    }

    #[test]
    fn a_damaged_entry_counts_as_absent_and_can_be_built_anew() {
        let (_folder, cache) = cache();
        let key = Key::of(&["x"]);
        let path = make(&cache, &key, "contents").unwrap().path;
        let damages: [&dyn Fn(); 5] = [
            &|| fs::write(path.join("file"), "content").unwrap(), // shorter
            &|| fs::write(path.join("file"), "Contents").unwrap(), // same size
            &|| fs::remove_file(path.join("file")).unwrap(),
            &|| fs::remove_file(path.join(MANIFEST)).unwrap(),
            &|| fs::write(path.join(MANIFEST), "{}").unwrap(),
        ];
        for (number, damage) in damages.iter().enumerate() {
            damage();
            assert_eq!(cache.find(KIND, &key), None, "damage {number}");
            make(&cache, &key, "contents").unwrap();
            assert!(cache.find(KIND, &key).is_some(), "after damage {number}");
        }
    }

    #[test]
    fn an_entry_under_another_name_is_not_taken_for_it() {
        let (_folder, cache) = cache();
        let (one, other) = (Key::of(&["1"]), Key::of(&["2"]));
        let path = make(&cache, &one, "contents").unwrap().path;
        fs::rename(&path, path.with_file_name(&other.0)).unwrap();
        assert_eq!(cache.find(KIND, &other), None);
    }

    #[test]
    fn a_build_that_fails_leaves_nothing() {
        let (_folder, cache) = cache();
        let lock = cache.lock(&Silent).unwrap();
        let failed = cache.build(&lock, KIND, &Key::of(&["x"]), |folder| {
            fs::write(folder.join("file"), "half").unwrap();
            Err(ImageError::NoProgram { path: "x".into() })
        });
        assert!(failed.is_err());
        assert_eq!(entries(&cache.root.join("things")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_a_killed_builder_left_is_removed_by_the_next() {
        let (_folder, cache) = cache();
        let left = [cache.root.join(".building-1"), cache.root.join("things/.building-2")];
        for folder in &left {
            fs::create_dir_all(folder.join("deep")).unwrap();
        }
        make(&cache, &Key::of(&["x"]), "contents").unwrap();
        assert!(left.iter().all(|folder| !folder.exists()));
    }

    #[test]
    fn only_the_entries_used_last_are_kept() {
        let (_folder, cache) = cache();
        let age = |path: &Path, seconds| {
            let manifest = File::options().write(true).open(path.join(MANIFEST)).unwrap();
            manifest.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        let keys: Vec<Key> = ["1", "2", "3"].iter().map(|name| Key::of(&[name])).collect();
        age(&make(&cache, &keys[0], "1").unwrap().path, 300);
        age(&make(&cache, &keys[1], "2").unwrap().path, 200);
        assert!(cache.find(KIND, &keys[0]).is_some(), "used: younger now than the second");
        make(&cache, &keys[2], "3").unwrap();
        let kept: Vec<bool> = keys.iter().map(|key| cache.find(KIND, key).is_some()).collect();
        assert_eq!(kept, [true, false, true]);
    }

    #[test]
    fn builders_wait_for_each_other() {
        let (_folder, cache) = cache();
        let lock = cache.lock(&Silent).unwrap();
        let other = File::options().write(true).open(cache.root.join("lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
    }
}
