//! Bugs that can be switched on, so that the suites which must catch them can be seen to.
//!
//! They are built only for tests and with the feature `seeded-bugs`. Without it [`Bugs`] is nothing and [`Bugs::has`] always
//! false.

/// A rule of storage, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// What stale legs have missed is not kept when an array is assembled.
    ForgetMap,
    /// A gate fails by itself what has no path, at once. (After a second, the shortest that device-mapper can be told, a lease that ends is there first.)
    GateTimesOut,
    /// A drive's volatile cache stays on, and nobody is told.
    LyingCache,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ForgetMap, Self::GateTimesOut, Self::LyingCache];

    /// What it is called on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForgetMap => "forget-map",
            Self::GateTimesOut => "gate-times-out",
            Self::LyingCache => "lying-cache",
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
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
    #[cfg(all(feature = "kernel", any(test, feature = "seeded-bugs")))]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this one is: never.
    #[cfg(all(feature = "kernel", not(any(test, feature = "seeded-bugs"))))]
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
