//! How others see that the daemon lives: it says so every [`BEAT`], from the one thread that does all its work.
//!
//! A daemon that is stopped, or hangs in a call, would keep its dead man's timers from ever running out. Whoever is over
//! it must see that and kill it: the next one takes back what is open. Under init that is `init::supervise`, which gives
//! the daemon a pipe as standard input. On a host it is the service manager, by `NOTIFY_SOCKET` (`sd_notify(3)`: `READY=1` when it
//! serves, `WATCHDOG=1` as a beat); without that variable nobody wants to know.
//!
//! On failure: a beat that can't be delivered is left out; whoever waits for it judges. A full pipe is no failure: init has then
//! been asleep itself.

use crate::Owner;
use crate::beat::Beat;
use rustix::io::Errno;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use tracing::warn;

/// How often it says so. Whoever kills for silence must wait for several.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// Whom it tells.
#[derive(Debug)]
enum Listener {
    /// Init, at the other end of standard input.
    Init,
    /// A service manager.
    Manager(UnixDatagram),
    Nobody,
}

impl Listener {
    fn tell(&self, state: &str) -> io::Result<()> {
        match self {
            Self::Init => match rustix::io::write(rustix::stdio::stdin(), b".") {
                Ok(_) | Err(Errno::AGAIN) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            Self::Manager(socket) => socket.send(state.as_bytes()).map(drop),
            Self::Nobody => Ok(()),
        }
    }
}

/// The daemon's pulse.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Listener>);

impl Pulse {
    /// Says that the daemon serves. (Init has a file for that, because it asks later.)
    pub(crate) fn serves(&self) {
        if let (Listener::Manager(_), Err(error)) = (&*self.0, self.0.tell("READY=1")) {
            warn!("can't tell the service manager that this daemon serves: {error}");
        }
    }
}

/// Starts the pulse on the runtime that this is called on.
pub(crate) fn start(owner: Owner) -> Pulse {
    let listener = match owner {
        Owner::Init => Listener::Init,
        Owner::Host => manager().unwrap_or_else(|error| {
            warn!("can't reach the service manager: {error}");
            Listener::Nobody
        }),
    };
    let pulse = Pulse(Arc::new(listener));
    let listener = Arc::clone(&pulse.0);
    tokio::spawn(async move {
        let mut beat = Beat::every(BEAT);
        loop {
            // Nobody is there to tell of a failure; who misses the beat acts.
            let _ = listener.tell("WATCHDOG=1");
            beat.next().await;
        }
    });
    pulse
}

fn manager() -> io::Result<Listener> {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(Listener::Nobody) };
    connect(name.as_bytes()).map(Listener::Manager)
}

/// A path, or after `@` a name without one (`unix(7)`, abstract).
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_by_path_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("twinrack-test-{}", std::process::id());
        let name = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let managers = [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().as_bytes().to_vec()),
            (UnixDatagram::bind_addr(&name).unwrap(), format!("@{abstract_name}").into_bytes()),
        ];
        for (manager, name) in managers {
            let pulse = Pulse(Arc::new(Listener::Manager(connect(&name).unwrap())));
            pulse.serves();
            pulse.0.tell("WATCHDOG=1").unwrap();
            let mut heard = [0; 64];
            for state in ["READY=1", "WATCHDOG=1"] {
                let length = manager.recv(&mut heard).unwrap();
                assert_eq!(&heard[..length], state.as_bytes());
            }
        }
        assert!(connect(b"/nowhere/notify").is_err());
    }
}
