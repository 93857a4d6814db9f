//! A disk as memory, for redb: what was written and not synchronised is lost with the power, or some of it is.

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Platter {
    /// What survives.
    synced: Vec<u8>,
    /// What the machine sees.
    live: Vec<u8>,
    /// Writes since the last synchronisation, in order.
    unsynced: Vec<(u64, Vec<u8>)>,
    /// Counts power-ons: a handle of an earlier one reaches nothing.
    power: u64,
    /// After how many more writes the power goes.
    writes_left: Option<u64>,
    random: fastrand::Rng,
}

/// The disk. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Platter>>);

/// The disk as one run of the machine has it.
#[derive(Debug)]
pub(crate) struct Plugged {
    disk: SimDisk,
    power: u64,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Vec::new())
    }

    pub(crate) fn with(seed: u64, image: Vec<u8>) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (live, unsynced) = (image.clone(), Vec::new());
        Self(Arc::new(Mutex::new(Platter {
            synced: image,
            live,
            unsynced,
            power: 0,
            writes_left: None,
            random,
        })))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn plugged(&self) -> Plugged {
        Plugged { disk: self.clone(), power: self.platter().power }
    }

    /// The power goes. Each write that was not synchronised is there afterwards, or is not.
    pub(crate) fn cut(&self) {
        let mut platter = self.platter();
        platter.power += 1;
        platter.writes_left = None;
        for (at, bytes) in std::mem::take(&mut platter.unsynced) {
            if platter.random.bool() {
                put(&mut platter.synced, at, &bytes);
            }
        }
        // A file's length goes with its metadata; redb grows it before it uses what was added.
        let length = platter.live.len();
        platter.synced.resize(length, 0);
        let Platter { live, synced, .. } = &mut *platter;
        live.clone_from(synced);
    }

    pub(crate) fn cut_after(&self, writes: u64) {
        self.platter().writes_left = Some(writes);
    }

    /// What is on it.
    #[cfg(test)]
    pub(crate) fn image(&self) -> Vec<u8> {
        self.platter().live.clone()
    }
}

fn put(image: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).expect("small");
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(bytes);
}

impl Plugged {
    fn with<T>(&self, work: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        let mut platter = self.disk.platter();
        if platter.power != self.power || platter.writes_left == Some(0) {
            return Err(io::Error::other("no power"));
        }
        work(&mut platter)
    }
}

impl StorageBackend for Plugged {
    fn len(&self) -> Result<u64, io::Error> {
        self.with(|platter| Ok(platter.live.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.with(|platter| {
            let at = usize::try_from(offset).expect("small");
            let found = platter.live.get(at..at + out.len());
            out.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.with(|platter| {
            platter.live.resize(usize::try_from(len).expect("small"), 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.with(|platter| {
            let length = platter.live.len();
            platter.synced.resize(length, 0);
            for (at, bytes) in std::mem::take(&mut platter.unsynced) {
                put(&mut platter.synced, at, &bytes);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.with(|platter| {
            if let Some(left) = &mut platter.writes_left {
                *left -= 1;
            }
            put(&mut platter.live, offset, data);
            platter.unsynced.push((offset, data.to_vec()));
            Ok(())
        })
    }
}
