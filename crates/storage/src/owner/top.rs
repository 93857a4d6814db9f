//! What users open: a fixed volume's array as it is, or a thin one's extents, each where it stands.
//!
//! ```text
//!   fixed                        thin
//!   tr-volume-V   linear         tr-volume-V   delay, of nothing: reads go to the route, writes to the queue
//!        │                         │      │
//!      array                       │  tr-queue-V    multipath with one path, queues when that is gone
//!                                  │      │
//!                                tr-route-V         linear, piece by piece
//!                                  │      │
//!                                array  tr-hole-V   reads go to tr-zero-V, writes to tr-deny-V, where they fail
//! ```
//! Purpose: a write to an extent without a place fails the path, waits in `tr-queue-V`, and the kernel tells of it; `tr-hole-V` counts which extents were
//! written. When they have their places the route is made anew and the path reinstated: what waited goes there. Until then the path is reinstated again and again:
//! whatever else waits goes on, and what still has no place fails it once more, and is counted.
//!
//! Invariants: a route leads to places of the ledger's table alone, and only to such as every leg of the array has a slab for (control's `Reach`). A read
//! of a hole gives zeros and never a place; it waits for no write, and what the array can't read is an error to whoever reads, as with a fixed volume. The queue has one table
//! for life, as long as the volume can get, and is never suspended: `kernel/gate.rs` says why. Nothing is remembered: who waits is counted anew each time.
//!
//! On failure: what has no place waits; so does what the array can't write, until the volume's users are ended.

use super::{Refused, Seen, Site, Step};
use control::state::Reach;
use model::{Epoch, ExtentTable};

/// How what users see lies on the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// How long it is, bytes.
    pub size_bytes: u64,
    /// Where its extents stand, if it is thin; what it does not name is a hole. `None`: it is fixed, and all of it stands where it is.
    pub table: Option<ExtentTable>,
}

impl Layout {
    /// Of a fixed volume.
    pub fn fixed(size_bytes: u64) -> Self {
        Self { size_bytes, table: None }
    }

    /// How much of a volume users have by it.
    pub fn reach(&self) -> Reach {
        let array_bytes = self.table.as_ref().map_or(self.size_bytes, ExtentTable::array_bytes);
        Reach { size_bytes: self.size_bytes, array_bytes }
    }
}

/// What the kernel has of a thin volume beside its array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thin {
    /// Whether anything of the hole is there.
    pub hole: bool,
    /// The route, and how much of the array it leads to, bytes.
    pub route: Option<u64>,
    /// The queue above it, which users write through.
    pub queue: Option<Queue>,
}

/// Where writes without a place wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Whether it has its path; if not, something waits.
    pub path: bool,
    /// Whether it queues when it has none. If not, its users were given up.
    pub queues: bool,
}

impl Seen {
    /// What users have.
    pub fn reach(&self) -> Reach {
        let size_bytes = self.top.unwrap_or(0);
        let array_bytes = self.thin.queue.map_or(size_bytes, |_| self.thin.route.unwrap_or(0));
        Reach { size_bytes, array_bytes }
    }

    /// Whether nothing waits for a place.
    pub(super) fn has_places(&self) -> bool {
        self.thin.queue.is_none_or(|queue| queue.path && queue.queues)
    }
}

/// `Admit`: to what every leg of the array has.
pub fn admit(site: &Site, seen: &Seen, epoch: Epoch, layout: &Layout) -> Result<Vec<Step>, Refused> {
    site.array(seen, epoch)?;
    if seen.top.is_some() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    if layout.table.is_some() {
        // One that is there was made by a run that was killed, perhaps for less.
        steps.extend(seen.thin.queue.map(|_| Step::RemoveQueue));
        steps.extend(seen.thin.route.map(|_| Step::RemoveRoute));
        steps.extend([Step::MakeHole(layout.size_bytes), Step::MakeRoute(layout.clone()), Step::MakeQueue]);
    }
    steps.push(Step::MakeTop(layout.clone()));
    Ok(steps)
}

/// `Extend`, what comes before [`take`]. While something waits for a place, users get no more to see: their device's table can't be swapped then.
pub fn extend(site: &Site, seen: &Seen, epoch: Epoch, layout: &Layout) -> Result<Vec<Step>, Refused> {
    site.array(seen, epoch)?;
    let has_bytes = seen.top.ok_or(Refused::NotOpen(site.volume))?;
    let longer = has_bytes < layout.size_bytes && seen.has_places();
    let placed = seen.reach().array_bytes != layout.reach().array_bytes;
    // What is counted is as long as what users see, and is made so with the route.
    let route = layout.table.is_some() && (longer || placed);
    let mut steps: Vec<Step> = route.then(|| Step::LoadRoute(layout.clone())).into_iter().collect();
    steps.extend(longer.then(|| Step::LoadTop(layout.clone())));
    Ok(steps)
}

/// `Extend`, the rest: what is ready is taken. That waits for what users have in flight, and so perhaps for a leg that is to be let go; nobody else may wait for
/// whoever carries it out. What waits for a place goes on before users get more to see.
pub fn take(layout: &Layout) -> Vec<Step> {
    match layout.table {
        None => vec![Step::SwapTop],
        Some(_) => vec![Step::SwapRoute, Step::ReinstateQueue, Step::SwapTop],
    }
}

