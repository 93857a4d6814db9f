//! Bugs that can be switched on, so that the tests which must catch them can be seen to.
//!
//! They are built only for tests and with the feature `seeded-bugs`. Without it [`Bugs`] is nothing and [`Bugs::has`] always
//! false.

/// A rule of the ledger, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Entries are acknowledged before they are on disk.
    AcknowledgeUnsynced,
    /// A vote is given before it is on disk.
    VoteUnsynced,
    /// Messages reach a node whose store is another than the one that joined under its id.
    AnyStore,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AcknowledgeUnsynced, Self::VoteUnsynced, Self::AnyStore];

    /// The name that the command line knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeUnsynced => "acknowledge-unsynced",
            Self::VoteUnsynced => "vote-unsynced",
            Self::AnyStore => "any-store",
        }
    }
}

/// The bugs that are switched on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bugs {
    #[cfg(any(test, feature = "seeded-bugs"))]
    bug: Option<Bug>,
}

impl Bugs {
    /// Whether this one is.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this one is: never.
    #[cfg(not(any(test, feature = "seeded-bugs")))]
    #[expect(clippy::unused_self, reason = "the other build looks at it")]
    pub(crate) fn has(self, _: Bug) -> bool {
        false
    }

    /// With this one on.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub fn with(bug: Bug) -> Self {
        Self { bug: Some(bug) }
    }

    /// The names of all that this build has.
    pub fn names() -> Vec<&'static str> {
        if cfg!(any(test, feature = "seeded-bugs")) { Bug::ALL.map(Bug::name).to_vec() } else { Vec::new() }
    }

    /// With the one of a name on, if this build has it.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub fn named(name: &str) -> Option<Self> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name).map(Self::with)
    }

    /// With the one of a name on: this build has none.
    #[cfg(not(any(test, feature = "seeded-bugs")))]
    pub fn named(_: &str) -> Option<Self> {
        None
    }
}
