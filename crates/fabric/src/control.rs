//! How a lab talks to a running fabric: one JSON object a line, each answered by one line, over the unix socket
//! `<socket_dir>/fabric.ctl`.
//!
//! [`Request`] and [`Response`] are the protocol; [`Control`] is the client: blocking, with a time limit on every call.
//! After a failed call it connects anew at the next one, so that a late answer is never taken for another's.

use crate::counters::Snapshot;
use crate::ids::{LinkId, NicId, PortName, SwitchId};
use crate::pcap::CaptureReport;
use crate::switchboard::{CarrierChange, Flap, Shaping, Ways};
use crate::topology::PortRef;
use model::{Mtu, VlanId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The control socket's name in the socket directory.
pub(crate) const CONTROL_SOCKET: &str = "fabric.ctl";
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, bytes: counters of the largest topology stay below.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long to wait between attempts while a fabric starts.
const CONNECT_RETRY: Duration = Duration::from_millis(5);

/// What a fabric can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The state of every NIC. Answer: [`Answer::Nics`].
    Nics {},
    /// All counters. Answer: [`Answer::Counters`].
    Counters {},
    /// Frames for local experiments that came from NICs. Answer: [`Answer::Experiments`].
    Experiments {
        /// From which number on.
        since: u64,
    },
    /// Cut a cable. Cuts add up. Answer, as of all changes: [`Answer::Changed`].
    CutLink {
        /// The cable.
        link: LinkId,
        /// Which way.
        cut: Ways,
    },
    /// Mend a cable, both ways.
    RestoreLink {
        /// The cable.
        link: LinkId,
    },
    /// Shape a cable, in place of what shaped it before. No NIC's carrier changes.
    ShapeLink {
        /// The cable.
        link: LinkId,
        /// Which way.
        ways: Ways,
        /// How; nothing but a seed: not any more.
        shaping: Shaping,
    },
    /// Let a cable go down and come up by itself. The answer has the carriers that changed at once; of later changes nobody is
    /// told: ask for [`Request::Nics`].
    FlapLink {
        /// The cable.
        link: LinkId,
        /// How.
        flap: Flap,
    },
    /// Switch a switch off.
    SwitchDown {
        /// The switch.
        switch: SwitchId,
    },
    /// Switch it on again.
    SwitchUp {
        /// The switch.
        switch: SwitchId,
    },
    /// Plug a NIC's cable into another, free port.
    Recable {
        /// The NIC.
        nic: NicId,
        /// Where to.
        to: PortRef,
    },
    /// Plug every cable back to where the topology has it.
    RestoreCabling {},
    /// Take a VLAN from a port. No NIC's carrier changes.
    RemoveVlan {
        /// The port.
        port: PortRef,
        /// The VLAN.
        vlan: VlanId,
    },
    /// Lower the largest packet that ports take; those that take no larger one stay as they are. No NIC's carrier changes.
    LowerMtu {
        /// The switch.
        switch: SwitchId,
        /// The port; `None`: all of the switch's.
        port: Option<PortName>,
        /// The largest packet from now on, bytes.
        mtu: Mtu,
        /// Whether LLDP says so.
        announced: bool,
    },
    /// Undo every fault.
    Heal {},
    /// Write all frames of a cable to a file. Answer: [`Answer::Capturing`].
    StartCapture {
        /// The cable.
        link: LinkId,
        /// The file: absolute, made or overwritten.
        path: PathBuf,
        /// How long the file may get, bytes.
        max_bytes: u64,
    },
    /// End a capture. Answer: [`Answer::Captured`].
    StopCapture {
        /// The cable.
        link: LinkId,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// Every NIC, in the topology's order.
    Nics(Vec<NicState>),
    /// All counters.
    Counters(Snapshot),
    /// What was seen of experiments.
    Experiments(Experiments),
    /// The change is made; these NICs' carrier changed by it.
    Changed(Vec<CarrierChange>),
    /// The capture runs.
    Capturing,
    /// The capture ended.
    Captured(CaptureReport),
}

/// One line from the fabric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// Done.
    Ok(Answer),
    /// Not done, and nothing changed.
    Err(String),
}

