//! The journal of a deployment: what was begun, what was done, what failed, and when.
//!
//! ```text
//!   {"at": …, "run": "begun", "template": "9f2c…", "plan": ["…"]}
//!   {"at": …, "step": "b1 joins", "stage": "quorum", "is": "begun"}        on disk before the step is carried out
//!   {"at": …, "step": "b1 joins", "stage": "quorum", "is": "done", "ms": 412, "did": "b1 joined"}
//!   {"at": …, "run": "ended", "good": true}
//! ```
//! Purpose: whoever was killed, or failed, can say what was done and in the middle of what it was cut off, and how long everything took over all its runs.
//!
//! Invariants: a line is on disk (fsync) before what it announces happens. The journal *tells*; it decides nothing: what is to be done is seen from the nodes, so that a journal that is lost, or of
//! another day, makes no deployment wrong. One deployment at a time has it (flock).
//!
//! On failure: [`JournalError`], and the deployment does not go on: what can't be written down is not done. A last line that is not whole, as its writer was killed, is taken off.

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// A journal longer than this is none of ours: a run writes some kilobytes.
const BYTES_MAX: u64 = 64 << 20;

/// How every entry begins.
const BEGINNING: &[u8] = b"{\"at\":\"";

/// The journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It can't be opened, read or written.
    #[error("can't {verb} the journal {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else deploys.
    #[error("another deployment has the journal {} open", path.display())]
    Taken {
        /// Which.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{}:{line} is no entry of a deployment's journal", path.display())]
    NoJournal {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl JournalError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::File { .. } => "name a file that can be written: --journal FILE",
            Self::Taken { .. } => {
                "wait until it has ended, or end it; two deployments of one cluster would only wait for each other"
            }
            Self::NoJournal { .. } => {
                "name another file: --journal FILE; what is to be done is seen from the nodes, not from the journal"
            }
        }
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Said {
    /// A run began or ended.
    Run {
        /// Which of the two.
        run: RunIs,
        /// SHA-256 of the template, hexadecimal, of one that began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
        /// What it was going to do, of one that began.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        plan: Vec<String>,
        /// Whether all was well, of one that ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        good: Option<bool>,
    },
    /// A step did.
    Step {
        /// Which.
        step: String,
        /// Of which stage.
        stage: String,
        /// What became of it.
        #[serde(flatten)]
        is: StepIs,
    },
}

/// Whether a run begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunIs {
    /// It begins.
    Begun,
    /// It ended by itself.
    Ended,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum StepIs {
    /// It is about to be carried out.
    Begun,
    /// It was.
    Done {
        /// How long it took, ms.
        ms: u64,
        /// What was changed; `None`: nothing, all was as it shall be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        did: Option<String>,
    },
    /// It was not, or not as it shall.
    Failed {
        /// How long it took, ms.
        ms: u64,
        /// Why.
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    at: jiff::Timestamp,
    #[serde(flatten)]
    said: Said,
}

/// What earlier runs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// How many there were.
    pub runs: usize,
    /// The template of the last.
    pub template: Option<String>,
    /// When the last one began that did not end well; `None`: the last one ended well, or there was none.
    pub unfinished_since: Option<jiff::Timestamp>,
    /// The step in the middle of which the last one was cut off.
    pub cut_off_in: Option<String>,
    /// What was changed so far, in the order of time, since the last run that ended well.
    pub did: Vec<String>,
}

impl Past {
    fn of(entries: Vec<Entry>) -> Self {
        let mut past = Self::default();
        for Entry { at, said } in entries {
            match said {
                Said::Run { run: RunIs::Begun, template, .. } => {
                    past.runs += 1;
                    past.template = template;
                    past.unfinished_since.get_or_insert(at);
                    past.cut_off_in = None;
                }
                Said::Run { run: RunIs::Ended, good: Some(true), .. } => {
                    past = Self { runs: past.runs, template: past.template, ..Self::default() };
                }
                Said::Step { step, is: StepIs::Begun, .. } => past.cut_off_in = Some(step),
                Said::Step { is: StepIs::Done { did, .. }, .. } => {
                    past.did.extend(did);
                    past.cut_off_in = None;
                }
                Said::Run { run: RunIs::Ended, .. } | Said::Step { is: StepIs::Failed { .. }, .. } => {
                    past.cut_off_in = None;
                }
            }
        }
        past
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    past: Past,
}

impl Journal {
    /// Opens one, or begins it, for this process alone.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |verb| move |source| JournalError::File { verb, path: path.to_owned(), source };
        let is_new = !path.exists();
        // To open a pipe would wait for whoever writes to it.
        if !is_new && !path.is_file() {
            return Err(failed("use")(io::Error::other("it is no file")));
        }
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(failed("open"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => JournalError::Taken { path: path.to_owned() },
            error => failed("lock")(error.into()),
        })?;
        if is_new {
            sync_folder(path).map_err(failed("keep"))?;
        }
        let mut text = Vec::new();
        (&file).take(BYTES_MAX + 1).read_to_end(&mut text).map_err(failed("read"))?;
        if text.len() as u64 > BYTES_MAX {
            return Err(failed("read")(io::ErrorKind::FileTooLarge.into()));
        }
        // Whoever wrote the last line was killed before it was whole.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let entries = entries(path, &text[..whole])?;
        let rest = &text[whole..];
        if !rest.iter().zip(BEGINNING).all(|(found, ours)| found == ours) {
            // Somebody else's: a line of ours begins otherwise.
            let source = serde::de::Error::custom("it begins otherwise than an entry");
            return Err(JournalError::NoJournal { path: path.to_owned(), line: entries.len() + 1, source });
        }
        if whole < text.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed("mend"))?;
            file.seek(SeekFrom::End(0)).map_err(failed("mend"))?;
        }
        Ok(Self { path: path.to_owned(), file, past: Past::of(entries) })
    }

    /// What earlier runs came to.
    pub fn past(&self) -> &Past {
        &self.past
    }

    /// Writes an entry; it is on disk when this returns.
    pub fn write(&mut self, said: Said) -> Result<(), JournalError> {
        let entry = Entry { at: jiff::Timestamp::now(), said };
        let failed = |source| JournalError::File { verb: "write to", path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&entry).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let before = self.file.metadata().map_err(failed)?.len();
        (&self.file).write_all(&line).and_then(|()| self.file.sync_data()).map_err(|error| {
            // Half a line would make the next one unreadable. If it can't be taken off either, the next run says so.
            self.file.set_len(before).ok();
            failed(error)
        })
    }
}

