//! A lab's directory: made and owned by its keeper, swept away by a later run when the keeper was killed.
//!
//! Invariants: who holds the lock on the directory itself (flock(2)) owns it, while it is what its path names. A keeper
//! holds the lock from the making to its own end, so an unlocked directory has no keeper: whoever locks it may remove it,
//! and nobody else does.
//!
//! Making and sweeping need nothing else to be safe against each other. Between a directory's making and its locking a
//! sweep may come first. Then the maker finds it locked, or locks what its path no longer names; either way it leaves it
//! to the sweep and makes another. Once the maker holds the lock and the path still names the directory, no sweep
//! holds the lock, and none gets it.
//!
//! On failure: what can't be swept (another user's, say) is left; it hinders nobody.

use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, fstat, lstat, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What lab directories' names begin with.
const DIR_PREFIX: &str = "twinrack-lab-";
/// How many letters and digits follow ([`tempfile::Builder::rand_bytes`]).
const DIR_RANDOM: usize = 6;
/// How often a directory may be swept away while it is made: each time another run must start within microseconds.
const ATTEMPTS: u32 = 16;

/// Makes a lab's directory, for this user alone. It is the caller's as long as the descriptor is open.
pub(super) fn make(parent: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    for _ in 0..ATTEMPTS {
        // Whoever may enter can write to QEMU and to the nodes' ports. By itself tempfile leaves the mode to the umask.
        let private = fs::Permissions::from_mode(0o700);
        let made = tempfile::Builder::new()
            .prefix(DIR_PREFIX)
            .rand_bytes(DIR_RANDOM)
            .permissions(private)
            .tempdir_in(parent)?;
        let dir = made.keep();
        if let Some(lock) = own(&dir)? {
            return Ok((dir, lock));
        }
    }
    Err(io::Error::other(format!("it was swept away {ATTEMPTS} times while it was made")))
}

/// Whether [`make`] gives such names. A copy of a lab's directory that somebody keeps has another, and is not swept.
fn is_made(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(DIR_PREFIX));
    random.is_some_and(|random| {
        random.len() == DIR_RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Removes what keepers left that were killed outright.
pub(super) fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)?.filter_map(Result::ok) {
        let path = entry.path();
        if !is_made(&entry.file_name()) {
            continue;
        }
        if let Ok(Some(lock)) = own(&path)
            && fstat(&lock).is_ok_and(|stat| stat.st_uid == geteuid().as_raw())
        {
            // What is left of a failed removal is unlocked again when this ends: the next sweep tries it anew.
            fs::remove_dir_all(&path).ok();
        }
    }
    Ok(())
}

/// Locks a directory; none if somebody else owns it or it is gone.
fn own(dir: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match open(dir, flags, Mode::empty()) {
        Ok(fd) => Ok(lock(&fd, dir)?.then_some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Locks an open directory; false if somebody else has, or if the path no longer names it.
fn lock(fd: &OwnedFd, dir: &Path) -> io::Result<bool> {
    match flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    let identity = |stat: Stat| (stat.st_dev, stat.st_ino);
    match lstat(dir) {
        Ok(named) => Ok(identity(named) == identity(fstat(fd)?)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open_dir(path: &Path) -> OwnedFd {
        open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn nobody_else_may_enter() {
        let place = place();
        let (dir, _lock) = make(place.path()).unwrap();
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn only_what_nobody_owns_is_swept() {
        let place = place();
        let (owned, lock) = make(place.path()).unwrap();
        let (killed, _) = make(place.path()).unwrap();
        fs::write(killed.join("drive"), "x").unwrap();
        let bare = place.path().join(format!("{DIR_PREFIX}bare01"));
        let others = [
            "other",
            "twinrack-lab-",
            "twinrack-lab-bare01-copy",
            "twinrack-lab-copy",
            "twinrack-lab-a-copy",
        ]
        .map(|name| place.path().join(name));
        for dir in others.iter().chain([&bare]) {
            fs::create_dir(dir).unwrap();
        }
        sweep(place.path()).unwrap();
        assert_eq!([&owned, &killed, &bare].map(|dir| dir.exists()), [true, false, false]);
        for dir in others {
            assert!(dir.exists(), "{} is none that was made", dir.display());
        }
        drop(lock);
        sweep(place.path()).unwrap();
        assert!(!owned.exists());
    }

    #[test]
    fn a_directory_that_was_swept_before_it_was_locked_is_not_ours() {
        let place = place();
        let dir = place.path().join("dir");
        fs::create_dir(&dir).unwrap();
        let ours = open_dir(&dir);
        let sweeper = open_dir(&dir);
        assert!(lock(&sweeper, &dir).unwrap());
        assert!(!lock(&ours, &dir).unwrap(), "the sweeper has it");
        fs::remove_dir(&dir).unwrap();
        drop(sweeper);
        assert!(!lock(&ours, &dir).unwrap(), "it is gone");
        fs::create_dir(&dir).unwrap();
        assert!(!lock(&ours, &dir).unwrap(), "another one has its name");
        assert!(own(&place.path().join("gone")).unwrap().is_none());
    }

    #[test]
    fn makers_and_sweepers_at_once_take_nothing_from_each_other() {
        const MAKERS: usize = 4;
        const EACH: usize = 50;
        let place = place();
        let making = AtomicUsize::new(MAKERS);
        let made: Vec<(PathBuf, OwnedFd)> = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while making.load(Ordering::Relaxed) > 0 {
                        sweep(place.path()).unwrap();
                    }
                });
            }
            let maker = || {
                let made: Vec<_> = (0..EACH).map(|_| make(place.path())).collect();
                making.fetch_sub(1, Ordering::Relaxed);
                made
            };
            let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(maker)).collect();
            makers.into_iter().flat_map(|maker| maker.join().unwrap()).map(Result::unwrap).collect()
        });
        assert_eq!(made.len(), MAKERS * EACH);
        for (dir, _) in &made {
            assert!(dir.exists(), "{} was swept", dir.display());
        }
    }
}
