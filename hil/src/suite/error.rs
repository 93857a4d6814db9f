//! What is wrong with a suite.

/// A suite file or name that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Not TOML, an unknown key or a wrong type.
    #[error("suite {name}: {source}")]
    Syntax {
        /// Which suite.
        name: String,
        /// What and where.
        #[source]
        source: toml::de::Error,
    },
    /// No suite of that name.
    #[error("there is no suite `{name}`; there are: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A scenario makes more faults at once than it declares.
    #[error("suite {suite}, scenario `{scenario}`: {faults} faults at once, but a budget of {budget}")]
    OverBudget {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
        /// The most faults at once.
        faults: usize,
        /// What it declares.
        budget: usize,
    },
    /// A suite without scenarios, or a scenario without steps: it would hold without having looked at anything.
    #[error("suite {suite}: {what} is empty")]
    Empty {
        /// The suite.
        suite: String,
        /// What.
        what: String,
    },
    /// Power on where nothing is off, or thawing where nothing is frozen.
    #[error(
        "suite {suite}, scenario `{scenario}`: nothing was done before that this step could undo: {step}"
    )]
    NothingToUndo {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
        /// The step, in words.
        step: String,
    },
    /// After a judgement nothing runs any more.
    #[error("suite {suite}, scenario `{scenario}`: a judgement takes all power, so it comes last")]
    AfterJudgement {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
    },
    /// A scenario ends broken.
    #[error("suite {suite}, scenario `{scenario}`: ends without mending what it broke")]
    EndsBroken {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
    },
}
