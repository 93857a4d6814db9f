//! A client of QEMU's machine protocol (QMP; QEMU's `docs/interop/qmp-spec.rst`).
//!
//! Purpose: one command, one answer, over a unix socket, each within a bound. Events say that it is time to ask for the state again.
//!
//! Invariants: answers are matched to commands by id. Of events only the last few names are kept: state is asked for, never put together from
//! them. A client whose answer did not come in time is poisoned: every later call fails, so that a late answer is never taken for
//! another command's. [`Qmp::is_sound`] says whether it is: its user connects anew.
//!
//! On failure: [`QmpError`] names the socket and the command.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest line that QEMU may answer with. Its longest known answers (`query-qmp-schema`) stay below.
const ANSWER_MAX_BYTES: u64 = 4 << 20;

/// How many events are kept until somebody asks for them; of more, the oldest are forgotten.
const EVENTS_MAX: usize = 16;

/// What went wrong with a QMP call.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket could not be reached.
    #[error("cannot reach QEMU's control socket {}", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU closed the socket or it broke while a command was under way.
    #[error("QEMU's control socket {} broke during `{command}`", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// The command under way.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QEMU sent something that is not QMP.
    #[error("QEMU answered `{command}` with something that is not QMP: {line:.200}")]
    NotQmp {
        /// The command under way.
        command: String,
        /// What it sent.
        line: String,
    },
    /// QEMU refused the command.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's reason.
        description: String,
    },
    /// No answer came in time.
    #[error("QEMU did not answer `{command}` within {bound:?}")]
    Timeout {
        /// The command.
        command: String,
        /// How long it had.
        bound: Duration,
    },
}

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: PathBuf,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    bound: Duration,
    next_id: u64,
    poisoned: bool,
    /// What was read of the next message: a reader that is dropped half-way leaves it here.
    line: Vec<u8>,
    events: VecDeque<String>,
}

impl Qmp {
    /// Connects and negotiates capabilities. Every command on this connection has `bound` to be answered.
    pub async fn connect(socket: &Path, bound: Duration) -> Result<Self, QmpError> {
        let connect = |source| QmpError::Connect { socket: socket.to_owned(), source };
        let stream = tokio::time::timeout(bound, UnixStream::connect(socket))
            .await
            .map_err(|_| connect(io::ErrorKind::TimedOut.into()))?
            .map_err(connect)?;
        let (reader, writer) = stream.into_split();
        let mut qmp = Self {
            socket: socket.to_owned(),
            reader: BufReader::new(reader),
            writer,
            bound,
            next_id: 1,
            poisoned: false,
            line: Vec::new(),
            events: VecDeque::new(),
        };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Whether every command was answered. One that was not may be carried out yet: QEMU takes the next connection's commands after that.
    pub const fn is_sound(&self) -> bool {
        !self.poisoned
    }

    /// Runs one command and returns what QEMU returns. `arguments` is an object, or null for none.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, self.bound).await
    }

