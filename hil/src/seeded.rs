//! Rules that a lab's nodes break on purpose, so that the suites and the judge can be seen to notice (docs/kill-matrix.md).
//!
//! Purpose: [`RULES`] has each by its name, with the suites that must notice. The nodes' agent is built with its feature `seeded-bugs`, and is told
//! the name on the kernel's command line. The image of any other run has nothing of it.

/// A rule that can be broken on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What it is called on the command line, in the sim rung, and by the agent.
    pub name: &'static str,
    /// What the nodes do then.
    pub what: &'static str,
    /// The suites that must notice; none: what these nodes and drives can do does not provoke it.
    pub caught_by: &'static [&'static str],
}

/// All of them.
pub const RULES: [Rule; 9] = [
    Rule {
        name: "lying-cache",
        what: "drives keep their volatile caches on",
        caught_by: &["volume-rack-loss"],
    },
    Rule {
        name: "let-go-before-commit",
        what: "the owner lets a leg go before the ledger says that it is stale",
        caught_by: &["volume-room-cut"],
    },
    Rule {
        name: "gate-times-out",
        what: "a gate fails by itself what has no path",
        caught_by: &["volume-network-loss"],
    },
    Rule {
        name: "forget-map",
        what: "the map of a stale leg is not kept when the volume is assembled",
        caught_by: &["volume-returning-leg"],
    },
    Rule {
        name: "in-sync-by-itself",
        what: "a returning leg is called in sync because md has it",
        caught_by: &["volume-returning-leg"],
    },
    Rule {
        name: "open-unequal",
        what: "users are let in before the legs are equal",
        caught_by: &["volume-cold-start"],
    },
    Rule { name: "release-without-look", what: "md is answered without a look at every leg", caught_by: &[] },
    Rule { name: "skip-barrier", what: "a fence is confirmed before its barrier is through", caught_by: &[] },
    Rule {
        name: "restore-exports",
        what: "a restarted target gives out what it gave out before",
        caught_by: &[],
    },
];

/// Their names.
pub fn names() -> Vec<&'static str> {
    RULES.iter().map(|rule| rule.name).collect()
}

/// What a node's kernel is told; `None`: there is no such rule.
pub(crate) fn kernel_argument(name: &str) -> Option<String> {
    RULES.iter().find(|rule| rule.name == name).map(|rule| format!(" twinrack.bug={}", rule.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Set, Suite};

    #[test]
    fn the_suites_that_must_notice_are_there() {
        for rule in RULES {
            let names: Vec<String> = rule.caught_by.iter().map(ToString::to_string).collect();
            assert!(!Suite::select(&names, Set::Nightly).unwrap().is_empty(), "{}", rule.name);
        }
    }

    #[test]
    fn a_node_is_told_of_a_rule_that_there_is() {
        assert_eq!(kernel_argument("lying-cache").unwrap(), " twinrack.bug=lying-cache");
        assert_eq!(kernel_argument("lying-cash"), None);
    }
}
