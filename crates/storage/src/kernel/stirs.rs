//! What the kernel tells of by itself of an array and its gates, so that nobody needs to look again and again.
//!
//! Purpose: a thread waits in poll(2) for md's attributes and for device-mapper's events, and says that something has happened. What has, is
//! looked for.
//!
//! Invariants: what is to be told again is read or armed before it is told, so that nothing between the two is missed. The thread ends
//! with its [`Stirs`].
//!
//! On failure: an attribute that can't be read any more is not waited for; what it belonged to is gone, and its end was told.

use super::StepError;
use super::dm::Dm;
use super::sysfs::{self, Watched};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use std::thread::Builder;

/// Tells as long as it is kept.
#[derive(Debug)]
pub struct Stirs {
    end: Arc<OwnedFd>,
}

impl Drop for Stirs {
    fn drop(&mut self) {
        // An eventfd takes one more unless it is full; then it is readable all the same.
        let _ = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
    }
}

impl Stirs {
    /// Tells of every change of these attributes, and of every event of a device, from now on.
    pub(super) fn begin(
        mut attributes: Vec<Watched>,
        dm: Dm,
        told: impl Fn() + Send + 'static,
    ) -> Result<Self, StepError> {
        let failed = |source| sysfs::failed("follow", Path::new("/sys/block"))(source);
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let end = Arc::new(end);
        for attribute in &mut attributes {
            attribute.read()?;
        }
        dm.arm()?;
        let until = Arc::clone(&end);
        let tell = move || tell(attributes, &dm, &until, &told);
        Builder::new().name("stirs".to_owned()).spawn(tell).map_err(failed)?;
        Ok(Self { end })
    }
}

fn tell(mut attributes: Vec<Watched>, dm: &Dm, end: &OwnedFd, told: &impl Fn()) {
    loop {
        let Ok((ready, ends)) = wait(&attributes, dm.as_fd(), end.as_fd()) else { return };
        if ends || dm.arm().is_err() {
            return;
        }
        let mut ready = ready.into_iter();
        attributes.retain_mut(|attribute| !ready.next().unwrap_or_default() || attribute.read().is_ok());
        told();
    }
}

/// Waits until something has happened: which attributes have changed, and whether it is the end.
fn wait(attributes: &[Watched], dm: BorrowedFd<'_>, end: BorrowedFd<'_>) -> Result<(Vec<bool>, bool), Errno> {
    let mut fds =
        vec![PollFd::from_borrowed_fd(end, PollFlags::IN), PollFd::from_borrowed_fd(dm, PollFlags::IN)];
    fds.extend(attributes.iter().map(|attribute| PollFd::new(attribute, PollFlags::PRI)));
    loop {
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let ends = ready.next().unwrap_or(true);
    Ok((ready.skip(1).collect(), ends))
}
