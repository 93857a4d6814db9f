//! A workload that writes: its records as they come, what is told of it when it has ended, and what must not come from it any more.

use super::records::{Clock, Tail};
use super::{Runner, Seen, milliseconds};
use crate::events::{Event, EventLog, Waited, Wrote};
use crate::judgement::{Acknowledged, Gap, JudgeError, acknowledged, longest_gap, stalls};
use model::NodeName;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use workload::record::Record;

/// How often records are looked at: no time is known better than that.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// A write counts as begun after a fault from so long on: so far may the clocks be apart.
pub(super) const CLOCK_SLACK_US: u64 = 20_000;
/// A time without acknowledgements is told of from this length on, µs.
const STALL_US: u64 = 500_000;

/// A workload that runs.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) node: NodeName,
    pub(super) run: u32,
    pub(super) tail: Tail,
    pub(super) clock: Clock,
}

/// A workload where the volume was open before.
#[derive(Debug)]
pub(super) struct Left {
    writer: Writer,
    why: Why,
    since: Instant,
    /// The same by its node's clock, as it was known then.
    since_us: u64,
}

/// Why nothing may be acknowledged any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Its node, clock and all, stands still or did.
    Froze,
    /// The volume was seen open elsewhere.
    Moved,
    /// Its node reset itself.
    Reset,
}

impl Writer {
    /// Takes in what was recorded since.
    pub(super) fn look(&mut self) -> Result<(), JudgeError> {
        if self.tail.read()? {
            self.clock.saw(self.tail.records().last(), Instant::now());
        }
        Ok(())
    }

    /// Whether a write was acknowledged by a deadline.
    pub(super) async fn first(&mut self, deadline: Instant) -> Result<bool, JudgeError> {
        loop {
            self.look()?;
            let is_acknowledged = !acknowledged(self.records(), self.run).is_empty();
            if is_acknowledged || Instant::now() >= deadline {
                return Ok(is_acknowledged);
            }
            sleep(LOOK).await;
        }
    }

    /// When the first write was acknowledged, of those that were seen.
    pub(super) fn first_at(&self) -> Option<Instant> {
        self.clock.moment(acknowledged(self.records(), self.run).first()?.ended_us)
    }

    /// When the last write was acknowledged.
    pub(super) fn last(&mut self) -> Option<Instant> {
        // What can't be read is the judgement's to complain of.
        let _ = self.look();
        self.clock.moment(acknowledged(self.records(), self.run).last()?.ended_us)
    }

    /// Whether writes were acknowledged from some moment until now, no two further apart.
    /// `since`: from then on; else from its first write on.
    pub(super) fn wrote_since(&self, since: Option<Instant>, gap_at_most: Duration) -> Seen {
        let done = acknowledged(self.records(), self.run);
        let first_us = || done.first().map(|write| write.ended_us);
        let since_us = since.map_or_else(first_us, |since| self.clock.node_us(since));
        let now_us = self.clock.node_us(Instant::now());
        let (Some(since_us), Some(now_us)) = (since_us, now_us) else {
            return Seen::not("nothing was ever acknowledged");
        };
        let count = done.iter().filter(|write| write.ended_us >= since_us).count();
        // What comes is seen a little later.
        let gap = longest_gap(&done, since_us, now_us.saturating_sub(CLOCK_SLACK_US));
        let longest = gap.map_or(Duration::MAX, |gap| Duration::from_micros(gap.len_us()));
        let what =
            format!("{count} writes were acknowledged, no two more than {} ms apart", longest.as_millis());
        if longest <= gap_at_most && count > 0 { Seen::held(what) } else { Seen::not(what) }
    }

    pub(super) fn records(&self) -> &[Record] {
        self.tail.records()
    }

    /// Tells of what it did. `until`: it waited until then, if it still waits.
    fn tell(&mut self, log: &EventLog, until: Option<Instant>) {
        // What can't be read any more is the judgement's to complain of.
        let _ = self.look();
        let done = acknowledged(self.records(), self.run);
        let at_ms = |us| self.clock.moment(us).map(|moment| log.ms_at(moment));
        let (Some(first), Some(last)) = (done.first(), done.last()) else { return };
        let (Some(from_ms), Some(last_ms)) = (at_ms(first.ended_us), at_ms(last.ended_us)) else { return };
        let waited = |gap: Gap| Some(Waited { from_ms: at_ms(gap.from_us)?, to_ms: at_ms(gap.until_us)? });
        let mut stalls: Vec<Waited> = stalls(&done, STALL_US).into_iter().filter_map(waited).collect();
        let mut to_ms = last_ms;
        if let Some(end_ms) = until.map(|until| log.ms_at(until))
            && end_ms.saturating_sub(last_ms) >= STALL_US / 1000
        {
            stalls.push(Waited { from_ms: last_ms, to_ms: end_ms });
            to_ms = end_ms;
        }
        let (node, run) = (self.node.to_string(), self.run);
        let acknowledged = done.len() as u64;
        log.log(Event::Wrote(Wrote { node, run, from_ms, to_ms, acknowledged, stalls }));
    }
}

