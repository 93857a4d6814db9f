//! The workload on a lab's node: started and ended by the node's hands, its records in a file that outlives the node.
//!
//! On failure: [`LabError`] when hands don't do as told. What the volume does to a writer is seen in its records.

use super::{Lab, LabError, LabNode};
use crate::lab::hands::Output;
use model::DriveSerial;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use workload::RECORDS_PORT;
use workload::probe::Probe;
use workload::writer::Config;

/// The program.
const PROGRAM: &str = "/bin/workload";
/// Its name among the processes.
const NAME: &str = "workload";
/// Which signal ends it at once: SIGKILL.
const KILL: &str = "9";
/// Which stops it: SIGSTOP on x86 and ARM (signal(7)).
const STOP: &str = "19";
/// What a virtual machine is as a process: 15 characters of it (`proc_pid_comm(5)`).
const QEMU: &str = "qemu-system-x86";
/// Which signal does nothing to who runs: SIGCONT, on x86 and ARM (signal(7)).
const NOTHING: &str = "18";
/// How often it is looked whether it has ended: a write in flight must end first.
const END_POLL: Duration = Duration::from_millis(100);

/// What a node's agent has used until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentUsage {
    /// Its process, on its node.
    pub(crate) process: u64,
    /// User and system time of all its threads since it started, milliseconds.
    pub(crate) processor_ms: u64,
    /// Resident memory, KiB, its program included.
    pub(crate) memory_kib: u64,
}

impl LabNode {
    /// What its workloads told of.
    pub(crate) fn records(&self) -> &Path {
        &self.files.records
    }

    /// The drives that are the pool's.
    pub(crate) fn data_drives(&self) -> BTreeSet<DriveSerial> {
        self.plan.data_drives().map(|(_, drive)| drive.serial.clone()).collect()
    }

    /// The file that is a drive's content.
    fn drive_file(&self, serial: &DriveSerial) -> Option<PathBuf> {
        let at = self.plan.data_drives().find(|(_, drive)| drive.serial == *serial);
        at.map(|(index, _)| self.files.drive(index))
    }

    /// Starts a writer. Its records go to the node's port for them, whatever the configuration says.
    pub(crate) async fn start_writing(&self, config: &Config) -> Result<(), LabError> {
        let port = self.told("find the port for records", &["@port", RECORDS_PORT]).await?;
        let config = Config { log: PathBuf::from(port.stdout.trim()), ..config.clone() };
        let config = serde_json::to_string(&config).unwrap_or_default();
        self.told("start the workload", &["@start", PROGRAM, &config]).await.map(drop)
    }

    /// Runs a writer to its end; what it says when that was none of its own.
    pub(crate) async fn write_all(
        &self,
        config: &Config,
        limit: Duration,
    ) -> Result<Option<String>, LabError> {
        let port = self.told("find the port for records", &["@port", RECORDS_PORT]).await?;
        let config = Config { log: PathBuf::from(port.stdout.trim()), ..config.clone() };
        let config = serde_json::to_string(&config).unwrap_or_default();
        let output = self.run(&[PROGRAM, &config], limit).await?;
        Ok((output.status != 0).then(|| output.stderr.trim().to_owned()))
    }

    /// Asks a device something: how long each request took, or what went wrong.
    pub(crate) async fn probe(
        &self,
        probe: &Probe,
        limit: Duration,
    ) -> Result<Result<Vec<Duration>, String>, LabError> {
        let asked = serde_json::to_string(probe).unwrap_or_default();
        let output = self.run(&[PROGRAM, "probe", &asked], limit).await?;
        if output.status != 0 {
            return Ok(Err(output.stderr.trim().to_owned()));
        }
        let took_us: Result<Vec<u64>, _> = serde_json::from_str(&output.stdout);
        Ok(took_us
            .map_err(|error| error.to_string())
            .map(|all| all.into_iter().map(Duration::from_micros).collect()))
    }

