//! What this node's drives take for their requests, once a second: [`control::slow`] holds it against the others'.
//!
//! On failure: a drive that can't be asked gives no reading.

use crate::beat::Beat;
use control::State;
use control::slow::Reading;
use model::{DriveId, DriveSerial, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::kernel::{Count, Counters};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};

const EVERY: Duration = Duration::from_secs(1);

/// Readings that nobody has taken yet: of each drive the last.
#[derive(Debug)]
pub(super) struct Load {
    readings: Arc<Mutex<BTreeMap<DriveId, Reading>>>,
    task: AbortHandle,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Load {
    /// Measures from now on.
    pub(super) fn start(node: NodeId, state: watch::Receiver<Arc<State>>) -> Self {
        let readings = Arc::<Mutex<BTreeMap<DriveId, Reading>>>::default();
        let task = tokio::spawn(measure(node, state, Arc::clone(&readings))).abort_handle();
        Self { readings, task }
    }

    /// What is new.
    pub(super) fn take(&self) -> BTreeMap<DriveId, Reading> {
        // Changed as a whole: after a panic elsewhere it is still good.
        std::mem::take(&mut self.readings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn measure(
    node: NodeId,
    state: watch::Receiver<Arc<State>>,
    readings: Arc<Mutex<BTreeMap<DriveId, Reading>>>,
) {
    let (mut before, mut counters) = (BTreeMap::new(), Counters::default());
    let mut beat = Beat::every(EVERY);
    loop {
        beat.next().await;
        let own = own(&state.borrow(), node);
        let Some((kept, now)) = with_counters(counters, own, counts).await else { return };
        counters = kept;
        let new = now.iter().filter_map(|(id, now)| Some((*id, since(*before.get(id)?, *now)?)));
        readings.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
        before = now;
    }
}

/// The drives of this node.
pub(super) fn own(state: &State, node: NodeId) -> BTreeMap<DriveId, DriveSerial> {
    state.drives_in(node).map(|(id, drive)| (id, drive.serial.clone())).collect()
}

/// Has counters of drives looked at, and gives them back: at once if all are open, since they are in memory and to read them waits for no drive; else on a
/// thread for what blocks. `None`: that thread is gone.
pub(super) async fn with_counters<T: Send + 'static>(
    mut counters: Counters,
    own: BTreeMap<DriveId, DriveSerial>,
    look: impl FnOnce(&mut Counters, &BTreeMap<DriveId, DriveSerial>) -> T + Send + 'static,
) -> Option<(Counters, T)> {
    if counters.know(own.values()) {
        let seen = look(&mut counters, &own);
        return Some((counters, seen));
    }
    let looked = spawn_blocking(move || {
        let seen = look(&mut counters, &own);
        (counters, seen)
    });
    looked.await.ok()
}

fn counts(counters: &mut Counters, own: &BTreeMap<DriveId, DriveSerial>) -> BTreeMap<DriveId, Count> {
    own.iter().filter_map(|(id, serial)| Some((*id, counters.of(serial).ok()?))).collect()
}

/// `None`: nothing has ended, or it is another device that counts anew.
fn since(before: Count, now: Count) -> Option<Reading> {
    let requests = now.requests.checked_sub(before.requests).filter(|requests| *requests > 0)?;
    let took_ms = now.took_ms.checked_sub(before.took_ms)?;
    Some(Reading { requests, mean_us: took_ms.saturating_mul(1000) / requests })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_what_has_ended_since_the_last() {
        let count = |requests, took_ms| Count { requests, took_ms };
        let reading = Reading { requests: 20, mean_us: 1500 };
        assert_eq!(since(count(100, 50), count(120, 80)), Some(reading));
        assert_eq!(since(count(100, 50), count(100, 50)), None);
        assert_eq!(since(count(100, 50), count(3, 1)), None, "it was put back, and counts anew");
    }
}