impl Left {
    fn new(writer: Writer, why: Why, since: Instant) -> Self {
        // Who had recorded nothing by then may not begin now.
        let since_us = writer.clock.node_us(since).unwrap_or(0);
        Self { writer, why, since, since_us }
    }

    /// The writes that were acknowledged and must not have been.
    fn late(&mut self) -> Result<usize, JudgeError> {
        self.writer.look()?;
        let since_us = self.since_us;
        let done = acknowledged(self.writer.records(), self.writer.run);
        let is_late = |write: &&Acknowledged| match self.why {
            // What was in flight then may be on every leg that counts: only its answer is late.
            Why::Froze => write.began_us > since_us,
            Why::Moved | Why::Reset => write.ended_us > since_us + CLOCK_SLACK_US,
        };
        Ok(done.iter().filter(is_late).count())
    }
}

impl Runner<'_> {
    /// The workload is ended by us; until then it may have waited.
    pub(super) fn writer_ended(&mut self, mut writer: Writer) {
        writer.tell(&self.log, Some(Instant::now()));
    }

    /// A node lost its power: what ran there has ended.
    pub(super) fn writer_lost(&mut self, node: &NodeName) {
        let Some(tested) = &mut self.volume else { return };
        if let Some(mut writer) = tested.writer.take_if(|writer| writer.node == *node) {
            writer.tell(&self.log, None);
        }
    }

    /// A node reset itself: what ran there has ended, and must not be heard of again.
    pub(super) fn writer_reset(&mut self, node: &NodeName) {
        self.leave(Why::Reset, |writer| writer.node == *node);
    }

    /// A node stands still, and what runs there with it.
    pub(super) fn writer_frozen(&mut self, node: &NodeName) {
        self.leave(Why::Froze, |writer| writer.node == *node);
    }

    /// The volume is open elsewhere.
    pub(super) fn writer_left_behind(&mut self, owner: &NodeName) {
        self.leave(Why::Moved, |writer| writer.node != *owner);
    }

    fn leave(&mut self, why: Why, is_it: impl Fn(&Writer) -> bool) {
        let Some(tested) = &mut self.volume else { return };
        if let Some(mut writer) = tested.writer.take_if(|writer| is_it(writer)) {
            let since = Instant::now();
            writer.tell(&self.log, Some(since));
            tested.left = Some(Left::new(writer, why, since));
        }
    }

    /// For some time from now on, nothing is acknowledged where the volume was open before.
    pub(super) async fn old_owner_is_silent(&mut self, for_long: Duration) -> Result<Seen, JudgeError> {
        let Some(left) = self.volume.as_mut().and_then(|tested| tested.left.as_mut()) else {
            return Ok(Seen::not("no workload was left behind"));
        };
        let begun = Instant::now();
        let node = left.writer.node.clone();
        while begun.elapsed() < for_long {
            let late = left.late()?;
            if late > 0 {
                return Ok(Seen::not(format!("{node} acknowledged {late} writes that it must not")));
            }
            sleep(LOOK).await;
        }
        let ago_ms = milliseconds(left.since.elapsed());
        let what = match left.why {
            Why::Froze => format!("nothing that was begun since {node} froze {ago_ms} ms ago"),
            Why::Reset => format!("nothing on {node} since it was seen to have reset itself {ago_ms} ms ago"),
            Why::Moved => format!("nothing on {node} since the volume was open elsewhere {ago_ms} ms ago"),
        };
        Ok(Seen::held(format!("{what} was acknowledged")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use workload::Version;
    use workload::record::Event as Told;

    fn acknowledgement(sequence: u64, ended_ms: u32, took_us: u32) -> [u8; workload::record::RECORD_BYTES] {
        let version = Version { run: 1, sequence };
        Record { event: Told::Acknowledged { block: 0, version }, took_us, ended_ms }.encode()
    }

    fn late(why: Why, later: &[(u32, u32)]) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a1.records");
        let mut file = std::fs::File::create(&path).unwrap();
        let tail = Tail::at_end(&path).unwrap();
        let origin = Instant::now();
        let mut writer = Writer { node: "a1".parse().unwrap(), run: 1, tail, clock: Clock::new(origin) };
        file.write_all(&acknowledgement(1, 5000, 1000)).unwrap();
        writer.look().unwrap();
        let mut left = Left::new(writer, why, Instant::now());
        let since_ms = u32::try_from(left.since_us / 1000).unwrap();
        for (sequence, (after_ms, took_us)) in (2..).zip(later) {
            file.write_all(&acknowledgement(sequence, since_ms + after_ms, *took_us)).unwrap();
        }
        left.late().unwrap()
    }

    #[test]
    fn what_a_node_that_froze_began_before_may_be_answered_late_and_nothing_else() {
        assert_eq!(late(Why::Froze, &[(3, 20_000), (4, 9000)]), 0);
        assert_eq!(late(Why::Froze, &[(3, 20_000), (90, 5000)]), 1);
    }

    #[test]
    fn after_the_volume_was_open_elsewhere_nothing_may_be_answered() {
        assert_eq!(late(Why::Moved, &[(5, 1000)]), 0, "the clocks may be so far apart");
        assert_eq!(late(Why::Moved, &[(60, 900_000), (70, 5000)]), 2);
    }
}
