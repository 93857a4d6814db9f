//! Their memory is saved, and they go on where they were.

use super::*;
use model::SaveTry;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use vm::saved;

/// Tells the test of that name which file it is to keep open, as a process of an agent's.
const KEEPER: &str = "TWINRACK_TEST_KEEPER";

/// The process of the next tests that has open what they save to.
#[test]
fn as_a_keeper() {
    let Ok(device) = std::env::var(KEEPER) else { return };
    saved::keep(Path::new(&device)).unwrap();
}

impl Rack {
    /// Where it is saved: what is opened past the page cache is not on a tmpfs.
    fn saved(&self) -> PathBuf {
        self.disks.path().join("saved")
    }

    async fn open_saved(&self) -> Result<saved::Place, saved::SavedError> {
        let file = self.saved();
        File::options().create(true).append(true).open(&file).unwrap();
        let mut keeper = Command::new(std::env::current_exe().unwrap());
        keeper.args(["--exact", "saves::as_a_keeper"]).env(KEEPER, &file);
        saved::Place::open(&file, keeper).await
    }

    /// As soon as nobody else is at it.
    async fn open_saved_soon(&self) -> saved::Place {
        let deadline = Instant::now() + BOUND;
        loop {
            match self.open_saved().await {
                Ok(place) => return place,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// One whose process says so often that it has done what it was told, that it has the device open first, and then nothing any more.
    async fn open_what_answers(&self, times: u32) -> saved::Place {
        let mut keeper = Command::new("sh");
        let says =
            format!("for at in $(seq {times}); do echo '\"Done\"' >&0; read order; done; exec sleep 1000");
        keeper.args(["-c", &says]);
        saved::Place::open(&self.saved(), keeper).await.unwrap()
    }
}

const FIRST: SaveTry = SaveTry(1);
const SECOND: SaveTry = SaveTry(2);

async fn save(
    instance: &mut Instance,
    place: &mut saved::Place,
    which: SaveTry,
) -> Result<saved::Header, InstanceError> {
    saved::save(instance, place, which, BOUND, std::future::pending()).await
}

#[tokio::test]
async fn it_is_saved_and_goes_on_where_it_was() {
    let rack = Rack::new();
    let (file, mut place) = (rack.saved(), rack.open_saved().await.unwrap());
    assert!(matches!(rack.open_saved().await, Err(saved::SavedError::Busy { .. })));
    let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
    instance.resume().await.unwrap();
    rack.writes("a", 20).await;
    let header = save(&mut instance, &mut place, FIRST).await.unwrap();
    assert_eq!(instance.phase().await.unwrap(), Phase::Sent);
    instance.kill(KILL).await.unwrap();
    let beats = rack.said("a").len();
    place.use_up(VmId(VM + 1)).await.unwrap();
    assert_eq!(place.header().await.unwrap(), header, "it is another's");

    // Nothing of what is damaged, or of another run, is given to QEMU.
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[5000] ^= 1;
    fs::write(&file, &damaged).unwrap();
    let mut restored = rack.start("a", 2, Role::Restore).await.unwrap();
    let (first, second) = (Generation(1), Generation(2));
    let error = saved::load(&mut restored, &mut place, (first, FIRST), BOUND).await.unwrap_err();
    assert!(matches!(error, InstanceError::Saved(saved::SavedError::Damaged { .. })), "{error}");
    assert!(matches!(restored.resume().await, Err(InstanceError::Phase { .. })));
    fs::write(&file, &whole).unwrap();
    for other in [(second, FIRST), (first, SECOND)] {
        let error = saved::load(&mut restored, &mut place, other, BOUND).await.unwrap_err();
        assert!(matches!(error, InstanceError::Saved(saved::SavedError::Other { .. })), "{error}");
    }
    assert_eq!(saved::load(&mut restored, &mut place, (first, FIRST), BOUND).await.unwrap(), header);
    // The agent may have been killed before it knew.
    assert_eq!(saved::load(&mut restored, &mut place, (first, FIRST), BOUND).await.unwrap(), header);
    assert_eq!(rack.said("a").len(), beats);
    place.use_up(VmId(VM)).await.unwrap();
    assert!(matches!(place.header().await, Err(saved::SavedError::Nothing { .. })));
    restored.resume().await.unwrap();
    let before = rack.acknowledged("a");
    rack.writes("a", before + 20).await;
    restored.kill(KILL).await.unwrap();
    let said = rack.said("a");
    assert_eq!(said.iter().filter(|said| matches!(said, Said::Started { .. })).count(), 1);
    in_order(&said);
    rack.judge(&["a"]);
}

#[tokio::test]
async fn one_that_was_saved_runs_on_if_it_is_told_to_and_can_be_saved_again_in_any_case() {
    let rack = Rack::new();
    let mut place = rack.open_saved().await.unwrap();
    let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
    instance.resume().await.unwrap();
    rack.writes("a", 20).await;
    let header = save(&mut instance, &mut place, FIRST).await.unwrap();
    assert_eq!(place.may_hold(), Some(true), "it must be wiped before it runs");
    // As an agent that was killed before it could say so.
    drop(instance);
    let mut instance = rack.find("a").await;
    assert_eq!(instance.phase().await.unwrap(), Phase::Sent);
    assert_eq!(save(&mut instance, &mut place, FIRST).await.unwrap(), header, "it was saved by that try");
    let again = save(&mut instance, &mut place, SECOND).await.unwrap();
    assert!(again.which == SECOND && place.header().await.unwrap() == again);
    place.wipe().await.unwrap();
    assert_eq!(place.may_hold(), Some(false));
    let off = saved::save(&mut instance, &mut place, SECOND, BOUND, std::future::ready(())).await;
    assert!(matches!(off, Err(InstanceError::Saved(saved::SavedError::BrokenOff))), "{off:?}");
    assert_eq!(place.may_hold(), Some(false));
    drop(place);
    instance.cancel().await.unwrap();
    let mut place = rack.open_saved().await.unwrap();
    instance.resume().await.unwrap();
    let before = rack.acknowledged("a");
    rack.writes("a", before + 20).await;
    save(&mut instance, &mut place, SECOND).await.unwrap();
    instance.kill(KILL).await.unwrap();
    let mut restored = rack.start("b", 2, Role::Restore).await.unwrap();
    saved::load(&mut restored, &mut place, (Generation(1), SECOND), BOUND).await.unwrap();
    restored.resume().await.unwrap();
    rack.writes("b", 20).await;
    restored.kill(KILL).await.unwrap();
    in_order(&[rack.said("a"), rack.said("b")].concat());
    rack.judge(&["a", "b"]);
}

#[tokio::test]
async fn one_that_was_restored_runs_on_when_its_next_save_is_broken_off_or_late() {
    let rack = Rack::new();
    let mut place = rack.open_saved().await.unwrap();
    let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
    instance.resume().await.unwrap();
    rack.writes("a", 20).await;
    save(&mut instance, &mut place, FIRST).await.unwrap();
    instance.kill(KILL).await.unwrap();
    let mut restored = rack.start("b", 2, Role::Restore).await.unwrap();
    saved::load(&mut restored, &mut place, (Generation(1), FIRST), BOUND).await.unwrap();
    place.wipe().await.unwrap();
    restored.resume().await.unwrap();

    // The device answers nothing, as one whose pool has no room: it is broken off at once, or ends by itself, and the machine has not stood still for it.
    let soon = Duration::from_millis(200);
    for within in [BOUND, soon] {
        let mut dead = rack.open_what_answers(1).await;
        let off = tokio::time::sleep(if within == soon { BOUND } else { soon });
        let error = saved::save(&mut restored, &mut dead, SECOND, within, off).await.unwrap_err();
        let broken_off = matches!(error, InstanceError::Saved(saved::SavedError::BrokenOff));
        let late = matches!(error, InstanceError::Late { .. });
        assert!(if within == soon { late } else { broken_off }, "{error}");
        assert_eq!(dead.may_hold(), None, "nothing was done there");
        assert_eq!(restored.phase().await.unwrap(), Phase::Running);
    }
    // It wipes and listens, and is broken off when QEMU has sent all.
    let mut stuck = rack.open_what_answers(3).await;
    let listener = UnixListener::bind(rack.places("b").outgoing()).unwrap();
    let all_sent = async {
        let (mut qemu, _) = listener.accept().await.unwrap();
        tokio::io::copy(&mut qemu, &mut tokio::io::sink()).await.unwrap();
    };
    let off = saved::save(&mut restored, &mut stuck, SECOND, BOUND, all_sent).await;
    assert!(matches!(off, Err(InstanceError::Saved(saved::SavedError::BrokenOff))), "{off:?}");
    assert_eq!(stuck.may_hold(), Some(false), "it runs on without the volume for its memory");
    assert_eq!(restored.sent(BOUND).await.unwrap(), Sending::Done);
    assert_eq!(restored.phase().await.unwrap(), Phase::Sent);
    restored.resume().await.unwrap();
    rack.writes("b", 20).await;
    restored.kill(KILL).await.unwrap();
    in_order(&[rack.said("a"), rack.said("b")].concat());
    rack.judge(&["a", "b"]);
}

#[tokio::test]
async fn what_was_saving_is_killed_and_the_machine_is_found_runs_on_and_is_saved_by_the_next() {
    for after in [0, 1, 5, 20, 60, 150, 400].map(Duration::from_millis) {
        let rack = Rack::new();
        let mut place = rack.open_saved().await.unwrap();
        let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
        instance.resume().await.unwrap();
        rack.writes("a", 5).await;
        // What it was doing is dropped, and with it the socket.
        let saves = tokio::time::timeout(after, save(&mut instance, &mut place, FIRST)).await;
        drop((instance, place));
        let mut found = rack.find("a").await;
        let phase = found.phase().await.unwrap();
        let mut place = rack.open_saved_soon().await;
        if let Sending::Copying(_) = found.sending().await.unwrap() {
            found.cancel().await.unwrap();
        }
        save(&mut found, &mut place, FIRST).await.unwrap_or_else(|error| panic!("{phase:?}: {error}"));
        found.kill(KILL).await.unwrap();
        let mut restored = rack.start("b", 2, Role::Restore).await.unwrap();
        saved::load(&mut restored, &mut place, (Generation(1), FIRST), BOUND).await.unwrap();
        restored.resume().await.unwrap();
        rack.writes("b", 5).await;
        restored.kill(KILL).await.unwrap();
        in_order(&[rack.said("a"), rack.said("b")].concat());
        rack.judge(&["a", "b"]);
        drop(saves);
    }
}

#[tokio::test]
async fn one_whose_save_is_broken_off_at_any_moment_runs_on() {
    let rack = Rack::new();
    let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
    instance.resume().await.unwrap();
    let mut saved = 0;
    for after in (0..=50).map(|step| Duration::from_millis(step * step / 5)) {
        let before = rack.acknowledged("a");
        rack.writes("a", before + 2).await;
        let mut place = rack.open_saved_soon().await;
        let off = tokio::time::sleep(after);
        let broken_off = saved::save(&mut instance, &mut place, FIRST, BOUND, off).await;
        match broken_off {
            Ok(_) => saved += 1,
            Err(InstanceError::Saved(saved::SavedError::BrokenOff)) => {}
            Err(error) => panic!("after {after:?}: {error}"),
        }
        let phase = instance.come_to_rest().await.unwrap_or_else(|error| panic!("after {after:?}: {error}"));
        assert!(matches!(phase, Phase::Running | Phase::Still | Phase::Sent), "after {after:?}: {phase:?}");
        drop(place);
        instance.resume().await.unwrap();
    }
    eprintln!("{saved} of them were saved before");
    let before = rack.acknowledged("a");
    rack.writes("a", before + 20).await;
    instance.kill(KILL).await.unwrap();
    in_order(&rack.said("a"));
    rack.judge(&["a"]);
}

#[tokio::test]
async fn nothing_is_written_to_use_up_what_was_never_saved() {
    let rack = Rack::new();
    let mut place = rack.open_saved().await.unwrap();
    place.use_up(VmId(VM)).await.unwrap();
    assert_eq!(fs::metadata(rack.saved()).unwrap().len(), 0);
}

#[tokio::test]
async fn one_that_switches_itself_off_as_it_is_saved_is_off_and_not_saved() {
    let rack = Rack::new();
    let mut place = rack.open_saved().await.unwrap();
    let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
    instance.resume().await.unwrap();
    rack.writes("a", 5).await;
    instance.press_power().await.unwrap();
    let deadline = Instant::now() + BOUND;
    while instance.phase().await.unwrap() != Phase::Off {
        assert!(Instant::now() < deadline);
        instance.stirs(KILL).await.unwrap();
    }
    let error = save(&mut instance, &mut place, FIRST).await.unwrap_err();
    assert!(matches!(error, InstanceError::Phase { phase: Phase::Off, .. }), "{error}");
    assert_eq!(place.may_hold(), Some(false));
    assert_eq!(instance.come_to_rest().await.unwrap(), Phase::Off);
    instance.kill(KILL).await.unwrap();
}

/// Between whoever asks and QEMU: the first `stop` takes that long, and nothing is answered before, whoever asks.
async fn holds_stop(listener: UnixListener, qemu: PathBuf, takes: Duration) {
    let until = Mutex::new(None);
    let held = || until.lock().unwrap().unwrap_or_else(Instant::now);
    while let Ok((client, _)) = listener.accept().await {
        tokio::time::sleep_until(held().into()).await;
        let (asks, mut hears) = client.into_split();
        let (says, mut told) = UnixStream::connect(&qemu).await.unwrap().into_split();
        let (mut asks, mut says) = (BufReader::new(asks).lines(), BufReader::new(says).lines());
        let ask = async {
            while let Ok(Some(line)) = asks.next_line().await {
                if line.contains("\"stop\"") {
                    until.lock().unwrap().get_or_insert_with(|| Instant::now() + takes);
                }
                told.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            }
        };
        let say = async {
            while let Ok(Some(line)) = says.next_line().await {
                tokio::time::sleep_until(held().into()).await;
                if hears.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = ask => {}, () = say => {} }
    }
}

#[tokio::test]
async fn one_that_takes_long_to_stand_still_is_saved_or_runs_on_when_that_is_broken_off() {
    // As long as a volume that has lost a copy may answer nothing; longer than QEMU has for anything else.
    for (takes, after) in [(Duration::from_secs(11), BOUND), (Duration::from_secs(2), BOUND / 120)] {
        let rack = Rack::new();
        let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
        instance.resume().await.unwrap();
        rack.writes("a", 5).await;
        drop(instance);
        let (socket, qemu) = (rack.places("a").qmp(), rack.folder.path().join("qemu"));
        fs::rename(&socket, &qemu).unwrap();
        let between = tokio::spawn(holds_stop(UnixListener::bind(&socket).unwrap(), qemu, takes));
        let mut instance = rack.find("a").await;
        let mut place = rack.open_saved().await.unwrap();
        let off = tokio::time::sleep(after);
        let saved = saved::save(&mut instance, &mut place, FIRST, BOUND, off).await;
        if after > takes {
            saved.unwrap();
        } else {
            let broken_off = matches!(saved, Err(InstanceError::Saved(saved::SavedError::BrokenOff)));
            assert!(broken_off, "{saved:?}");
        }
        let phase = instance.come_to_rest().await.unwrap();
        assert!(matches!(phase, Phase::Still | Phase::Sent), "{phase:?}");
        place.wipe().await.unwrap();
        instance.resume().await.unwrap();
        let before = rack.acknowledged("a");
        rack.writes("a", before + 10).await;
        instance.kill(KILL).await.unwrap();
        between.abort();
        rack.judge(&["a"]);
    }
}
