//! The harness's side of the keeper: starts it, gives it orders, knows which processes have ended.
//!
//! Dropping the handle closes the keeper's orders, which ends the lab.

use super::LabError;
use super::directory::sweep;
use super::keeper::{Notice, Order, Process};
use model::NodeName;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};

/// How long the keeper has to answer an order, and to end. It does so in milliseconds unless the host is stuck.
const ANSWER_BOUND: Duration = Duration::from_secs(20);
/// Room that a lab takes besides its drives' content: logs, sockets, metadata.
const ROOM_MIB: u64 = 64;
/// Answers that may wait to be read: orders are given one at a time.
const ANSWERS_WAITING: usize = 64;

/// The keeper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The keeper could not be started or spoken to.
    #[error("the lab's keeper process failed: {operation}")]
    Broken {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The keeper refused.
    #[error("the lab's keeper could not do it: {0}")]
    Refused(String),
    /// The keeper did not answer.
    #[error("the lab's keeper did not answer within {ANSWER_BOUND:?}: {operation}")]
    Silent {
        /// What was tried.
        operation: &'static str,
    },
}

/// How a node's QEMU ends when its system resets the machine: it is started so that it does not reset it itself (docs/power.md).
const RESET: &str = "ended with exit code 0";

/// Processes that have ended unasked, and how.
pub(crate) type Ended = BTreeMap<Process, String>;

/// A node that has reset itself: it is off since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reset {
    /// Which.
    pub(crate) node: NodeName,
    /// Its power was taken before it was started again: it comes back when that is given back, and not for the reset.
    pub(crate) lost_power: bool,
}

/// Nodes that reset themselves.
#[derive(Debug, Default)]
struct Resets {
    /// Whether that is theirs to do, and no death.
    are_theirs: AtomicBool,
    /// In the order in which they did.
    nodes: Mutex<Vec<Reset>>,
}

impl Resets {
    /// Whether what ended is a node that reset itself; then it is kept.
    fn take(&self, process: &Process, status: &str) -> bool {
        let Process::Node(node) = process else { return false };
        let is_reset = status == RESET && self.are_theirs.load(Ordering::SeqCst);
        if is_reset {
            self.nodes().push(Reset { node: node.clone(), lost_power: false });
        }
        is_reset
    }

    /// These processes are gone for good, whatever ended them.
    fn lost_power(&self, processes: &BTreeSet<Process>) {
        for reset in &mut *self.nodes() {
            reset.lost_power |= processes.contains(&Process::Node(reset.node.clone()));
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Reset>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running keeper.
pub struct Keeper {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<Notice>,
    ended: watch::Receiver<Ended>,
    resets: Arc<Resets>,
    /// The lab's directory.
    pub(crate) dir: PathBuf,
}

/// Sees that there is room for a lab.
fn check_room(dir: &Path) -> Result<(), LabError> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|errno| LabError::Write { path: dir.to_owned(), source: errno.into() })?;
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
    if free_mib < ROOM_MIB {
        return Err(LabError::NoRoom { dir: dir.to_owned(), free_mib, needed_mib: ROOM_MIB });
    }
    Ok(())
}

impl Keeper {
    /// Starts a keeper. `program` is the one that has the harness's hidden commands. The lab's directory is made where
    /// temporary files go, once it is seen that there is room.
    pub async fn start(program: &Path) -> Result<Self, LabError> {
        let parent = std::env::temp_dir();
        // What an earlier run left whose keeper was killed as well. If that fails, this lab has no need of it.
        sweep(&parent).ok();
        check_room(&parent)?;
        Ok(Self::spawn_keeper(program, &parent).await?)
    }