/// What is in a journal that somebody else may be writing: as far as it is whole, and nothing where there is none.
pub fn said_so_far(path: &Path) -> Vec<Said> {
    let text = std::fs::read(path).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    lines.map_while(|line| serde_json::from_slice::<Entry>(line).ok()).map(|entry| entry.said).collect()
}

/// A file that was made is there after a power loss only once its folder is on disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn entries(path: &Path, text: &[u8]) -> Result<Vec<Entry>, JournalError> {
    let lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let entry = |(at, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|source| JournalError::NoJournal {
            path: path.to_owned(),
            line: at + 1,
            source,
        })
    };
    lines.map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn begun(template: &str) -> Said {
        Said::Run { run: RunIs::Begun, template: Some(template.to_owned()), plan: Vec::new(), good: None }
    }

    fn ended(good: bool) -> Said {
        Said::Run { run: RunIs::Ended, template: None, plan: Vec::new(), good: Some(good) }
    }

    fn step(step: &str, is: StepIs) -> Said {
        Said::Step { step: step.to_owned(), stage: "quorum".to_owned(), is }
    }

    fn done(did: Option<&str>) -> StepIs {
        StepIs::Done { ms: 7, did: did.map(str::to_owned) }
    }

    fn with(said: &[Said]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plant.deployment.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for said in said {
            journal.write(said.clone()).unwrap();
        }
        (folder, path)
    }

    #[test]
    fn what_was_done_and_where_it_was_cut_off_is_read_back() {
        let (_folder, path) = with(&[
            begun("one"),
            step("a", StepIs::Begun),
            step("a", done(Some("a joined"))),
            step("b", StepIs::Begun),
            begun("two"),
            step("a", StepIs::Begun),
            step("a", done(None)),
            step("b", StepIs::Begun),
        ]);
        let journal = Journal::open(&path).unwrap();
        let past = journal.past();
        assert_eq!((past.runs, past.template.as_deref()), (2, Some("two")));
        assert_eq!((past.cut_off_in.as_deref(), &past.did[..]), (Some("b"), &["a joined".to_owned()][..]));
        assert!(past.unfinished_since.is_some());
    }

    #[test]
    fn one_that_ended_well_is_over_and_one_that_failed_is_not() {
        let (_folder, path) =
            with(&[begun("t"), step("a", StepIs::Begun), step("a", done(Some("x"))), ended(true)]);
        let past = Journal::open(&path).unwrap().past().clone();
        assert_eq!(past, Past { runs: 1, template: Some("t".into()), ..Past::default() });
        let failed = StepIs::Failed { ms: 1, why: "no".into() };
        let (_folder, path) = with(&[begun("t"), step("a", StepIs::Begun), step("a", failed), ended(false)]);
        let past = Journal::open(&path).unwrap().past().clone();
        assert!(past.unfinished_since.is_some() && past.cut_off_in.is_none());
    }

    #[test]
    fn half_a_line_is_taken_off_wherever_its_writer_was_killed() {
        let (_folder, path) = with(&[begun("t"), step("a", StepIs::Begun)]);
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for cut in last..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(journal.past().cut_off_in, None, "cut at {cut}");
            journal.write(step("b", StepIs::Begun)).unwrap();
            drop(journal);
            assert_eq!(Journal::open(&path).unwrap().past().cut_off_in.as_deref(), Some("b"), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_journal_is_let_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        for precious in ["precious\nmore", "precious", "{\"at\": 7}", "x"] {
            fs::write(&path, precious).unwrap();
            assert!(
                matches!(Journal::open(&path), Err(JournalError::NoJournal { line: 1, .. })),
                "{precious}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), precious);
        }
        assert!(matches!(Journal::open(folder.path()), Err(JournalError::File { verb: "use", .. })));
        let missing = folder.path().join("no/such");
        assert!(matches!(Journal::open(&missing), Err(JournalError::File { verb: "open", .. })));
    }

    #[test]
    fn one_at_a_time_has_it() {
        let (_folder, path) = with(&[begun("t")]);
        let first = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Taken { .. })));
        drop(first);
        Journal::open(&path).unwrap();
    }
}
