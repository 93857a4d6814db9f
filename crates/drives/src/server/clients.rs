//! Who gives orders: requests in, answers out, a line each, one client after another's line.

use super::{RunError, Shared, State, system};
use crate::control::{Answer, LINE_BYTES_MAX, Request, Response};
use model::DriveSerial;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a drive may take to lose its power: it writes a few megabytes.
const OBEY_BOUND: Duration = Duration::from_secs(4);

/// Serves clients until none can come any more.
pub(super) fn serve(listener: &UnixListener, drives: &[Arc<Shared>]) -> Result<(), RunError> {
    thread::scope(|scope| {
        loop {
            let (stream, _) = listener.accept().map_err(system("take a client's connection"))?;
            // A client that breaks off harms nobody.
            let client = move || drop(answer_all(stream, drives));
            thread::Builder::new().spawn_scoped(scope, client).map_err(system("start a thread"))?;
        }
    })
}

fn answer_all(stream: UnixStream, drives: &[Arc<Shared>]) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => carry_out(request, drives).map_or_else(Response::Err, Response::Ok),
            Err(error) => Response::Err(format!("the request can't be read: {error}")),
        };
        let mut bytes = serde_json::to_vec(&response)?;
        bytes.push(b'\n');
        reader.get_mut().write_all(&bytes)?;
    }
}

fn carry_out(request: Request, drives: &[Arc<Shared>]) -> Result<Answer, String> {
    let find = |serial: &DriveSerial| {
        let found = drives.iter().find(|drive| drive.lock().seen.drive == *serial);
        found.ok_or_else(|| format!("there is no drive {serial}"))
    };
    match request {
        Request::States {} => {
            Ok(Answer::States(drives.iter().map(|drive| drive.lock().seen.clone()).collect()))
        }
        Request::Fault { drive, fault } => {
            let drive = find(&drive)?;
            drive.lock().seen.fault = fault;
            drive.wake();
            Ok(Answer::Done)
        }
        Request::LosePower { drive } => {
            let drive = find(&drive)?;
            let mut state = drive.lock();
            state.lose_power = true;
            drive.wake();
            let waits = |state: &mut State| state.lose_power;
            let waited = drive.obeyed.wait_timeout_while(state, OBEY_BOUND, waits);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.lose_power {
                Err("the drive's thread does not answer".to_owned())
            } else {
                Ok(Answer::Done)
            }
        }
    }
}
