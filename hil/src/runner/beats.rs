//! The beats of a suite's virtual machine, as the compute network hears them: where the lab's switches take them from nodes' NICs.
//!
//! Purpose: whether two copies of it ever ran, as far as others could hear them, and how long it was away, seen from outside ([`pulse::history`]).
//!
//! Invariants: beats are judged in the order in which the fabric took them, on its clock. Every beat that it told is judged, and those that it did not keep are said.
//!
//! On failure: what the product does not do is a step that does not hold; a fabric that does not answer ends the run.

use super::{Runner, Seen, milliseconds};
use crate::run::RunError;
use fabric::{Experiments, NicId};
use model::VmId;
use pulse::format::Beat;
use pulse::history::{History, Twice};
use std::time::Duration;

/// How many changes of place are told: a copy against a copy changes it with every beat.
const PLACES_MAX: usize = 16;

/// What was heard of one virtual machine.
#[derive(Debug, Default)]
pub(super) struct Beats {
    /// The number of the next frame to be asked for.
    next: u64,
    history: History,
    count: u64,
    /// Frames that the fabric did not keep until they were asked for; any of them may have been a beat.
    missed: u64,
    /// By which NICs its runs were heard, one after the other.
    heard: Vec<(u32, NicId)>,
    twice: Option<Twice>,
    /// The longest time between two of which the second was heard since [`Runner::listen_anew`].
    lately: Duration,
}

impl Beats {
    fn take(&mut self, id: VmId, told: &Experiments) {
        self.missed += told.first.saturating_sub(self.next);
        self.next = told.first + told.seen.len() as u64;
        for seen in &told.seen {
            let Some(beat) = Beat::of_payload(&seen.payload).filter(|beat| beat.vm == id.0) else { continue };
            self.count += 1;
            let place = (beat.run, seen.nic.clone());
            if self.heard.last() != Some(&place) && self.heard.len() < PLACES_MAX {
                self.heard.push(place);
            }
            let at = Duration::from_micros(seen.at_us);
            if let Some((before, _)) = self.history.last() {
                self.lately = self.lately.max(at.saturating_sub(before));
            }
            if let Err(twice) = self.history.saw(at, beat) {
                self.twice.get_or_insert(twice);
            }
        }
    }

    /// How many there were so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How long it was away at most since [`Runner::listen_anew`].
    pub(super) fn lately(&self) -> Duration {
        self.lately
    }

    /// That there were never two copies, as far as it was heard.
    fn one_copy(&self) -> Seen {
        match &self.twice {
            Some(twice) => Seen::not(format!("{twice}; {}", self.in_words())),
            None if self.missed > 0 => Seen::not(format!("not all was heard: {}", self.in_words())),
            None => Seen::held(self.in_words()),
        }
    }

    /// The same, that it was heard at all, and never away for longer than this between two beats.
    fn at_most_away(&self, bound: Duration) -> Seen {
        let one = self.one_copy();
        let longest = self.history.longest();
        Seen { good: one.good && self.count > 0 && longest <= bound, ..one }.measuring(milliseconds(longest))
    }

    fn in_words(&self) -> String {
        if self.count == 0 {
            return "no beat was heard".to_owned();
        }
        let places = self.heard.iter().map(|(run, nic)| format!("run {run} by {nic}"));
        let places = places.collect::<Vec<_>>().join(", ");
        let missed =
            if self.missed > 0 { format!("; {} frames were missed", self.missed) } else { String::new() };
        let (count, longest) = (self.count, milliseconds(self.history.longest()));
        format!("{count} beats ({places}), no two more than {longest} ms apart{missed}")
    }
}

impl Runner<'_> {
    /// Takes in all beats that there are by now; `None`: there is no virtual machine, or it has no NIC.
    pub(super) fn hear_beats(&mut self) -> Result<Option<&Beats>, RunError> {
        let Some(guest) = self.guest.as_mut().filter(|guest| guest.has_nic) else { return Ok(None) };
        loop {
            let told = self.lab.experiments(guest.beats.next)?;
            guest.beats.take(guest.id, &told);
            if told.left == 0 {
                return Ok(Some(&guest.beats));
            }
        }
    }

    /// From now on it is measured anew how long it is away.
    pub(super) fn listen_anew(&mut self) -> Result<(), RunError> {
        self.hear_beats()?;
        if let Some(guest) = &mut self.guest {
            guest.beats.lately = Duration::ZERO;
        }
        Ok(())
    }

    /// Whether what was heard so far is of one copy; `None`: nothing is to be heard.
    pub(super) fn one_copy_beats(&mut self) -> Result<Option<Seen>, RunError> {
        Ok(self.hear_beats()?.map(Beats::one_copy))
    }

    pub(super) fn vm_beats(&mut self, gap_at_most: Duration) -> Result<Seen, RunError> {
        let heard = self.hear_beats()?;
        Ok(heard.map_or_else(|| Seen::not("it has no NIC"), |beats| beats.at_most_away(gap_at_most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric::Experiment;

    fn told(first: u64, beats: &[(u64, &str, u32, u64)]) -> Experiments {
        let seen = beats.iter().map(|(at_ms, nic, run, beat)| {
            let beat = Beat { vm: 3, run: *run, nonce: u64::from(*run), beat: *beat, acknowledged: 0 };
            let payload = beat.frame([2; 6])[14..].to_vec();
            let nic = nic.parse().unwrap();
            Experiment { at_us: at_ms * 1000, nic, vlan: "8".parse().unwrap(), payload }
        });
        Experiments { first, seen: seen.collect(), left: 0 }
    }

    fn heard(beats: &[(u64, &str, u32, u64)]) -> Beats {
        let mut heard = Beats::default();
        heard.take(VmId(3), &told(0, beats));
        heard.take(VmId(3), &told(beats.len() as u64, &[]));
        heard
    }

    #[test]
    fn a_failover_is_a_gap_between_two_places() {
        let heard = heard(&[(0, "a1", 1, 1), (100, "a1", 1, 2), (8_200, "b1", 2, 1), (8_300, "b1", 2, 2)]);
        let words = "4 beats (run 1 by a1, run 2 by b1), no two more than 8100 ms apart";
        assert_eq!(heard.one_copy(), Seen::held(words));
        assert_eq!(heard.at_most_away(Duration::from_secs(9)), Seen::held(words).measuring(8100));
        assert!(!heard.at_most_away(Duration::from_secs(8)).good);
    }

    #[test]
    fn an_old_run_that_is_heard_after_a_new_one_began_are_two_copies_whatever_comes_then() {
        let heard = heard(&[(0, "a1", 1, 1), (5_000, "b1", 2, 1), (5_050, "a1", 1, 2), (5_100, "b1", 2, 2)]);
        assert!(!heard.one_copy().good && !heard.at_most_away(Duration::from_mins(1)).good);
        assert!(heard.one_copy().what.starts_with("vm-3: beat 2 of run 1"), "{}", heard.one_copy().what);
    }

    #[test]
    fn what_was_not_heard_proves_nothing() {
        let silent = heard(&[]);
        assert!(silent.one_copy().good && !silent.at_most_away(Duration::MAX).good);
        let mut other = Beats::default();
        other.take(VmId(4), &told(0, &[(0, "a1", 1, 1)]));
        assert_eq!((other.count, other.next), (0, 1), "another's");
        other.take(VmId(3), &told(7, &[(0, "a1", 1, 1)]));
        assert_eq!((other.count, other.missed, other.one_copy().good), (1, 6, false));
    }
}