    async fn spawn_keeper(program: &Path, parent: &Path) -> Result<Self, KeepError> {
        let broken = |operation| move |source| KeepError::Broken { operation, source };
        let mut child = Command::new(program)
            .arg("lab-keeper")
            .arg(parent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(broken("starting it"))?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let orders = child.stdin.take().ok_or_else(gone).map_err(broken("opening its orders"))?;
        let stdout = child.stdout.take().ok_or_else(gone).map_err(broken("opening its notices"))?;
        let (answer, answers) = mpsc::channel(ANSWERS_WAITING);
        let (tell_ended, ended) = watch::channel(Ended::new());
        let resets = Arc::new(Resets::default());
        let reset = Arc::clone(&resets);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(Notice::Exited { process, status }) => {
                        if !reset.take(&process, &status) {
                            tell_ended.send_modify(|ended| drop(ended.insert(process, status)));
                        }
                    }
                    Ok(notice) => {
                        if answer.send(notice).await.is_err() {
                            break;
                        }
                    }
                    Err(_) => break, // what comes after a broken line can't be trusted; orders then find no answer
                }
            }
        });
        let mut handle = Self { child, orders, answers, ended, resets, dir: PathBuf::new() };
        match handle.answer("making the lab's directory").await? {
            Notice::Ready { dir } => handle.dir = dir,
            other => return Err(KeepError::Refused(format!("{other:?}"))),
        }
        Ok(handle)
    }

    /// Starts a process; it ends with the lab at the latest.
    pub(crate) async fn spawn(
        &mut self,
        process: Process,
        program: &Path,
        args: Vec<String>,
        output: &Path,
    ) -> Result<u32, KeepError> {
        let (program, output) = (program.to_owned(), output.to_owned());
        self.order(&Order::Spawn { process, program, args, output }).await?;
        match self.answer("starting a process").await? {
            Notice::Spawned { pid } => Ok(pid),
            Notice::Failed { why } => Err(KeepError::Refused(why)),
            other => Err(KeepError::Refused(format!("{other:?}"))),
        }
    }

    /// Ends processes at once, as a power loss does: nothing in them gets to do anything any more. Returns when they are gone. A node that reset itself
    /// before that is off already, and counts as one that did.
    pub(crate) async fn kill(&mut self, processes: BTreeSet<Process>) -> Result<(), KeepError> {
        self.order(&Order::Kill { processes: processes.clone() }).await?;
        match self.answer("killing a process").await? {
            // Whoever ended before was told before.
            Notice::Killed => {
                self.resets.lost_power(&processes);
                Ok(())
            }
            Notice::Failed { why } => Err(KeepError::Refused(why)),
            other => Err(KeepError::Refused(format!("{other:?}"))),
        }
    }

    /// Processes that have ended unasked so far, and a way to wait for more.
    pub(crate) fn ended(&self) -> watch::Receiver<Ended> {
        self.ended.clone()
    }

    /// From now on a node that resets itself does what it may: it is no death of the lab's.
    pub(crate) fn let_nodes_reset(&self) {
        self.resets.are_theirs.store(true, Ordering::SeqCst);
    }

    /// The nodes that have reset themselves since the last call.
    pub(crate) fn take_resets(&self) -> Vec<Reset> {
        std::mem::take(&mut *self.resets.nodes())
    }

    /// Lets the lab stay when the harness goes.
    pub(crate) async fn keep(mut self) -> Result<PathBuf, KeepError> {
        self.order(&Order::Keep).await?;
        match self.answer("keeping the lab").await? {
            Notice::Kept => Ok(self.dir),
            Notice::Failed { why } => Err(KeepError::Refused(why)),
            other => Err(KeepError::Refused(format!("{other:?}"))),
        }
    }

    /// Ends the lab and waits until nothing of it is left.
    pub async fn end(mut self) -> Result<(), KeepError> {
        self.order(&Order::End).await?;
        let operation = "ending";
        let silent = |_| KeepError::Silent { operation };
        // Its notices end when it does, and not before all have been read: the last may say what it could not do. On a busy host each
        // process takes its time to end, and is told.
        let mut failed = None;
        while let Some(notice) =
            tokio::time::timeout(ANSWER_BOUND, self.answers.recv()).await.map_err(silent)?
        {
            if let Notice::Failed { why } = notice {
                failed = Some(why);
            }
        }
        let ended = tokio::time::timeout(ANSWER_BOUND, self.child.wait()).await.map_err(silent)?;
        ended.map_err(|source| KeepError::Broken { operation, source })?;
        failed.map_or(Ok(()), |why| Err(KeepError::Refused(why)))
    }

    async fn order(&mut self, order: &Order) -> Result<(), KeepError> {
        let broken = |source| KeepError::Broken { operation: "giving it an order", source };
        let mut line = serde_json::to_vec(order).map_err(|error| broken(error.into()))?;
        line.push(b'\n');
        self.orders.write_all(&line).await.map_err(broken)?;
        self.orders.flush().await.map_err(broken)
    }

    async fn answer(&mut self, operation: &'static str) -> Result<Notice, KeepError> {
        match tokio::time::timeout(ANSWER_BOUND, self.answers.recv()).await {
            Ok(Some(notice)) => Ok(notice),
            Ok(None) => Err(KeepError::Broken { operation, source: io::ErrorKind::UnexpectedEof.into() }),
            Err(_) => Err(KeepError::Silent { operation }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A keeper that is a shell script. It has said that it is ready, and has been given `$order`.
    async fn keeper(script: &str) -> (tempfile::TempDir, Keeper) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("keeper");
        let script =
            format!("#!/bin/sh\necho '{{\"Ready\":{{\"dir\":\"/nowhere\"}}}}'\nread order\n{script}\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let keeper = Keeper::spawn_keeper(&program, dir.path()).await.unwrap();
        (dir, keeper)
    }

    #[tokio::test]
    async fn a_keepers_last_words_are_heard_however_late_they_come() {
        let late = r#"(sleep 0.2; echo '{"Failed":{"why":"cannot be removed"}}') &"#;
        let (_dir, keeper) = keeper(late).await;
        assert!(matches!(keeper.end().await, Err(KeepError::Refused(why)) if why == "cannot be removed"));
    }

    #[tokio::test]
    async fn a_keeper_that_ends_without_a_word_did_as_told() {
        let (_dir, keeper) = keeper("exit 0").await;
        keeper.end().await.unwrap();
    }

    #[test]
    fn a_node_that_resets_itself_is_dead_until_it_may() {
        let resets = Resets::default();
        let node = Process::Node("a1".parse().unwrap());
        assert!(!resets.take(&node, RESET), "it has not booted");
        resets.are_theirs.store(true, Ordering::SeqCst);
        assert!(!resets.take(&node, "was killed by signal 9") && !resets.take(&Process::Fabric, RESET));
        assert!(resets.take(&node, RESET));
        assert_eq!(*resets.nodes(), [Reset { node: "a1".parse().unwrap(), lost_power: false }]);
    }

    #[tokio::test]
    async fn a_node_that_resets_itself_while_its_power_is_taken_is_off_and_is_told_as_reset() {
        let script = r#"
            echo '{"Exited":{"process":{"Node":"a2"},"status":"ended with exit code 0"}}'
            echo '"Killed"'
            read order
            echo '{"Exited":{"process":{"Node":"b1"},"status":"ended with exit code 0"}}'
            echo '"Killed"'"#;
        let (_dir, mut keeper) = keeper(script).await;
        keeper.let_nodes_reset();
        let node = |name: &str| Process::Node(name.parse().unwrap());
        keeper.kill([node("a1"), node("a2")].into()).await.unwrap();
        keeper.kill([node("a1")].into()).await.unwrap();
        let reset = |name: &str, lost_power| Reset { node: name.parse().unwrap(), lost_power };
        assert_eq!(keeper.take_resets(), [reset("a2", true), reset("b1", false)], "b1 is started again");
        assert!(keeper.take_resets().is_empty() && keeper.ended().borrow().is_empty());
    }

    #[tokio::test]
    async fn a_keeper_that_does_not_end_is_not_waited_for_for_ever() {
        let (_dir, keeper) = keeper("exec sleep 600").await;
        let pid = keeper.child.id().unwrap().to_string();
        tokio::time::pause();
        assert!(matches!(keeper.end().await, Err(KeepError::Silent { operation: "ending" })));
        assert!(std::process::Command::new("kill").arg(pid).status().unwrap().success());
    }

    #[tokio::test]
    async fn a_lab_is_kept_only_when_the_keeper_says_so() {
        let (_dir, kept) = keeper(r#"echo '"Kept"'"#).await;
        assert_eq!(kept.keep().await.unwrap(), Path::new("/nowhere"));
        let (_dir, refused) = keeper(r#"echo '{"Failed":{"why":"no room"}}'"#).await;
        assert!(matches!(refused.keep().await, Err(KeepError::Refused(why)) if why == "no room"));
    }
}
