//! Running a command on a node out of band, behind its agent's back: the harness's side of `crates/hands`.
//!
//! Purpose: what a person would do there, also while there is no agent. In a QEMU lab it goes through a serial port whose
//! socket is in the lab's directory; a physical lab would use ssh in its place.
//!
//! Invariants: everything is bounded. Answers are matched to requests by id, and ids begin somewhere else in every
//! connection, so that the rest of an earlier one's answers is not taken for ours. One that was not answered in time is
//! poisoned: make another. QEMU serves one connection to a port at a time.
//!
//! On failure: [`HandsError`]. A command that ran and ended badly is no failure: [`Output::status`] says so.

use hands::{ANSWER_MAX_BYTES, Answer, LIMIT_DEFAULT, Request};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How long an answer may take on top of the command: a node that just started has to load a driver first.
const GRACE: Duration = Duration::from_secs(10);

/// Where ids may begin: half of what a double can tell apart, so that no JSON reader has trouble with them.
const FIRST_ID_MAX: u64 = 1 << 52;

/// What a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub status: i32,
    /// What it said, at most [`hands::OUTPUT_MAX_BYTES`].
    pub stdout: String,
    /// What it said on standard error, at most as much.
    pub stderr: String,
    /// From when it was started on the node until it had ended.
    pub took: Duration,
}

/// A command didn't run to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    /// The port's socket could not be reached.
    #[error("cannot reach the node's hands at {}", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The port broke while a command was under way.
    #[error("the way to the node's hands {} broke during `{command}`", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer came in time.
    #[error("the node's hands did not answer `{command}` within {bound:?}")]
    Timeout {
        /// The command.
        command: String,
        /// How long they had.
        bound: Duration,
    },
    /// The command didn't run, or not to its end.
    #[error("the node could not run `{command}`: {why}\n{stderr}")]
    NotRun {
        /// The command.
        command: String,
        /// Why.
        why: String,
        /// What it said until then.
        stderr: String,
    },
    /// A signal ended the command.
    #[error("signal {signal} ended `{command}`\n{stderr}")]
    Signal {
        /// The command.
        command: String,
        /// Which.
        signal: i32,
        /// What it said until then.
        stderr: String,
    },
    /// The command said more than is kept.
    #[error("`{command}` said more than {} bytes", hands::OUTPUT_MAX_BYTES)]
    TooMuch {
        /// The command.
        command: String,
    },
}

/// A connection to the hands of one node.
#[derive(Debug)]
pub struct Hands {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
    next_id: u64,
    poisoned: bool,
}

impl Hands {
    /// Connects to a port's socket. That hands are at its other end shows only when a command is run.
    pub async fn connect(socket: &Path) -> Result<Self, HandsError> {
        let connect = |source| HandsError::Connect { socket: socket.to_owned(), source };
        let mut stream = UnixStream::connect(socket).await.map_err(connect)?;
        // Ends what an earlier client may have left half sent.
        stream.write_all(b"\n").await.map_err(connect)?;
        let next_id = fastrand::u64(..FIRST_ID_MAX);
        Ok(Self { socket: socket.to_owned(), stream: BufReader::new(stream), next_id, poisoned: false })
    }

    /// Runs a command, which has ten seconds.
    pub async fn run(&mut self, argv: &[&str]) -> Result<Output, HandsError> {
        self.run_with(argv, "", LIMIT_DEFAULT).await
    }

    /// Runs a command with that standard input, which has that long (at most [`hands::LIMIT_MAX`]).
    pub async fn run_with(
        &mut self,
        argv: &[&str],
        stdin: &str,
        limit: Duration,
    ) -> Result<Output, HandsError> {
        let command = argv.join(" ");
        if self.poisoned {
            return Err(self.broken(&command, io::Error::other("an earlier command was not answered")));
        }
        let request = Request {
            id: self.next_id,
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            stdin: stdin.to_owned(),
            limit_ms: u64::try_from(limit.as_millis()).ok(),
        };
        self.next_id += 1;
        // Set until the answer is in: a caller that drops this future half-way leaves a poisoned client too.
        self.poisoned = true;
        let bound = limit.min(hands::LIMIT_MAX) + GRACE;
        let answer = match tokio::time::timeout(bound, self.exchange(&request)).await {
            Ok(answer) => answer.map_err(|source| self.broken(&command, source))?,
            Err(_) => return Err(HandsError::Timeout { command, bound }),
        };
        self.poisoned = false;
        output(command, answer)
    }

    async fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut self.stream).take(ANSWER_MAX_BYTES as u64);
            if bounded.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // What isn't ours is the rest of an earlier connection's.
            if let Ok(answer) = serde_json::from_slice::<Answer>(&line)
                && answer.id == Some(request.id)
            {
                return Ok(answer);
            }
        }
    }

    fn broken(&self, command: &str, source: io::Error) -> HandsError {
        HandsError::Broken { socket: self.socket.clone(), command: command.to_owned(), source }
    }
}

