//! Users whose lease ends while the agent does nothing: stopped, short of memory, hung in a call.
//!
//! Purpose: that two copies of a virtual machine never run. An agent that lives ends its users a second before their lease is over, and one that was started again half a second
//! ([`super::left_users`]); one that hangs ends nobody, and whoever is over it gives it more time than a lease has. So this is not the agent: process 1 of a lab's node
//! runs it, elsewhere a service of its own (`twinrackd --guard-users`).
//!
//! Half a second is short on a node that is busy, and to look for users takes a walk over all processes. So they are looked for before, when a lease has not been renewed for a while,
//! and held; when the time has come they are ended first, and then whoever is found by another walk.
//!
//! Invariants: nobody is ended whose lease a living agent would still go by: it has ended its users before. It goes by the note of the lease alone ([`lease_note`]), read twice: what is
//! read while it is written may be neither the old one nor the new one. Nobody is ended who has let go of what it had open.
//!
//! On failure: it is tried again, as long as there is a volume that could be used. What is mounted, or a loop device, has no process: that costs the node, when an agent is back.

use super::lease_note::{self, ended_by};
use super::openers::{self, User};
use super::place::engine_of_nobody;
use crate::{clock, priority};
use ::vm::process::is_doomed;
use control::Moment;
use model::BootId;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::Pid;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::mem::{replace, take};
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::Duration;

/// How long before their time users are looked for: of a lease of three seconds that is asked for every 400 ms, two or three renewals are missing then.
const LOOK_BEFORE: Duration = Duration::from_secs(1);
/// Between two of those looks: each is a walk over all processes, on a node that has enough to do.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Before those who do not end are looked at again; then twice as long each time.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Between two looks at any note.
const LOOK_SELDOM: Duration = Duration::from_millis(500);

/// Guards for as long as the machine is up.
pub(crate) fn guard(boot: BootId) -> ! {
    let lease_end = || lease_note::noted(lease_note::FILE.as_ref(), boot);
    let (mut notes, mut known, mut said) = (Notes::default(), Vec::new(), String::new());
    get_ready();
    loop {
        // Before the note: a lease that is renewed meanwhile must not be held against a later moment.
        let at = now();
        let end = lease_end();
        let (ended, looked) = match notes.due(at, end) {
            Due::Nothing => {
                known.clear();
                (Ended::default(), Ok(Volumes::Some))
            }
            Due::Look => (Ended::default(), look(&mut known, || ended_by(now()) >= end)),
            Due::End => {
                let (ended, others) = end_users(&take(&mut known), || lease_end() == end);
                if matches!(others, Ok(Volumes::None)) {
                    notes.ended = end;
                }
                (ended, others)
            }
        };
        tell(&mut said, &ended, end, looked.err());
        sleep(notes.rest(now(), end));
    }
}

/// It comes first, and nothing of it has to be read from a drive when the time has come: what it has used once stays in memory.
fn get_ready() {
    priority::is_in_time();
    // No file is one: it is used once.
    let _ = openers::users(|_| false).map(Iterator::count);
    // Not what it gets later: where little may be locked it would get nothing any more.
    if let Err(errno) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT) {
        eprintln!("twinrackd: on a node that is short of memory users may be ended late: {errno}");
    }
}

fn now() -> Moment {
    Moment(clock::uptime_ms())
}

/// Whether there are volumes that anybody could use.
#[derive(Debug, PartialEq, Eq)]
enum Volumes {
    None,
    Some,
}

/// Gives everybody who has a volume open, agents left out, until it is told to stop.
fn users(mut found: impl FnMut(User), stops: impl Fn() -> bool) -> Result<Volumes, Box<dyn Error>> {
    let engine = engine_of_nobody()?;
    let volumes = engine.open_volumes()?;
    if volumes.is_empty() {
        return Ok(Volumes::None);
    }
    // A volume that can't be looked at must not save the users of the others, nor one user the others.
    let (mut devices, mut unknown) = (BTreeSet::new(), None::<Box<dyn Error>>);
    for volume in volumes {
        match engine.users_devices(volume) {
            Ok(paths) => {
                devices.extend(paths.iter().filter_map(|path| Some(fs::metadata(path).ok()?.rdev())));
            }
            Err(error) => unknown = Some(error.into()),
        }
    }
    for user in openers::users(openers::is_one_of(&devices))? {
        match user {
            Ok(user) => user.into_iter().for_each(&mut found),
            Err(error) => unknown = Some(error.into()),
        }
        if stops() {
            break;
        }
    }
    unknown.map_or(Ok(Volumes::Some), Err)
}

