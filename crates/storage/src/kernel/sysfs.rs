//! Files by which the kernel is told and asked: sysfs, configfs.
//!
//! Invariants: what is written is written with one call, as the kernel wants it. On failure: [`FileError`], with the file and what was
//! to be written.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file of the kernel's could not be used.
#[derive(Debug, thiserror::Error)]
#[error("can't {what} {}", path.display())]
pub struct FileError {
    /// What was to be done, with the value.
    pub what: String,
    /// With which file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// The kernel's error, if it was one.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

pub(super) fn failed(what: impl Into<String>, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let (what, path) = (what.into(), path.to_owned());
    move |source| FileError { what, path, source }
}

/// Writes a value.
pub(super) fn write(path: &Path, value: &str) -> Result<(), FileError> {
    let written =
        File::options().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(failed(format!("write {value:?} to"), path))
}

/// Reads a value, without the end of its line.
pub(super) fn read(path: &Path) -> Result<String, FileError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim_end().to_owned())
}

/// Reads a value; `None` where there is no such file, or what it belongs to is going.
pub(super) fn read_if_there(path: &Path) -> Option<String> {
    read(path).ok()
}

/// What is in a folder, in order; nothing if there is none.
pub(super) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Makes a folder: an object of configfs. One that is there already is as good.
pub(super) fn make(path: &Path) -> Result<(), FileError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", path)(error)),
        _ => Ok(()),
    }
}

/// Removes one. One that is gone already is as good.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Links one object to another.
pub(super) fn link(to: &Path, path: &Path) -> Result<(), FileError> {
    match std::os::unix::fs::symlink(to, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed(format!("link to {} as", to.display()), path)(error))
        }
        _ => Ok(()),
    }
}

/// Takes a link away.
pub(super) fn unlink(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("unlink", path)(error)),
        _ => Ok(()),
    }
}

/// A value of sysfs that tells when it changes (`sysfs_notify`): `POLLPRI` after each reading (sysfs(5), poll(2)).
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    file: File,
}

impl Watched {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(failed("open", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Reads it; from here on a change wakes [`Watched::wait`].
    pub fn read(&mut self) -> Result<String, FileError> {
        use std::io::{Seek, SeekFrom};
        let mut text = String::new();
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.read_to_string(&mut text));
        read.map_err(failed("read", &self.path))?;
        Ok(text.trim_end().to_owned())
    }

    /// Waits for a change since the last reading; whether there was one in time.
    pub fn wait(&self, bound: Duration) -> Result<bool, FileError> {
        let bound = Timespec::try_from(bound)
            .map_err(|error| failed("wait for", &self.path)(io::Error::other(error)))?;
        let mut fds = [PollFd::new(&self.file, PollFlags::PRI)];
        match poll(&mut fds, Some(&bound)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(failed("wait for", &self.path)(errno.into())),
        }
    }
}

/// For whoever waits for many: `POLLPRI` after each reading, when it has changed.
impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Waits until a value of sysfs is as wanted, woken by `POLLPRI`; some attributes do not tell of every change, so it is
/// read anew at least every [`LOOK_AGAIN`]. `Ok(None)`: not in time.
pub(super) fn wait_until(
    path: &Path,
    bound: Duration,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<String>, FileError> {
    let deadline = Instant::now() + bound;
    let mut watched = Watched::open(path)?;
    loop {
        let value = watched.read()?;
        if wanted(&value) {
            return Ok(Some(value));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        watched.wait(left.min(LOOK_AGAIN))?;
    }
}

/// How often a value is read at least while something waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