fn output(command: String, answer: Answer) -> Result<Output, HandsError> {
    let Answer { status, signal, error, stdout, stderr, truncated, took_us, .. } = answer;
    match (status, signal, error) {
        (_, _, Some(why)) => Err(HandsError::NotRun { command, why, stderr }),
        (_, Some(signal), None) => Err(HandsError::Signal { command, signal, stderr }),
        (Some(_), None, None) if truncated => Err(HandsError::TooMuch { command }),
        (Some(status), None, None) => {
            let took = Duration::from_micros(took_us.unwrap_or_default());
            Ok(Output { status, stdout, stderr, took })
        }
        (None, None, None) => {
            let why = "the answer doesn't say how it ended".to_owned();
            Err(HandsError::NotRun { command, why, stderr })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use tokio::io::AsyncRead;

    /// A port with real hands behind it, after what an earlier connection left.
    async fn with_hands(left: &'static [u8]) -> (tempfile::TempDir, Hands) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("n0.hands");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut port, _) = listener.accept().unwrap();
            io::Write::write_all(&mut port, left).unwrap();
            hands::serve(port.try_clone().unwrap(), port)
        });
        let hands = Hands::connect(&socket).await.unwrap();
        (dir, hands)
    }

    #[tokio::test]
    async fn commands_run_one_after_another() {
        let (_dir, mut hands) = with_hands(b"").await;
        let output = hands.run(&["sh", "-c", "echo out; echo err >&2; exit 3"]).await.unwrap();
        assert!(output.took > Duration::ZERO);
        let Output { status, stdout, stderr, .. } = output;
        assert_eq!((status, &*stdout, &*stderr), (3, "out\n", "err\n"));
        let output = hands.run_with(&["cat"], "in", LIMIT_DEFAULT).await.unwrap();
        assert_eq!((output.status, &*output.stdout), (0, "in"));
    }

    #[tokio::test]
    async fn what_an_earlier_connection_left_is_passed_over() {
        let left = b"dout\":\"half\"}\n\n{\"id\":1,\"status\":0,\"stdout\":\"old\"}\n\n{\"id\":2,\"sta";
        let (_dir, mut hands) = with_hands(left).await;
        assert_eq!(hands.run(&["echo", "new"]).await.unwrap().stdout, "new\n");
    }

    #[tokio::test]
    async fn each_end_but_an_exit_is_an_error_of_its_own() {
        let (_dir, mut hands) = with_hands(b"").await;
        let error = hands.run(&["no-such-command"]).await.unwrap_err();
        assert!(matches!(&error, HandsError::NotRun { why, .. } if why.contains("No such file")), "{error}");
        let error = hands.run(&["sh", "-c", "kill -9 $$"]).await.unwrap_err();
        assert!(matches!(error, HandsError::Signal { signal: 9, .. }), "{error}");
        let error = hands.run(&["head", "-c", "300000", "/dev/zero"]).await.unwrap_err();
        assert!(matches!(error, HandsError::TooMuch { .. }), "{error}");
        let error =
            hands.run_with(&["sleep", "600"], "", Duration::from_millis(200)).await.unwrap_err().to_string();
        assert!(error.contains("it still ran after 200 ms"), "{error}");
        assert_eq!(hands.run(&["true"]).await.unwrap().status, 0);
    }

    /// A port that takes everything and answers with these bytes.
    async fn with_port(answer: &'static [u8]) -> (tempfile::TempDir, Hands, impl AsyncRead) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("n0.hands");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let hands = Hands::connect(&socket).await.unwrap();
        let (mut port, _) = listener.accept().await.unwrap();
        port.write_all(answer).await.unwrap();
        (dir, hands, port)
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_without_hands_is_not_waited_for_for_ever_and_not_asked_again() {
        let (_dir, mut hands, _port) = with_port(b"noise\n{\"id\":null,\"error\":\"x\"}\n").await;
        let error = hands.run(&["true"]).await.unwrap_err();
        assert!(
            matches!(error, HandsError::Timeout { bound, .. } if bound == LIMIT_DEFAULT + GRACE),
            "{error}"
        );
        let error = hands.run(&["true"]).await.unwrap_err();
        assert!(matches!(error, HandsError::Broken { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_closes_is_told_at_once() {
        let (_dir, mut hands, port) = with_port(b"").await;
        drop(port);
        let error = hands.run(&["true"]).await.unwrap_err();
        assert!(matches!(error, HandsError::Broken { .. }), "{error}");
    }

    #[tokio::test]
    async fn no_socket_is_an_error_with_its_path() {
        let error = Hands::connect(Path::new("/nowhere/n0.hands")).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot reach the node's hands at /nowhere/n0.hands");
    }
}