/// Frames for local experiments (`EtherType` 0x88b5), in the order in which they came from NICs. Numbers count from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiments {
    /// The first one's number: greater than was asked for if those before are not kept any more.
    pub first: u64,
    /// The frames, as many as are told at once.
    pub seen: Vec<Experiment>,
    /// How many are left to be asked for.
    pub left: usize,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// When it came, microseconds since the fabric started, on a clock that never goes back.
    pub at_us: u64,
    /// From which NIC.
    pub nic: NicId,
    /// In which VLAN.
    pub vlan: VlanId,
    /// Its first 46 bytes behind the `EtherType`.
    pub payload: Vec<u8>,
}

/// A NIC as the fabric sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicState {
    /// The NIC.
    pub nic: NicId,
    /// Whether it has a cable that isn't cut both ways, to a switch that is up.
    pub carrier: bool,
    /// Whether a QEMU is connected to it.
    pub connected: bool,
    /// Connections that were refused because another was there.
    pub refused_connections: u64,
    /// Connections that were closed because what came was not QEMU's framing.
    pub protocol_errors: u64,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No fabric answers there.
    #[error("no fabric answers at {path}")]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The fabric went away or is too slow.
    #[error("the fabric at {path} did not answer {request:?}")]
    Exchange {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        request: Box<Request>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer can't be read: another version, perhaps.
    #[error("the fabric at {path} answered {request:?} with something that can't be read")]
    Unreadable {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        request: Box<Request>,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The fabric answered something else.
    #[error("the fabric at {path} answered {request:?} as if it were another request")]
    Mismatch {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        request: Box<Request>,
    },
    /// The fabric can't do that.
    #[error("the fabric refused {request:?}: {message}")]
    Refused {
        /// What was asked.
        request: Box<Request>,
        /// Why not.
        message: String,
    },
}

/// A client of a running fabric.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Control {
    /// Connects to the fabric that has its sockets in `socket_dir`. Everything is listening when this works.
    pub fn connect(socket_dir: &Path) -> Result<Self, ControlError> {
        let mut control = Self { path: socket_dir.join(CONTROL_SOCKET), stream: None };
        control.stream()?;
        Ok(control)
    }

    /// The same for a fabric that is just being started: tries until `timeout`.
    pub fn connect_within(socket_dir: &Path, timeout: Duration) -> Result<Self, ControlError> {
        let deadline = Instant::now() + timeout;
        loop {
            match Self::connect(socket_dir) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(CONNECT_RETRY),
                result => return result,
            }
        }
    }

    /// The state of every NIC.
    pub fn nics(&mut self) -> Result<Vec<NicState>, ControlError> {
        self.expect(Request::Nics {}, |answer| match answer {
            Answer::Nics(nics) => Some(nics),
            _ => None,
        })
    }

    /// Which NICs have carrier.
    pub fn carrier(&mut self) -> Result<BTreeMap<NicId, bool>, ControlError> {
        Ok(self.nics()?.into_iter().map(|state| (state.nic, state.carrier)).collect())
    }

    /// All counters.
    pub fn counters(&mut self) -> Result<Snapshot, ControlError> {
        self.expect(Request::Counters {}, |answer| match answer {
            Answer::Counters(snapshot) => Some(snapshot),
            _ => None,
        })
    }

    /// Frames for local experiments from a number on; not all of them at once.
    pub fn experiments(&mut self, since: u64) -> Result<Experiments, ControlError> {
        self.expect(Request::Experiments { since }, |answer| match answer {
            Answer::Experiments(seen) => Some(seen),
            _ => None,
        })
    }

    /// Cuts a cable; returns the NICs whose carrier changed. Cuts add up.
    pub fn cut_link(&mut self, link: &LinkId, cut: Ways) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::CutLink { link: link.clone(), cut })
    }

    /// Mends a cable, both ways.
    pub fn restore_link(&mut self, link: &LinkId) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::RestoreLink { link: link.clone() })
    }

    /// Shapes a cable, in place of what shaped it before; [`Shaping::default`] ends that.
    pub fn shape_link(&mut self, link: &LinkId, ways: Ways, shaping: Shaping) -> Result<(), ControlError> {
        self.change(Request::ShapeLink { link: link.clone(), ways, shaping }).map(drop)
    }

    /// Lets a cable flap; returns the NICs whose carrier changed at once.
    pub fn flap_link(&mut self, link: &LinkId, flap: Flap) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::FlapLink { link: link.clone(), flap })
    }

    /// Switches a switch off.
    pub fn switch_down(&mut self, switch: &SwitchId) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::SwitchDown { switch: switch.clone() })
    }

    /// Switches it on again.
    pub fn switch_up(&mut self, switch: &SwitchId) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::SwitchUp { switch: switch.clone() })
    }

    /// Plugs a NIC's cable into another, free port.
    pub fn recable(&mut self, nic: &NicId, to: &PortRef) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::Recable { nic: nic.clone(), to: to.clone() })
    }

    /// Plugs every cable back to where the topology has it.
    pub fn restore_cabling(&mut self) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::RestoreCabling {})
    }

    /// Takes a VLAN from a port.
    pub fn remove_vlan(&mut self, port: &PortRef, vlan: VlanId) -> Result<(), ControlError> {
        self.change(Request::RemoveVlan { port: port.clone(), vlan }).map(drop)
    }

    /// Lowers the largest packet that a port takes, or all of a switch's do; LLDP says so, or does not.
    pub fn lower_mtu(
        &mut self,
        switch: &SwitchId,
        port: Option<&PortName>,
        mtu: Mtu,
        announced: bool,
    ) -> Result<(), ControlError> {
        let (switch, port) = (switch.clone(), port.cloned());
        self.change(Request::LowerMtu { switch, port, mtu, announced }).map(drop)
    }

    /// Undoes every fault.
    pub fn heal(&mut self) -> Result<Vec<CarrierChange>, ControlError> {
        self.change(Request::Heal {})
    }

    /// Writes all frames of a cable to a file (absolute path, overwritten), until [`Self::stop_capture`] or until the
    /// file has `max_bytes`.
    pub fn start_capture(&mut self, link: &LinkId, path: &Path, max_bytes: u64) -> Result<(), ControlError> {
        let request = Request::StartCapture { link: link.clone(), path: path.to_owned(), max_bytes };
        self.expect(request, |answer| matches!(answer, Answer::Capturing).then_some(()))
    }

    /// Ends a capture; the file is complete when this returns.
    pub fn stop_capture(&mut self, link: &LinkId) -> Result<CaptureReport, ControlError> {
        self.expect(Request::StopCapture { link: link.clone() }, |answer| match answer {
            Answer::Captured(report) => Some(report),
            _ => None,
        })
    }

    fn change(&mut self, request: Request) -> Result<Vec<CarrierChange>, ControlError> {
        self.expect(request, |answer| match answer {
            Answer::Changed(changes) => Some(changes),
            _ => None,
        })
    }

    fn expect<T>(
        &mut self,
        request: Request,
        read: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, ControlError> {
        let answer = self.call(&request)?;
        read(answer)
            .ok_or_else(|| ControlError::Mismatch { path: self.path.clone(), request: Box::new(request) })
    }

    /// Asks anything.
    pub fn call(&mut self, request: &Request) -> Result<Answer, ControlError> {
        let boxed = || Box::new(request.clone());
        let path = self.path.clone();
        let line = match exchange(self.stream()?, request) {
            Ok(line) => line,
            Err(source) => {
                self.stream = None;
                return Err(ControlError::Exchange { path, request: boxed(), source });
            }
        };
        match serde_json::from_str(&line) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err(message)) => Err(ControlError::Refused { request: boxed(), message }),
            Err(source) => Err(ControlError::Unreadable { path, request: boxed(), source }),
        }
    }

    fn stream(&mut self) -> Result<&mut BufReader<UnixStream>, ControlError> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => open(&self.path)
                .map_err(|source| ControlError::Connect { path: self.path.clone(), source })?,
        };
        Ok(self.stream.insert(stream))
    }
}

fn open(path: &Path) -> io::Result<BufReader<UnixStream>> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(CALL_TIMEOUT))?;
    stream.set_write_timeout(Some(CALL_TIMEOUT))?;
    Ok(BufReader::new(stream))
}

fn exchange(stream: &mut BufReader<UnixStream>, request: &Request) -> io::Result<String> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
    if answer.ends_with('\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
