//! One measurement: what is between two sockets, a sender and a receiver, each a process of its own.

use fabric::{Control, End, Link, NicId, Port, PortRef, Role, Switch, Topology};
use model::{MacAddress, Mtu, VlanId};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to be there, and to end after its time.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// `USER_HZ` of Linux is 100 (`time(7)`).
const TICK: Duration = Duration::from_millis(10);
/// The largest packet, bytes.
const MTU: u64 = 9216;

/// What stands between the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    /// The fabric with one TOR.
    Fabric,
    /// A process that passes bytes on.
    Relay,
}

/// What a measurement came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Frames that went through, all of them.
    pub(super) frames: u64,
    /// How long that took.
    pub(super) elapsed: Duration,
    /// Processor time of what stands between.
    pub(super) processor: Duration,
}

/// A measurement that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The operating system refused something.
    #[error("cannot {doing}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A constant of this program is none.
    #[error("the measurement's own network can't be described")]
    Name(#[from] model::InvalidValue),
    /// The fabric doesn't answer.
    #[error(transparent)]
    Control(#[from] fabric::ControlError),
    /// A process of the measurement failed; it has said why.
    #[error("the {which} failed")]
    Peer {
        /// Which.
        which: &'static str,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s", PATIENCE.as_secs())]
    Late {
        /// What.
        what: &'static str,
    },
    /// Frames are missing.
    #[error("{sent} frames were sent, {received} received, {dropped} counted as lost")]
    Lost {
        /// Sent.
        sent: u64,
        /// Received.
        received: u64,
        /// Lost, as the fabric counts.
        dropped: u64,
    },
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Os { doing, source }
}

/// A process that doesn't outlive its measurement.
struct Process {
    child: Child,
    which: &'static str,
}

impl Process {
    fn start(program: &Path, which: &'static str, arguments: &[&Path]) -> Result<Self, BenchError> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self { child: command.spawn().map_err(failed("start a process"))?, which })
    }

    /// The numbers that it printed when it ended well.
    fn numbers(mut self, deadline: Instant) -> Result<Vec<u64>, BenchError> {
        until("the end of the measurement", deadline, || {
            self.child.try_wait().map_err(failed("wait for a process"))
        })?;
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            io::Read::read_to_string(&mut stdout, &mut text).map_err(failed("read a process's words"))?;
        }
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if numbers.is_empty() { Err(BenchError::Peer { which: self.which }) } else { Ok(numbers) }
    }

    /// Its time on a processor, threads that have ended included: user and system time, the 14th and 15th number of
    /// `proc_pid_stat(5)`. They are the scheduler's exact sum, told in whole ticks.
    fn processor_time(&self) -> Result<Duration, BenchError> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .map_err(failed("read a process's processor time"))?;
        // The second field, the name in parentheses, may have spaces.
        let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = after_name.split(' ').skip(11).take(2).filter_map(|word| word.parse::<u64>().ok());
        Ok(TICK * u32::try_from(ticks.sum::<u64>()).unwrap_or(u32::MAX))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer.
fn until<T>(
    what: &'static str,
    deadline: Instant,
    mut ask: impl FnMut() -> Result<Option<T>, BenchError>,
) -> Result<T, BenchError> {
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(BenchError::Late { what });
        }
        std::thread::sleep(POLL);
    }
}

