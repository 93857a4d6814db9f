//! Rules that this node breaks on purpose, because its lab says so on the kernel's command line (docs/kill-matrix.md).
//!
//! Invariants: without the feature `seeded-bugs` nothing is read and nothing broken. A rule that this build does not know is an error: a node
//! that keeps it would be taken for one that breaks it.
//!
//! On failure: [`VolumesError::NoSuchRule`]; the node takes no part.

use super::VolumesError;

/// What is broken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seeded {
    /// In what decides.
    pub(super) control: control::bug::Bugs,
    /// In what carries out.
    pub(super) storage: storage::bug::Bugs,
}

/// Nothing.
#[cfg(not(feature = "seeded-bugs"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
pub(super) fn of_this_node() -> Result<Seeded, VolumesError> {
    Ok(Seeded::default())
}

/// What the lab says.
#[cfg(feature = "seeded-bugs")]
pub(super) fn of_this_node() -> Result<Seeded, VolumesError> {
    let told = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let seeded = told_by(&told)?;
    if let Some(name) = name(&told) {
        tracing::warn!("this node breaks the rule `{name}` on purpose");
    }
    Ok(seeded)
}

#[cfg(feature = "seeded-bugs")]
fn name(command_line: &str) -> Option<&str> {
    command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix("twinrack.bug="))
}

#[cfg(feature = "seeded-bugs")]
fn told_by(command_line: &str) -> Result<Seeded, VolumesError> {
    let Some(name) = name(command_line) else { return Ok(Seeded::default()) };
    // What both know is broken where it is carried out: an order that leaves stale legs out altogether makes an array without a place for them.
    if let Some(bug) = storage::bug::Bug::named(name) {
        return Ok(Seeded { storage: storage::bug::Bugs::with(bug), ..Seeded::default() });
    }
    let bug = control::bug::Bug::named(name).ok_or_else(|| VolumesError::NoSuchRule(name.to_owned()))?;
    Ok(Seeded { control: control::bug::Bugs::with(bug), ..Seeded::default() })
}

#[cfg(all(test, feature = "seeded-bugs"))]
mod tests {
    use super::*;

    #[test]
    fn a_node_breaks_what_it_is_told_and_refuses_what_it_does_not_know() {
        let of_control = told_by("quiet twinrack.bug=open-unequal").unwrap();
        assert_eq!(of_control.control, control::bug::Bugs::with(control::bug::Bug::OpenUnequal));
        let of_both = told_by("twinrack.bug=forget-map").unwrap();
        assert_eq!(of_both.control, control::bug::Bugs::default());
        assert_eq!(of_both.storage, storage::bug::Bugs::with(storage::bug::Bug::ForgetMap));
        let of_storage = told_by("twinrack.bug=lying-cache panic=-1\n").unwrap();
        assert_eq!(of_storage.storage, storage::bug::Bugs::with(storage::bug::Bug::LyingCache));
        assert_eq!(told_by("quiet").unwrap().control, control::bug::Bugs::default());
        assert!(matches!(told_by("twinrack.bug=forgets"), Err(VolumesError::NoSuchRule(_))));
    }
}