/// `Stop`, before the legs are flushed: nobody can open it any more. [`Step::RemoveTop`] fails while somebody has it open.
pub fn shut(seen: &Seen) -> Vec<Step> {
    let mut steps: Vec<Step> = seen.top.map(|_| Step::RemoveTop).into_iter().collect();
    steps.extend(seen.thin.queue.map(|_| Step::RemoveQueue));
    steps.extend(seen.thin.route.map(|_| Step::RemoveRoute));
    steps.extend(seen.thin.hole.then_some(Step::RemoveHole));
    steps
}

/// Lets what waits for a place fail: its users no longer run.
pub(super) fn give_up(seen: &Seen) -> Option<Step> {
    seen.thin.queue.filter(|queue| queue.queues).map(|_| Step::FailQueue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::Sizes;
    use crate::owner::Array;
    use model::{LedgerIncarnation, NodeId, SLAB_BYTES, VolumeId};
    use std::collections::BTreeMap;

    const EPOCH: Epoch = Epoch { ledger: LedgerIncarnation(1), number: 2 };

    fn site() -> Site {
        let sizes = Sizes { data_bytes: SLAB_BYTES, room_bytes: 512 << 30, chunk_bytes: 16 << 20 };
        Site::new(VolumeId(3), NodeId(1), sizes).unwrap()
    }

    /// Of ten extents.
    fn layout(extents: &[u64]) -> Layout {
        let mut table = ExtentTable::default();
        for extent in extents {
            table.push(*extent);
        }
        Layout { size_bytes: 10 * SLAB_BYTES, table: Some(table) }
    }

    fn seen(top: Option<u64>, thin: Thin) -> Seen {
        let (state, action, members) = ("active".to_owned(), "idle".to_owned(), BTreeMap::new());
        let array = Some(Array { epoch: EPOCH, state, action, held: false, room: 1, members });
        Seen { array, top, thin, ..Seen::default() }
    }

    fn open(extents: u64) -> Seen {
        let queue = Some(Queue { path: true, queues: true });
        let thin = Thin { hole: true, route: Some(extents * SLAB_BYTES), queue };
        seen(Some(10 * SLAB_BYTES), thin)
    }

    #[test]
    fn a_thin_volume_is_made_from_below_and_goes_from_above() {
        let layout = layout(&[0, 7]);
        let whole = [
            Step::MakeHole(10 * SLAB_BYTES),
            Step::MakeRoute(layout.clone()),
            Step::MakeQueue,
            Step::MakeTop(layout.clone()),
        ];
        assert_eq!(admit(&site(), &seen(None, Thin::default()), EPOCH, &layout).unwrap(), whole);
        let killed = seen(None, Thin { hole: true, route: Some(0), queue: None });
        let anew = admit(&site(), &killed, EPOCH, &layout).unwrap();
        assert_eq!((&anew[0], &anew[1..]), (&Step::RemoveRoute, &whole[..]));
        assert_eq!(shut(&killed), [Step::RemoveRoute, Step::RemoveHole]);
        assert_eq!(admit(&site(), &open(2), EPOCH, &layout), Ok(vec![]));
        let parts = [Step::RemoveQueue, Step::RemoveRoute, Step::RemoveHole];
        assert_eq!(shut(&open(2)), [&[Step::RemoveTop], &parts[..]].concat());
        let killed = Seen { top: None, ..open(2) };
        let anew = admit(&site(), &killed, EPOCH, &layout).unwrap();
        assert_eq!((&anew[..2], &anew[2..]), (&parts[..2], &whole[..]), "it leads to what was there then");
        assert_eq!(shut(&killed), parts);
    }

    #[test]
    fn a_place_more_is_a_route_and_more_to_see_is_both() {
        assert_eq!(extend(&site(), &open(2), EPOCH, &layout(&[0, 7])), Ok(vec![]));
        let more = layout(&[0, 7, 3]);
        assert_eq!(extend(&site(), &open(2), EPOCH, &more), Ok(vec![Step::LoadRoute(more.clone())]));
        let longer = Layout { size_bytes: 11 * SLAB_BYTES, ..more };
        let both = [Step::LoadRoute(longer.clone()), Step::LoadTop(longer.clone())];
        assert_eq!(extend(&site(), &open(3), EPOCH, &longer).unwrap(), both);
        assert_eq!(take(&longer), [Step::SwapRoute, Step::ReinstateQueue, Step::SwapTop]);
        let waits = |extents| {
            let mut waits = open(extents);
            waits.thin.queue = Some(Queue { path: false, queues: true });
            waits
        };
        let places = vec![Step::LoadRoute(longer.clone())];
        assert_eq!(extend(&site(), &waits(2), EPOCH, &longer), Ok(places), "a swap would wait for it");
        assert_eq!(extend(&site(), &waits(3), EPOCH, &longer), Ok(vec![]));
        assert_eq!(take(&Layout::fixed(4096)), [Step::SwapTop]);
        let closed = seen(None, Thin::default());
        assert_eq!(extend(&site(), &closed, EPOCH, &longer), Err(Refused::NotOpen(VolumeId(3))));
    }

    #[test]
    fn what_waits_for_a_place_fails_when_its_users_are_given_up() {
        assert_eq!(give_up(&open(2)), Some(Step::FailQueue));
        let mut given_up = open(2);
        given_up.thin.queue = Some(Queue { path: false, queues: false });
        assert_eq!(give_up(&given_up), None, "it has been told");
        assert!(!given_up.has_places() && open(2).has_places());
        assert_eq!(open(2).reach(), layout(&[0, 7]).reach());
    }
}