/// Who has a volume open is known from then on. When it is time, nobody else is looked for: those that are known have to end.
fn look(known: &mut Vec<User>, is_time: impl Fn() -> bool) -> Result<Volumes, Box<dyn Error>> {
    let before = take(known);
    let looked = users(|user| known.push(user), &is_time);
    if is_time() || looked.is_err() {
        // Not all may have been found again.
        known.extend(before);
    }
    looked
}

/// Ends everybody who has a volume open, as long as it is so that they have no lease: first those that are known. What waits in a device dies as well: it is sent the signal like all
/// others, and never returns.
fn end_users(known: &[User], is_still_so: impl Fn() -> bool) -> (Ended, Result<Volumes, Box<dyn Error>>) {
    let mut ended = Ended::known(known, &is_still_so);
    let end = |user: User| {
        if is_still_so() {
            ended.end(&user);
        }
    };
    let others = users(end, || false);
    ended.others_at = now();
    (ended, others)
}

/// Those that were ended.
#[derive(Debug, Default)]
struct Ended {
    pids: Vec<Pid>,
    /// How many of them were known before, and when these had been ended.
    known: usize,
    known_at: Moment,
    /// When it had been looked for others.
    others_at: Moment,
}

impl Ended {
    /// Ends those that have not let go of what they had open.
    fn known(users: &[User], is_still_so: impl Fn() -> bool) -> Self {
        let mut ended = Self::default();
        if is_still_so() {
            users.iter().filter(|user| user.has_it_open()).for_each(|user| ended.end(user));
        }
        Self { known: ended.pids.len(), known_at: now(), ..ended }
    }

    fn end(&mut self, user: &User) {
        user.end();
        if !self.pids.contains(&user.pid) {
            self.pids.push(user.pid);
        }
    }

    fn in_words(&self) -> String {
        let left = self.pids.iter().filter(|pid| !is_doomed(**pid)).count();
        match self.pids.len() {
            0 => String::new(),
            count => format!("{count} users were ended whose lease is over; {left} of them may go on yet"),
        }
    }

    fn when(&self, end: Moment) -> String {
        let at = |moment: Moment| match end.since(moment).as_millis() {
            0 => format!("{} ms after its end", moment.since(end).as_millis()),
            before => format!("{before} ms before its end"),
        };
        format!(" ({} known before, {}; all, {})", self.known, at(self.known_at), at(self.others_at))
    }
}

/// Tells on the console what was done, unless that is what was told last.
fn tell(said: &mut String, ended: &Ended, end: Moment, error: Option<Box<dyn Error>>) {
    let what = match error {
        Some(error) => format!("can't see who has volumes open: {}", crate::chain(&*error)),
        None => ended.in_words(),
    };
    if what != *said && !what.is_empty() {
        let when = if ended.pids.is_empty() { String::new() } else { ended.when(end) };
        eprintln!("twinrackd: {what}{when}");
    }
    *said = what;
}

/// What is to be done about users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Their time comes soon: it is to be known who they are.
    Look,
    End,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Notes {
    last: Moment,
    /// The end of the lease when there was nothing more to be used. Other users come only with another.
    ended: Moment,
    /// How often it was over already.
    tries: u32,
}

impl Notes {
    /// What is due now, if the lease ends then. Zero is none.
    fn due(&mut self, now: Moment, end: Moment) -> Due {
        let is_read_twice = replace(&mut self.last, end) == end;
        let due = if end == Moment(0) || end == self.ended {
            Due::Nothing
        } else if ended_by(now) >= end {
            if is_read_twice { Due::End } else { Due::Nothing }
        } else if ended_by(now).after(LOOK_BEFORE) >= end {
            Due::Look
        } else {
            Due::Nothing
        };
        self.tries = if due == Due::End { self.tries.saturating_add(1) } else { 0 };
        due
    }

