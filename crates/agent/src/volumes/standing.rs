//! How this node's ledger is, and when the agent has to begin anew for it.
//!
//! A ledger whose Raft has stopped (its disk is full or broken), that is given up, or whose quorum is forced is not made again inside a shell that
//! has acted on it: the agent ends, and its next run finds on disk what there is. An agent's restart stops nothing that the node has.
//!
//! Invariants: an agent whose ledger has stopped goes on (without a lease: users are stopped in order) until the disk takes writes again, so
//! that it does not begin anew in vain. A ledger that can't be opened for now is tried again; one that is lost waits for an operator.
//!
//! On failure: [`VolumesError`] to whoever asks; then the ledger is as it was, or the agent begins anew.

use super::shell::blocking;
use super::{Closed, Volumes, VolumesError, openers};
use crate::store::Store;
use api::{ForceRequest, ForcedQuorum, GiveUpRequest, LogPlace, NodeLedger, OpenLedger};
use ledger::{ForceOrder, Ledger, Survey};
use model::LedgerIncarnation;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::{info, warn};

/// How often it is looked whether the disk takes writes again, or the ledger can be opened.
const AGAIN: Duration = Duration::from_secs(2);
/// What the disk must take: more than a ledger needs to open and to go on for a while.
const ROOM_BYTES: usize = 4 << 20;
/// The file that this is tried with.
const TRIAL: &str = "room.trial";
/// How long a quorum has to show itself before another is forced.
const QUORUM_LIMIT: Duration = Duration::from_secs(5);

/// Why the ledger has stopped, and that the agent must begin anew.
#[derive(Debug)]
pub(super) struct Ends {
    stopped: Mutex<Option<String>>,
    anew: watch::Sender<bool>,
}

impl Default for Ends {
    fn default() -> Self {
        Self { stopped: Mutex::default(), anew: watch::Sender::new(false) }
    }
}

impl Ends {
    fn begin_anew(&self) {
        self.anew.send_replace(true);
    }

    fn stopped(&self) -> Option<String> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of a ledger's Raft, and then for a disk on which another run of the agent can open it.
    pub(super) fn watch(self: &Arc<Self>, ledger: &Ledger, store: &Store) -> AbortHandle {
        let (ends, ledger, directory) = (Arc::clone(self), ledger.clone(), store.directory().to_owned());
        let watching = async move { ends.follow(ledger.stopped().await, &directory).await };
        tokio::spawn(watching).abort_handle()
    }

    /// The ledger has stopped: its end is told until the disk takes writes again, and then the agent begins anew.
    async fn follow(&self, why: String, directory: &Path) {
        warn!("the ledger has stopped: {why}");
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        loop {
            sleep(AGAIN).await;
            let directory = directory.to_owned();
            let tried = tokio::task::spawn_blocking(move || has_room(&directory)).await;
            match tried {
                Ok(Ok(())) => break,
                Ok(Err(error)) => info!("the disk takes no writes yet: {error}"),
                Err(error) => warn!("can't try the disk: {error}"),
            }
        }
        info!("the disk takes writes: the agent begins anew with its ledger");
        self.begin_anew();
    }
}

/// Whether the disk takes what a ledger needs. Nothing stays of the trial.
fn has_room(directory: &Path) -> io::Result<()> {
    let path = directory.join(TRIAL);
    let tried = File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0; ROOM_BYTES])?;
        file.sync_all()
    });
    fs::remove_file(&path)?;
    tried
}

impl Volumes {
    /// The agent ends, and its next run begins with what there is.
    pub(super) fn begin_anew(&self) {
        self.ends.begin_anew();
    }

    /// Returns when the agent must end, so that its next run begins anew with the ledger.
    pub(crate) async fn begins_anew(&self) {
        let mut anew = self.ends.anew.subscribe();
        // The sender lives in `self`: waiting can't fail.
        let _ = anew.wait_for(|anew| *anew).await;
    }

    /// Opens a ledger that could not be opened, as soon as that is possible.
    pub(super) async fn open_later(&self) {
        loop {
            sleep(AGAIN).await;
            let opened = self.open().await;
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            match opened {
                Ok(_) => {
                    *closed = None;
                    return;
                }
                Err(error) => {
                    let now = Closed::new(&error);
                    let is_lost = now.is_lost;
                    *closed = Some(now);
                    if is_lost {
                        return;
                    }
                }
            }
        }
    }

