//! The end of this node's lease, written where the agent's next run finds it.
//!
//! Users outlive an agent that is killed, and so does the lease by which they run: the next run must stop them when that ends, and not a lease
//! after its own start. So each lease is noted before anybody is told of it; one that can't be noted is not taken.
//!
//! Invariants: the note is of one boot, as users and the clock are, and lives in memory (`/run`): writing it never waits for a drive. It is
//! written whole or not at all: one write within a page, which no signal cuts short.
//!
//! On failure: a note that is not there, or of another boot, or that can't be read, is that of a lease that is over.

use control::Moment;
use model::BootId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where it is.
pub(super) const FILE: &str = "/run/twinrack.lease";

/// The note, and what it says.
#[derive(Debug)]
pub(super) struct LeaseNote {
    file: File,
    boot: BootId,
    end: Moment,
}

impl LeaseNote {
    /// As an earlier run of this boot has left it.
    pub(super) fn open(path: &Path, boot: BootId) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let end = fs::read_to_string(path).ok().and_then(|text| end_in(&text, boot)).unwrap_or(Moment(0));
        Ok(Self { file, boot, end })
    }

    /// When the last lease ends that was granted in this boot, on the clock of [`crate::clock::uptime_ms`].
    pub(super) fn end(&self) -> Moment {
        self.end
    }

    /// A lease is granted until then. Answers to requests may come out of order: the latest end counts.
    pub(super) fn extend(&mut self, end: Moment) -> io::Result<()> {
        if end > self.end {
            self.file.write_all_at(text_of(self.boot, end).as_bytes(), 0)?;
            self.end = end;
        }
        Ok(())
    }
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
        let mut note = LeaseNote { file: File::open("/dev/full").unwrap(), boot, end: Moment(5) };
        assert!(note.extend(Moment(6)).is_err());
        assert_eq!(note.end(), Moment(5));
    }
}
