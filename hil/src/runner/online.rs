//! Changing a volume's legs while it is written, as an operator does.
//!
//! Purpose: has the volume grow, moves a node's leg, or replaces the drive that it is on, through `deploy`, and looks at what is acknowledged meanwhile and at how many legs
//! are in sync.
//!
//! On failure: what does not hold is a step that does not hold.

use super::{Runner, Seen, milliseconds, or_failure};
use crate::run::RunError;
use crate::suite::{Room, Step};
use api::ProposeRequest;
use deploy::Member;
use deploy::pool::{self, Growth, Patience, PoolError, newest, next_of_growth};
use model::{DriveId, NodeName, VolumeId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the ledger is asked how many legs are in sync.
const LOOK: Duration = Duration::from_millis(250);
/// How long the ledger may take to hear of a growth.
const ASK_BOUND: Duration = Duration::from_secs(10);

impl Runner<'_> {
    /// Steps about what an operator does to a volume.
    pub(super) async fn operator_step(&mut self, step: &Step) -> Result<Seen, RunError> {
        let ms = Duration::from_millis;
        match step {
            Step::MoveLeg { room, position, gap_at_most_ms, within_ms } => {
                Ok(self.move_leg((*room, *position), ms(*gap_at_most_ms), ms(*within_ms)).await)
            }
            Step::BeginGrowth { size_mib } => Ok(self.begin_growth(*size_mib).await),
            Step::VolumeHasGrown { size_mib, within_ms } => {
                Ok(self.volume_has_grown(*size_mib, ms(*within_ms)).await)
            }
            Step::HandOver { room, position, within_ms } => {
                self.hand_over((*room, *position), ms(*within_ms)).await
            }
            Step::BeginHandOver { room, position, committed } => {
                self.begin_hand_over((*room, *position), *committed).await
            }
            Step::FillPool { leaving_mib, within_ms } => {
                Ok(or_failure(self.fill_pool(*leaving_mib, ms(*within_ms)).await))
            }
            Step::FreePool { within_ms } => Ok(or_failure(self.free_pool(ms(*within_ms)).await)),
            Step::WaitsForRoom { within_ms } => Ok(self.waits_for_room(ms(*within_ms)).await),
            Step::ReplaceDrive { room, position, gap_at_most_ms, within_ms } => {
                Ok(self.replace_drive((*room, *position), ms(*gap_at_most_ms), ms(*within_ms)).await)
            }
            _ => Ok(Seen::not("this is no step about a volume")),
        }
    }

    pub(super) async fn move_leg(&mut self, at: (Room, u8), gap_at_most: Duration, bound: Duration) -> Seen {
        let Some((id, from)) = self.leg_at(at).await else { return Seen::not("the node has no leg") };
        let members = self.cluster.members.clone();
        let moves = async move {
            let to = pool::move_copy(&members, id, (from, None), Patience::within(bound)).await?;
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

    /// Asks the ledger, as often as a takeover or an election takes; more is not waited for.
    pub(super) async fn begin_growth(&mut self, size_mib: u32) -> Seen {
        let Some(id) = self.volume.as_ref().map(|tested| tested.id) else {
            return Seen::not("there is no volume");
        };
        let (members, size_bytes) = (self.working().members.clone(), u64::from(size_mib) << 20);
        let deadline = Instant::now() + ASK_BOUND;
        loop {
            let last = match ask_to_grow(&members, id, size_bytes).await {
                Ok(Growth::Waits(why)) => return Seen::held(format!("it is under way: {why}")),
                Ok(Growth::There) => return Seen::held("its copies had all of it at once"),
                Ok(Growth::Ask(_)) => "the ledger has not taken it".to_owned(),
                Err(why) => why,
            };
            if Instant::now() >= deadline {
                return Seen::not(last);
            }
            sleep(super::POLL).await;
        }
    }

    pub(super) async fn volume_has_grown(&mut self, size_mib: u32, bound: Duration) -> Seen {
        let Some(id) = self.volume.as_ref().map(|tested| tested.id) else {
            return Seen::not("there is no volume");
        };
        let (begun, mut waited) = (Instant::now(), Vec::new());
        let members = self.working().members.clone();
        let size_bytes = u64::from(size_mib) << 20;
        let grown = pool::grow(&members, id, size_bytes, bound, |why| waited.push(why.to_owned())).await;
        let waited =
            if waited.is_empty() { String::new() } else { format!("; waited: {}", waited.join("; ")) };
        match grown {
            Ok(()) => {
                let took = milliseconds(begun.elapsed());
                Seen::held(format!("{id} and its device have {size_bytes} bytes after {took} ms{waited}"))
            }
            Err(error) => Seen::not(format!("{}{waited}", crate::chain(&error))),
        }
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
        let mut seen = writer.wrote_since(Some(begun), gap_at_most);
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

/// Asks for it, if it is neither there nor under way; then what there is to do.
async fn ask_to_grow(members: &[Member], id: VolumeId, size_bytes: u64) -> Result<Growth, String> {
    let in_words = |error: PoolError| crate::chain(&error);
    for _ in 0..2 {
        let (contact, state) = pool::confirmed(members, ASK_BOUND).await.map_err(in_words)?;
        match next_of_growth(&state, id, size_bytes).map_err(|error| crate::chain(&error))? {
            Growth::Ask(command) => {
                let asked = contact.client.propose(&ProposeRequest { command }).await;
                asked.map_err(|error| crate::chain(&error))?;
            }
            other => return Ok(other),
        }
    }
    Err("the ledger took it, and says nothing of it".to_owned())
}
