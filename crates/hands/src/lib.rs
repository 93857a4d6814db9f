//! What a person would do on a node of a lab, done by a program: commands come through a port, their ends go back.
//!
//! Purpose: suites break and look at things behind the agent's back, also while there is no agent. Only images of labs have
//! it. The port leads to a socket in the lab's directory, which only the lab's user may enter (mode 0700); whoever writes
//! there is root on the node, as with a serial console.
//!
//! The protocol: one JSON object a line, one answer a request, in order. [`Request`] and [`Answer`] are all of it; empty
//! lines mean nothing. Each answer begins with an empty line, so that what an earlier client left half read ends there.
//!
//! Invariants: every request that can be read gets one answer; nothing that comes in ends the service; everything is
//! bounded (request, time, output). Nothing of a request or an answer is logged: either may hold secrets.
//!
//! On failure: a command that can't be run, or ran too long, is an [`Answer`] with an error. Only the port itself ends
//! [`serve`].

mod run;
mod verb;

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

/// The port's name, by which both sides find it.
pub const PORT_NAME: &str = "twinrack.hands";

/// The longest request, standard input included.
pub const REQUEST_MAX_BYTES: usize = 1 << 20;

/// What is kept of a command's standard output, and of its standard error: their beginnings.
pub const OUTPUT_MAX_BYTES: usize = 256 << 10;

/// The longest answer: JSON takes up to six bytes for one, and there are two outputs.
pub const ANSWER_MAX_BYTES: usize = 2 * 6 * OUTPUT_MAX_BYTES + (64 << 10);

/// How long a command may run when the request doesn't say.
pub const LIMIT_DEFAULT: Duration = Duration::from_secs(10);

/// How long a command may run at most.
pub const LIMIT_MAX: Duration = Duration::from_mins(1);

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back in the answer.
    pub id: u64,
    /// The program and its arguments; or something that hands do themselves: `["@kill", SIGNAL, NAME]` sends the signal
    /// (a number) to every process of that name and says their process ids; `["@connect", ADDRESS:PORT]` calls a TCP port and
    /// hangs up; `["@start", PROGRAM, …]` starts a program that goes on behind the answer and says its process id;
    /// `["@port", NAME]` says the device of the serial port of that name; `["@skew", SECONDS]` sets the machine's clock forward by
    /// so much (or back) and says what it is then, in seconds since 1970; `["@list", FOLDER, …]` says the paths of what is in them; `["@usage", NAME]` says of every process of that name its process id, the
    /// time it has had of processors (milliseconds) and the memory it holds (KiB).
    pub argv: Vec<String>,
    /// The command's standard input.
    #[serde(default)]
    pub stdin: String,
    /// How long it may run, milliseconds; [`LIMIT_DEFAULT`] if not said, never more than [`LIMIT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
}

/// What became of a command: `status`, `signal` or `error`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The request's; none if the request could not be read.
    pub id: Option<u64>,
    /// Its exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it didn't run, or not to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it said, as UTF-8; other bytes are replaced.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
    /// Whether it said more than is kept.
    #[serde(skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// From when it was started until it had ended, µs; none if it did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Answers requests until the reader ends.
pub fn serve(reader: impl Read, mut writer: impl Write) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    while let Some(line) = next_line(&mut reader)? {
        let answer = match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => continue,
            Line::Whole(line) => answer(&line),
            Line::TooLong => failure(None, format!("the request is longer than {REQUEST_MAX_BYTES} bytes")),
        };
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, &answer)?;
        line.push(b'\n');
        writer.write_all(&line)?;
        writer.flush()?;
    }
    Ok(())
}

/// A line of input.
enum Line {
    Whole(Vec<u8>),
    /// Its bytes were thrown away.
    TooLong,
}

/// The next line without its end; `None` at the end of input, where half a line counts for nothing.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let room = (REQUEST_MAX_BYTES + 1 - line.len()) as u64;
        if reader.by_ref().take(room).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            return Ok(Some(if too_long { Line::TooLong } else { Line::Whole(line) }));
        }
        if line.len() > REQUEST_MAX_BYTES {
            too_long = true;
            line.clear();
        }
    }
}

fn answer(line: &[u8]) -> Answer {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        // Where it is wrong, not what stood there.
        Err(error) => {
            let (kind, column) = (error.classify(), error.column());
            return failure(None, format!("the request is no request: {kind:?} error at byte {column}"));
        }
    };
    let limit = request.limit_ms.map_or(LIMIT_DEFAULT, Duration::from_millis).min(LIMIT_MAX);
    let Some((first, arguments)) = request.argv.split_first() else {
        return failure(Some(request.id), "the request names no command".to_owned());
    };
    let answer = match first.strip_prefix('@') {
        Some(verb) => verb::carry_out(verb, arguments),
        None => run::run(first, arguments, request.stdin.as_bytes(), limit),
    };
    Answer { id: Some(request.id), ..answer }
}

fn failure(id: Option<u64>, error: String) -> Answer {
    Answer { id, error: Some(error), ..Answer::default() }
}
