//! Control clients: requests in, answers out, a line each.
//!
//! A client that doesn't read its answers is asked nothing more until it does, so that what waits for it is at most one
//! answer. One that sends a longer line than any request, or is one too many, is closed.

use super::sockets::BoundSocket;
use super::{CLIENTS, Fabric};
use crate::control::{Answer, NicState, Request, Response};
use crate::switchboard::{CarrierChange, FaultError, NicIndex};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::time::Duration;

/// Clients at once: a lab has one, a person may look on.
const CLIENTS_MAX: usize = 16;
/// The longest request, bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Requests that one client gets answered in a turn.
const REQUESTS_PER_TURN: usize = 16;

#[derive(Debug)]
pub(super) struct Clients {
    listener: BoundSocket,
    slots: [Option<Client>; CLIENTS_MAX],
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    requests: Vec<u8>,
    answers: Vec<u8>,
    /// Whether there may be something to read or room to write.
    ready: bool,
}

/// What a client needs next.
enum Next {
    /// This answered.
    Request(Vec<u8>),
    /// An event.
    Wait,
    Close,
}

impl Clients {
    pub(super) fn new(listener: BoundSocket) -> Self {
        Self { listener, slots: std::array::from_fn(|_| None) }
    }

    pub(super) fn accept(&mut self, registry: &Registry) {
        while let Some(mut stream) = self.listener.accept() {
            let Some(slot) = self.slots.iter().position(Option::is_none) else { continue };
            let both = Interest::READABLE | Interest::WRITABLE;
            if registry.register(&mut stream, Token(CLIENTS + slot), both).is_ok() {
                let (requests, answers) = (Vec::new(), Vec::new());
                self.slots[slot] = Some(Client { stream, requests, answers, ready: true });
            }
        }
    }

    pub(super) fn note(&mut self, slot: usize) {
        if let Some(Some(client)) = self.slots.get_mut(slot) {
            client.ready = true;
        }
    }

    pub(super) fn are_busy(&self) -> bool {
        self.slots.iter().flatten().any(|client| client.ready)
    }
}

impl Client {
    fn next(&mut self) -> Next {
        loop {
            match self.write_answers() {
                Ok(true) => {}
                Ok(false) => return Next::Wait,
                Err(_) => return Next::Close,
            }
            if let Some(end) = self.requests.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.requests.drain(..=end).collect();
                line.pop();
                return Next::Request(line);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Next::Close,
                Ok(bytes) => self.requests.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Next::Close,
            }
            if self.requests.len() > REQUEST_BYTES_MAX {
                return Next::Close;
            }
        }
    }

    /// Whether everything is written.
    fn write_answers(&mut self) -> io::Result<bool> {
        while !self.answers.is_empty() {
            match self.stream.write(&self.answers) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.answers.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Fabric {
    pub(super) fn serve_clients(&mut self, now: Duration) {
        for slot in 0..CLIENTS_MAX {
            for _ in 0..REQUESTS_PER_TURN {
                let Some(client) = self.clients.slots[slot].as_mut().filter(|client| client.ready) else {
                    break;
                };
                match client.next() {
                    Next::Wait => client.ready = false,
                    Next::Close => self.clients.slots[slot] = None,
                    Next::Request(line) => {
                        let answer = self.answer(&line, now);
                        if let Some(client) = &mut self.clients.slots[slot] {
                            client.answers = answer;
                        }
                    }
                }
            }
        }
    }

    fn answer(&mut self, line: &[u8], now: Duration) -> Vec<u8> {
        let response = match serde_json::from_slice(line) {
            Ok(request) => self.carry_out(request, now).map_or_else(Response::Err, Response::Ok),
            Err(error) => Response::Err(format!("the request can't be read: {error}")),
        };
        let mut bytes = serde_json::to_vec(&response)
            .unwrap_or_else(|error| format!("{{\"err\":\"{error}\"}}").into_bytes());
        bytes.push(b'\n');
        bytes
    }

    fn carry_out(&mut self, request: Request, now: Duration) -> Result<Answer, String> {
        let (board, io) = (&mut self.board, &mut self.io);
        let changed = |result: Result<Vec<CarrierChange>, FaultError>| {
            result.map(Answer::Changed).map_err(|error| error.to_string())
        };
        match request {
            Request::Nics {} => Ok(Answer::Nics(self.nic_states())),
            Request::Counters {} => Ok(Answer::Counters(board.counters(now))),
            Request::Experiments { since } => Ok(Answer::Experiments(board.experiments(since))),
            Request::CutLink { link, cut } => changed(board.cut_link(&link, cut, io)),
            Request::RestoreLink { link } => changed(board.restore_link(&link, io)),
            Request::ShapeLink { link, ways, shaping } => {
                changed(board.shape_link(&link, ways, shaping).map(|()| Vec::new()))
            }
            Request::FlapLink { link, flap } => changed(board.flap_link(&link, flap, io)),
            Request::SwitchDown { switch } => changed(board.set_switch_up(&switch, false, io)),
            Request::SwitchUp { switch } => changed(board.set_switch_up(&switch, true, io)),
            Request::Recable { nic, to } => changed(board.recable(&nic, &to, io)),
            Request::RestoreCabling {} => Ok(Answer::Changed(board.restore_cabling(io))),
            Request::RemoveVlan { port, vlan } => {
                changed(board.remove_vlan(&port, vlan, io).map(|()| Vec::new()))
            }
            Request::LowerMtu { switch, port, mtu, announced } => {
                changed(board.lower_mtu(&switch, port.as_ref(), mtu, announced, io).map(|()| Vec::new()))
            }
            Request::Heal {} => Ok(Answer::Changed(board.heal(io))),
            Request::StartCapture { link, path, max_bytes } => {
                if !path.is_absolute() {
                    return Err(format!("the capture path {} is not absolute", path.display()));
                }
                let index = board.link(&link).map_err(|error| error.to_string())?;
                if io.is_captured(index) {
                    return Err(format!("link `{link}` is being captured already"));
                }
                io.start_capture(index, &path, max_bytes)
                    .map_err(|error| format!("can't write a capture to {}: {error}", path.display()))?;
                board.set_captured(index, true);
                Ok(Answer::Capturing)
            }
            Request::StopCapture { link } => {
                let index = board.link(&link).map_err(|error| error.to_string())?;
                board.set_captured(index, false);
                let report = io.stop_capture(index);
                report.map(Answer::Captured).ok_or_else(|| format!("link `{link}` is not being captured"))
            }
        }
    }

    fn nic_states(&self) -> Vec<NicState> {
        let states = self.board.nics().zip(&self.nics).enumerate().map(|(index, (nic, socket))| NicState {
            nic: nic.clone(),
            carrier: self.board.has_carrier(NicIndex(index)),
            connected: socket.is_connected(),
            refused_connections: socket.refused_connections,
            protocol_errors: socket.protocol_errors,
        });
        states.collect()
    }
}
