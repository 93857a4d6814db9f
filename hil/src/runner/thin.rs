//! A thin volume and the pool's space: taken by another volume, given back, and what is said of it meanwhile.
//!
//! On failure: what does not hold is a step that does not hold.

use super::{POLL, Runner, Seen, milliseconds};
use deploy::DeployError;
use deploy::pool::{self, VolumeRequest, newest};
use model::{Provision, SLAB_BYTES, VolumeName};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The name of the volume that takes the space.
const FILLER: &str = "filler";

impl Runner<'_> {
    pub(super) async fn fill_pool(&mut self, leaving_mib: u32, bound: Duration) -> Result<Seen, DeployError> {
        let Ok(name) = FILLER.parse::<VolumeName>() else { return Ok(Seen::not("that is no volume's name")) };
        let members = &self.cluster.members;
        let (_, state) = pool::confirmed(members, bound).await?;
        let free =
            pool::capacity(&state).nodes.into_iter().map(|node| node.available_bytes).min().unwrap_or(0);
        // A slab of its leg is for its metadata.
        let size_bytes = free.saturating_sub((u64::from(leaving_mib) << 20) + SLAB_BYTES);
        if size_bytes == 0 {
            return Ok(Seen::not(format!("{free} bytes are free at most where least is")));
        }
        let mirror = self.cluster.spec.shape().mirror();
        let request = VolumeRequest { name, mirror, provision: Provision::Fixed, size_bytes, rack: None };
        let ready = pool::volume(members, &request, bound).await?;
        Ok(Seen::held(format!("{} has {size_bytes} bytes of the {free} that were free", ready.id)))
    }

    pub(super) async fn free_pool(&mut self, bound: Duration) -> Result<Seen, DeployError> {
        let (members, begun) = (&self.cluster.members, Instant::now());
        let (_, state) = pool::confirmed(members, bound).await?;
        let filler = state.volumes.iter().find(|(_, volume)| volume.name.to_string() == FILLER);
        let Some(id) = filler.map(|(id, _)| *id) else {
            return Ok(Seen::not("nothing takes the pool's space"));
        };
        pool::delete(members, id, true, bound).await?;
        Ok(Seen::held(format!("{id} is deleted after {} ms", milliseconds(begun.elapsed()))))
    }

    pub(super) async fn waits_for_room(&mut self, bound: Duration) -> Seen {
        let begun = Instant::now();
        let Some(id) = self.volume.as_ref().map(|tested| tested.id) else {
            return Seen::not("there is no volume");
        };
        loop {
            let views = self.look_at_volume().await;
            let volume = newest(&views).and_then(|view| view.state.volumes.get(&id));
            let lacks = volume.map(|volume| volume.legs.len() - volume.in_sync().count());
            let said = views.iter().find_map(|(name, view)| Some((name, view.out_of_room.get(&id)?)));
            match (lacks, said) {
                (Some(0), Some((name, why))) => {
                    let took = milliseconds(begun.elapsed());
                    return Seen::held(format!("{name} says after {took} ms: {why}; every leg is in sync"));
                }
                (Some(lacks), Some(_)) if lacks > 0 => {
                    return Seen::not(format!("{lacks} legs are not in sync"));
                }
                _ if begun.elapsed() >= bound => return Seen::not("nobody says that writes wait for room"),
                _ => sleep(POLL).await,
            }
        }
    }
}
