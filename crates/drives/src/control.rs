//! How a lab talks to its drives: one JSON object a line, each answered by one line, over a unix socket.
//!
//! [`Request`] and [`Response`] are the protocol; [`Control`] is the client: blocking, with a time limit on every call. After a failed
//! call it connects anew at the next one, so that a late answer is never taken for another's.

use crate::fault::Fault;
use model::DriveSerial;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The control socket's name in the lab's directory.
pub const CONTROL_SOCKET: &str = "drives.ctl";
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest request or answer, bytes: the states of the largest lab stay below.
pub(crate) const LINE_BYTES_MAX: u64 = 1 << 16;

/// What drives can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The state of every drive. Answer: [`Answer::States`].
    States {},
    /// Something is wrong with a drive from now on, in place of what was; what waits is judged by it anew.
    Fault {
        /// The drive.
        drive: DriveSerial,
        /// What.
        fault: Fault,
    },
    /// A drive loses its power though its machine does not: it was pulled. Answered when what survives is in its file.
    LosePower {
        /// The drive.
        drive: DriveSerial,
    },
}

/// What they answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// Every drive, in the order in which they were given.
    States(Vec<DriveState>),
    /// It is done.
    Done,
}

/// One line from the drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// Done.
    Ok(Answer),
    /// Not done, and nothing changed.
    Err(String),
}

/// A drive, and what it did since the lab began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveState {
    /// Which.
    pub drive: DriveSerial,
    /// Whether it has power: a machine is connected, or what it had not flushed is not sorted out yet.
    pub has_power: bool,
    /// What is wrong with it.
    pub fault: Fault,
    /// Requests that wait.
    pub waiting: u64,
    /// Reads that were answered well.
    pub reads: u64,
    /// Writes, zeros among them, that were answered well.
    pub writes: u64,
    /// How much that was, bytes.
    pub written_bytes: u64,
    /// How many of them had to be durable.
    pub writes_through: u64,
    /// Flushes that were answered well.
    pub flushes: u64,
    /// Requests that failed.
    pub failed: u64,
    /// How much is held that is not flushed, bytes.
    pub unflushed_bytes: u64,
    /// How often it lost its power.
    pub power_losses: u64,
    /// How many sectors it lost by that, all in all.
    pub lost_sectors: u64,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No drives answer there.
    #[error("no drives answer at {}", .path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// They went away or are too slow.
    #[error("the drives at {} did not answer {request:?}", .path.display())]
    Exchange {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        request: Request,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer can't be read, or is another request's.
    #[error("the drives at {} answered {request:?} with something else: {answer:.200}", .path.display())]
    Mismatch {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        request: Request,
        /// What came.
        answer: String,
    },
    /// They can't do that.
    #[error("the drives refused {request:?}: {message}")]
    Refused {
        /// What was asked.
        request: Request,
        /// Why not.
        message: String,
    },
}

/// A client of a lab's drives.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Control {
    /// Connects to the drives that have their sockets in a directory. All of them listen when this works.
    pub fn connect(dir: &Path) -> Result<Self, ControlError> {
        let mut control = Self { path: dir.join(CONTROL_SOCKET), stream: None };
        let stream = control.open()?;
        control.stream = Some(stream);
        Ok(control)
    }

    /// The state of every drive.
    pub fn states(&mut self) -> Result<Vec<DriveState>, ControlError> {
        let request = Request::States {};
        match self.call(&request)? {
            Answer::States(states) => Ok(states),
            answer @ Answer::Done => Err(self.mismatch(&request, format!("{answer:?}"))),
        }
    }

    /// Something is wrong with a drive from now on; [`Fault::None`]: nothing is any more.
    pub fn fault(&mut self, drive: &DriveSerial, fault: Fault) -> Result<(), ControlError> {
        self.done(&Request::Fault { drive: drive.clone(), fault })
    }

    /// A drive loses its power. When this returns, what survived is in its file.
    pub fn lose_power(&mut self, drive: &DriveSerial) -> Result<(), ControlError> {
        self.done(&Request::LosePower { drive: drive.clone() })
    }

    fn done(&mut self, request: &Request) -> Result<(), ControlError> {
        match self.call(request)? {
            Answer::Done => Ok(()),
            answer @ Answer::States(_) => Err(self.mismatch(request, format!("{answer:?}"))),
        }
    }

    fn call(&mut self, request: &Request) -> Result<Answer, ControlError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        let line = exchange(&mut stream, request).map_err(|source| ControlError::Exchange {
            path: self.path.clone(),
            request: request.clone(),
            source,
        })?;
        match serde_json::from_str(&line) {
            Ok(response) => {
                self.stream = Some(stream);
                match response {
                    Response::Ok(answer) => Ok(answer),
                    Response::Err(message) => {
                        Err(ControlError::Refused { request: request.clone(), message })
                    }
                }
            }
            Err(_) => Err(self.mismatch(request, line)),
        }
    }

    fn open(&self) -> Result<BufReader<UnixStream>, ControlError> {
        let open = || {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(CALL_TIMEOUT))?;
            stream.set_write_timeout(Some(CALL_TIMEOUT))?;
            Ok(BufReader::new(stream))
        };
        open().map_err(|source| ControlError::Connect { path: self.path.clone(), source })
    }

    fn mismatch(&self, request: &Request, answer: String) -> ControlError {
        ControlError::Mismatch { path: self.path.clone(), request: request.clone(), answer }
    }
}

fn exchange(stream: &mut BufReader<UnixStream>, request: &Request) -> io::Result<String> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line)?;
    let mut answer = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut answer)?;
    if answer.ends_with('\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