/// Sends frames of one length through what stands between, for so long.
pub(super) fn measure(
    program: &Path,
    between: Between,
    frame_bytes: usize,
    duration: Duration,
) -> Result<Measured, BenchError> {
    let dir = tempfile::tempdir().map_err(failed("make a directory"))?;
    let sockets = ["a", "b"].map(|nic| dir.path().join(format!("{nic}.sock")));
    let middle = start_middle(program, between, dir.path(), &sockets)?;
    let ready = Instant::now() + PATIENCE;
    until("the listening", ready, || Ok(sockets.iter().all(|path| path.exists()).then_some(())))?;
    let (bytes, millis) =
        (PathBuf::from(frame_bytes.to_string()), PathBuf::from(duration.as_millis().to_string()));
    let at_a = Process::start(program, "sender", &["bench-send".as_ref(), &sockets[0], &bytes, &millis])?;
    let mut control = match between {
        Between::Fabric => Some(Control::connect_within(dir.path(), PATIENCE)?),
        Between::Relay => None,
    };
    if let Some(control) = &mut control {
        // A hello to a NIC without a sender would be lost.
        until("the sender's connection", ready, || Ok(control.nics()?[0].connected.then_some(())))?;
    }
    let before = middle.processor_time()?;
    let at_b = Process::start(program, "receiver", &["bench-receive".as_ref(), &sockets[1], &bytes])?;
    let deadline = Instant::now() + duration + PATIENCE;
    let sent = at_a.numbers(deadline)?;
    let processor = middle.processor_time()?.saturating_sub(before);
    let received = at_b.numbers(deadline)?;
    let dropped = control.as_mut().map_or(Ok(0), dropped)?;
    match (sent.as_slice(), received.as_slice()) {
        ([frames, nanos], [received]) if frames == received && dropped == 0 => {
            Ok(Measured { frames: *frames, elapsed: Duration::from_nanos(*nanos), processor })
        }
        _ => {
            let first = |numbers: &[u64]| numbers.first().copied().unwrap_or(0);
            Err(BenchError::Lost { sent: first(&sent), received: first(&received), dropped })
        }
    }
}

fn start_middle(
    program: &Path,
    between: Between,
    dir: &Path,
    sockets: &[PathBuf; 2],
) -> Result<Process, BenchError> {
    match between {
        Between::Relay => {
            Process::start(program, "relay", &["bench-relay".as_ref(), &sockets[0], &sockets[1]])
        }
        Between::Fabric => {
            let path = dir.join("topology.json");
            let text =
                serde_json::to_vec(&topology()?).map_err(|error| failed("write a topology")(error.into()))?;
            fs::write(&path, text).map_err(failed("write a topology"))?;
            Process::start(program, "fabric", &["lab-fabric".as_ref(), &path, dir])
        }
    }
}

/// Data frames that the fabric lost.
fn dropped(control: &mut Control) -> Result<u64, BenchError> {
    let vlan = VlanId::STORAGE_1_DEFAULT;
    let links = control.counters()?.links;
    let ways = links.iter().flat_map(|link| [&link.a_to_b, &link.b_to_a]);
    Ok(ways.map(|way| way.sent_frames(vlan) - way.carried_frames(vlan)).sum())
}

/// One TOR with a storage port for each NIC.
fn topology() -> Result<Topology, BenchError> {
    let mut links = Vec::new();
    let mut ports = Vec::new();
    let nics: Vec<NicId> = vec!["a".parse()?, "b".parse()?];
    for nic in &nics {
        let tagged_vlans = [VlanId::STORAGE_1_DEFAULT].into();
        let port = Port {
            id: format!("Ethernet1/{nic}").parse()?,
            native_vlan: None,
            tagged_vlans,
            mtu: None,
            dcb: None,
        };
        let at = PortRef { switch: "tor".parse()?, port: port.id.clone() };
        links.push(Link { id: format!("{nic}").parse()?, a: End::Nic(nic.clone()), b: End::Port(at) });
        ports.push(port);
    }
    let switch = Switch {
        id: "tor".parse()?,
        system_name: "sw".into(),
        chassis_mac: MacAddress([2, 0, 0, 0, 0, 9]),
        role: Role::Tor,
        room: None,
        mtu: Mtu::try_from(MTU)?,
        suspended_vlans: [].into(),
        ports,
    };
    let (channels, pairs) = (Vec::new(), Vec::new());
    let (kept_off_spine, homes) = (Vec::new(), Vec::new());
    Ok(Topology {
        kept_off_spine,
        homes,
        switches: vec![switch],
        nics,
        links,
        channels,
        pairs,
        lldp_interval_ms: 1000,
    })
}
