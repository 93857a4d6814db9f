//! How many frames a second one switch moves between two NICs: `cargo run --release -p fabric --example throughput`.
//!
//! A sender and a receiver, each a thread with a real socket as QEMU has it, and the fabric in a third. Besides the rate
//! seen by the receiver it prints the rate per second of processor time of the fabric's own thread, which is the one that
//! says what one core can do when three threads share fewer cores.

use fabric::{Config, Count, End, Fabric, Link, NicId, Port, PortRef, Role, Switch, Topology, socket_path};
use model::{MacAddress, Mtu, VlanId};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const RUN: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    for frame_bytes in [64, 1514, 9018] {
        for frames_per_write in [1, (64 * 1024 / frame_bytes)] {
            measure(frame_bytes, frames_per_write)?;
        }
    }
    Ok(())
}

fn topology() -> Result<Topology> {
    let vlan: VlanId = "711".parse()?;
    let mut links = Vec::new();
    let mut ports = Vec::new();
    let nics: Vec<NicId> = vec!["a".parse()?, "b".parse()?];
    for nic in &nics {
        let port =
            Port { id: nic.as_str().parse()?, native_vlan: None, tagged_vlans: [vlan].into(), mtu: None };
        let at = PortRef { switch: "tor".parse()?, port: port.id.clone() };
        links.push(Link { id: nic.as_str().parse()?, a: End::Nic(nic.clone()), b: End::Port(at) });
        ports.push(port);
    }
    let switch = Switch {
        id: "tor".parse()?,
        system_name: "sw".into(),
        chassis_mac: MacAddress([2, 0, 0, 0, 0, 1]),
        role: Role::Tor,
        room: None,
        mtu: Mtu::try_from(9216)?,
        suspended_vlans: [].into(),
        ports,
    };
    Ok(Topology {
        switches: vec![switch],
        nics,
        links,
        channels: vec![],
        pairs: vec![],
        lldp_interval_ms: 1000,
    })
}

/// QEMU writes frame by frame; a sender that batches shows what the fabric can do when it is not the bottleneck.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn measure(frame_bytes: usize, frames_per_write: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = Config { topology: topology()?, socket_dir: dir.path().into(), exit_on_stdin_eof: false };
    let fabric = Fabric::bind(&config.topology, &config.socket_dir)?;
    let stopper = fabric.stopper();
    let served = std::thread::spawn(move || -> Result<Duration> {
        fabric.serve()?;
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
    });
    let connect = |nic: &str, dir: &Path| -> Result<UnixStream> {
        Ok(UnixStream::connect(socket_path(dir, &nic.parse()?)?)?)
    };
    let (mut sender, mut receiver) = (connect("a", dir.path())?, connect("b", dir.path())?);
    receiver.read_exact(&mut [0; 64])?; // LLDP: both ends stand

    // Somebody must have spoken at b, or every frame would be flooded; with two ports that costs the same.
    let mut frame = vec![0x5a; frame_bytes];
    frame[..18].copy_from_slice(&[2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2, 0x81, 0, 0x62, 0xc7, 0x88, 0xb5]);
    let one = [&u32::try_from(frame_bytes)?.to_be_bytes()[..], &frame].concat();
    let burst = one.repeat(frames_per_write);

    let started = Instant::now();
    let sent = std::thread::spawn(move || -> Result<()> {
        while started.elapsed() < RUN {
            sender.write_all(&burst)?;
        }
        Ok(())
    });
    let counted = std::thread::spawn(move || -> Result<u64> {
        let mut buffer = vec![0; 256 * 1024];
        let mut bytes = 0;
        loop {
            match receiver.read(&mut buffer)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    });
    sent.join().map_err(|_| "the sender panicked")??;
    let mut control = fabric::Control::connect(dir.path())?;
    let snapshot = control.counters()?;
    let elapsed_s = started.elapsed().as_secs_f64();
    stopper.stop()?;
    let fabric_s = served.join().map_err(|_| "the fabric panicked")??.as_secs_f64();
    let received_bytes = counted.join().map_err(|_| "the receiver panicked")??;

    let count =
        |counts: &mut dyn Iterator<Item = Count>| counts.map(|count| count.frames).sum::<u64>() as f64;
    let way = &snapshot.links[1].b_to_a;
    let carried = count(&mut way.carried.iter().map(|class| class.count));
    let dropped = count(&mut way.dropped.iter().map(|drop| drop.count));
    println!(
        "{frame_bytes:5} bytes, {frames_per_write:4} a write: {:9.0} frames/s, {:6.2} Gbit/s, {:4.1} % dropped; per fabric processor second: {:9.0} frames",
        carried / elapsed_s,
        received_bytes as f64 * 8.0 / elapsed_s / 1e9,
        100.0 * dropped / (carried + dropped),
        (carried + dropped) / fabric_s,
    );
    Ok(())
}
