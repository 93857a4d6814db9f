//! What must outlive the agent, and the machine where the directory does: small JSON files, each replaced whole.
//!
//! Invariants: one agent at a time has a directory ([`Store::lock`]): a second one, started by mistake, would take the first
//! one's pending plan back.
//!
//! On failure: [`StoreError`]. A file that can't be read is an error and not an empty state: a forgotten generation would
//! let an old plan in.

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not what this agent wrote", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("can't write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't have {} for this agent alone: does another one run?", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Held by the agent whose directory it is; ends with it, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: File,
}

/// A directory of small files.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(crate) fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where the files are.
    #[cfg(feature = "volumes")]
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes the directory for this agent alone, or fails at once.
    pub(crate) fn lock(&self) -> Result<Lock, StoreError> {
        let lock = || {
            fs::create_dir_all(&self.directory)?;
            let directory = File::open(&self.directory)?;
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
            Ok(Lock { _directory: directory })
        };
        lock().map_err(|source| StoreError::Lock { path: self.directory.clone(), source })
    }

    /// What was saved under this name; the default if nothing ever was.
    pub(crate) fn load<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, StoreError> {
        Ok(self.load_if_there(name)?.unwrap_or_default())
    }

    /// What was saved under this name, if anything was.
    pub(crate) fn load_if_there<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|source| StoreError::Parse { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    /// Returns when it is durable.
    pub(crate) fn save(&self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        match serde_json::to_vec(value) {
            Ok(text) => {
                replace(&self.directory, &path, &text).map_err(|source| StoreError::Write { path, source })
            }
            Err(source) => Err(StoreError::Parse { path, source }),
        }
    }
}

/// Written beside, made durable, then renamed: whoever reads finds the old text or the new one.
fn replace(directory: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match rustix::fs::fsync(File::open(directory)?) {
        // Some file systems have nothing to do there.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_nonsense_is_not_taken_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::in_directory(directory.path().join("made/when/needed"));
        assert_eq!(store.load::<Vec<u8>>("x.json").unwrap(), Vec::<u8>::new());
        store.save("x.json", &[1, 2]).unwrap();
        store.save("x.json", &[3]).unwrap();
        assert_eq!(store.load::<Vec<u8>>("x.json").unwrap(), [3]);
        assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 1, "nothing is left beside it");
        fs::write(store.directory.join("x.json"), "[3").unwrap();
        assert!(matches!(store.load::<Vec<u8>>("x.json"), Err(StoreError::Parse { .. })));
    }

    #[test]
    fn one_agent_at_a_time_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::in_directory(directory.path().join("made/when/needed"));
        let lock = store.lock().unwrap();
        assert!(matches!(store.lock(), Err(StoreError::Lock { .. })));
        drop(lock);
        store.lock().unwrap();
    }
}
