//! What happened in a schedule, counted and told.

use std::collections::BTreeMap;
use tokio::time::Instant;

/// Something that happens in schedules. All of them are [`What::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A way between two nodes is cut.
    Cut,
    /// What one says does not reach the other.
    CutOneWay,
    /// A node is cut off from all others.
    CutOff,
    /// Letters get lost, come twice, come late.
    Lossy,
    /// A node loses its power between two writes to its disk.
    PowerLost,
    /// It loses it after some more writes, wherever that is.
    PowerLostInAWrite,
    /// All lose it.
    PowerLostEverywhere,
    /// A node loses its disk.
    DiskLost,
    /// It comes back with an empty one under the id that it had, which nobody may believe.
    CameAsItWas,
    /// All ways are mended.
    Mended,
    /// A node starts again from its disk.
    Restarted,
    /// A node without a ledger joins again, under the next id.
    JoinedAgain,
    /// The set of voters is another.
    VotersChanged,
    /// Somebody leads who did not.
    Elected,
    /// A follower that was too far behind takes a whole snapshot.
    SnapshotInstalled,
    /// A command is acknowledged.
    Applied,
    /// One was surely not taken.
    NotTaken,
    /// Nobody knows of one.
    Unknown,
    /// A quorum confirms to a leader that it leads.
    Confirmed,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Cut,
        Self::CutOneWay,
        Self::CutOff,
        Self::Lossy,
        Self::PowerLost,
        Self::PowerLostInAWrite,
        Self::PowerLostEverywhere,
        Self::DiskLost,
        Self::CameAsItWas,
        Self::Mended,
        Self::Restarted,
        Self::JoinedAgain,
        Self::VotersChanged,
        Self::Elected,
        Self::SnapshotInstalled,
        Self::Applied,
        Self::NotTaken,
        Self::Unknown,
        Self::Confirmed,
    ];

    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::CutOneWay => "cut-one-way",
            Self::CutOff => "cut-off",
            Self::Lossy => "lossy",
            Self::PowerLost => "power-lost",
            Self::PowerLostInAWrite => "power-lost-in-a-write",
            Self::PowerLostEverywhere => "power-lost-everywhere",
            Self::DiskLost => "disk-lost",
            Self::CameAsItWas => "came-as-it-was",
            Self::Mended => "mended",
            Self::Restarted => "restarted",
            Self::JoinedAgain => "joined-again",
            Self::VotersChanged => "voters-changed",
            Self::Elected => "elected",
            Self::SnapshotInstalled => "snapshot-installed",
            Self::Applied => "applied",
            Self::NotTaken => "not-taken",
            Self::Unknown => "unknown",
            Self::Confirmed => "confirmed",
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Cut => "ways between two nodes cut",
            Self::CutOneWay => "ways cut in one direction",
            Self::CutOff => "nodes cut off from all others",
            Self::Lossy => "times that letters got lost, came twice, came late",
            Self::PowerLost => "nodes without power",
            Self::PowerLostInAWrite => "nodes without power in the middle of a write",
            Self::PowerLostEverywhere => "times that nobody had power",
            Self::DiskLost => "disks lost",
            Self::CameAsItWas => "nodes back under the id of the disk that they lost",
            Self::Mended => "times that all ways were mended",
            Self::Restarted => "nodes started again",
            Self::JoinedAgain => "nodes joined again under another id",
            Self::VotersChanged => "changes of voters",
            Self::Elected => "elections",
            Self::SnapshotInstalled => "snapshots installed",
            Self::Applied => "commands acknowledged",
            Self::NotTaken => "commands surely not taken",
            Self::Unknown => "commands of which nobody knows",
            Self::Confirmed => "leaderships confirmed",
        }
    }

    /// Whether it breaks something.
    pub fn is_fault(self) -> bool {
        self <= Self::DiskLost
    }
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened(BTreeMap<What, u64>);

impl Happened {
    /// How often this did.
    pub fn times(&self, what: What) -> u64 {
        self.0.get(&what).copied().unwrap_or(0)
    }

    /// How often something broke.
    pub fn faults(&self) -> u64 {
        self.0.iter().filter(|(what, _)| what.is_fault()).map(|(_, times)| times).sum()
    }

    pub(crate) fn add(&mut self, what: What, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.add(*what, *times));
    }
}

/// What a schedule has seen so far.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) happened: Happened,
    pub(crate) virtual_ms: u64,
    /// What happened, line by line, if it was asked for.
    pub(crate) story: Option<Vec<String>>,
    began: Option<Instant>,
}

impl Tally {
    pub(crate) fn new(tells: bool) -> Self {
        Self { happened: Happened::default(), virtual_ms: 0, story: tells.then(Vec::new), began: None }
    }

    /// Takes down that something happened now, to whom.
    pub(crate) fn note(&mut self, what: What, whom: &str) {
        self.happened.add(what, 1);
        self.tell(format_args!("{}: {whom}", what.name()));
    }

    /// Takes down a line of the story.
    pub(crate) fn tell(&mut self, line: std::fmt::Arguments<'_>) {
        let now = Instant::now();
        let elapsed = now - *self.began.get_or_insert(now);
        self.virtual_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if let Some(story) = &mut self.story {
            story.push(format!("{:>7} ms  {line}", self.virtual_ms));
        }
    }
}
