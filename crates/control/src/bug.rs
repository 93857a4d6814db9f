//! Bugs that can be switched on, so that the checks which must catch them can be seen to.
//!
//! They are built only for tests and with the feature `seeded-bugs`. Without it [`Bugs`] is nothing and [`Bugs::has`] always
//! false.

/// A rule of the protocol, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// The owner lets a leg go before the ledger says that it is stale.
    LetGoBeforeCommit,
    /// The owner answers md without having looked at every leg.
    ReleaseWithoutLook,
    /// The target confirms a fence before the barrier is through.
    SkipBarrier,
    /// A confirmation counts whatever the run in which it was made.
    AnyRunConfirms,
    /// The owner calls a returning leg in sync because md has it.
    InSyncByItself,
    /// A restarted target gives out again what it gave out before.
    RestoreExports,
    /// The owner does not add to the maps of stale legs when it assembles.
    ForgetMap,
    /// The owner lets users in before it has made the legs equal.
    OpenUnequal,
    /// The slabs of a leg that the ledger drops are free at once.
    FreeAtOnce,
    /// The target says that the slabs of such a leg are free before the barrier is through.
    FreeBeforeBarrier,
    /// A volume has grown when the first of its legs has the slabs for it.
    GrowAtFirstLaid,
    /// The owner lets users have the new size while a leg is in its array that has not the slabs for it.
    ExtendUncovered,
    /// A target fills slabs with zeros that it remembers to have laid, if it has not seen that the ledger says so.
    LayAgain,
    /// The owner asks for a hand-over's commit while its array stands, and users write.
    HandOverUnclosed,
    /// Extents are mapped in the commit that gives legs the slabs for them.
    MapAtOnce,
    /// An extent that is mapped is mapped once more, to another place, when somebody asks for it again.
    MapAnew,
    /// A virtual machine is started without waiting for earlier runs to be over, and for its volumes.
    StartEarly,
    /// What has paused for a switch runs again when the switch is committed.
    ResumeAfterSwitch,
    /// A virtual machine is placed again in the generation that it had.
    SameGeneration,
    /// A restored memory runs before the ledger says that it is used up.
    RestoreTwice,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::LetGoBeforeCommit,
        Self::ReleaseWithoutLook,
        Self::SkipBarrier,
        Self::AnyRunConfirms,
        Self::InSyncByItself,
        Self::RestoreExports,
        Self::ForgetMap,
        Self::OpenUnequal,
        Self::FreeAtOnce,
        Self::FreeBeforeBarrier,
        Self::GrowAtFirstLaid,
        Self::ExtendUncovered,
        Self::LayAgain,
        Self::HandOverUnclosed,
        Self::MapAtOnce,
        Self::MapAnew,
        Self::StartEarly,
        Self::ResumeAfterSwitch,
        Self::SameGeneration,
        Self::RestoreTwice,
    ];

    /// What it is called on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::LetGoBeforeCommit => "let-go-before-commit",
            Self::ReleaseWithoutLook => "release-without-look",
            Self::SkipBarrier => "skip-barrier",
            Self::AnyRunConfirms => "any-run-confirms",
            Self::InSyncByItself => "in-sync-by-itself",
            Self::RestoreExports => "restore-exports",
            Self::ForgetMap => "forget-map",
            Self::OpenUnequal => "open-unequal",
            Self::FreeAtOnce => "free-at-once",
            Self::FreeBeforeBarrier => "free-before-barrier",
            Self::GrowAtFirstLaid => "grow-at-first-laid",
            Self::ExtendUncovered => "extend-uncovered",
            Self::LayAgain => "lay-again",
            Self::HandOverUnclosed => "hand-over-unclosed",
            Self::MapAtOnce => "map-at-once",
            Self::MapAnew => "map-anew",
            Self::StartEarly => "start-early",
            Self::ResumeAfterSwitch => "resume-after-switch",
            Self::SameGeneration => "same-generation",
            Self::RestoreTwice => "restore-twice",
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// The bugs that are switched on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
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
}
