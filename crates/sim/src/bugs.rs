//! Rules that can be broken on purpose, to see that the rung notices.

#[cfg(feature = "seeded-bugs")]
use control::bug::Bug;
use control::bug::Bugs;

/// A rule, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// One of the deciding code's.
    #[cfg(feature = "seeded-bugs")]
    Control(Bug),
    /// A gate fails what it holds by itself when its path is lost.
    GateTimesOut,
    /// A machine that has lost its ledger votes again under its old id.
    WipedVoter,
    /// The owner's own leg has no gate: a drive that is pulled is an error to md, and no error to the drive.
    UngatedOwnLeg,
    /// A target takes its fence for done while I/O is in flight.
    NoBarrier,
    /// The owner's own leg is rebuilt before its target has given it out.
    OwnLegTooEarly,
    /// A path that was lost is used again although the target may still have I/O that was sent before.
    PathBackAtOnce,
    /// A rebuild's copy begins when md calls itself quiet, whatever has failed on another leg meanwhile.
    CopyAtOnce,
    /// Drives that are taken to be safe lose their cache with their power.
    LyingCache,
    /// What an agent decides as the leader's is passed on to whoever leads by then.
    DecidesForAnother,
}

impl Broken {
    /// What the deciding code is given.
    pub(crate) fn of_control(self) -> Option<Bugs> {
        match self {
            #[cfg(feature = "seeded-bugs")]
            Self::Control(bug) => Some(Bugs::with(bug)),
            _ => None,
        }
    }

    /// All that this build has, by the names that the command line knows them by.
    pub fn all() -> Vec<(String, Self)> {
        #[cfg(feature = "seeded-bugs")]
        let found = {
            let own = [
                Self::GateTimesOut,
                Self::WipedVoter,
                Self::UngatedOwnLeg,
                Self::NoBarrier,
                Self::OwnLegTooEarly,
                Self::PathBackAtOnce,
                Self::CopyAtOnce,
                Self::LyingCache,
                Self::DecidesForAnother,
            ];
            let named = |name: String, broken| (kebab(&name), broken);
            let control = Bug::ALL.map(|bug| (bug.name().to_owned(), Self::Control(bug)));
            control.into_iter().chain(own.map(|broken| named(format!("{broken:?}"), broken))).collect()
        };
        #[cfg(not(feature = "seeded-bugs"))]
        let found = Vec::new();
        found
    }

    /// Whether this rung hardly sees it or can't, and `control`'s tests do: what is fenced too early is not given out before its barrier is
    /// through, a confirmation of an earlier run counts only in the moment between a registration and the next confirmation, a leg that has
    /// gone has seldom something in flight when its slabs are said to be free, and what one swallows that is on its way out is still marked when it is back.
    pub fn only_elsewhere(self) -> bool {
        match self {
            #[cfg(feature = "seeded-bugs")]
            Self::Control(bug) => {
                let elsewhere =
                    [Bug::SkipBarrier, Bug::AnyRunConfirms, Bug::FreeBeforeBarrier, Bug::ExtendUncovered];
                elsewhere.contains(&bug)
            }
            _ => false,
        }
    }

    /// The one of a name; `None`: this build has none of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|(known, _)| known == name).map(|(_, broken)| broken)
    }
}

#[cfg(feature = "seeded-bugs")]
fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for (at, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && at > 0 {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}
