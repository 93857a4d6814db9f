//! Changing a volume's legs while it is written, as an operator does.
//!
//! Purpose: moves a node's leg, or replaces the drive that it is on, through `deploy`, and looks at what is acknowledged meanwhile and at how many legs
//! are in sync.
//!
//! On failure: what does not hold is a step that does not hold.

use super::{Runner, Seen, milliseconds};
use crate::suite::Room;
use deploy::pool::{self, PoolError, newest};
use model::{DriveId, NodeName, VolumeId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the ledger is asked how many legs are in sync.
const LOOK: Duration = Duration::from_millis(250);

impl Runner<'_> {
    pub(super) async fn move_leg(&mut self, at: (Room, u8), gap_at_most: Duration, bound: Duration) -> Seen {
        let Some((id, from)) = self.leg_at(at).await else { return Seen::not("the node has no leg") };
        let members = self.cluster.members.clone();
        let moves = async move {
            let to = pool::move_copy(&members, id, (from, None), bound).await?;
            Ok(format!("from {from} to {to}"))
        };
        self.while_writing(moves, gap_at_most).await
    }

    pub(super) async fn replace_drive(
        &mut self,
        at: (Room, u8),
        gap_at_most: Duration,
        bound: Duration,
    ) -> Seen {
        let Some((_, drive)) = self.leg_at(at).await else { return Seen::not("the node has no leg") };
        let members = self.cluster.members.clone();
        let replaces = async move {
            let moved = pool::replace_drive(&members, drive, None, bound).await?;
            let moved: Vec<String> = moved.iter().map(|(id, to)| format!("{id} to {to}")).collect();
            Ok(format!("{drive} has left the pool; {}", moved.join(", ")))
        };
        self.while_writing(replaces, gap_at_most).await
    }

    /// The drive of a node's leg, by the ledger; of one that moves the new one's.
    async fn leg_at(&mut self, (room, position): (Room, u8)) -> Option<(VolumeId, DriveId)> {
        let zone = self.cluster.spec.zones.get(room.index())?;
        let name: NodeName = zone.nodes.get(usize::from(position).checked_sub(1)?)?.name.clone();
        let views = self.look_at_volume().await;
        let tested = self.volume.as_ref()?;
        let (state, volume) = (&newest(&views)?.state, tested.of(&views)?);
        let of_node = |drive: &DriveId| {
            let node = state.drives.get(drive).and_then(|drive| state.nodes.get(&drive.node));
            node.is_some_and(|node| node.name == name)
        };
        let drive = volume.legs.values().rev().map(|leg| leg.drive).find(of_node)?;
        Some((tested.id, drive))
    }

    /// Does something, and looks meanwhile: whether acknowledgements come, and that there are never fewer legs in sync than before.
    async fn while_writing(
        &mut self,
        work: impl Future<Output = Result<String, PoolError>> + Send + 'static,
        gap_at_most: Duration,
    ) -> Seen {
        let begun = Instant::now();
        let before = self.legs_in_sync_now().await;
        let (mut fewest, mut looked) = (before, 0_u32);
        let working = tokio::spawn(work);
        while !working.is_finished() {
            sleep(LOOK).await;
            if let Some(now) = self.legs_in_sync_now().await {
                fewest = fewest.map(|fewest| fewest.min(now));
                looked += 1;
            }
        }
        let took = milliseconds(begun.elapsed());
        let done = match working.await.unwrap_or_else(|gone| std::panic::resume_unwind(gone.into_panic())) {
            Ok(done) => done,
            Err(error) => return Seen::not(crate::chain(&error)),
        };
        let Some(writer) = self.volume.as_mut().and_then(|tested| tested.writer.as_mut()) else {
            return Seen::not("nobody writes");
        };
        if let Err(error) = writer.look() {
            return Seen::not(crate::chain(&error));
        }
        let mut seen = writer.wrote_since(begun, gap_at_most);
        let (Some(before), Some(fewest)) = (before, fewest) else {
            return Seen::not("nobody who leads says how many legs are in sync");
        };
        seen.good &= fewest >= before && looked > 0;
        seen.what = format!(
            "{done}, after {took} ms; meanwhile {}; {fewest} of {before} legs in sync at least, looked at {looked} times",
            seen.what
        );
        seen
    }

    async fn legs_in_sync_now(&mut self) -> Option<usize> {
        let views = self.look_at_volume().await;
        Some(self.volume.as_ref()?.of(&views)?.in_sync().count())
    }
}