    /// The same, of a command that may take another time to be answered.
    pub async fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        bound: Duration,
    ) -> Result<Value, QmpError> {
        if self.poisoned {
            return Err(self.broken(command, io::Error::other("an earlier command was not answered")));
        }
        // Set until the answer is in: a caller that drops this future half-way leaves a poisoned client too.
        self.poisoned = true;
        let answer = tokio::time::timeout(bound, self.exchange(command, arguments))
            .await
            .map_err(|_| QmpError::Timeout { command: command.to_owned(), bound })?;
        self.poisoned = !matches!(answer, Ok(_) | Err(QmpError::Refused { .. }));
        answer
    }

    /// Tells a NIC that its cable is in or out.
    pub async fn set_link(&mut self, device: &str, up: bool) -> Result<(), QmpError> {
        self.execute("set_link", json!({ "name": device, "up": up })).await.map(drop)
    }

    /// Waits for the next event, and gives its name: at once if one came since the last call, `None` when none comes within the bound.
    pub async fn event(&mut self, bound: Duration) -> Result<Option<String>, QmpError> {
        let next = async {
            while self.events.is_empty() {
                let message = self.read_message("event").await?;
                self.note(&message);
            }
            Ok(self.events.pop_front())
        };
        tokio::time::timeout(bound, next).await.unwrap_or(Ok(None))
    }

    fn note(&mut self, message: &Value) {
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(name.to_owned());
        }
    }

    async fn exchange(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        self.writer.write_all(line.as_bytes()).await.map_err(|source| self.broken(command, source))?;
        loop {
            let message = self.read_message(command).await?;
            if message.get("id").and_then(Value::as_u64) != Some(id) {
                self.note(&message);
                continue; // the greeting, or an event
            }
            if let Some(error) = message.get("error") {
                let description = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), description });
            }
            return Ok(message.get("return").cloned().unwrap_or(Value::Null));
        }
    }

    async fn read_message(&mut self, command: &str) -> Result<Value, QmpError> {
        let left = ANSWER_MAX_BYTES.saturating_sub(self.line.len() as u64);
        let read = (&mut self.reader).take(left).read_until(b'\n', &mut self.line).await;
        let line = std::mem::take(&mut self.line);
        match read {
            Ok(0) => Err(self.broken(command, io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_slice(&line).map_err(|_| QmpError::NotQmp {
                command: command.to_owned(),
                line: String::from_utf8_lossy(&line).trim_end().to_owned(),
            }),
            Err(source) => Err(self.broken(command, source)),
        }
    }

    fn broken(&self, command: &str, source: io::Error) -> QmpError {
        QmpError::Broken { socket: self.socket.clone(), command: command.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A QEMU that greets, then answers each line with the given lines.
    async fn with_server(answers: Vec<Vec<String>>) -> (tempfile::TempDir, Result<Qmp, QmpError>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(b"{\"QMP\": {\"version\": {}}}\n").await.unwrap();
            for answer in answers {
                lines.next_line().await.unwrap();
                for line in answer {
                    writer.write_all(line.as_bytes()).await.unwrap();
                }
            }
            lines.next_line().await.ok();
        });
        let qmp = Qmp::connect(&socket, Duration::from_millis(200)).await;
        (dir, qmp)
    }

    fn ok(id: u64) -> String {
        format!("{{\"return\": {{}}, \"id\": {id}}}\n")
    }

    #[tokio::test]
    async fn events_between_command_and_answer_are_passed_over() {
        let event = "{\"event\": \"RESUME\", \"timestamp\": {}}\n".to_owned();
        let (_dir, qmp) = with_server(vec![vec![ok(1)], vec![event, ok(2)]]).await;
        qmp.unwrap().set_link("nic0", false).await.unwrap();
    }

    #[tokio::test]
    async fn events_are_kept_for_whoever_asks_and_one_that_comes_in_pieces_is_whole() {
        let event = |name: &str| format!("{{\"event\": \"{name}\", \"timestamp\": {{}}}}\n");
        let (first, second) = (event("STOP"), event("RESUME"));
        let (piece, rest) = second.split_at(9);
        let answers = vec![vec![ok(1)], vec![first, ok(2), piece.to_owned()], vec![rest.to_owned(), ok(3)]];
        let (_dir, qmp) = with_server(answers).await;
        let mut qmp = qmp.unwrap();
        let bound = Duration::from_millis(50);
        assert_eq!(qmp.event(Duration::from_millis(1)).await.unwrap(), None);
        qmp.set_link("nic0", true).await.unwrap();
        assert_eq!(qmp.event(bound).await.unwrap().as_deref(), Some("STOP"));
        assert_eq!(qmp.event(bound).await.unwrap(), None);
        qmp.set_link("nic0", true).await.unwrap();
        assert_eq!(qmp.event(bound).await.unwrap().as_deref(), Some("RESUME"));
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_leaves_the_connection_usable() {
        let refusal =
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such NIC\"}, \"id\": 2}\n".to_owned();
        let (_dir, qmp) = with_server(vec![vec![ok(1)], vec![refusal], vec![ok(3)]]).await;
        let mut qmp = qmp.unwrap();
        let error = qmp.set_link("nic9", true).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused `set_link`: no such NIC");
        qmp.set_link("nic0", true).await.unwrap();
    }

    #[tokio::test]
    async fn a_late_answer_is_never_taken_for_another_commands() {
        let (_dir, qmp) = with_server(vec![vec![ok(1)], vec![], vec![ok(2)]]).await;
        let mut qmp = qmp.unwrap();
        assert!(qmp.is_sound());
        assert!(matches!(qmp.set_link("nic0", true).await, Err(QmpError::Timeout { .. })));
        assert!(!qmp.is_sound());
        assert!(matches!(qmp.set_link("nic0", true).await, Err(QmpError::Broken { .. })));
    }

    #[tokio::test]
    async fn a_server_that_is_not_qemu_is_told_apart() {
        let (_dir, qmp) = with_server(vec![vec!["hello\n".to_owned()]]).await;
        assert!(matches!(qmp, Err(QmpError::NotQmp { .. })));
    }
}
