//! Listening sockets with names in the file system: made safely, removed when dropped.

use crate::ids::NicId;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

/// What fits in `sun_path` before its closing zero, bytes (`unix(7)`: 108 in all).
const PATH_BYTES_MAX: usize = 107;

/// Why a socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel takes no longer names.
    #[error(
        "the socket path {path} has {bytes} bytes, at most {PATH_BYTES_MAX} fit: use a shorter directory",
        bytes = path.as_os_str().len()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The directory can't be made.
    #[error("can't make the socket directory {path}")]
    Dir {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another fabric works there.
    #[error("another process is listening at {path}: end it, or use another directory")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket has the socket's name.
    #[error("{path} exists and is not a socket: move it away, or use another directory")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("can't listen at {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where a NIC's QEMU connects to.
pub fn socket_path(socket_dir: &Path, nic: &NicId) -> Result<PathBuf, SocketError> {
    checked(socket_dir.join(format!("{nic}.sock")))
}

pub(super) fn checked(path: PathBuf) -> Result<PathBuf, SocketError> {
    if path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
        return Err(SocketError::PathTooLong { path });
    }
    Ok(path)
}

/// Only for this user: whoever can connect can send frames and break cables.
pub(super) fn make_dir(path: &Path) -> Result<(), SocketError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| SocketError::Dir { path: path.to_owned(), source })
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl BoundSocket {
    /// A socket that a killed fabric left behind is replaced; one that is listened to is not.
    pub(super) fn bind(path: PathBuf) -> Result<Self, SocketError> {
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(&path)?;
                UnixListener::bind(&path)
            }
            result => result,
        };
        match listener {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(SocketError::Bind { path, source }),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// The next connection that waits. A connection that can't be taken (too many open files) is left to its
    /// client's time limit.
    pub(super) fn accept(&self) -> Option<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Somebody else may have tidied up already; there is nobody to tell in any case.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let bind = |source| SocketError::Bind { path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(bind)?.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(bind),
        _ => Err(SocketError::InUse { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_fit_is_refused_with_its_length() {
        let nic: NicId = "a1.storage1".parse().unwrap();
        let fits = format!("/{}", "x".repeat(PATH_BYTES_MAX - 1 - "/a1.storage1.sock".len()));
        assert!(socket_path(Path::new(&fits), &nic).is_ok());
        let error = socket_path(Path::new(&format!("{fits}x")), &nic).unwrap_err();
        assert!(error.to_string().contains("has 108 bytes, at most 107 fit"), "{error}");
    }

    #[test]
    fn stale_sockets_are_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nic.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves the file
        let bound = BoundSocket::bind(path.clone()).unwrap();
        assert!(matches!(BoundSocket::bind(path.clone()), Err(SocketError::InUse { .. })));
        drop(bound);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(matches!(BoundSocket::bind(path.clone()), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