    async fn run(&self, argv: &[&str], limit: Duration) -> Result<Output, LabError> {
        let mut hands = self.hands_or_lab_error().await?;
        let output = hands.run_with(argv, "", limit).await;
        output.map_err(|source| LabError::Hands { node: self.name().to_string(), source })
    }

    /// Ends its writers; whether all have ended, and their writes with them, within a bound.
    pub(crate) async fn stop_writing(&self, bound: Duration) -> Result<bool, LabError> {
        let deadline = Instant::now() + bound;
        let mut hands = self.hands_or_lab_error().await?;
        loop {
            let killed = hands.run(&["@kill", KILL, NAME]).await;
            let killed =
                killed.map_err(|source| LabError::Hands { node: self.name().to_string(), source })?;
            if killed.status != 0 {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(END_POLL).await;
        }
    }

    /// Whether a writer of it runs.
    pub(crate) async fn is_writing(&self) -> Result<bool, LabError> {
        let mut hands = self.hands_or_lab_error().await?;
        let found = hands.run(&["@kill", NOTHING, NAME]).await;
        let found = found.map_err(|source| LabError::Hands { node: self.name().to_string(), source })?;
        Ok(found.status == 0)
    }

    /// The processor time that processes of virtual machines have had; `None`: there are none.
    pub(crate) async fn vms_processor_ms(&self) -> Result<Option<u64>, LabError> {
        let mut hands = self.hands_or_lab_error().await?;
        let found = hands.run(&["@usage", QEMU]).await;
        let found = found.map_err(|source| LabError::Hands { node: self.name().to_string(), source })?;
        let times = found.stdout.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        Ok((found.status == 0).then(|| times.sum()))
    }

    /// Ends its agent at once; process 1 starts it again.
    pub(super) async fn kill_agent(&self) -> Result<(), LabError> {
        self.told("kill the agent", &["@kill", KILL, "twinrackd"]).await.map(drop)
    }

    /// Its agent does nothing any more, until it is killed for that or the node is reset.
    pub(crate) async fn freeze_agent(&self) -> Result<(), LabError> {
        self.told("stop the agent", &["@kill", STOP, "twinrackd"]).await.map(drop)
    }

    /// Sets its clock forward, or back.
    pub(super) async fn skew_clock(&self, by_s: i32) -> Result<(), LabError> {
        self.told("set the clock", &["@skew", &by_s.to_string()]).await.map(drop)
    }

    /// What its agent has had of processors since it started, and the memory it holds, KiB.
    pub(crate) async fn agent_usage(&self) -> Result<AgentUsage, LabError> {
        let said = self.told("look at the agent", &["@usage", "twinrackd"]).await?.stdout;
        let mut words = said.split_whitespace().map(str::parse::<u64>);
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(Ok(process)), Some(Ok(processor_ms)), Some(Ok(memory_kib)), None) => {
                Ok(AgentUsage { process, processor_ms, memory_kib })
            }
            _ => Err(LabError::Refused {
                node: self.name().to_string(),
                what: "say what one agent uses".to_owned(),
                said,
            }),
        }
    }

    pub(super) async fn told(&self, what: &str, argv: &[&str]) -> Result<Output, LabError> {
        let mut hands = self.hands_or_lab_error().await?;
        let node = || self.name().to_string();
        let output = hands.run(argv).await.map_err(|source| LabError::Hands { node: node(), source })?;
        if output.status == 0 {
            return Ok(output);
        }
        Err(LabError::Refused { node: node(), what: what.to_owned(), said: output.stderr.trim().to_owned() })
    }
}

impl Lab {
    /// The file that is the content of a data drive of any node.
    pub(crate) fn drive_file(&self, serial: &DriveSerial) -> Option<PathBuf> {
        self.nodes.values().find_map(|node| node.drive_file(serial))
    }

    /// What all workloads told of.
    pub(crate) fn records(&self) -> Vec<PathBuf> {
        self.nodes.values().map(|node| node.records().to_owned()).collect()
    }
}