    /// How long to wait until something may be due.
    fn rest(&self, now: Moment, end: Moment) -> Duration {
        let left = end.since(ended_by(now));
        if end == Moment(0) || end == self.ended {
            LOOK_SELDOM
        } else if left.is_zero() {
            TRY_AGAIN.saturating_mul(1 << self.tries.min(5)).min(LOOK_SELDOM)
        } else if left <= LOOK_BEFORE {
            left.min(LOOK_AGAIN)
        } else {
            left.saturating_sub(LOOK_BEFORE).min(LOOK_SELDOM)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_looked_for_before_and_end_once_when_their_lease_is_over_and_was_read_twice() {
        let mut notes = Notes::default();
        let due = |notes: &mut Notes, now, end| notes.due(Moment(now), Moment(end));
        assert_eq!([500, 600].map(|now| due(&mut notes, now, 0)), [Due::Nothing; 2], "no lease yet");
        assert_eq!([900, 1499].map(|now| due(&mut notes, now, 3000)), [Due::Nothing; 2]);
        assert_eq!([1500, 2499].map(|now| due(&mut notes, now, 3000)), [Due::Look; 2]);
        assert_eq!([2500, 2600].map(|now| due(&mut notes, now, 3000)), [Due::End; 2], "somebody is left");
        notes.ended = Moment(3000);
        assert_eq!(due(&mut notes, 2700, 3000), Due::Nothing);
        // Half of another note: it has not been read so before.
        assert_eq!(due(&mut notes, 2800, 2000), Due::Nothing);
        assert_eq!(due(&mut notes, 2850, 6000), Due::Nothing);
        assert_eq!(due(&mut notes, 5500, 5900), Due::Nothing);
        assert_eq!(due(&mut notes, 5500, 6000), Due::Nothing);
        assert_eq!(due(&mut notes, 5550, 6000), Due::End);
        // Renewed while they were looked for.
        assert_eq!(due(&mut notes, 5600, 6600), Due::Look);
        assert_eq!(due(&mut notes, 5600, 8600), Due::Nothing);
    }

    #[test]
    fn what_ends_soon_is_looked_at_often_and_in_time() {
        let mut notes = Notes { last: Moment(3000), ..Notes::default() };
        let end = Moment(3000);
        let rest_ms = |notes: &Notes, now| notes.rest(Moment(now), end).as_millis();
        assert_eq!([500, 1300, 1499].map(|now| rest_ms(&notes, now)), [500, 200, 1]);
        assert_eq!([1500, 2100, 2400, 2499].map(|now| rest_ms(&notes, now)), [250, 250, 100, 1]);
        // Those that do not end, less and less often.
        let mut waits_ms = vec![rest_ms(&notes, 2500)];
        for _ in 0..5 {
            assert_eq!(notes.due(Moment(2500), end), Due::End);
            waits_ms.push(rest_ms(&notes, 2500));
        }
        assert_eq!(waits_ms, [50, 100, 200, 400, 500, 500]);
        notes.ended = end;
        assert_eq!(rest_ms(&notes, 2500), 500);
    }

    #[test]
    fn known_users_are_ended_only_if_their_lease_is_over_and_they_have_not_let_go() {
        let file = tempfile::tempfile().unwrap();
        let id = (file.metadata().unwrap().dev(), file.metadata().unwrap().ino());
        let input = file.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").stdin(input).spawn().unwrap();
        let known = openers::users(move |file| (file.dev(), file.ino()) == id).unwrap();
        let known: Vec<User> = known.filter_map(|user| user.unwrap()).collect();
        assert!(Ended::known(&known, || false).pids.is_empty() && child.try_wait().unwrap().is_none());
        let ended = Ended::known(&known, || true);
        assert_eq!((ended.pids, ended.known), (vec![Pid::from_child(&child)], 1));
        assert!(!child.wait().unwrap().success());
        assert!(Ended::known(&known, || true).pids.is_empty(), "it has ended, and another may have its id");
    }
}