    /// How the ledger is.
    pub(crate) async fn ledger(&self) -> NodeLedger {
        let Some(running) = self.running.get() else {
            let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            return closed.as_ref().map_or(NodeLedger::None {}, |Closed { why, is_lost }| {
                NodeLedger::Closed { why: why.clone(), is_lost: *is_lost }
            });
        };
        let ledger = &running.ledger;
        let (status, identity) = (ledger.status(), ledger.identity());
        let state = ledger.state().borrow().clone();
        let known = state.nodes.iter().filter(|(id, _)| state.is_member(**id));
        let names = known.map(|(id, node)| (*id, node.name.clone())).collect();
        // A store whose disk has failed may not even be read.
        let survey = ledger.survey(&self.folder()).await.ok();
        NodeLedger::Open(OpenLedger {
            cluster: identity.cluster.to_string(),
            node: identity.node,
            incarnation: identity.incarnation,
            forcing: identity.forcing.as_ref().map(ToString::to_string),
            term: status.term,
            leader: status.leader,
            voters: status.voters,
            members: ledger.members(),
            names,
            last: survey.as_ref().map(last_of),
            committed: survey.map_or(0, |survey| survey.committed),
            applied: status.applied,
            stopped: self.ends.stopped(),
        })
    }

    /// Gives up the ledger that is named; the next run of the agent has none.
    pub(crate) async fn give_up(&self, request: GiveUpRequest) -> Result<(), VolumesError> {
        let running = self.running()?;
        let own = running.ledger.identity();
        if (own.node, own.incarnation) != (request.node, request.incarnation) {
            return Err(VolumesError::OtherLedger { node: own.node, incarnation: own.incarnation });
        }
        running.watch.abort();
        let place = Arc::clone(&running.place);
        // Whose lease the next run would not look after.
        blocking(move || Ok(openers::kill_all(&place.own_engine()?)?)).await?;
        running.ledger.close().await;
        // Whether it is set aside or not: this run has none that works.
        self.ends.begin_anew();
        let folder = self.folder();
        let aside = tokio::task::spawn_blocking(move || ledger::set_aside(&folder)).await?;
        warn!("the ledger is given up, and kept as {}", aside.map_err(VolumesError::SetAside)?.display());
        Ok(())
    }

    /// Goes on with what this node has, if no quorum answers and the end of its log is where the operator was told.
    pub(crate) async fn force_quorum(&self, request: ForceRequest) -> Result<ForcedQuorum, VolumesError> {
        let running = self.running()?;
        let ledger = &running.ledger;
        let own = ledger.identity();
        if own.incarnation != request.incarnation {
            return Err(VolumesError::OtherLedger { node: own.node, incarnation: own.incarnation });
        }
        if ledger.caught_up(QUORUM_LIMIT).await.is_ok() {
            return Err(VolumesError::QuorumAnswers);
        }
        let last = last_of(&ledger.survey(&self.folder()).await?);
        if last != request.last {
            return Err(VolumesError::OtherEnd { term: last.term, index: last.index });
        }
        let last = (request.last.term, request.last.index);
        let order = ForceOrder { last, by: request.by, loses: request.loses };
        running.watch.abort();
        let forced = ledger.force_quorum(&self.folder(), &order).await;
        self.ends.begin_anew();
        let forced = forced?;
        let incarnation: LedgerIncarnation = forced.incarnation;
        warn!("{} forces a quorum: {incarnation}; the old ledger is {}", order.by, forced.aside.display());
        Ok(ForcedQuorum { incarnation, presumed: forced.presumed })
    }
}

fn last_of(survey: &Survey) -> LogPlace {
    let (term, index) = survey.last;
    LogPlace { term, index }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_writes_has_nothing_left_of_the_trial_and_one_that_does_not_says_so() {
        let directory = tempfile::tempdir().unwrap();
        has_room(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(has_room(&directory.path().join("nowhere")).is_err());
        // It takes the file, and nothing into it.
        std::os::unix::fs::symlink("/dev/full", directory.path().join(TRIAL)).unwrap();
        assert_eq!(has_room(directory.path()).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_whose_ledger_has_stopped_begins_anew_when_the_disk_takes_writes_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let trial = directory.path().join(TRIAL);
        std::os::unix::fs::symlink("/dev/full", &trial).unwrap();
        let ends = Arc::new(Ends::default());
        let (followed, path) = (Arc::clone(&ends), directory.path().to_owned());
        let following = tokio::spawn(async move { followed.follow("no room".to_owned(), &path).await });
        // The first trial finds the disk full, and takes away what made it so.
        tokio::time::timeout(AGAIN * 3 / 2, following).await.expect_err("the disk is full");
        assert_eq!((ends.stopped().as_deref(), *ends.anew.borrow()), (Some("no room"), false));
        let mut anew = ends.anew.subscribe();
        tokio::time::timeout(AGAIN, anew.wait_for(|anew| *anew)).await.expect("there is room").unwrap();
    }
}
