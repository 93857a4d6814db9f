//! How to get into a lab that is kept, and how to end it.

use super::keeper::END_SOCKET;
use super::{Keeper, Lab, LabError};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a kept lab has to end. It does so in milliseconds unless the host is stuck.
const END_BOUND: Duration = Duration::from_secs(20);

/// A kept lab was not ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// Nobody listens there.
    #[error("no kept lab answers in {}", .dir.display())]
    NoLab {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was told, and did not end.
    #[error("the lab in {} was told to end and has not after {waited:?}", .dir.display())]
    Silent {
        /// Where.
        dir: PathBuf,
        /// How long it had.
        waited: Duration,
        /// Why no more is known of it.
        #[source]
        source: io::Error,
    },
    /// It ended and left something.
    #[error("the lab in {} has ended, but left there: {}", .dir.display(), left.join(", "))]
    Left {
        /// Where.
        dir: PathBuf,
        /// The names of the files.
        left: Vec<String>,
    },
}

/// Ends a kept lab and waits until it is gone.
pub fn end_kept(dir: &Path) -> Result<(), EndError> {
    end_kept_within(dir, END_BOUND)
}

fn end_kept_within(dir: &Path, bound: Duration) -> Result<(), EndError> {
    let (no_lab, silent) = (
        |source| EndError::NoLab { dir: dir.to_owned(), source },
        |source| EndError::Silent { dir: dir.to_owned(), waited: bound, source },
    );
    let mut keeper = UnixStream::connect(dir.join(END_SOCKET)).map_err(no_lab)?;
    keeper.set_read_timeout(Some(bound)).map_err(silent)?;
    // The keeper never answers: it closes the connection by ending, or resets one that it has not taken up (unix(7)).
    match keeper.read(&mut [0]) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(silent(error)),
    }
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        found => {
            let entries = found.into_iter().flatten().filter_map(Result::ok);
            let left = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            Err(EndError::Left { dir: dir.to_owned(), left })
        }
    }
}

/// Leaves the client's identity in the lab's directory, lets the keeper stay, and says what to type.
pub(super) async fn hand_over(lab: &Lab, keeper: Keeper) -> Result<String, LabError> {
    write_access(lab, &keeper.dir)?;
    let dir = keeper.keep().await?;
    Ok(in_words(lab, &dir))
}

/// Writes the client's identity and the access file beside it.
pub(super) fn write_access(lab: &Lab, dir: &Path) -> Result<PathBuf, LabError> {
    let identity = &lab.client_identity;
    write_secret(&dir.join("ca.pem"), identity.ca_pem.as_bytes())?;
    write_secret(&dir.join("client.pem"), identity.certificate_pem.as_bytes())?;
    write_secret(&dir.join("client.key"), identity.key_pem.expose().as_bytes())?;
    let agents = lab.nodes().iter().map(|(name, node)| (name.clone(), node.address)).collect();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(PathBuf::from);
    let access = api::Access { ca, certificate, key, agents, machines: lab.machines() };
    let path = dir.join("access.json");
    // Names and addresses: nothing here fails to serialise.
    write_secret(&path, &serde_json::to_vec_pretty(&access).unwrap_or_default())?;
    Ok(path)
}

fn in_words(lab: &Lab, dir: &Path) -> String {
    let mut text = String::from("The lab is kept. Each node's agent answers on loopback:\n\n");
    for (name, node) in lab.nodes() {
        let (address, room) =
            (node.address, node.plan.zone.map_or("witness".to_owned(), |zone| format!("room {}", zone + 1)));
        writeln!(text, "    {name:<16} {room:<8} https://{name}:{}", address.port()).ok();
    }
    let dir = dir.display();
    writeln!(text, "\nAsk one of them:\n").ok();
    writeln!(text, "    curl --cacert {dir}/ca.pem --cert {dir}/client.pem --key {dir}/client.key \\").ok();
    if let Some((name, node)) = lab.nodes().iter().next() {
        let port = node.address.port();
        writeln!(text, "         --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/v1/health").ok();
    }
    writeln!(text, "\nOr, once it has a ledger:\n\n    twinrack volume --access {dir}/access.json list").ok();
    writeln!(text, "\nEnd the lab:\n\n    cargo xtask hil end {dir}").ok();
    text
}

fn write_secret(path: &Path, content: &[u8]) -> Result<(), LabError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(content));
    written.map_err(|source| LabError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::os::unix::net::UnixListener;

    fn lab() -> (tempfile::TempDir, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(END_SOCKET)).unwrap();
        (dir, listener)
    }

    #[test]
    fn a_lab_that_does_not_end_is_not_waited_for_for_ever() {
        let (dir, _listener) = lab();
        let error = end_kept_within(dir.path(), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, EndError::Silent { .. }), "{error}");
    }

    /// A keeper takes up one connection; somebody else told it first.
    #[test]
    fn who_waits_in_the_queue_sees_the_end_too() {
        let (dir, listener) = lab();
        let path = dir.path().to_owned();
        let first = UnixStream::connect(path.join(END_SOCKET)).unwrap();
        let second = std::thread::spawn(move || end_kept_within(&path, END_BOUND));
        let told = listener.accept().unwrap();
        // Until the second one has come, too.
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], None).unwrap();
        dir.close().unwrap();
        drop((listener, told, first));
        second.join().unwrap().unwrap();
    }

    #[test]
    fn what_a_lab_left_is_named() {
        let (dir, listener) = lab();
        let keeper = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let error = end_kept_within(dir.path(), END_BOUND).unwrap_err();
        keeper.join().unwrap();
        assert!(matches!(&error, EndError::Left { left, .. } if *left == [END_SOCKET]), "{error}");
    }

    #[test]
    fn a_lab_that_takes_its_directory_along_has_ended() {
        let (dir, listener) = lab();
        let path = dir.path().to_owned();
        let keeper = std::thread::spawn(move || {
            let told = listener.accept().unwrap();
            dir.close().unwrap();
            drop(told);
        });
        end_kept_within(&path, END_BOUND).unwrap();
        keeper.join().unwrap();
        assert!(matches!(end_kept_within(&path, END_BOUND), Err(EndError::NoLab { .. })));
    }
}
