//! The end of this node's lease, written where the agent's next run finds it.
//!
//! Users outlive an agent that is killed, and so does the lease by which they run: the next run must stop them when that ends, and not a lease
//! after its own start. So each lease is noted before anybody is told of it; one that can't be noted is not taken.
//!
//! Beside it, in a file of its own, stands the end of the last lease of a run that looked after its users. A run that does not yet may renew the lease of those it
//! found ([`super::renewal`]), but not for ever: one that never comes so far, started again and again, would keep users that nobody looks after.
//!
//! Invariants: the note is of one boot, as users and the clock are, and lives in memory (`/run`): writing it never waits for a drive. It is
//! written whole or not at all: one write within a page, which no signal cuts short.
//!
//! On failure: a note that is not there, or of another boot, or that can't be read, is that of a lease that is over.

use control::Moment;
use control::member::Timing;
use model::BootId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Where it is.
pub(super) const FILE: &str = "/run/twinrack.lease";
/// What the name of the file beside it ends with.
const ATTENDED: &str = "attended";
/// For how long after the last lease of a run that looked after its users others may take one for them. An agent that starts on an
/// emulated node of a busy host has needed six seconds.
const RENEWED_MAX: Duration = Duration::from_secs(6);

/// The note, and what it says.
#[derive(Debug)]
pub(super) struct LeaseNote {
    /// The end of the last lease.
    last: End,
    /// Of the last one of a run that looked after its users; `None`: it can't be opened, and nothing is renewed.
    attended: Option<End>,
}

impl LeaseNote {
    /// As an earlier run of this boot has left it.
    pub(super) fn open(path: &Path, boot: BootId) -> io::Result<Self> {
        let attended = End::open(&path.with_extension(ATTENDED), boot).ok();
        Ok(Self { last: End::open(path, boot)?, attended })
    }

    /// When the last lease ends that was granted in this boot, on the clock of [`crate::clock::uptime_ms`].
    pub(super) fn end(&self) -> Moment {
        self.last.at
    }

    /// A lease is granted until then, to a run that looks after its users. Answers to requests may come out of order: the latest end counts.
    pub(super) fn extend(&mut self, end: Moment) -> io::Result<()> {
        self.last.extend(end)?;
        self.attended.as_mut().map_or(Ok(()), |attended| attended.extend(self.last.at))
    }

    /// The same to one that does not yet.
    pub(super) fn renew(&mut self, end: Moment) -> io::Result<()> {
        self.last.extend(end)
    }

    /// Whether a run that does not look after its users yet may take a lease for them: they are not being ended, and there was one that did.
    pub(super) fn is_renewable(&self, by: Moment) -> bool {
        let attended = self.attended.as_ref().map_or(Moment(0), |attended| attended.at);
        by < self.last.at && self.last.at < attended.after(RENEWED_MAX)
    }
}

/// An end in a file.
#[derive(Debug)]
struct End {
    file: File,
    boot: BootId,
    at: Moment,
}

impl End {
    fn open(path: &Path, boot: BootId) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, boot, at: noted(path, boot) })
    }

    fn extend(&mut self, end: Moment) -> io::Result<()> {
        if end > self.at {
            self.file.write_all_at(text_of(self.boot, end).as_bytes(), 0)?;
            self.at = end;
        }
        Ok(())
    }
}

/// Users whom no run of the agent looks after are ended whose lease is over by then.
pub(super) fn ended_by(now: Moment) -> Moment {
    now.after(Timing::default().holder.stop_left_before)
}

/// When the last lease ends, for whoever only looks.
pub(super) fn noted(path: &Path, boot: BootId) -> Moment {
    fs::read_to_string(path).ok().and_then(|text| end_in(&text, boot)).unwrap_or(Moment(0))
}

/// Always as long.
fn text_of(boot: BootId, Moment(end_ms): Moment) -> String {
    format!("{boot} {end_ms:020}\n")
}

fn end_in(text: &str, of: BootId) -> Option<Moment> {
    let (boot, end_ms) = text.strip_suffix('\n')?.split_once(' ')?;
    let end = Moment(end_ms.parse().ok()?);
    (boot.parse() == Ok(of)).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_finds_the_latest_end_and_one_of_another_boot_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease");
        let open = |boot| LeaseNote::open(&path, BootId(boot)).unwrap();
        let mut first = open(7);
        assert_eq!(first.end(), Moment(0));
        for end in [9_000, 12_000, 11_000] {
            first.extend(Moment(end)).unwrap();
        }
        assert_eq!((open(7).end(), open(8).end()), (Moment(12_000), Moment(0)));
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(open(7).end(), Moment(0));
    }

    #[test]
    fn a_lease_that_can_not_be_noted_is_not_in_the_note() {
        let boot = BootId(1);
        let full = || End { file: File::open("/dev/full").unwrap(), boot, at: Moment(5) };
        let mut note = LeaseNote { last: full(), attended: Some(full()) };
        assert!(note.extend(Moment(6)).is_err());
        assert_eq!(note.end(), Moment(5));
    }

    #[test]
    fn users_that_nobody_looks_after_get_no_lease_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease");
        let open = || LeaseNote::open(&path, BootId(7)).unwrap();
        assert!(!open().is_renewable(Moment(0)), "there are none");
        open().extend(Moment(3_000)).unwrap();
        assert!(open().is_renewable(Moment(2_999)) && !open().is_renewable(Moment(3_000)));
        // One run after the other that comes no further.
        let (mut now, mut ended) = (Moment(2_500), Moment(3_000));
        while open().is_renewable(now) {
            ended = now.after(Duration::from_secs(3));
            open().renew(ended).unwrap();
            now = now.after(Duration::from_millis(200));
        }
        assert_eq!((ended, open().end()), (Moment(9_100), Moment(9_100)));
        open().extend(Moment(9_200)).unwrap();
        assert!(open().is_renewable(now));
    }
}
